"""What the generation benchmark compares: the work (`works`) and one adapter a system.

An adapter has one constructor and one method:

- `__init__(work, batch, precision, folder)` builds the model; `folder` is empty and its own;
- `generate(prompts, strategy)` returns the new ids of each row;
- `note`, where it has one, is said on stderr.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import systems
from systems import BOUND
from systems.generation.works import Work, prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class System(systems.System):
    """A line of the table of generation.

    Args:
        precision: Of the matrices: `"f32"`, `"int8"` or `"q8_0"` (int8 with a scale for every 32 weights).
        strategies: Those it is asked for.
    """

    precision: str = "f32"
    strategies: tuple[str, ...] = ("greedy", "top_k", "sample")

    def __str__(self) -> str:
        return f"{self.label} {self.precision}"


def _variants(*precisions: str, **fields: object) -> tuple[System, ...]:
    return tuple(System(precision=precision, **fields) for precision in precisions)


_ALL = ("greedy", "top_k", "top_p", "sample")
_EITHER = ("transformer", "lstm")

SYSTEMS: dict[str, tuple[System, ...]] = {
    "keras_lm": _variants("f32", label="keras_lm XLA", adapter="generation.ours:Xla", kinds=_EITHER, ours=True, strategies=_ALL),
    "keras_lm_litert": _variants("f32", "int8", label="keras_lm LiteRT", adapter="generation.ours:LiteRT", ours=True, strategies=_ALL),
    "keras_hub": _variants("f32", label="KerasHub", adapter="generation.tensorflow_peers:KerasHub"),
    "transformers": _variants("f32", label="transformers", adapter="generation.torch_peers:Transformers", environment=BOUND),
    "torch_int8": _variants("int8", label="torch dynamic", adapter="generation.torch_peers:Transformers", environment=BOUND),
    "ctranslate2": _variants("f32", "int8", label="CTranslate2", adapter="generation.native_peers:CTranslate2", environment=BOUND),
    "llama_cpp": _variants("f32", "q8_0", label="llama.cpp", adapter="generation.native_peers:LlamaCpp", environment=BOUND),
    "tutorial": _variants("f32", label="TF tutorial loop", adapter="generation.tensorflow_peers:TutorialLoop", kinds=("lstm",)),
    "torch": _variants("f32", label="torch loop", adapter="generation.torch_peers:LstmLoop", kinds=("lstm",), environment=BOUND),
}
"""By the name that `--systems` takes."""


def prepare(system: System, work: Work, folder: Path, batch: int) -> tuple[Callable[[str], dict], dict]:
    """Builds the adapter; a turn is one generation, and gives the `ids` of the first row.

    Raises:
        RuntimeError: in a turn, rows of another length than asked for, or ids outside the vocabulary.
    """
    adapter = system.load()(work, batch, system.precision, folder)
    rows = prompts(work, batch)

    def turn(strategy: str) -> dict:
        ids = adapter.generate(rows, strategy)
        lengths, first = [len(row) for row in ids], [int(number) for number in ids[0]]
        if lengths != [work.new_tokens] * batch:
            raise RuntimeError(f"{work.new_tokens} tokens were asked for in each of {batch} rows, got {lengths}")
        if not all(0 <= number < work.vocabulary_size for number in first):
            raise RuntimeError("ids outside the vocabulary")
        return {"ids": first}

    return turn, {"note": getattr(adapter, "note", "")}

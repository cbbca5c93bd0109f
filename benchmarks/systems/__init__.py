"""What the generation benchmark compares: the work (`works`), one adapter a system, and the process each of them runs in (`worker`).

An adapter is a class with one constructor and one method, and imports its library inside them, so that a missing one costs only its rows:

- `__init__(work, batch, precision, folder)` builds the model; `folder` is empty and its own;
- `generate(prompts, strategy)` returns the new ids of each row;
- `note`, where it has one, is said on stderr.
"""

from __future__ import annotations

import dataclasses
import importlib

THREADS = 2
"""Every system gets as many."""


@dataclasses.dataclass(frozen=True)
class System:
    """One line of the table before it is run.

    Args:
        label: As printed.
        adapter: `module:class` in this package.
        precision: Of the matrices: `"f32"`, `"int8"` or `"q8_0"` (int8 with a scale for every 32 weights).
        kinds: The kinds of work it does.
        ours: Whether it is this library.
        strategies: Those it is asked for.
        environment: Variables its process starts with.
    """

    label: str
    adapter: str
    precision: str = "f32"
    kinds: tuple[str, ...] = ("transformer",)
    ours: bool = False
    strategies: tuple[str, ...] = ("greedy", "top_k", "sample")
    environment: tuple[tuple[str, str], ...] = ()

    def load(self) -> type:
        module, name = self.adapter.split(":")
        return getattr(importlib.import_module(f"systems.{module}"), name)


_OURS = ("greedy", "top_k", "top_p", "sample")
# Threads of OpenMP wait for each other by spinning. Unbound, both were seen on one core: a hundredth of the speed in llama.cpp.
_BOUND = (("OMP_PROC_BIND", "true"),)

SYSTEMS: dict[str, tuple[System, ...]] = {
    "keras_lm": (System("keras_lm XLA", "ours:Xla", kinds=("transformer", "lstm"), ours=True, strategies=_OURS),),
    "keras_lm_litert": tuple(
        System("keras_lm LiteRT", "ours:LiteRT", precision, ours=True, strategies=_OURS) for precision in ("f32", "int8")
    ),
    "keras_hub": (System("KerasHub", "tensorflow_peers:KerasHub"),),
    "transformers": (System("transformers", "torch_peers:Transformers", environment=_BOUND),),
    "torch_int8": (System("torch dynamic", "torch_peers:Transformers", "int8", environment=_BOUND),),
    "ctranslate2": tuple(System("CTranslate2", "native_peers:CTranslate2", p, environment=_BOUND) for p in ("f32", "int8")),
    "llama_cpp": tuple(System("llama.cpp", "native_peers:LlamaCpp", p, environment=_BOUND) for p in ("f32", "q8_0")),
    "tutorial": (System("TF tutorial loop", "tensorflow_peers:TutorialLoop", kinds=("lstm",)),),
    "torch": (System("torch loop", "torch_peers:LstmLoop", kinds=("lstm",), environment=_BOUND),),
}
"""By the name that `--systems` takes."""

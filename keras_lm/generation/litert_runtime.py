"""A LiteRT file, as `litert_convert` writes them, with its memory: the interpreter, run with nothing but NumPy and `ai-edge-litert`.

`LiteRTSampler` uses it from inside TensorFlow, `keras_lm.export.tflite_generator` without it; `growing_texts` has the texts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Sequence

import numpy as np

from keras_lm.errors import UserError
from keras_lm.generation.numpy_filters import log_softmax

_HIDDEN = -1e9
_HEADS_A_PART = 24  # whose products with 256 slots of 64 numbers take 1.5 MB: what is summed is still in a core's own cache


@dataclasses.dataclass(frozen=True)
class Memory:
    """One of the tensors in which a model keeps what it has read.

    Args:
        name: Of the input.
        kind: `"cache"`, `(batch, heads, slots, head_dim)`, or `"state"`, `(batch, units)`.
        sizes: `(heads, head_dim)`, or `(units,)`.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many columns of `rows` are this memory's: its new row for a token, or its new state."""
        return math.prod(self.sizes)

    def parts(self, batch: int) -> dict[str, slice]:
        """The inputs that keep it, each with its rows of the batch: the caches of many rows are cut in parts that are attended to in turn.

        Example:

        >>> Memory("block_0_key", "cache", (12, 64)).parts(3)
        {'block_0_key': slice(0, 2, None), 'block_0_key_2': slice(2, 3, None)}
        """
        rows = max(1, _HEADS_A_PART // self.sizes[0]) if self.kind == "cache" else batch
        first = range(0, batch, rows)
        return {f"{self.name}_{row}" if row else self.name: slice(row, min(row + rows, batch)) for row in first}

    def shape(self, batch: int, slots: int) -> tuple[int, ...]:
        """Of an input that keeps so many rows."""
        return (batch, self.sizes[0], slots, self.sizes[1]) if self.kind == "cache" else (batch, *self.sizes)


class Step:
    """A LiteRT file and the memory of the texts it reads, all of which lie in the interpreter.

    The caches are as long as the texts have become, not as long as they may: attention costs what is there.

    Args:
        model: The file's bytes, or its path.
        memory: What it keeps, as `litert_convert.memories` lists it.
        num_threads: Default as many as there are cores.

    Attributes:
        batch: Rows a call of `run` reads.
        vocabulary_size: The width of the logits.
        chooses: Whether the file can choose tokens.

    Raises:
        UserError: LiteRT is not installed, or the file is not one of `litert_convert`.
    """

    def __init__(self, model: bytes | str | os.PathLike, memory: Sequence[Memory], num_threads: int | None = None):
        self._memory = list(memory)
        ends = list(itertools.accumulate(entry.width for entry in self._memory))
        self._columns = [slice(end - entry.width, end) for entry, end in zip(self._memory, ends, strict=True)]  # of `rows`
        self._interpreter = _interpreter(model, num_threads)
        self._describe()
        self._slots, self._views = 0, dict[str, np.ndarray]()
        self._choice: dict[str, np.ndarray] = {}
        self._allocate(_room(1))

    def _describe(self) -> None:
        # The interpreter refuses to run while somebody keeps one of its signatures.
        signatures = {
            name: self._interpreter.get_signature_runner(name)
            for name in self._interpreter.get_signature_list()
            if name in ("decode", "prefill")
        }
        if "decode" not in signatures:
            raise UserError("the file is LiteRT, but not of keras_lm: it has no signature decode")
        inputs, outputs = signatures["decode"].get_input_details(), signatures["decode"].get_output_details()
        self.batch = int(inputs["ids"]["shape"][0])
        self._parts = [entry.parts(self.batch) for entry in self._memory]
        for entry, parts in zip(self._memory, self._parts, strict=True):
            if not all(name in inputs and entry.width == _width(entry, inputs[name]["shape"]) for name in parts):
                raise UserError(f"the file and its description do not belong together: it has no memory {entry.name} {entry.sizes}")
        self._inputs = {name: details["index"] for name, details in inputs.items()}
        self._outputs = {name: details["index"] for name, details in outputs.items()}
        self.vocabulary_size = int(outputs["logits"]["shape"][-1])
        self.chooses = "token" in outputs
        self._chunk = int(signatures["prefill"].get_input_details()["ids"]["shape"][1]) if "prefill" in signatures else 0

    def begin(self, values: Sequence[np.ndarray] | None = None, padding: np.ndarray | None = None, start: int = 0) -> None:
        """Begins new texts.

        Args:
            values: For each memory what it holds of the prompts, with `start` slots or more; `None`: nothing has been read.
            padding: `(batch,)`: slots without text in front of each row; default none.
            start: The slot of the next token.
        """
        self._padding = np.zeros(self.batch, np.int32) if padding is None else np.asarray(padding)
        if self._room != _room(start + 1):
            self._allocate(_room(start + 1))
        self._fill(values, start)

    def _fill(self, values: Sequence[np.ndarray] | None, start: int) -> None:
        for number, (entry, parts) in enumerate(zip(self._memory, self._parts, strict=True)):
            for name, rows in parts.items():
                view = self._views[name]
                if values is None:
                    view[:] = 0
                else:
                    _slots_of(entry, view, start)[:] = _slots_of(entry, values[number][rows], start)
                    if entry.kind == "cache":
                        view[:, :, start:] = 0
        if "mask" in self._views:
            slots = np.arange(self._room)
            visible = (slots >= self._padding[:, None]) & (slots < start)
            self._views["mask"][:] = np.where(visible, 0.0, _HIDDEN)[:, None, None]
        self._slots = start

    def read(self, ids: Sequence[int]) -> None:
        """Reads tokens of one text without giving logits: chunk by chunk where the file can, else one after the other."""
        size = self._chunk or 1
        for place in range(0, len(ids), size):
            part = np.array(ids[place : place + size], np.int32)
            self._make_room(self._slots + len(part))
            if len(part) == 1:
                self.run(part)
            else:
                self._read_chunk(part)

    def _read_chunk(self, part: np.ndarray) -> None:
        prefill = self._interpreter.get_signature_runner("prefill")  # not kept: while somebody has one, `invoke` refuses
        ids = np.zeros([1, self._chunk], np.int32)
        ids[0, : len(part)] = part
        given = {"ids": ids, "position": np.array([self._slots], np.int32)}
        given = {**self._views, **given}
        rows = prefill(**{name: given[name] for name in prefill.get_input_details()})["rows"]
        for cache, new in self._new(rows[:, : len(part)], "cache"):
            cache[self._slots : self._slots + len(part)] = new
        self._slots += len(part)

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """Reads a token in each row, `(batch,)`; gives logits `(batch, vocabulary)` float32."""
        self._read_one(tokens)
        return self._logits.copy()

    def set_choice(self, bias: np.ndarray, temperature: Sequence[float], top_k: Sequence[int], top_p: Sequence[float]) -> None:
        """How `choose` chooses from now on; only where `chooses` holds.

        Args:
            bias: `(batch, vocabulary)` float32, added to the logits; -inf forbids a token.
            temperature, top_k, top_p: For each row, as `litert_convert` has them; `numpy_filters.Filters.choice` gives them so.
        """
        knobs = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self._choice = {"bias": bias, **{name: np.array(values)[:, None] for name, values in knobs.items()}}
        self._fill_choice()

    def _fill_choice(self) -> None:
        for name, value in self._choice.items():
            self._views[name][:] = value

    def choose(self, tokens: np.ndarray, uniforms: Sequence[float]) -> list[int]:
        """Reads a token in each row, `(batch,)`; gives the next ones, or the size of the vocabulary where all are forbidden.

        Args:
            tokens: `(batch,)`.
            uniforms: For each row a random number in [0, 1); 0 where it is greedy.
        """
        self._read_one(tokens, uniforms)
        return self._token.tolist()

    def _read_one(self, tokens: np.ndarray, uniforms: Sequence[float] | None = None) -> None:
        slot = self._slots
        self._make_room(slot + 1)  # before anything is written: what the inputs held may be gone after it
        self._views["ids"][:, 0] = tokens
        if uniforms is not None:
            self._views["uniform"][:, 0] = uniforms
        if "position" in self._views:
            self._views["position"][:] = np.maximum(slot - self._padding, 0)
        self._interpreter.invoke()
        for cache, row in self._new_rows:
            cache[slot] = row
        for state, new in self._new_states:
            state[:] = new
        self._slots += 1

    def log_likelihood(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """ln P of each target after the inputs up to its place.

        Args:
            inputs, targets: `(batch, time)` int32.

        Returns:
            `(batch, time)` float32.
        """
        result = np.zeros(inputs.shape, np.float32)
        self.begin()
        for place in range(inputs.shape[1]):
            result[:, place] = log_softmax(self.run(inputs[:, place]))[np.arange(self.batch), targets[:, place]]
        return result

    def _make_room(self, slots: int) -> None:
        if slots <= self._room:
            return
        kept = [
            np.concatenate([_slots_of(entry, self._views[name], self._slots) for name in parts])
            for entry, parts in zip(self._memory, self._parts, strict=True)
        ]
        self._allocate(_room(slots))
        self._fill(kept, self._slots)

    def _allocate(self, room: int) -> None:
        self._views = {}
        if "mask" in self._inputs:
            self._interpreter.resize_tensor_input(self._inputs["mask"], (self.batch, 1, 1, room))
            for entry, parts in zip(self._memory, self._parts, strict=True):
                for name, rows in parts.items():
                    self._interpreter.resize_tensor_input(self._inputs[name], entry.shape(rows.stop - rows.start, room))
        self._interpreter.allocate_tensors()
        self._room = room
        self._views = {name: _unowned(self._interpreter.tensor(index)()) for name, index in self._inputs.items()}
        self._logits = _unowned(self._interpreter.tensor(self._outputs["logits"])())
        if self.chooses:
            self._token = _unowned(self._interpreter.tensor(self._outputs["token"])())
            self._fill_choice()
        # Where what is new comes from and goes to, worked out once: a few operations of NumPy for each memory and token are felt.
        rows = _unowned(self._interpreter.tensor(self._outputs["rows"])()) if self._memory else None
        self._new_rows = [(cache, new[0]) for cache, new in self._new(rows, "cache")]
        self._new_states = [(state, new[0]) for state, new in self._new(rows, "state")]

    def _new(self, rows: np.ndarray, kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Views of the memories of a kind, caches with their slots in front, and of what `rows`, `(batch, n, sum of widths)`, has for each:
        `(n, batch, ...)`. To the caches belongs the mask, in which the new tokens become visible."""
        result = []
        for entry, parts, columns in zip(self._memory, self._parts, self._columns, strict=True):
            for name, part in parts.items() if entry.kind == kind else ():
                view, new = self._views[name], rows[part, :, columns]
                new = new.reshape(*new.shape[:2], *entry.sizes)
                result.append((np.moveaxis(view, 2, 0) if kind == "cache" else view, np.moveaxis(new, 1, 0)))
        if kind == "cache" and "mask" in self._views:
            mask = np.moveaxis(self._views["mask"], -1, 0)
            result.append((mask, np.zeros([rows.shape[1], *mask.shape[1:]], np.float32)))
        return result


def _room(slots: int) -> int:
    """How long the caches are for so many slots: in steps of 64, or an eighth of a long text, since making them longer copies them."""
    step = max(64, (1 << (slots - 1).bit_length()) // 8)
    return -(-slots // step) * step


def _slots_of(entry: Memory, array: np.ndarray, slots: int) -> np.ndarray:
    """The first slots of a cache, as a view; a state is given whole."""
    return array[:, :, :slots] if entry.kind == "cache" else array


def _width(entry: Memory, shape: Sequence[int]) -> int:
    """What an input of that shape takes in of a token, `Memory.width` if it is this memory's."""
    return shape[1] * shape[-1] if entry.kind == "cache" else math.prod(shape[1:])


def _unowned(view: np.ndarray) -> np.ndarray:
    """The same memory without a hold on the interpreter, which refuses to run while somebody has one: asking anew for each of the memories
    at every step takes longer than writing to them. Good until tensors are allocated again."""
    return np.array(_Address(view), copy=False)


class _Address:
    def __init__(self, view: np.ndarray):
        self.__array_interface__ = {"data": view.__array_interface__["data"], "shape": view.shape, "typestr": view.dtype.str, "version": 3}


def _interpreter(model: bytes | str | os.PathLike, num_threads: int | None):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise UserError("LiteRT is not installed: pip install 'keras_lm[tflite]'") from None
    given = {"model_content": model} if isinstance(model, bytes) else {"model_path": os.fspath(model)}
    try:
        return Interpreter(**given, num_threads=num_threads or os.cpu_count())
    except (ValueError, RuntimeError):
        raise UserError(
            f"{given.get('model_path', 'the model')} cannot be read by LiteRT: it is not whole, or of a later release"
        ) from None

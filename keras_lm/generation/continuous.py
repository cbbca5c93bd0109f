"""Continuous batching: texts join a running batch between two steps, and leave it when they end.

The loop is `advance` of `keras_lm.generation.decode`, a few steps at a time. What is large (caches, history, counts, biases) lies in
variables, which the compiled loop changes in place; what is a number a row stays outside, in NumPy.

All rows draw at one slot, the position. Prompts are read apart from the batch, some at a time, padded to one of a few widths, and are put
so that they end there; what lies before a text in its row counts as padding. Once the position comes to the end of the slots, all rows are
moved back by the padding that they have in common. What a step attends to is all slots, so there are fewer while the texts are short. Batch
sizes, numbers of slots and forms in which prompts are read are few, so that little is compiled. Short prompts are not read apart where it
takes less time to read them in the steps, a token each.

The random number of a token depends on seed, prompt and place alone, so a text is the one that it would be by itself.

References:
    Yu et al. 2022, «Orca: A Distributed Serving System for Transformer-Based Generative Models», section 3.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from keras_lm.generation import automata, numpy_rng
from keras_lm.generation.decode import Carry, Knobs, Rules, advance, begin, bias_against, dtype_of
from keras_lm.generation.sampler import Continuation, check_prompts
from keras_lm.generation.settings import CONTEXT, FINISH_REASONS, MOST_LOGPROBS, SamplingSettings
from keras_lm.generation.state import State, moved_slots

MOST_STEPS = 8
"""The most tokens that each row draws in one call of the compiled loop."""

LONGEST = 4096
"""The most tokens of prompt and text together, where the model itself has no bound."""

_SIZES = (1, 4, 8, 16)  # rows of a batch, below the largest
TOGETHER = 8
"""The most prompts that are read in one call."""

_ROWS = (1, 4, TOGETHER)  # of prompts that are read in one call
_WIDTHS = tuple(8 << power for power in range(14))  # of prompts, padded
_SHORT = 64  # to this width prompts are read together; longer ones gain little
_A_CALL = 64  # tokens that are read in the time that a call takes besides, where it was not measured
_FEWEST_SLOTS = 128
_SLACK = 32  # slots that are left at least when all rows are moved: moving copies the caches
_PATIENCE = 4  # calls for which a smaller batch must do before it is made smaller

_BY_ROW = ("padding", "token", "salt", "length", "reason", "room", "enters")
_CHANGING = ("token", "length", "reason")
_KEPT = ("logprobs", "top_ids", "top_logprobs")
_WHOLE = (*_BY_ROW, *(name for name in Knobs.names() if dtype_of(name) == tf.int32))
_REAL = tuple(name for name in Knobs.names() if name not in _WHOLE)
_DTYPES = {**dict.fromkeys(_WHOLE, np.int32), **dict.fromkeys(_REAL, np.float32)}
_NOBODY = SamplingSettings(temperature=0.0)  # every filter is off


class Steps(Protocol):
    """What of a `Decoder` is needed here: also of a model that lies elsewhere."""

    context_length: int | None
    vocabulary_size: int

    init_state: Callable
    extend: Callable
    moved: Callable
    take_rows: Callable
    input_rows: Callable


@dataclasses.dataclass(frozen=True)
class Newcomer:
    """A text that is to begin.

    Attributes:
        key: What it is called in `ContinuousBatch.step` and `leave`.
        ids: The prompt: at least one token, fewer than the batch's `context`.
        settings: How to sample. Of `num_samples` and the fields that hold text nothing is known here.
        bias: What is added to the logits of some ids; -inf forbids them.
    """

    key: Hashable
    ids: Sequence[int]
    settings: SamplingSettings
    bias: Mapping[int, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What has been read together, and what the model remembers of it: rows behind the last newcomer's are to no purpose."""

    newcomers: list[Newcomer]
    carry: Carry


@dataclasses.dataclass
class _Row:
    key: Hashable
    settings: SamplingSettings
    text: list[int]  # prompt and what has been drawn
    unread: list[int] = dataclasses.field(default_factory=list)  # what the steps have yet to read of the prompt


class ContinuousBatch:
    """Texts that are drawn together, each with its own settings.

    Args:
        decoder: The model: a `Decoder` of a language model, or what offers the same.
        end_id: The token that ends a text.
        never: Ids that are never chosen.
        max_batch: The most texts at a time.
        jit_compile: Whether XLA compiles reading and drawing.

    Attributes:
        context: The most tokens of prompt and text together.

    Example:

    >>> from keras_lm.generation.state import Decoder
    >>> from keras_lm.models import gru_lm
    >>> batch = ContinuousBatch(Decoder(gru_lm(50, embedding_dim=8, hidden_dim=8)), end_id=3, never=(0, 1, 2), max_batch=2)
    >>> batch.join(batch.read([Newcomer("first", [5, 6], SamplingSettings(max_new_tokens=9, min_new_tokens=9))]))
    >>> drawn = batch.step(4)
    >>> batch.join(batch.read([Newcomer("second", [7], SamplingSettings(max_new_tokens=2, min_new_tokens=2))]))
    >>> {key: len(part.ids) for key, part in batch.step(4).items()}
    {'first': 4, 'second': 2}
    >>> batch.running
    1
    """

    def __init__(self, decoder: Steps, *, end_id: int, never: Sequence[int] = (), max_batch: int = 32, jit_compile: bool = True):
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        self.max_batch = max_batch
        self.context: int = decoder.context_length or LONGEST
        self._decoder, self._end_id, self._jit_compile = decoder, end_id, jit_compile
        self._never = bias_against(never, decoder.vocabulary_size).numpy()[0]
        self._alternatives = min(MOST_LOGPROBS, decoder.vocabulary_size)
        self._batches = [*(size for size in _SIZES if size < max_batch), max_batch]
        self._structure = decoder.init_state(1, 1)
        grown = tf.nest.flatten(decoder.init_state(1, 2))
        self._grows = [part.shape != other.shape for part, other in zip(tf.nest.flatten(self._structure), grown, strict=True)]
        most = self.context + min(self.context, _SLACK)
        # What a step attends to grows with the slots; a history alone may as well have all from the beginning.
        between = 32 * round((_FEWEST_SLOTS * most) ** 0.5 / 32)  # as many times the fewest as the most are of it
        fewer = [slots for slots in (_FEWEST_SLOTS, between) if any(self._grows) and 1.5 * slots <= most]
        self._slot_counts = [*fewer, most]
        widest = next(width for width in _WIDTHS if width >= self.context - 1)
        reads = [(rows, width) for width in _WIDTHS if width <= widest for rows in _ROWS if rows == 1 or width <= _SHORT]
        # What reading in a form takes, and a step of a batch: here in tokens, in seconds once it was measured.
        self._costs: dict[tuple[int, int], float] = {(rows, width): _A_CALL + rows * width for rows, width in reads}
        self._step_costs: dict[int, float] = {size: _A_CALL / 4 + size for size in self._batches}
        self._make_variables()
        self._make_functions()
        self.reset()

    def reset(self) -> None:
        """Forgets every text, and what a step that failed may have left behind."""
        self._rows: list[_Row | None] = [None]
        self._position, self._slots, self._unneeded = 0, self._slot_counts[0], 0
        self._numbers = {name: np.zeros(1, dtype) for name, dtype in _DTYPES.items()}
        self._free(0)
        for variable, part in zip(self._state, tf.nest.flatten(self._decoder.init_state(1, self._slots)), strict=True):
            variable.assign(part)
        self._history.assign(tf.zeros([self._slots + 1, 1], tf.int32))
        for variable in self._by_token:
            variable.assign(tf.zeros([1, self._decoder.vocabulary_size], variable.dtype))

    @property
    def running(self) -> int:
        """How many texts are being drawn."""
        return sum(row is not None for row in self._rows)

    @property
    def free(self) -> int:
        """How many more may join."""
        return self.max_batch - self.running

    def warm_up(self, progress: Callable[[str], None] = lambda line: None) -> None:
        """Compiles all that there is to compile, so that no text waits for it; while no text is there.

        Args:
            progress: Is told what comes next.
        """
        for rows, width in self._costs if self._jit_compile else []:
            progress(f"reading {rows} x {width} tokens")
            prompts = [[self._end_id] * min(width, self.context - 1)] * rows
            times = [time.perf_counter()]
            for _ in range(3):
                self._read_all(prompts)["salt"].numpy()
                times.append(time.perf_counter())
            self._costs[rows, width] = min(after - before for before, after in itertools.pairwise(times))  # the first one compiled
        sizes = list(itertools.product(self._batches, self._slot_counts))
        for batch, slots in sizes if self._jit_compile else sizes[:1]:
            progress(f"drawing {batch} texts in {slots} slots")
            self._arrange(batch, 0, slots)
            self._draw(0, False)
            if self._jit_compile and slots == self._slot_counts[0]:
                self._step_costs[batch] = min(self._time_of_step() for _ in range(3))
            for rows, length in [*((rows, 1) for rows in _ROWS if rows <= batch), *((1, fewer) for fewer in self._slot_counts[1:])]:
                carry = self._read_all([[self._end_id] * min(length, self.context - 1)] * rows)
                self._put([0] * rows, [[self._end_id]] * rows, carry, [self._never] * rows)
        self.reset()

    def _time_of_step(self) -> float:
        """Seconds, of rows that are nobody's."""
        steps = min(MOST_STEPS, self._slots)
        self._position = 0
        self._numbers["reason"][:], self._numbers["length"][:], self._numbers["room"][:] = -1, 0, steps + 1
        began = time.perf_counter()
        self._draw(steps, False)
        return (time.perf_counter() - began) / steps

    def groups(self, lengths: Sequence[int], alone: Collection[int] = ()) -> tuple[list[int], list[list[int]]]:
        """How some prompts are best read.

        Args:
            lengths: Of each prompt, in tokens.
            alone: The numbers of those that `join_unread` does not take.

        Returns:
            The numbers of those that are best left to the steps, for `join_unread`; and of the others, in groups of `TOGETHER` at most, by
            the first of each, for `read`: what takes least time in all.
        """
        size = next((size for size in self._batches if size >= self.running + len(lengths)), self.max_batch)
        a_token = self._step_costs[size] / size  # other rows use the rest of the step
        order = sorted(range(len(lengths)), key=lambda number: lengths[number], reverse=True)
        best: list[tuple[float, list[int], list[list[int]]]] = [(0.0, [], [])]  # for the longest of them, however many
        for end in range(1, len(order) + 1):
            ways = []
            last = order[end - 1]
            if lengths[last] <= MOST_STEPS and last not in alone:
                seconds, unread, groups = best[-1]
                ways.append((seconds + (lengths[last] - 1) * a_token, [*unread, last], groups))
            for first in range(max(0, end - TOGETHER), end):
                rows, width = self._form(end - first, lengths[order[first]])
                if (rows, width) in self._costs:
                    seconds, unread, groups = best[first]
                    ways.append((seconds + self._costs[rows, width], unread, [*groups, sorted(order[first:end])]))
            best.append(min(ways))
        _, unread, groups = best[-1]
        return sorted(unread), sorted(groups)

    def _form(self, prompts: int, longest: int) -> tuple[int, int]:
        """Rows and width in which some prompts are read together."""
        return next(rows for rows in _ROWS if rows >= prompts), next(width for width in _WIDTHS if width >= longest)

    def read(self, newcomers: Sequence[Newcomer]) -> Prompts:
        """Reads some prompts in one call; the texts that are being drawn stay as they are.

        Args:
            newcomers: At most `TOGETHER`.

        Raises:
            ValueError: a prompt of no tokens, or of too many; too many prompts.
        """
        if not 1 <= len(newcomers) <= TOGETHER:
            raise ValueError(f"1 to {TOGETHER} prompts are read in one call, got {len(newcomers)}")
        prompts = [list(newcomer.ids) for newcomer in newcomers]
        check_prompts(prompts, self.context)
        return Prompts(list(newcomers), self._read_all(prompts))

    def join(self, prompts: Prompts) -> None:
        """Lets texts begin, which are drawn from the next step on.

        Args:
            prompts: What `read` gave.

        Raises:
            ValueError: the batch has no room for them.
        """
        self._make_room(len(prompts.newcomers))
        biases = [self._never.copy() for _ in prompts.newcomers]
        for newcomer, bias in zip(prompts.newcomers, biases, strict=True):
            for token, value in newcomer.bias.items():
                bias[token] += value
        numbers = self._free_rows()[: len(biases)]
        self._put(numbers, [list(newcomer.ids) for newcomer in prompts.newcomers], prompts.carry, biases)
        salts = prompts.carry["salt"].numpy()
        for number, newcomer, salt in zip(numbers, prompts.newcomers, salts, strict=False):
            self._begin(number, newcomer, salt)

    def join_unread(self, newcomers: Sequence[Newcomer]) -> None:
        """Lets texts begin whose prompts the next steps read, a token each.

        Args:
            newcomers: None of which has a `bias`.

        Raises:
            ValueError: a prompt of no tokens, or of too many; the batch has no room for them; a bias.
        """
        if not newcomers:
            return
        check_prompts([list(newcomer.ids) for newcomer in newcomers], self.context)
        if any(newcomer.bias for newcomer in newcomers):
            raise ValueError("a text with a bias must be read before it joins")
        self._make_room(len(newcomers))
        if not self.running:
            self._position = 0
        salts = numpy_rng.salts_of([newcomer.ids for newcomer in newcomers])
        for number, newcomer, salt in zip(self._free_rows(), newcomers, salts, strict=False):
            self._begin(number, newcomer, salt)
            self._rows[number].unread = list(newcomer.ids[1:])
            self._set(number, padding=self._position, token=newcomer.ids[0], enters=1)

    def _make_room(self, count: int) -> None:
        if count > self.free:
            raise ValueError(f"the batch is full: {self.running} of {self.max_batch} texts are being drawn")
        if (wanted := self.running + count) > len(self._rows):
            self._arrange(next(size for size in self._batches if size >= wanted), self._position)

    def _free_rows(self) -> list[int]:
        return [number for number, row in enumerate(self._rows) if row is None]

    def _begin(self, number: int, newcomer: Newcomer, salt: int) -> None:
        self._rows[number] = _Row(newcomer.key, newcomer.settings, list(newcomer.ids))
        self._set(number, **{name: getattr(newcomer.settings, name) for name in Knobs.names()})
        self._set(number, salt=salt, length=0, reason=-1, room=self.context - len(newcomer.ids), enters=0)

    def leave(self, key: Hashable) -> None:
        """Takes a text out before its end; one that is not there is not missed."""
        for number, row in enumerate(self._rows):
            if row is not None and row.key == key:
                self._free(number)

    def step(self, most: int = MOST_STEPS) -> dict[Hashable, Continuation]:
        """Draws some tokens of every text.

        Args:
            most: How many, at most `MOST_STEPS`; of a prompt that is not read yet, as many tokens are read.

        Returns:
            By key what came of each text, where something came; one with a `finish_reason` is gone.
        """
        self._shrink()
        if not self.running:
            return {}
        if self._slots - self._position < most or self._slots_for(2 * self._needed()) < self._slots:
            self._arrange(len(self._rows), self._needed())
        before, unread = self._numbers["length"], [0 if row is None else len(row.unread) for row in self._rows]
        with_logprobs = any(row is not None and row.settings.top_logprobs is not None for row in self._rows)
        steps = min(most, self._slots - self._position)
        ids, kept = self._draw(steps, with_logprobs)
        drawn: dict[Hashable, Continuation] = {}
        for number, row in enumerate(self._rows):
            if row is None:
                continue
            length, reason = int(self._numbers["length"][number]), int(self._numbers["reason"][number])
            if (first := unread[number]) >= steps:
                continue
            part = _part(ids[first : first + length - before[number], number], reason, kept, first, number, row.settings.top_logprobs)
            row.text += part.ids
            if reason == CONTEXT and row.settings.when_full == "slide":
                part = dataclasses.replace(part, finish_reason="")
                window = row.text[-max(1, self.context // 2) :]
                self._put([number], [window], self._read_all([window]))
                self._set(number, reason=-1, room=length + self.context - len(window))
            elif reason >= 0:
                self._free(number)
            drawn[row.key] = part
        return drawn

    def _needed(self) -> int:
        """The least position at which all texts have room before it."""
        paddings = [self._numbers["padding"][number] for number, row in enumerate(self._rows) if row is not None]
        return self._position - int(min(paddings, default=self._position))

    def _slots_for(self, position: int) -> int:
        return next((slots for slots in self._slot_counts if slots - position >= _SLACK), self._slot_counts[-1])

    def _shrink(self) -> None:
        """Goes on with a smaller batch once it has been enough for a while."""
        enough = next(size for size in self._batches if size >= self.running)
        self._unneeded = self._unneeded + 1 if enough < len(self._rows) else 0
        if self._unneeded > _PATIENCE:
            self._arrange(enough, self._needed())
            self._unneeded = 0

    def _arrange(self, batch: int, position: int, slots: int | None = None) -> None:
        """Moves all texts to another position, in a batch and a number of slots that may be others.

        Rows keep their places, but in a smaller batch, where those that run come first.
        """
        shift = self._position - position
        if slots is None:
            slots = self._slots_for(position)
        order = list(range(len(self._rows)))
        if batch < len(order):
            order = sorted(order, key=lambda number: self._rows[number] is None)[:batch]
        rows = np.array(order + [0] * (batch - len(order)))
        if (batch, slots) == (len(self._rows), self._slots):
            self._shift(tf.constant(shift, tf.int32))
        else:
            self._resize(*(tf.constant(value, tf.int32) for value in (rows, shift, slots)))
        self._numbers = {name: values[rows] for name, values in self._numbers.items()}
        self._numbers["padding"] -= shift
        self._rows = [self._rows[number] for number in order] + [None] * (batch - len(order))
        self._position, self._slots = position, slots
        for number, row in enumerate(self._rows):
            if row is None:
                self._free(number)

    def _read_all(self, prompts: Sequence[list[int]]) -> Carry:
        longest = max(map(len, prompts))
        rows, width = self._form(len(prompts), longest) if self._jit_compile else (len(prompts), max(2, longest))
        padded, padding = np.zeros([rows, width], np.int32), np.zeros(rows, np.int32)
        for number in range(rows):  # the last one fills what is left, and is then written over itself
            ids = prompts[min(number, len(prompts) - 1)]
            padding[number] = width - len(ids)
            padded[number, padding[number] :] = ids
        slots = next(slots for slots in self._slot_counts if slots >= min(width, self.context))
        return self._read(tf.constant(padded), tf.constant(padding), tf.zeros([slots], tf.bool))

    def _put(self, numbers: list[int], prompts: Sequence[list[int]], carry: Carry, biases: Sequence[np.ndarray] = ()) -> None:
        """Lets texts that were read end at the position; where one is longer, the others are moved back.

        Args:
            biases: Of texts that begin, `(vocabulary,)` each; those that slide keep theirs, and what they have counted.
        """
        size = max(map(len, prompts)) - 1
        if size >= self._slots or (size > self._position and self.running):
            self._arrange(len(self._rows), size)
        elif not self.running:
            self._position = size
        state, history = carry["state"], carry["history"]
        of_rows = lambda values: list(values) + [values[-1]] * (history.shape[1] - len(values))
        bias = np.stack(of_rows(biases or [self._never]))
        begins = tf.constant(bool(biases))
        rows, first = tf.constant(of_rows(numbers)), tf.constant(self._position - size)
        self._write(rows, first, begins, tf.nest.flatten(state), history, carry["seen"], tf.constant(bias))
        for number, ids in zip(numbers, prompts, strict=True):
            self._set(number, padding=self._position - (len(ids) - 1), token=ids[-1])

    def _free(self, number: int) -> None:
        """Makes a row draw nothing, and no filter work for it."""
        self._rows[number] = None
        self._set(number, **{name: getattr(_NOBODY, name) for name in Knobs.names()}, **dict.fromkeys(_BY_ROW, 0))

    def _set(self, number: int, **values: float) -> None:
        for name, value in values.items():
            self._numbers[name][number] = value

    def _draw(self, steps: int, with_logprobs: bool) -> tuple[np.ndarray, list[np.ndarray]]:
        """Ids `(MOST_STEPS, batch)`, those of prompts too, and where asked for what `_part` reads besides; the rows go on."""
        given = np.full([MOST_STEPS, len(self._rows)], -1, np.int32)
        for number, row in enumerate(self._rows):
            if row is not None and row.unread:
                given[:steps, number][: len(row.unread)] = row.unread[:steps]
                row.unread = row.unread[steps:]
        free = [row is None for row in self._rows]
        self._numbers["padding"][free] = self._position  # where a text would begin, which every model can read
        numbers = [tf.constant(np.stack([self._numbers[name] for name in names])) for names in (_WHOLE, _REAL)]
        scalars = (tf.constant(value) for value in (self._position, steps, with_logprobs))
        drawn, *kept = self._advance[1 if len(self._rows) == 1 else None](*numbers, tf.constant(given), *scalars)
        ids, last = np.split(drawn.numpy(), [MOST_STEPS])
        self._numbers.update(zip(_CHANGING, last, strict=True))
        self._numbers["enters"][:] = 0
        self._position += steps
        return ids, [part.numpy() for part in kept]

    def _make_variables(self) -> None:
        size = self._decoder.vocabulary_size

        def variable(shape: list[int | None], dtype: tf.DType) -> tf.Variable:
            return tf.Variable(tf.zeros([axis or 1 for axis in shape], dtype), trainable=False, shape=tf.TensorShape(shape))

        parts = zip(tf.nest.flatten(self._structure), self._grows, strict=True)
        shapes = [[None, *part.shape[1:2], None, *part.shape[3:]] if grows else [None, *part.shape[1:]] for part, grows in parts]
        self._state = [variable(shape, part.dtype) for shape, part in zip(shapes, tf.nest.flatten(self._structure), strict=True)]
        self._history = variable([None, None], tf.int32)
        self._seen, self._fresh = variable([None, size], tf.int32), variable([None, size], tf.int32)
        self._bias = variable([None, size], tf.float32)
        self._by_token = (self._seen, self._fresh, self._bias)

    def _packed(self, parts: Sequence[tf.Tensor]) -> State:
        return tf.nest.pack_sequence_as(self._structure, list(parts))

    def _make_functions(self) -> None:
        number, flag, row = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.bool), tf.TensorSpec([None], tf.int32)
        room = tf.TensorSpec([None], tf.bool)
        self._read = self._compiled(self._read_rows, tf.TensorSpec([None, None], tf.int32), row, room)
        states = [tf.TensorSpec(variable.shape, variable.dtype) for variable in self._state]
        history, size = tf.TensorSpec([None, None], tf.int32), self._decoder.vocabulary_size
        counts = [tf.TensorSpec([None, size], tf.int32), tf.TensorSpec([None, size], tf.float32)]
        self._write = self._compiled(self._write_rows, row, number, flag, states, history, *counts)
        self._resize = tf.function(self._move, [row, number, number], autograph=False)
        self._shift = tf.function(self._roll, [number], autograph=False)
        self._advance = {}
        for batch in (1, None):
            numbers = [tf.TensorSpec([len(_WHOLE), batch], tf.int32), tf.TensorSpec([len(_REAL), batch], tf.float32)]
            numbers += [tf.TensorSpec([MOST_STEPS, batch], tf.int32), number, number]
            function = functools.partial(self._advance_rows, batch)
            self._advance[batch] = self._compiled(function, *numbers, flag)

    def _compiled(self, function: Callable, *inputs: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
        # Concrete, because to be called it then takes 0.5 ms in place of 0.8.
        return tf.function(function, list(inputs), jit_compile=self._jit_compile, autograph=False).get_concrete_function()

    def _read_rows(self, prompt: tf.Tensor, padding: tf.Tensor, room: tf.Tensor) -> Carry:
        # XLA wants the number of slots when it compiles. The shape of an input is known then, the value of one is not.
        carry = begin(self._decoder, prompt, padding, slots=tf.shape(room)[0])
        return {name: carry[name] for name in ("state", "history", "seen", "salt")}

    def _write_rows(
        self,
        numbers: tf.Tensor,
        first: tf.Tensor,
        begins: tf.Tensor,
        parts: list[tf.Tensor],
        history: tf.Tensor,
        seen: tf.Tensor,
        bias: tf.Tensor,
    ) -> None:
        """Puts what was read into rows, from slot `first` on. Assigned to a part of a variable, it would be copied; XLA need not."""
        written = lambda before, rows: tf.tensor_scatter_nd_update(before, numbers[:, None], rows)
        moved = lambda part, axis, whole: moved_slots(part, axis, -first, tf.shape(whole)[axis])
        for variable, part, grows in zip(self._state, parts, self._grows, strict=True):
            variable.assign(written(variable, moved(part, 2, variable) if grows else part))
        self._history.assign(tf.transpose(written(tf.transpose(self._history), tf.transpose(moved(history, 0, self._history)))))
        for variable, rows in zip(self._by_token, (seen, tf.zeros_like(seen), bias), strict=True):
            variable.assign(written(variable, tf.where(begins, rows, tf.gather(variable, numbers))))

    def _move(self, rows: tf.Tensor, shift: tf.Tensor, slots: tf.Tensor) -> None:
        state = self._decoder.moved(self._decoder.take_rows(self._packed(self._state), rows), shift, slots)
        for variable, part in zip(self._state, tf.nest.flatten(state), strict=True):
            variable.assign(part)
        self._history.assign(tf.gather(moved_slots(self._history, 0, shift, slots + 1), rows, axis=1))
        for variable in self._by_token:
            variable.assign(tf.gather(variable, rows))

    def _roll(self, shift: tf.Tensor) -> None:
        """`_move` of the same rows in as many slots, in half the time: what lay before the texts comes to lie behind them."""
        for variable, grows in zip(self._state, self._grows, strict=True):
            if grows:
                variable.assign(tf.roll(variable, -shift, axis=2))
        self._history.assign(tf.roll(self._history, -shift, axis=0))

    def _advance_rows(
        self,
        batch: int | None,
        whole: tf.Tensor,
        real: tf.Tensor,
        given: tf.Tensor,
        position: tf.Tensor,
        steps: tf.Tensor,
        noting: tf.Tensor,
    ) -> list[tf.Tensor]:
        def read(variable: tf.Variable) -> tf.Tensor:
            return tf.ensure_shape(variable, [batch, *variable.shape[1:]])

        numbers = {**dict(zip(_WHOLE, tf.unstack(whole), strict=True)), **dict(zip(_REAL, tf.unstack(real), strict=True))}
        knobs = Knobs(**{name: numbers[name] for name in Knobs.names()})
        nothing = tf.zeros_like(numbers["reason"])
        carry = {name: numbers[name] for name in ("padding", "token", "salt", "length", "reason")}
        carry |= {"step": tf.constant(0), "start": position, "node": nothing, "place": nothing + automata.FREE}
        shape = [MOST_STEPS, batch or tf.shape(whole)[1]]
        # Who enters has read nothing: what counts is where its row's padding ends, its first token, and what does not grow with the text.
        enters, empty = numbers["enters"] > 0, tf.nest.flatten(self._decoder.init_state(shape[1], 1))
        cleared = lambda value, other: tf.where(tf.reshape(enters, [-1] + [1] * (len(value.shape) - 1)), other, value)
        parts = zip(self._state, self._grows, empty, strict=True)
        carry["state"] = self._packed([read(part) if grows else cleared(read(part), none) for part, grows, none in parts])
        carry["seen"] = cleared(read(self._seen), tf.one_hot(carry["token"], self._decoder.vocabulary_size, dtype=tf.int32))
        carry["fresh"], bias = cleared(read(self._fresh), 0), cleared(read(self._bias), self._never)
        history = tf.ensure_shape(self._history, [None, batch])
        carry["history"] = tf.tensor_scatter_nd_update(history, [[position]], cleared(tf.gather(history, position), carry["token"])[None])
        carry |= {"noting": noting, "logprobs": tf.zeros(shape), "top_ids": tf.zeros([*shape, self._alternatives], tf.int32)}
        carry["top_logprobs"] = tf.zeros([*shape, self._alternatives])
        rules = Rules(end_id=self._end_id, bias=bias)
        carry = advance(self._decoder, carry, knobs, rules, room=numbers["room"], until=steps, given=given)
        for variable, part in zip(self._state, tf.nest.flatten(carry["state"]), strict=True):
            variable.assign(part)
        for name, variable in (("history", self._history), ("seen", self._seen), ("fresh", self._fresh)):
            variable.assign(carry[name])
        self._bias.assign(bias)
        last = tf.minimum(position + 1 + tf.range(MOST_STEPS), tf.shape(carry["history"])[0] - 1)
        drawn = tf.concat([tf.gather(carry["history"], last), tf.stack([carry[name] for name in _CHANGING])], axis=0)
        return [drawn, *(carry[name] for name in _KEPT)]


def _part(ids: np.ndarray, reason: int, kept: list[np.ndarray], first: int, number: int, top_logprobs: int | None) -> Continuation:
    """What a row drew from step `first` on, of the steps of all rows."""
    extra = {}
    if top_logprobs is not None:
        logprobs, top_ids, top = (part[first : first + len(ids), number].tolist() for part in kept)
        extra["logprobs"] = logprobs
        extra["alternatives"] = [list(zip(*pair, strict=True))[:top_logprobs] for pair in zip(top_ids, top, strict=True)]
    return Continuation(ids.tolist(), FINISH_REASONS[reason] if reason >= 0 else "", **extra)

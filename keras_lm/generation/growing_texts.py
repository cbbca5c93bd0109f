"""Texts that grow by a token a step outside TensorFlow: something gives logits, or tokens, and NumPy does the rest.

With `litert_runtime.Step` they are what `Sampler` is with TensorFlow, for the numbers of `SamplingSettings`: the same knobs, and the same
random numbers, so that a float32 file gives the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from keras_lm.generation import numpy_filters, numpy_rng
from keras_lm.generation.settings import BLOCKED, CONTEXT, END, LENGTH, SamplingSettings

_AT_A_TIME = 256  # random numbers of a row


class Steps(Protocol):
    """What gives logits for a batch of texts; where `chooses` holds, it has `set_choice` and `choose` of `litert_runtime.Step` as well."""

    chooses: bool

    def run(self, tokens: np.ndarray) -> np.ndarray:
        """Reads a token in each row, `(batch,)`; gives logits `(batch, vocabulary)` float32."""


class Texts:
    """A batch of texts that grow by a token a step: what has been said, what may come, and why each ended.

    Args:
        history: `(slots + 1, batch)` int32, the prompts in its first slots.
        end: The slot behind the prompts.
        padding: `(batch,)` int32: slots without text in front of each row.
        seen, fresh: `(batch, vocabulary)` int32: how often each token stands in a row, and among its new tokens.
        salt, length, reason: `(batch,)` int32, as in `decode`.
        knobs: `(batch,)` arrays by the names of `numpy_filters.KNOBS`.
        bias: `(1 or batch, vocabulary)` float32.
        room: `(batch,)` int32: the number of new tokens at which the context is full.
        end_id: The token that ends a text.
    """

    def __init__(
        self,
        *,
        history: np.ndarray,
        end: int,
        padding: np.ndarray,
        seen: np.ndarray,
        fresh: np.ndarray,
        salt: np.ndarray,
        length: np.ndarray,
        reason: np.ndarray,
        knobs: Mapping[str, np.ndarray],
        bias: np.ndarray,
        room: np.ndarray,
        end_id: int,
    ):
        self.history = history
        # Numbers of Python: for a few rows an operation of NumPy takes longer than all that is done with them.
        self._length, self._reason = length.tolist(), reason.tolist()
        self._counts, self._uncounted = (seen, fresh), list[tuple[int, int]]()
        self._end, self._padding, self._salt, self._end_id = end, padding, salt, end_id
        self._bias = np.broadcast_to(bias, seen.shape)
        self._most, self._limit = knobs["max_new_tokens"].tolist(), np.minimum(knobs["max_new_tokens"], room).tolist()
        self._seed = knobs["seed"]
        self._knobs = [{name: values[row].item() for name, values in knobs.items()} for row in range(len(reason))]
        self._filters = [numpy_filters.Filters(row, end_id) for row in self._knobs]
        self._greedy = all(numpy_filters.nothing_filters(row) and row["temperature"] == 0 for row in self._knobs)
        self._first, self._uniforms = self._length.copy(), [[] for _ in self._length]
        self.running = min(self._reason, default=0) < 0

    @classmethod
    def of_prompt(cls, ids: Sequence[int], settings: SamplingSettings, *, seed: int, bias: np.ndarray, room: int, end_id: int) -> Texts:
        """One text that goes on with a prompt.

        Args:
            ids: The prompt, at least one token.
            settings: Their numbers are the knobs.
            seed: In place of theirs.
            bias: `(vocabulary,)` float32.
            room: The number of new tokens at which the context is full.
            end_id: The token that ends a text.

        Example:

        >>> from keras_lm.generation.settings import FINISH_REASONS
        >>> settings = SamplingSettings(temperature=0.0, max_new_tokens=1)
        >>> texts = Texts.of_prompt([1], settings, seed=0, bias=np.zeros(3, np.float32), room=9, end_id=0)
        >>> texts.draw(np.array([[0.0, 1.0, 3.0]], np.float32)).tolist(), texts.running, FINISH_REASONS[texts.reason[0]]
        ([2], False, 'length')
        """
        history = np.zeros([len(ids) + min(room, settings.max_new_tokens) + 1, 1], np.int32)
        history[: len(ids), 0] = ids
        knobs = {name: np.array([getattr(settings, name)]) for name in numpy_filters.KNOBS}
        return cls(
            history=history,
            end=len(ids),
            padding=np.zeros(1, np.int32),
            seen=np.bincount(ids, minlength=bias.size)[None].astype(np.int32),
            fresh=np.zeros([1, bias.size], np.int32),
            salt=numpy_rng.salts_of([ids]),
            length=np.zeros(1, np.int32),
            reason=np.full(1, -1, np.int32),
            knobs={**knobs, "seed": np.array([seed % 2**31], np.int32)},
            bias=bias[None],
            room=np.array([room], np.int32),
            end_id=end_id,
        )

    @property
    def length(self) -> np.ndarray:
        """`(batch,)` int32: how many new tokens each row has."""
        return np.array(self._length, np.int32)

    @property
    def reason(self) -> np.ndarray:
        """`(batch,)` int32: why each row ended, an index into `FINISH_REASONS`; -1 where it goes on."""
        return np.array(self._reason, np.int32)

    @property
    def seen(self) -> np.ndarray:
        """`(batch, vocabulary)` int32: how often each token stands in a row."""
        return self._up_to_date()[0]

    @property
    def fresh(self) -> np.ndarray:
        """`(batch, vocabulary)` int32: how often each token stands among the new ones of a row."""
        return self._up_to_date()[1]

    def _up_to_date(self) -> tuple[np.ndarray, np.ndarray]:
        # Counted when somebody asks: few texts have a rule that needs the counts at every step.
        for row, token in self._uncounted:
            for counts in self._counts:
                counts[row, token] += 1
        self._uncounted.clear()
        return self._counts

    def draw(self, logits: np.ndarray) -> np.ndarray:
        """Chooses the next token of each row and notes it.

        Args:
            logits: `(batch, vocabulary)` float32, the model's own.

        Returns:
            `(batch,)` int32; 0 for rows that have ended.
        """
        if self._greedy:
            logits = logits + self._bias
            largest = logits.argmax(axis=1).tolist()
            chosen = [token if row[token] > numpy_filters.FORBIDDEN else None for row, token in zip(logits, largest, strict=True)]
        else:
            chosen = [None if reason >= 0 else self._draw_row(row, logits[row]) for row, reason in enumerate(self._reason)]
        return self._note(chosen)

    def follow(self, step: Steps) -> Callable[[np.ndarray], np.ndarray]:
        """What reads a token in each row by `step` and gives the next ones, as `draw` would, which are noted: `(batch,)` → `(batch,)`.

        They are chosen in the interpreter where the file can and no knob has a say that it does not know: that spares the calls of NumPy
        between two steps.
        """
        choices = [filters.choice for filters in self._filters]
        if not step.chooses or None in choices:
            return lambda tokens: self.draw(step.run(tokens))
        step.set_choice(self._bias, *zip(*choices, strict=True))
        size, greedy = self._bias.shape[1], [row["temperature"] <= 0 for row in self._knobs]

        def chosen(tokens: np.ndarray) -> np.ndarray:
            uniforms = [0.0 if greedy[row] else self._uniform(row, length) for row, length in enumerate(self._length)]
            return self._note([token if token < size else None for token in step.choose(tokens, uniforms)])

        return chosen

    def _note(self, chosen: Sequence[int | None]) -> np.ndarray:
        """Notes the next token of each row, `None` where all are forbidden; gives what `draw` does."""
        tokens = [0] * len(self._reason)
        for row, token in enumerate(chosen):
            if self._reason[row] >= 0:
                continue
            if token is None:
                self._reason[row] = BLOCKED
                continue
            tokens[row] = token
            self._length[row] += 1
            self._uncounted.append((row, token))
            if token == self._end_id:
                self._reason[row] = END
            elif self._length[row] >= self._limit[row]:
                self._reason[row] = LENGTH if self._length[row] >= self._most[row] else CONTEXT
        self.running = min(self._reason, default=0) < 0
        self.history[self._end] = tokens
        self._end += 1
        return np.array(tokens, np.int32)

    def _draw_row(self, row: int, logits: np.ndarray) -> int | None:
        """The next token of a row, or `None` where all are forbidden."""
        filters, length, rest = self._filters[row], self._length[row], {}
        if filters.reads:
            seen, fresh = self._up_to_date() if filters.counts else self._counts
            rest = {"text": self.history[self._padding[row] : self._end, row], "seen": seen[row], "fresh": fresh[row]}
        return filters.draw(logits, self._bias[row], length, self._uniform(row, length), **rest)

    def _uniform(self, row: int, length: int) -> float:
        """Number `length` of the row's sequence; many are made at a time, since one costs as much."""
        place = length - self._first[row]
        if place >= len(self._uniforms[row]):
            self._first, place = self._length.copy(), 0
            self._uniforms = numpy_rng.uniforms(self._seed, self._salt, self.length[:, None] + np.arange(_AT_A_TIME)).tolist()
        return self._uniforms[row][place]

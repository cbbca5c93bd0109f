"""The sampler: prompts as ids in, new ids out, by two functions that XLA compiles: `begin` and `advance` of `keras_lm.generation.decode`.

`Sampler` decides the shapes. Prompts are padded to the next power of two, and so is the room for the text: a longer prompt, more tokens,
another knob, other stop strings compile nothing while their bucket stays the same, and a prompt of another bucket compiles the reading
alone. Streaming calls the same functions, a chunk of steps at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.generation import automata
from keras_lm.generation.decode import Carry, Knobs, Rules, advance, begin, bias_against
from keras_lm.generation.settings import FINISH_REASONS, MOST_LOGPROBS, SamplingSettings
from keras_lm.generation.state import Decoder


@dataclasses.dataclass(frozen=True)
class Continuation:
    """What was added to a prompt, or a part of it.

    Attributes:
        ids: The new ids, an ending one included.
        finish_reason: One of `FINISH_REASONS`; empty in a part that is not the last.
        logprobs: ln P of each new id under the model itself, before penalties, temperature and filters; `None` where not asked for.
        alternatives: For each new id, the most probable ids with their ln P, best first; `None` where not asked for.
    """

    ids: list[int]
    finish_reason: str = ""
    logprobs: list[float] | None = None
    alternatives: list[list[tuple[int, float]]] | None = None

    def __add__(self, later: Continuation) -> Continuation:
        join = lambda first, second: None if first is None else first + second
        return Continuation(
            self.ids + later.ids, later.finish_reason, join(self.logprobs, later.logprobs), join(self.alternatives, later.alternatives)
        )


class Sampler:
    """Generates ids from a model.

    Args:
        model: A causal Sequential or Functional model from ids to logits, or an encoder-decoder. Its weights are read at each call: train
            on, and sample again.
        end_id: The token that ends a text.
        never: Ids that are never chosen (padding, unknown, start).
        pieces: The bytes that each id writes (`Tokenizer.pieces()`); stop strings need them.
        jit_compile: Whether XLA compiles it; default. Without it the same functions run as ordinary graphs.
        cache_step: Lets the caches of a Transformer grow with the text, by so many slots at a time, so that a step reads less; each size is
            compiled anew. Worth it for large batches in a process that lives long: at batch 16 a third to a half faster
            (`docs/performance.md`). Default: room for the whole text from the beginning.

    Raises:
        ValueError: a `cache_step` below 1.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> sampler = Sampler(gru_lm(50, embedding_dim=8, hidden_dim=8), end_id=3, never=(0, 1, 2))
    >>> texts = sampler.generate([[5, 6], [7]], SamplingSettings(max_new_tokens=4, seed=1))
    >>> len(texts), all(len(text.ids) <= 4 for text in texts)
    (2, True)
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        end_id: int,
        never: Sequence[int] = (),
        pieces: Sequence[bytes] | None = None,
        jit_compile: bool = True,
        cache_step: int | None = None,
    ):
        if cache_step is not None and cache_step < 1:
            raise ValueError(f"cache_step must be at least 1, got {cache_step}")
        self.decoder = self._decoder(model)
        self.end_id = end_id
        self.jit_compile = jit_compile
        self.cache_step = cache_step
        self._bias = bias_against(never, self.decoder.vocabulary_size).numpy()
        self._pieces = None if pieces is None else automata.PieceTable(pieces)
        self._compiled: dict[tuple, _Compiled] = {}

    def _decoder(self, model: keras.Model) -> Decoder:
        """What reads the prompts; of another kind where a subclass samples from something else."""
        return Decoder(model)

    @property
    def num_compilations(self) -> int:
        """How many times TensorFlow has traced, and XLA compiled, a part of the sampler so far."""
        return len(self._compiled)

    def generate(self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, **rules: object) -> list[Continuation]:
        """Extends prompts of any lengths.

        Args:
            prompts: Ids, at least one a row; none longer than the context allows.
            settings: How to sample. Of the fields that hold text (`stop`, `logit_bias`, `forbid`, `allow`) it knows nothing.
            **rules: `sources`, `bias`, `stop` and `constraint` as in `stream`.

        Returns:
            A `Continuation` for each text: `settings.num_samples` for each prompt, side by side.

        Raises:
            ValueError: an empty prompt, or one that fills the context; not as many constraints as prompts.
        """
        parts = list(self.stream(prompts, settings, chunk_size=None, **rules))
        return [sum(row[1:], row[0]) for row in zip(*parts, strict=True)]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        sources: Sequence[Sequence[int]] | None = None,
        bias: Mapping[int, float] | None = None,
        stop: Sequence[bytes] = (),
        constraint: automata.Constraint | Sequence[automata.Constraint | None] | None = None,
        chunk_size: int | None = 8,
    ) -> Iterator[list[Continuation]]:
        """As `generate`, giving what there is every so many tokens.

        Args:
            prompts, settings: As in `generate`.
            sources: What the encoder of an encoder-decoder reads, ids for each prompt, or a vector where it reads those; the prompt is then
                what the target begins with.
            bias: What is added to the logits of some ids; -inf forbids them.
            stop: The bytes of strings at which a text ends; the token that completes one is its last.
            constraint: What the new texts may be: one for all prompts, or one for each, `None` for a free one. The texts are led to an end
                within `max_new_tokens` and what the context has room for, where it does not slide; what no text can end in is cut off.
            chunk_size: Tokens drawn in one call of the compiled function; `None`: as many as come.

        Yields:
            For each text what came since the last time; a text that has ended gives empty parts.
        """
        if not prompts:
            return
        self._check(prompts, stop, sources)
        samples, batch = settings.num_samples, len(prompts) * settings.num_samples
        limits = np.repeat(self.limits(list(map(len, prompts)), settings), samples)
        rules, places = self._rules(bias, stop, constraint, limits, len(prompts))
        windows = [list(prompt) for prompt in prompts]
        texts = [list(prompt) for prompt in prompts for _ in range(samples)]
        kept: Carry = {}
        while True:
            carry, room = self._begin(windows, settings, kept, places, sources)
            knobs = Knobs.of(settings, batch)
            most = int(max(np.minimum(room, settings.max_new_tokens) - carry["length"].numpy()))
            until = 0
            while until < most and (carry["reason"].numpy() < 0).any():
                done, before = until, carry["length"].numpy()
                until = min(most, until + (chunk_size or most))
                carry = self._advance(carry, knobs, rules, room, until)
                parts = _parts(carry, done, before, settings.top_logprobs)
                for text, part in zip(texts, parts, strict=True):
                    text += part.ids
                full = [part.finish_reason == "context" for part in parts]
                if settings.when_full == "slide":
                    parts = [dataclasses.replace(part, finish_reason="") if slid else part for part, slid in zip(parts, full, strict=True)]
                yield parts
            reason = carry["reason"].numpy()
            slid = reason == FINISH_REASONS.index("context")
            if settings.when_full != "slide" or not slid.any():
                return
            windows = [text[-max(1, self.decoder.context_length // 2) :] for text in texts]
            sources = sources and [source for source in sources for _ in range(samples)]
            samples = 1
            kept = {name: carry[name] for name in ("seen", "fresh", "salt", "length", "node", "place")}
            kept["reason"] = tf.constant(np.where(slid, -1, reason), tf.int32)

    def _check(self, prompts: Sequence[Sequence[int]], stop: Sequence[bytes], sources: Sequence[Sequence[int]] | None = None) -> None:
        check_prompts(prompts, self.decoder.context_length)
        if (sources is None) != (self.decoder.encoder is None):
            raise ValueError("an encoder-decoder needs sources, one for each prompt, and no other model takes them")
        if sources is not None and (len(sources) != len(prompts) or not all(map(len, sources))):
            raise ValueError(f"there must be a source, of one token at least, for each of the {len(prompts)} prompts")
        if stop and self._pieces is None:
            raise ValueError("stop strings need the pieces of the tokenizer: give the constructor pieces=tokenizer.pieces()")

    def limits(self, lengths: Sequence[int], settings: SamplingSettings) -> np.ndarray:
        """The most tokens that texts may get whose prompts have so many: `(prompts,)` int32."""
        context = self.decoder.context_length
        room = np.full(len(lengths), UNBOUNDED) if context is None or settings.when_full == "slide" else context - np.array(lengths)
        return np.minimum(room, settings.max_new_tokens).astype(np.int32)

    def _rules(
        self,
        bias: Mapping[int, float] | None,
        stop: Sequence[bytes],
        constraint: automata.Constraint | Sequence[automata.Constraint | None] | None,
        limits: np.ndarray,
        prompts: int,
    ) -> tuple[Rules, np.ndarray]:
        """The rules, and where each of `len(limits)` rows begins in the constraint."""
        parts = constraint if isinstance(constraint, Sequence) else [constraint] * prompts
        if len(parts) != prompts:
            raise ValueError(f"there must be one constraint, or one for each of the {prompts} prompts, got {len(parts)}")
        whole, places = automata.joined(parts)
        total = self._bias.copy()
        for token, value in (bias or {}).items():
            total[0, token] += value
        rules = Rules(
            end_id=self.end_id,
            bias=tf.constant(total),
            stop=None if self._pieces is None else automata.StopStrings(stop).tensors(),
            pieces=None if self._pieces is None else self._pieces.tensors(),
            constraint=None if whole is None else whole.tensors(),
            limit=None if whole is None else tf.constant(limits),
            degree=0 if whole is None else whole.degree,
        )
        return rules, np.repeat(places, len(limits) // prompts)

    def _begin(
        self, windows, settings: SamplingSettings, kept: Carry, places: np.ndarray, sources: Sequence | None = None
    ) -> tuple[Carry, np.ndarray]:
        context, longest = self.decoder.context_length, max(map(len, windows))
        batch = len(places)
        samples = batch // len(windows)
        done = kept["length"].numpy() if kept else np.zeros(batch, np.int32)
        lengths = np.repeat([len(window) for window in windows], samples)
        room = (done + (context or UNBOUNDED) - lengths).astype(np.int32)
        if kept:
            room = np.where(kept["reason"].numpy() < 0, room, done)
        wanted = int(np.max(np.minimum(room, settings.max_new_tokens) - done))
        slots = max(min(SMALLEST, context or SMALLEST), power_of_two(longest - 1 + wanted))
        prompt, padding = _left_padded(windows, 1 + power_of_two(max(1, longest - 1)))
        alternatives = None if settings.top_logprobs is None else min(MOST_LOGPROBS, self.decoder.vocabulary_size)
        options = {"slots": slots, "samples": samples, "alternatives": alternatives}
        options["cache_slots"] = self._cache_slots(prompt.shape[1] - 1, slots)
        source = [] if sources is None else [self._source(sources, context)]

        def traced(prompt: tf.Tensor, padding: tf.Tensor, *source: tf.Tensor) -> Carry:
            return begin(self.decoder, prompt, padding, **options, source=source[0] if source else None)

        function = self._function("begin", traced, *prompt.shape, *(part.shape for part in source), *options.values())
        return {**function(prompt, padding, *source), "place": tf.constant(places), **kept}, room

    def _source(self, sources: Sequence[Sequence[int]] | np.ndarray, context: int | None) -> np.ndarray:
        return _right_padded(sources, context) if self.decoder.source_dim is None else np.asarray(sources, np.float32)

    def _cache_slots(self, used: int, slots: int) -> int:
        """How many slots the caches get when so many are used and one more is needed."""
        return slots if self.cache_step is None else min(slots, (used // self.cache_step + 1) * self.cache_step)

    def _advance(self, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        slots, start = carry["history"].shape[0] - 1, int(carry["start"])
        while True:
            size = self.decoder.num_slots(carry["state"]) or slots
            part = until if size == slots else min(until, size - start)
            carry = self._advance_within(carry, knobs, rules, room, part)
            if part == until or not (carry["reason"].numpy() < 0).any():
                return carry
            carry = {**carry, "state": self.decoder.moved(carry["state"], 0, self._cache_slots(size, slots))}

    def _advance_within(self, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        tables = rules.tables()

        def traced(carry, numbers, tables, room, until):
            return advance(
                self.decoder, carry, Knobs(**numbers), Rules(rules.end_id, degree=rules.degree, **tables), room=room, until=until
            )

        shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten((carry, tables)) if tensor is not None]
        function = self._function("advance", traced, *shapes, rules.degree, *(table is None for table in tables.values()))
        return function(carry, vars(knobs), tables, tf.constant(room), tf.constant(until))

    def _function(self, name: str, traced: Callable, *key: object) -> _Compiled:
        key = (name, *key)
        if key not in self._compiled:
            self._compiled[key] = _Compiled(tf.function(traced, jit_compile=self.jit_compile, autograph=False))
        return self._compiled[key]


class _Compiled:
    """A function for inputs of one set of shapes: traced at its first call, and then called without looking at them once more, which
    takes a third of a millisecond."""

    def __init__(self, function: tf.types.experimental.PolymorphicFunction):
        self._function = function
        self._concrete: tf.types.experimental.ConcreteFunction | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self._concrete is None:
            self._concrete = self._function.get_concrete_function(*inputs)
        return self._concrete(*inputs)


def check_prompts(prompts: Sequence[Sequence[int]], context: int | None) -> None:
    """Raises a `ValueError` for a prompt without tokens, or one that leaves no room in the context."""
    for prompt in prompts:
        if not len(prompt):
            raise ValueError("a prompt has no tokens: begin it with the start token")
        if context and len(prompt) >= context:
            raise ValueError(f"a prompt has {len(prompt)} tokens; the context of {context} leaves room for {context - 1}")


def _parts(carry: Carry, done: int, before: np.ndarray, top_logprobs: int | None) -> list[Continuation]:
    """What each row drew since step `done`, when it had `before` tokens."""
    first = int(carry["start"]) + 1 + done
    ids, counts, reasons = carry["history"].numpy()[first:], carry["length"].numpy() - before, carry["reason"].numpy()
    parts = []
    for row, (count, reason) in enumerate(zip(counts, reasons, strict=True)):
        extra = {}
        if top_logprobs is not None:
            extra["logprobs"] = carry["logprobs"].numpy()[done : done + count, row].tolist()
            best = (carry[name].numpy()[done : done + count, row, :top_logprobs].tolist() for name in ("top_ids", "top_logprobs"))
            extra["alternatives"] = [list(zip(*pair, strict=True)) for pair in zip(*best, strict=True)]
        parts.append(Continuation(ids[:count, row].tolist(), FINISH_REASONS[reason] if reason >= 0 else "", **extra))
    return parts


def _left_padded(rows: Sequence[Sequence[int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """As `decode.left_padded`, for rows that fit; in NumPy, which starts sooner than a dozen tensor operations."""
    ids, padding = np.zeros([len(rows), size], np.int32), np.array([size - len(row) for row in rows], np.int32)
    for number, row in enumerate(rows):
        ids[number, padding[number] :] = row
    return ids, padding


def _right_padded(rows: Sequence[Sequence[int]], context: int | None) -> np.ndarray:
    """Sources side by side, in a bucket of their own, which does not go beyond the positions that the model has."""
    longest = max(map(len, rows))
    width = max(SMALLEST_SOURCE, power_of_two(longest))
    ids = np.zeros([len(rows), max(longest, min(width, context or width))], np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids


UNBOUNDED = 1 << 30
SMALLEST_SOURCE = 16
SMALLEST = 256  # slots: room for less is not worth a compilation of its own


def power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()

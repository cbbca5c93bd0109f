"""The sampler: prompt ids in, new ids out, as one compiled function.

`decode` is the algorithm, in tensor operations alone: prefill, then a `tf.while_loop` whose state keeps its shape, so that XLA compiles it,
a SavedModel holds it, and nothing returns to Python between two tokens. `Sampler` compiles it and decides the shapes: prompts are padded to
the next power of two, so that there is one compilation for each bucket of prompt lengths and each batch size, and none for a knob.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.generation import counter_rng, filters
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder

FINISH_REASONS = ("length", "end", "stop")
"""Why a text ended: it reached its allowed length, the model ended it, or a stop string came."""


@dataclasses.dataclass(frozen=True)
class Knobs:
    """What `decode` obeys, a value a row, each a `(batch,)` tensor."""

    max_new_tokens: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    repetition_penalty: tf.Tensor
    seed: tf.Tensor

    def flat(self) -> tuple[tf.Tensor, ...]:
        return (self.max_new_tokens, self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.seed)


def decode(
    decoder: Decoder,
    prompt: tf.Tensor,
    padding: tf.Tensor,
    knobs: Knobs,
    *,
    capacity: int | tf.Tensor,
    end_id: int,
    never: Sequence[int] = (),
    stop: tf.Tensor | None = None,
    counts: tf.Tensor | None = None,
    salt: tf.Tensor | None = None,
    drawn: tf.Tensor | int = 0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Extends a batch of prompts.

    Args:
        decoder: The model.
        prompt: `(batch, n)` int32, padded on the left.
        padding: `(batch,)` int32: how many of the n are padding; less than n.
        knobs: A value a row.
        capacity: The most tokens that can come out; static for XLA.
        end_id: The token that ends a text.
        never: Ids that are never chosen.
        stop: `(stop strings, length)` int32: tokenized stop strings, aligned right, -1 on their left.
        counts: `(batch, vocabulary)` int32: how often each token occurred before; default: counted in the prompt.
        salt: `(batch,)` int32, which chooses the random numbers together with the seed; default: made of the prompt, so that two prompts
            with one seed do not draw the same numbers.
        drawn: How many tokens the rows have drawn already, where this call goes on with a text.

    Returns:
        New ids `(batch, capacity)` int32, zeros behind each row's end; their number `(batch,)`; the reason each row ended, `(batch,)`, an
        index into `FINISH_REASONS`.
    """
    batch, start = tf.shape(prompt)[0], tf.shape(prompt)[1] if prompt.shape[1] is None else prompt.shape[1]
    vocabulary = decoder.vocabulary_size
    forbidden = np.zeros(vocabulary, np.float32)
    forbidden[list(never)] = filters.FORBIDDEN
    if counts is None:
        counts = count_tokens(prompt, padding, vocabulary)
    if salt is None:
        salt = counter_rng.salt_of(prompt, padding)
    stop = tf.fill([0, 1], -1) if stop is None else stop
    uniforms = counter_rng.uniforms(knobs.seed, salt, tf.zeros([batch, 1], tf.int32) + drawn + tf.range(capacity))  # (batch, capacity)

    def next_token(step: tf.Tensor, logits: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        logits = filters.apply_repetition_penalty(logits, counts, knobs.repetition_penalty) + forbidden
        logits = filters.apply_temperature(logits, knobs.temperature)
        logits = filters.keep_top_k(logits, knobs.top_k)
        logits = filters.keep_top_p(logits, knobs.top_p)
        return filters.choose(logits, uniforms[:, step], knobs.temperature)

    def append(step, logits, ids, counts, recent, length, reason):
        running = reason < 0
        token = tf.where(running, next_token(step, logits, counts), 0)
        ids = tf.tensor_scatter_nd_update(ids, [[step]], token[None])
        counts = counts + tf.one_hot(tf.where(running, token, -1), vocabulary, dtype=tf.int32)
        recent = tf.concat([recent[:, 1:], token[:, None]], axis=1)
        length = length + tf.cast(running, tf.int32)
        stopped = tf.reduce_any(tf.reduce_all((recent[:, None] == stop) | (stop < 0), axis=-1), axis=-1)
        ended = tf.where(token == end_id, 1, tf.where(stopped, 2, tf.where(length >= knobs.max_new_tokens, 0, -1)))
        return token, ids, counts, recent, length, tf.where(running, ended, reason)

    state = decoder.init_state(batch, start + capacity)
    logits, state = decoder.extend(prompt, state, 0, padding)
    ids = tf.zeros([capacity, batch], tf.int32)
    recent = tf.fill([batch, tf.shape(stop)[1] if stop.shape[1] is None else stop.shape[1]], -2)
    length, reason = tf.zeros([batch], tf.int32), tf.where(knobs.max_new_tokens > 0, -1, 0)
    token, ids, counts, recent, length, reason = append(tf.constant(0), logits, ids, counts, recent, length, reason)

    def more(step, token, ids, counts, recent, length, reason, state):
        return (step < capacity) & tf.reduce_any(reason < 0)

    def one_more(step, token, ids, counts, recent, length, reason, state):
        logits, state = decoder.extend(token[:, None], state, start + step - 1, padding)
        return step + 1, *append(step, logits, ids, counts, recent, length, reason), state

    carried = (tf.constant(1), token, ids, counts, recent, length, reason, state)
    shapes = tf.nest.map_structure(lambda tensor: tensor.shape, carried)
    _, _, ids, _, _, length, reason, _ = tf.while_loop(more, one_more, carried, shape_invariants=shapes)
    return tf.transpose(ids), length, tf.maximum(reason, 0)


def count_tokens(prompt: tf.Tensor, padding: tf.Tensor, vocabulary_size: int) -> tf.Tensor:
    """How often each id stands in each row: `(batch, n)` and `(batch,)` → `(batch, vocabulary_size)` int32."""
    batch, size = tf.shape(prompt)[0], tf.shape(prompt)[1]
    rows = tf.zeros_like(prompt) + tf.range(batch)[:, None]
    real = tf.cast(tf.range(size)[None] >= padding[:, None], tf.int32)
    return tf.tensor_scatter_nd_add(tf.zeros([batch, vocabulary_size], tf.int32), tf.stack([rows, prompt], axis=-1), real)


def left_padded(ids: tf.RaggedTensor, size: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The last `size` ids of each row, padded on the left.

    Args:
        ids: `(batch, (tokens))` int32.
        size: The width wanted.

    Returns:
        `(batch, size)` int32 and the number of padded slots a row, `(batch,)` int32.

    Example:

    >>> dense, padding = left_padded(tf.ragged.constant([[5], [6, 7, 8]], dtype=tf.int32), 2)
    >>> dense.numpy().tolist(), padding.numpy().tolist()
    ([[0, 5], [7, 8]], [1, 0])
    """
    kept = ids[:, -size:]
    padding = size - tf.cast(kept.row_lengths(), tf.int32)
    dense = tf.pad(kept.to_tensor(), [[0, 0], [0, 1]])  # one more, so that there is something to gather from in a batch of none
    places = tf.range(size)[None] - padding[:, None]
    return tf.where(places >= 0, tf.gather(dense, tf.maximum(places, 0), batch_dims=1), 0), padding


class Sampler:
    """Generates ids from a model, compiled once for each bucket of prompt lengths and each batch size.

    Args:
        model: A causal Sequential or Functional model from ids to logits. Its weights are read at each call: train on, and sample again.
        end_id: The token that ends a text.
        never: Ids that are never chosen (padding, unknown, start).
        jit_compile: Whether XLA compiles it; default. Without it the same function runs as an ordinary graph.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> sampler = Sampler(gru_lm(50, embedding_dim=8, hidden_dim=8), end_id=3, never=(0, 1, 2))
    >>> ids, reasons = sampler.generate([[5, 6], [7]], SamplingSettings(max_new_tokens=4, seed=1))
    >>> len(ids), all(len(row) <= 4 for row in ids)
    (2, True)
    """

    def __init__(self, model: keras.Model, *, end_id: int, never: Sequence[int] = (), jit_compile: bool = True):
        self.decoder = Decoder(model)
        self.end_id = end_id
        self.never = tuple(never)
        self.jit_compile = jit_compile
        self._compiled: dict[tuple, tf.types.experimental.PolymorphicFunction] = {}

    @property
    def num_compilations(self) -> int:
        """How many times TensorFlow has traced, and XLA compiled, the sampler so far."""
        return sum(function.experimental_get_tracing_count() for function in self._compiled.values())

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, *, stop: Sequence[Sequence[int]] = ()
    ) -> tuple[list[list[int]], list[str]]:
        """Extends prompts of any lengths.

        A model with a bounded context goes on beyond it: when the context is full, the last half of it becomes the prompt of another round.

        Args:
            prompts: Ids, at least one a row; none longer than the context allows.
            settings: How to sample; `settings.stop` is not used here.
            stop: Tokenized stop strings; a text that ends with one ends there, the stop string included.

        Returns:
            The new ids of each row, and for each row one of `FINISH_REASONS`.

        Raises:
            ValueError: an empty prompt, or one that fills the context.
        """
        context = self.decoder.context_length
        for prompt in prompts:
            if not len(prompt):
                raise ValueError("a prompt has no tokens: begin it with the start token")
            if context and len(prompt) >= context:
                raise ValueError(f"a prompt has {len(prompt)} tokens; the context of {context} leaves room for {context - 1}")
        batch = len(prompts)
        if not batch:
            return [], []
        texts = [list(prompt) for prompt in prompts]
        generated: list[list[int]] = [[] for _ in prompts]
        reasons = [""] * batch
        stop_table = _stop_table(stop)
        windows = texts
        salt = counter_rng.salt_of(*left_padded(_ragged(prompts), max(map(len, prompts))))
        while not all(reasons):
            room = [
                min(settings.max_new_tokens - len(row), (context or _UNBOUNDED) - len(window))
                for row, window in zip(generated, windows, strict=True)
            ]
            limits = [0 if reason else size for reason, size in zip(reasons, room, strict=True)]
            ids, lengths, codes = self._round(windows, limits, generated, texts, settings, stop_table, salt)
            for row in range(batch):
                if reasons[row]:
                    continue
                new = ids[row, : lengths[row]].tolist()
                generated[row] += new
                texts[row] += new
                if codes[row] or len(generated[row]) >= settings.max_new_tokens:
                    reasons[row] = FINISH_REASONS[codes[row]]
            windows = [text[-max(1, context // 2) :] if context else text[-1:] for text in texts]
        return generated, reasons

    def _round(self, windows, limits, generated, texts, settings, stop_table, salt):
        batch = len(windows)
        context = self.decoder.context_length
        capacity = context or max(_SMALLEST_CAPACITY, _power_of_two(max(limits)))
        prompt, padding = left_padded(_ragged(windows), _power_of_two(max(map(len, windows))))
        counts = np.zeros([batch, self.decoder.vocabulary_size], np.int32)
        for row, text in enumerate(texts):
            np.add.at(counts[row], text, 1)
        knobs = Knobs(
            max_new_tokens=tf.constant(limits, tf.int32),
            temperature=tf.fill([batch], float(settings.temperature)),
            top_k=tf.fill([batch], settings.top_k),
            top_p=tf.fill([batch], float(settings.top_p)),
            repetition_penalty=tf.fill([batch], float(settings.repetition_penalty)),
            seed=tf.constant([(settings.seed + row) % 2**31 for row in range(batch)], tf.int32),
        )
        drawn = tf.constant([[len(row)] for row in generated], tf.int32)
        # A function for each shape, since one for all would warn of its retracing, which is meant.
        key = (*prompt.shape, capacity, *stop_table.shape)
        if key not in self._compiled:
            self._compiled[key] = tf.function(self._traced, jit_compile=self.jit_compile, autograph=False)
        results = self._compiled[key](prompt, padding, knobs.flat(), stop_table, tf.constant(counts), salt, drawn, capacity)
        return [result.numpy() for result in results]

    def _traced(self, prompt, padding, knobs, stop, counts, salt, drawn, capacity: int):
        return decode(
            self.decoder,
            prompt,
            padding,
            Knobs(*knobs),
            capacity=capacity,
            end_id=self.end_id,
            never=self.never,
            stop=stop,
            counts=counts,
            salt=salt,
            drawn=drawn,
        )


def _ragged(rows: Sequence[Sequence[int]]) -> tf.RaggedTensor:
    return tf.ragged.constant([list(row) for row in rows], dtype=tf.int32, ragged_rank=1)


_UNBOUNDED = 1 << 30
_SMALLEST_CAPACITY = 256


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _stop_table(stop: Sequence[Sequence[int]]) -> tf.Tensor:
    """Rows aligned right, -1 on their left; both sizes rounded up, so that other stop strings compile nothing."""
    rows = max(4, _power_of_two(len(stop)))
    width = max(8, _power_of_two(max(map(len, stop), default=0)))
    table = np.full([rows, width], -1, np.int32)
    table[:, -1] = _NO_TOKEN
    for row, ids in enumerate(stop):
        table[row, width - len(ids) :] = ids
    return tf.constant(table)


_NO_TOKEN = 2**31 - 1

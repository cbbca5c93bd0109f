"""The decoding loop, in tensor operations alone: XLA compiles it, a SavedModel holds it, and nothing returns to Python between two tokens.

`begin` reads the prompts, `advance` draws tokens until every row has ended or a bound is reached, and may be called again: what it
carries from token to token is a structure of tensors whose shapes do not change. `decode` is both, for those who want the text at once.

A step reads the last token, filters the logits and chooses. `begin` therefore leaves the last token of each prompt to the first step, so
that the filters stand in the graph once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.generation import automata, counter_rng, filters
from keras_lm.generation.settings import BLOCKED, CONTEXT, END, LENGTH, STOP, SamplingSettings
from keras_lm.generation.state import Decoder

Carry = dict[str, Any]
"""What goes from one step to the next. Shapes: `step`, `start` scalar; `history` `(slots + 1, batch)`; `seen` and `fresh`
`(batch, vocabulary)`; `state` as in `Decoder`; where asked for, `logprobs` `(slots, batch)`, `top_ids` and `top_logprobs`
`(slots, batch, alternatives)`, and `noting`, a scalar, where they are not noted at every call; where the model has them, `input_rows` as in
`Decoder`; all else `(batch,)`."""


@dataclasses.dataclass(frozen=True)
class Knobs:
    """The numbers of `SamplingSettings`, each a `(batch,)` tensor: int32 where the setting is whole, else float32."""

    max_new_tokens: tf.Tensor
    min_new_tokens: tf.Tensor
    repetition_penalty: tf.Tensor
    presence_penalty: tf.Tensor
    frequency_penalty: tf.Tensor
    no_repeat_ngram_size: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor
    min_p: tf.Tensor
    typical_p: tf.Tensor
    epsilon_cutoff: tf.Tensor
    eta_cutoff: tf.Tensor
    seed: tf.Tensor

    @classmethod
    def of(cls, settings: SamplingSettings, batch: int) -> Knobs:
        """The same for every row, but for the seed, which counts up."""
        values = {name: getattr(settings, name) for name in cls.names()}
        filled = {name: tf.constant(np.full(batch, value, dtype_of(name).as_numpy_dtype)) for name, value in values.items()}
        seeds = [(settings.seed + row) % 2**31 for row in range(batch)]
        return cls(**{**filled, "seed": tf.constant(seeds, tf.int32)})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))


def dtype_of(knob: str) -> tf.DType:
    """int32 for the knobs that are whole numbers, float32 for the others."""
    return tf.int32 if isinstance(getattr(SamplingSettings(), knob), int) else tf.float32


@dataclasses.dataclass(frozen=True)
class Rules:
    """What may come out, beside the knobs.

    Args:
        end_id: The token that ends a text.
        bias: `(1 or batch, vocabulary)` float32, added to the logits; -inf forbids a token.
        stop: The stop strings, or `None`.
        pieces: What the ids write, needed by `stop`.
        constraint: What the whole text may be, or `None`; where each row stands in it says `place` in the carry.
        limit: `(batch,)` int32: the most tokens a text may have in all, within which `constraint` leads it to an end; needed by it alone.
        degree: The largest number of edges in `constraint`.
    """

    end_id: int
    bias: tf.Tensor
    stop: automata.StopTensors | None = None
    pieces: automata.PieceTensors | None = None
    constraint: automata.ConstraintTensors | None = None
    limit: tf.Tensor | None = None
    degree: int = 0

    def tables(self) -> dict[str, Any]:
        """What travels as tensors; the rest is compiled in."""
        return {name: getattr(self, name) for name in ("bias", "stop", "pieces", "constraint", "limit")}


def bias_against(ids: Sequence[int], vocabulary_size: int) -> tf.Tensor:
    """`(1, vocabulary_size)` float32: -inf for `ids`, 0 for the others."""
    return tf.reduce_sum(tf.one_hot(list(ids), vocabulary_size, on_value=filters.FORBIDDEN, off_value=0.0), axis=0, keepdims=True)


def begin(
    decoder: Decoder,
    prompt: tf.Tensor,
    padding: tf.Tensor,
    *,
    slots: int | tf.Tensor,
    cache_slots: int | None = None,
    samples: int = 1,
    alternatives: int | None = None,
    source: tf.Tensor | None = None,
) -> Carry:
    """Reads all but the last token of each prompt.

    Args:
        decoder: The model.
        prompt: `(batch, n)` int32, n at least 2, padded on the left.
        padding: `(batch,)` int32: how many of the n are padding; less than n.
        slots: The most tokens a row may read, padding included: those of the longest prompt and all but the last new one; static for XLA.
        cache_slots: Those the caches have room for at first, more than the prompts'; default: all `slots`.
        samples: How many texts each prompt gets; they stand side by side, and the prompt is read once.
        alternatives: Whether the tokens' log-probabilities are kept, and of how many others beside each; `None`: not at all.
        source: `(batch, source_time)` int32, padded with 0 on the right: what an encoder-decoder reads. Of `keras_lm.vae.latent_decoder`
            `(batch, latent_dim)` float32.

    Returns:
        What `advance` takes, for `batch * samples` rows, all of them free: for others put where they begin in a constraint in `place`.
    """
    batch, width = tf.shape(prompt)[0], tf.shape(prompt)[1] if prompt.shape[1] is None else prompt.shape[1]
    state = decoder.init_state(batch, width - 1, *([] if source is None else [source]))
    _, state = decoder.extend(prompt[:, :-1], state, 0, padding)
    salt = counter_rng.salt_of(prompt, padding)
    if source is not None:  # reversed, its padding stands in front
        read = source if source.dtype.is_integer else tf.bitcast(source, tf.int32)
        salt += counter_rng.salt_of(tf.reverse(read, [1]), tf.reduce_sum(tf.cast(read == 0, tf.int32), axis=1))
    seen = count_tokens(prompt, padding, decoder.vocabulary_size)
    # The padding that all rows share is cut off: what a step attends to is bounded by the text, not by the width of the prompt.
    shift = tf.reduce_min(padding)
    state, padding, start = decoder.moved(state, shift, cache_slots or slots), padding - shift, width - 1 - shift
    history = tf.gather(tf.transpose(prompt), tf.minimum(tf.range(slots + 1) + shift, width - 1))
    if samples > 1:
        rows = tf.range(batch * samples) // samples
        state = decoder.take_rows(state, rows)
        salt, seen, padding = (tf.gather(value, rows) for value in (salt, seen, padding))
        history = tf.gather(history, rows, axis=1)
        batch = batch * samples
    nothing = tf.zeros([batch], tf.int32)
    carry = {
        "step": tf.constant(0),
        "start": start,
        "padding": padding,
        "state": state,
        "token": tf.gather(history, start),
        "history": history,
        "seen": seen,
        "fresh": tf.zeros_like(seen),
        "salt": salt,
        "length": nothing,
        "reason": nothing - 1,
        "node": nothing,
        "place": nothing + automata.FREE,
    }
    if (input_rows := decoder.input_rows()) is not None:
        carry["input_rows"] = input_rows
    if alternatives is not None:
        carry["logprobs"] = tf.zeros([slots, batch])
        carry["top_ids"] = tf.zeros([slots, batch, alternatives], tf.int32)
        carry["top_logprobs"] = tf.zeros([slots, batch, alternatives])
    return carry


def advance(
    decoder: Decoder, carry: Carry, knobs: Knobs, rules: Rules, *, room: tf.Tensor, until: int | tf.Tensor, given: tf.Tensor | None = None
) -> Carry:
    """Draws tokens.

    Args:
        decoder: The model.
        carry: What `begin` or `advance` gave.
        knobs: A value a row.
        rules: What may come out.
        room: `(batch,)` int32: the number of new tokens at which the context is full.
        until: Stops when this many steps have been made since `begin`, or when every row has ended.
        given: `(steps, batch)` int32: tokens of a prompt that are read where a step would draw one, -1 where it does; default: none.
    """

    def more(carry: Carry) -> tf.Tensor:
        return (carry["step"] < until) & tf.reduce_any(carry["reason"] < 0)

    def one_more(carry: Carry) -> tuple[Carry]:
        slot = carry["start"] + carry["step"]
        logits, state = decoder.extend(carry["token"][:, None], carry["state"], slot, carry["padding"], input_rows)
        now = None if given is None else tf.gather(given, carry["step"])
        return ({**draw(logits, carry, knobs, rules, room=room, given=now), "state": state},)

    input_rows, changing = carry.get("input_rows"), {name: value for name, value in carry.items() if name != "input_rows"}
    shapes = (tf.nest.map_structure(lambda tensor: tensor.shape, changing),)
    (changing,) = tf.while_loop(more, one_more, (changing,), shape_invariants=shapes)
    return {**carry, **changing}


def draw(own_logits: tf.Tensor, carry: Carry, knobs: Knobs, rules: Rules, *, room: tf.Tensor, given: tf.Tensor | None = None) -> Carry:
    """Chooses the next token of each row and notes it; the model's state stays as it is.

    Args:
        own_logits: `(batch, vocabulary)` float32, the model's own.
        carry, knobs, rules, room: As in `advance`.
        given: As in `advance`, of this step: `(batch,)`.
    """
    step, end = carry["step"], carry["start"] + carry["step"] + 1
    uniform = counter_rng.uniforms(knobs.seed, carry["salt"], carry["length"][:, None])[:, 0]

    def choose(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return filters.choose(logits, uniform, knobs.temperature), tf.reduce_max(logits, axis=-1) == filters.FORBIDDEN

    # Each branch gives tokens, not logits, which XLA would copy.
    token, nothing_left = tf.cond(
        _reads_text(knobs) | _any_cuts(knobs),
        lambda: choose(filtered(own_logits, carry, end, knobs, rules)),
        lambda: choose(_allowed(own_logits, carry, knobs, rules)),
    )

    running = carry["reason"] < 0
    chooses = running if given is None else running & (given < 0)
    blocked = chooses & nothing_left
    drawn = chooses & ~blocked
    token = tf.where(drawn, token, 0) if given is None else tf.where(drawn, token, tf.where(running, tf.maximum(given, 0), 0))
    places, new = tf.stack([tf.range(tf.shape(token)[0]), token], axis=1), tf.cast(drawn, tf.int32)
    read = new if given is None else tf.cast(running & ~blocked, tf.int32)
    length = carry["length"] + new
    node, stopped = watch(rules, carry["node"], token)
    place = carry["place"]
    if rules.constraint is not None:
        place = automata.advance(rules.constraint, rules.degree, place, token)
    ended = tf.where(blocked, BLOCKED, reason_of(token, length, stopped, knobs, rules, room))
    after = {
        **carry,
        "step": step + 1,
        "token": token,
        "history": tf.tensor_scatter_nd_update(carry["history"], [[end]], token[None]),
        "seen": tf.tensor_scatter_nd_add(carry["seen"], places, read),
        "fresh": tf.tensor_scatter_nd_add(carry["fresh"], places, new),
        "length": length,
        "reason": tf.where(chooses, ended, carry["reason"]),
        "node": tf.where(chooses, node, carry["node"]),
        "place": tf.where(chooses, place, carry["place"]),
    }
    if "logprobs" in carry:
        note = lambda: _with_logprobs(own_logits, carry, token)
        leave = lambda: {name: carry[name] for name in ("logprobs", "top_ids", "top_logprobs")}
        after |= tf.cond(carry["noting"], note, leave) if "noting" in carry else note()
    return after


def _with_logprobs(own_logits: tf.Tensor, carry: Carry, token: tf.Tensor) -> Carry:
    all_logprobs = tf.nn.log_softmax(own_logits)
    values, ids = tf.math.top_k(all_logprobs, carry["top_ids"].shape[-1])
    noted = {"logprobs": tf.gather(all_logprobs, token, batch_dims=1), "top_ids": ids, "top_logprobs": values}
    return {name: tf.tensor_scatter_nd_update(carry[name], [[carry["step"]]], value[None]) for name, value in noted.items()}


def watch(rules: Rules, node: tf.Tensor, token: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`automata.watch`, skipped where there are no stop strings: the new node and whether a stop string came, both `(batch,)`."""
    if rules.stop is None:
        return node, tf.zeros_like(node, tf.bool)
    look = lambda: automata.watch(rules.stop, rules.pieces, node, token)
    return tf.cond(tf.reduce_any(rules.stop.hit), look, lambda: (node, tf.zeros_like(node, tf.bool)))


def reason_of(token: tf.Tensor, length: tf.Tensor, stopped: tf.Tensor, knobs: Knobs, rules: Rules, room: tf.Tensor) -> tf.Tensor:
    """Why a row ends with this token: an index into `FINISH_REASONS`, or -1 where it goes on."""
    ended = tf.where(length >= knobs.max_new_tokens, LENGTH, tf.where(length >= room, CONTEXT, -1))
    return tf.where(token == rules.end_id, END, tf.where(stopped, STOP, ended))


def filtered(logits: tf.Tensor, carry: Carry, end: tf.Tensor, knobs: Knobs, rules: Rules) -> tf.Tensor:
    """All rules and filters in their order; `end` is the slot behind the text so far."""
    logits = filters.apply_repetition_penalty(logits, carry["seen"], knobs.repetition_penalty)
    logits = filters.apply_presence_penalty(logits, carry["fresh"], knobs.presence_penalty)
    logits = filters.apply_frequency_penalty(logits, carry["fresh"], knobs.frequency_penalty)
    logits = _allowed(logits, carry, knobs, rules)

    def cut() -> tf.Tensor:
        history = tf.transpose(carry["history"])
        return _cut(filters.forbid_repeated_ngrams(logits, history, carry["padding"], end, knobs.no_repeat_ngram_size), knobs)

    return tf.cond(_any_cuts(knobs) | tf.reduce_any(knobs.no_repeat_ngram_size > 0), cut, lambda: logits)


def _allowed(logits: tf.Tensor, carry: Carry, knobs: Knobs, rules: Rules) -> tf.Tensor:
    """The part of `filtered` that is never off: what is forbidden, and the temperature."""
    logits = filters.add_bias(logits, rules.bias)
    logits = filters.hold_back_end(logits, carry["length"], knobs.min_new_tokens, rules.end_id)
    if rules.constraint is not None:
        left = rules.limit - carry["length"]
        allowed = automata.allowed(rules.constraint, rules.degree, carry["place"], left, logits.shape[-1], rules.end_id)
        logits = tf.where(allowed, logits, filters.FORBIDDEN)
    return filters.apply_temperature(logits, knobs.temperature)


def shaped(logits: tf.Tensor, knobs: Knobs) -> tf.Tensor:
    """The filters that look at nothing but the logits, in their order."""
    logits = filters.apply_temperature(logits, knobs.temperature)
    return tf.cond(_any_cuts(knobs), lambda: _cut(logits, knobs), lambda: logits)


def _reads_text(knobs: Knobs) -> tf.Tensor:
    """Whether a filter asks which tokens stand in the text."""
    penalised = (knobs.repetition_penalty != 1) | (knobs.presence_penalty != 0) | (knobs.frequency_penalty != 0)
    return tf.reduce_any(penalised | (knobs.no_repeat_ngram_size > 0))


def _any_cuts(knobs: Knobs) -> tf.Tensor:
    """Whether `_cut` does anything. Asked once: XLA copies the logits for each filter that may be left out."""
    on = (knobs.top_k > 0) | (knobs.min_p > 0) | (knobs.epsilon_cutoff > 0) | (knobs.eta_cutoff > 0)
    return tf.reduce_any(on | (knobs.top_p < 1) | (knobs.typical_p < 1))


def _cut(logits: tf.Tensor, knobs: Knobs) -> tf.Tensor:
    logits = filters.keep_top_k(logits, knobs.top_k)
    logits = filters.keep_top_p(logits, knobs.top_p)
    logits = filters.keep_min_p(logits, knobs.min_p)
    logits = filters.keep_typical(logits, knobs.typical_p)
    logits = filters.cut_epsilon(logits, knobs.epsilon_cutoff)
    return filters.cut_eta(logits, knobs.eta_cutoff)


def decode(
    decoder: Decoder,
    prompt: tf.Tensor,
    padding: tf.Tensor,
    knobs: Knobs,
    rules: Rules,
    *,
    capacity: int | tf.Tensor,
    room: tf.Tensor,
    source: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Extends a batch of prompts: `begin` and `advance`.

    Args:
        decoder, prompt, padding, knobs, rules, room, source: As there.
        capacity: The most tokens that can come out; static for XLA.

    Returns:
        New ids `(batch, capacity)` int32, zeros behind each row's end; their number `(batch,)`; the reason each row ended, `(batch,)`, an
        index into `FINISH_REASONS`.
    """
    width = tf.shape(prompt)[1] if prompt.shape[1] is None else prompt.shape[1]
    carry = begin(decoder, prompt, padding, slots=width - 1 + capacity, source=source)
    carry = advance(decoder, carry, knobs, rules, room=room, until=capacity)
    ids = tf.gather(carry["history"], carry["start"] + 1 + tf.range(capacity))
    ids = tf.where(tf.range(capacity)[:, None] < carry["length"], ids, 0)
    return tf.transpose(ids), carry["length"], tf.maximum(carry["reason"], 0)


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

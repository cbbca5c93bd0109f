"""Contrastive search: of the few most probable tokens, the one that is likely and yet unlike what has been said.

A token is liked for its probability and disliked for how much the hidden vector it would have resembles one that the text has already;
repetition shows there before it shows in the probabilities. Each step reads all candidates at once, as rows of one batch, and the
winner's row becomes the text: one pass of the model a token. One `tf.while_loop`, compiled by XLA.

References:
    Su et al. 2022, «A Contrastive Framework for Neural Text Generation», section 4.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lm.generation import automata
from keras_lm.generation.decode import Carry, Knobs, Rules, filtered, reason_of, watch
from keras_lm.generation.filters import FORBIDDEN
from keras_lm.generation.sampler import Continuation
from keras_lm.generation.search import Search
from keras_lm.generation.settings import BLOCKED, FINISH_REASONS, ContrastiveSettings
from keras_lm.generation.state import Decoder, State


class ContrastiveSearch(Search):
    """Extends prompts by contrastive search.

    Args:
        model, end_id, never, pieces, jit_compile: As in `Sampler`; the model must end in an output layer of its own.

    Raises:
        ValueError: a model whose last hidden vectors are not known.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> search = ContrastiveSearch(gru_lm(50, embedding_dim=8, hidden_dim=8), end_id=3, never=(0, 1, 2), jit_compile=False)
    >>> (text,) = search.generate([[5, 6]], ContrastiveSettings(max_new_tokens=4))
    >>> len(text.ids) <= 4
    True
    """

    def __init__(self, model: keras.Model, **kwargs: Any):
        super().__init__(model, **kwargs)
        self._sampler.decoder = RememberingDecoder(model)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: ContrastiveSettings,
        *,
        sources: Sequence[Sequence[int]] | None = None,
        bias: Mapping[int, float] | None = None,
        stop: Sequence[bytes] = (),
        constraint: automata.Constraint | Sequence[automata.Constraint | None] | None = None,
    ) -> list[Continuation]:
        """Extends prompts of any lengths.

        Args:
            prompts: Ids, at least one a row; none longer than the context allows.
            settings: How to search. Another `top_k` compiles anew, other values do not.
            sources, bias, stop, constraint: As in `Sampler.stream`.

        Raises:
            ValueError: an empty prompt, or one that fills the context; stop strings without pieces.
        """
        if not prompts:
            return []
        top_k = min(settings.top_k, self._sampler.decoder.vocabulary_size)
        told, numbers = (bias, stop, constraint), {"alpha": settings.alpha}
        history, *rest = self._run(search, prompts, settings.sampling(), told, numbers, sources=sources, samples=top_k, top_k=top_k)
        start, lengths, reasons = (tensor.numpy() for tensor in rest)
        texts = history.numpy()[start + 1 :].T
        return [
            Continuation(text[:length].tolist(), FINISH_REASONS[reason])
            for text, length, reason in zip(texts, lengths, reasons, strict=True)
        ]


class RememberingDecoder(Decoder):
    """A `Decoder` whose state holds, beside the caches of the layers, the direction of each position's last hidden vector.

    Args:
        model: As in `Decoder`.

    Raises:
        ValueError: a model that has no output layer of its own.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> decoder = RememberingDecoder(gru_lm(50, embedding_dim=8, hidden_dim=16))
    >>> _, state = decoder.extend(tf.constant([[5, 6, 7]]), decoder.init_state(1, 4), 0, tf.constant([0]))
    >>> tf.norm(state[DIRECTIONS], axis=-1).numpy().round(3).tolist()
    [[1.0, 1.0, 1.0, 0.0]]
    """

    def __init__(self, model: keras.Model):
        super().__init__(model)
        zeros = tf.zeros([1, 1], tf.int32)
        state = super().init_state(1, 1, None if self.encoder is None else zeros)
        self._width = self.extend_hidden(zeros, state, 0, zeros[0])[1].shape[-1]

    def init_state(self, batch_size: int | tf.Tensor, length: int | tf.Tensor, source: tf.Tensor | None = None) -> State:
        return {**super().init_state(batch_size, length, source), DIRECTIONS: tf.zeros([batch_size, length, self._width])}

    def extend(self, ids: tf.Tensor, state: State, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, State]:
        logits, hidden, state = self.extend_hidden(ids, state, start, padding)
        directions = tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=-1)  # (batch, n, width)
        slots = start + tf.range(tf.shape(ids)[1])
        places = tf.stack(tf.meshgrid(tf.range(tf.shape(ids)[0]), slots, indexing="ij"), axis=-1)
        return logits, {**state, DIRECTIONS: tf.tensor_scatter_nd_update(state[DIRECTIONS], places, directions)}

    def moved(self, state: State, shift: tf.Tensor, length: int | tf.Tensor) -> State:
        slots = tf.minimum(tf.range(length) + shift, tf.shape(state[DIRECTIONS])[1] - 1)
        return {**super().moved(state, shift, length), DIRECTIONS: tf.gather(state[DIRECTIONS], slots, axis=1)}


DIRECTIONS = "directions of hidden vectors"
"""Their name in the state: `(batch, time, width)` float32, of length 1."""


def search(
    decoder: RememberingDecoder, carry: Carry, knobs: Knobs, rules: Rules, *, room: tf.Tensor, alpha: tf.Tensor, top_k: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Contrastive search from where `decode.begin` left off, in tensor operations alone.

    Args:
        decoder, knobs, rules: As in `decode.advance`.
        carry: What `begin(..., samples=top_k)` gave.
        room: `(prompts,)` int32: the number of new tokens at which the context is full.
        alpha: As in `ContrastiveSettings`, a scalar.
        top_k: As there; static.

    Returns:
        The texts, `(slots + 1, prompts)` int32; the slot before the first new one, `()`; the number of new ids and the reason each text
        ended, `(prompts,)`.
    """
    rows = carry["token"].shape[0] or tf.shape(carry["token"])[0]
    slots = carry["history"].shape[0] or tf.shape(carry["history"])[0]
    first = tf.range(rows // top_k) * top_k  # the first row of each prompt
    padding = carry["padding"]  # of all rows
    knobs = Knobs(**{name: tf.gather(value, first) for name, value in vars(knobs).items()})
    if rules.limit is not None:
        rules = dataclasses.replace(rules, limit=tf.gather(rules.limit, first))
    # What is known of a text is kept once; `state` alone has a row for each candidate, alike but for the moment of comparison.
    state = decoder.moved(carry["state"], tf.constant(0), slots)  # candidates are read ahead: one slot more than in sampling
    logits, state = decoder.extend(carry["token"][:, None], state, carry["start"], padding)
    carry = {
        **{name: carry[name] for name in ("step", "start")},
        **{name: tf.gather(carry[name], first) for name in ("padding", "seen", "fresh", "length", "reason", "node", "place")},
        "history": tf.gather(carry["history"], first, axis=1),
        "state": state,
        "logits": tf.gather(logits, first),
    }

    def one_more(carry: Carry) -> tuple[Carry]:
        slot = carry["start"] + carry["step"] + 1
        logits = filtered(carry["logits"], carry, slot, knobs, rules)
        values, candidates = tf.math.top_k(logits, top_k)  # (prompts, top_k)
        probability = tf.exp(values - tf.reduce_logsumexp(logits, axis=-1, keepdims=True))
        following, state = decoder.extend(tf.reshape(candidates, [rows, 1]), carry["state"], slot, padding)
        directions = state[DIRECTIONS]
        likeness = tf.einsum("btd,bd->bt", directions, tf.gather(directions, slot, axis=1))
        earlier = (tf.range(slots) >= padding[:, None]) & (tf.range(slots) < slot)
        likeness = tf.reshape(tf.reduce_max(tf.where(earlier, likeness, FORBIDDEN), axis=1), tf.shape(values))
        score = tf.where(values > FORBIDDEN, (1 - alpha) * probability - alpha * likeness, FORBIDDEN)
        best = tf.argmax(score, axis=-1, output_type=tf.int32)

        running = carry["reason"] < 0
        blocked = running & (values[:, 0] == FORBIDDEN)
        chosen = running & ~blocked
        token = tf.where(chosen, tf.gather(candidates, best, batch_dims=1), 0)
        one_each = [tf.stack([tf.range(rows // top_k), token], axis=1), tf.cast(chosen, tf.int32)]
        length = carry["length"] + tf.cast(chosen, tf.int32)
        node, stopped = watch(rules, carry["node"], token)
        place = carry["place"]
        if rules.constraint is not None:
            place = automata.advance(rules.constraint, rules.degree, place, token)
        ended = tf.where(blocked, BLOCKED, reason_of(token, length, stopped, knobs, rules, room))
        winner = first + best
        after = {
            **carry,
            "step": carry["step"] + 1,
            "state": decoder.take_rows(state, tf.repeat(winner, top_k)),
            "logits": tf.gather(following, winner),
            "history": tf.tensor_scatter_nd_update(carry["history"], [[slot]], token[None]),
            "seen": tf.tensor_scatter_nd_add(carry["seen"], *one_each),
            "fresh": tf.tensor_scatter_nd_add(carry["fresh"], *one_each),
            "length": length,
            "reason": tf.where(running, ended, carry["reason"]),
            "node": node,
            "place": place,
        }
        return (after,)

    shapes = (tf.nest.map_structure(lambda tensor: tensor.shape, carry),)
    (carry,) = tf.while_loop(lambda carry: tf.reduce_any(carry["reason"] < 0), one_more, (carry,), shape_invariants=shapes)
    return carry["history"], carry["start"], carry["length"], carry["reason"]

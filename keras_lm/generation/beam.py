"""Beam search, plain and diverse: not one text drawn, but the most probable texts looked for.

All beams of all prompts are rows of one batch, stepped by the same decoder and held to the same filters as in sampling. At each step the
best continuations of a prompt's beams are found together; those that end go into a table of the best texts so far, the others are the
next beams, and the decoder's state is reordered to match. One `tf.while_loop`, compiled by XLA.

References:
    Lowerre 1976, «The HARPY Speech Recognition System»; Vijayakumar et al. 2018, «Diverse Beam Search for Improved Description of Complex
    Scenes». When a search may stop, and what the length penalty divides by, is as in `transformers`, whose results it gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_lm.generation import automata
from keras_lm.generation.decode import Carry, Knobs, Rules, filtered, watch
from keras_lm.generation.filters import FORBIDDEN
from keras_lm.generation.search import Search
from keras_lm.generation.settings import BLOCKED, CONTEXT, END, FINISH_REASONS, LENGTH, STOP, BeamSettings
from keras_lm.generation.state import Decoder


@dataclasses.dataclass(frozen=True)
class Beam:
    """One of the texts found.

    Attributes:
        ids: The new ids, an ending one included.
        score: The sum of their ln P, penalties taken, divided by `len(ids) ** length_penalty`.
        finish_reason: One of `FINISH_REASONS`.
    """

    ids: list[int]
    score: float
    finish_reason: str


class BeamSearch(Search):
    """Looks for the most probable continuations.

    Args:
        model, end_id, never, pieces, jit_compile: As in `Sampler`.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> search = BeamSearch(gru_lm(50, embedding_dim=8, hidden_dim=8), end_id=3, never=(0, 1, 2), jit_compile=False)
    >>> (texts,) = search.generate([[5, 6]], BeamSettings(max_new_tokens=4, num_beams=3, num_return=2))
    >>> len(texts), texts[0].score >= texts[1].score
    (2, True)
    """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: BeamSettings,
        *,
        sources: Sequence[Sequence[int]] | None = None,
        bias: Mapping[int, float] | None = None,
        stop: Sequence[bytes] = (),
        constraint: automata.Constraint | Sequence[automata.Constraint | None] | None = None,
    ) -> list[list[Beam]]:
        """Extends prompts of any lengths.

        Args:
            prompts: Ids, at least one a row; none longer than the context allows.
            settings: How to search. Another number of beams or of groups compiles anew, other values do not.
            sources, bias, stop, constraint: As in `Sampler.stream`.

        Returns:
            For each prompt its best texts, best first: `settings.num_return`, or as many as there are where rules leave fewer. Where they
            leave none, the texts up to the token that nothing may follow, with the reason `"blocked"`.

        Raises:
            ValueError: an empty prompt, or one that fills the context; stop strings without pieces.
        """
        if not prompts:
            return []
        beams, told = settings.num_beams, (bias, stop, constraint)
        numbers = {name: getattr(settings, name) for name in ("length_penalty", "diversity_penalty", "early_stopping", "num_return")}
        static = {"samples": beams, "num_beams": beams, "num_beam_groups": settings.num_beam_groups}
        start, found = self._run(search, prompts, settings.sampling(), told, numbers, sources=sources, **static)
        start, found = int(start) + 1, {name: value.numpy() for name, value in found.items()}
        return [
            [
                Beam(text[start : start + length].tolist(), float(score), FINISH_REASONS[reason])
                for text, length, score, reason in zip(*columns, strict=True)
                if score > -np.inf
            ][: settings.num_return]
            for columns in zip(*(found[name] for name in ("text", "length", "score", "reason")), strict=True)
        ]


def search(
    decoder: Decoder,
    carry: Carry,
    knobs: Knobs,
    rules: Rules,
    *,
    room: tf.Tensor,
    length_penalty: tf.Tensor,
    diversity_penalty: tf.Tensor,
    early_stopping: tf.Tensor,
    num_return: tf.Tensor,
    num_beams: int,
    num_beam_groups: int,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Beam search from where `decode.begin` left off, in tensor operations alone. Each group of each prompt is a search of its own.

    Args:
        decoder, knobs, rules: As in `decode.advance`.
        carry: What `begin(..., samples=num_beams)` gave.
        room: `(prompts,)` int32: the number of new tokens at which the context is full.
        length_penalty, diversity_penalty, early_stopping, num_return: As in `BeamSettings`, scalars.
        num_beams, num_beam_groups: As there; static.

    Returns:
        `start`, `()` int32: the slot before the first new one. The texts, best first: `text`, `(prompts, num_beams, slots + 1)`; `length`,
        `reason`, `score`, each `(prompts, num_beams)`; the score is -inf where there is no text.
    """
    groups, size, vocabulary = num_beam_groups, num_beams // num_beam_groups, decoder.vocabulary_size
    rows = carry["token"].shape[0] or tf.shape(carry["token"])[0]
    prompts, slots = rows // num_beams, carry["history"].shape[0] or tf.shape(carry["history"])[0]
    shape = [prompts, groups, size]
    limit = tf.minimum(room, knobs.max_new_tokens[0])[:, None]  # (prompts, 1)
    at_limit = tf.where(limit == knobs.max_new_tokens[0], LENGTH, CONTEXT)
    first = tf.range(prompts)[:, None] * num_beams  # (prompts, 1): the row of each prompt's first beam

    def candidates(carry: Carry, scores: tf.Tensor, group: int) -> dict[str, tf.Tensor]:
        """The 2·size best continuations in a group, `(prompts, 2 * size)` each: as no more than `size` can be ends, `size` can go on."""
        best, place = tf.math.top_k(tf.reshape(scores, [prompts, size * vocabulary]), 2 * size)
        parent, token = first + group * size + place // vocabulary, place % vocabulary
        node, stopped = watch(rules, tf.gather(carry["node"], tf.reshape(parent, [-1])), tf.reshape(token, [-1]))
        node, stopped = tf.reshape(node, [prompts, 2 * size]), tf.reshape(stopped, [prompts, 2 * size])
        reason = tf.where(token == rules.end_id, END, tf.where(stopped, STOP, -1))
        return {"score": best, "parent": parent, "token": token, "node": node, "reason": reason}

    def one_more(carry: Carry) -> tuple[Carry]:
        step, slot = carry["step"], carry["start"] + carry["step"]
        logits, state = decoder.extend(carry["token"][:, None], carry["state"], slot, carry["padding"])
        scores = tf.reshape(filtered(tf.nn.log_softmax(logits), carry, slot + 1, knobs, rules), [*shape, vocabulary])
        scores += carry["score"][..., None]
        full = step + 1 >= limit
        taken = tf.zeros([prompts, vocabulary])  # how many beams of earlier groups chose each token
        ranked, following = [], []
        for group in range(groups):
            ranked.append(candidates(carry, scores[:, group] - diversity_penalty * taken[:, None], group))
            going, kept = tf.math.top_k(tf.where(ranked[-1]["reason"] < 0, ranked[-1]["score"], FORBIDDEN), size)
            take = {name: tf.gather(ranked[-1][name], kept, batch_dims=1) for name in ("parent", "token", "node")}
            following.append({"score": tf.where(full, FORBIDDEN, going), **take})
            counts = carry["open"][:, group, None] & (going > FORBIDDEN)
            taken += tf.reduce_sum(tf.one_hot(take["token"], vocabulary) * tf.cast(counts, tf.float32)[..., None], axis=1)
        following = {name: tf.stack([part[name] for part in following], axis=1) for name in following[0]}

        # Ends further down than the best `size` are not good enough to be kept, nor can they go on.
        ranked = {name: tf.stack([part[name][:, :size] for part in ranked], axis=1) for name in ranked[0]}
        ranked["reason"] = tf.where((ranked["reason"] < 0) & full[..., None], at_limit[..., None], ranked["reason"])
        columns = tf.transpose(carry["history"])  # (rows, slots + 1)
        scale = tf.pow(tf.cast(step + 1, tf.float32), length_penalty)
        found = {
            "score": tf.where((ranked["reason"] >= 0) & carry["open"][..., None], ranked["score"] / scale, FORBIDDEN),
            "reason": ranked["reason"],
            "length": tf.fill(shape, step + 1),
            "text": tf.where(tf.range(slots) == slot + 1, ranked["token"][..., None], tf.gather(columns, ranked["parent"])),
        }
        merged = {name: tf.concat([carry["done"][name], found[name]], axis=2) for name in found}
        _, kept = tf.math.top_k(merged["score"], size)
        done = {name: tf.gather(value, kept, batch_dims=2) for name, value in merged.items()}

        dead = following["score"][..., 0] == FORBIDDEN  # (prompts, groups)
        worst = tf.reduce_min(done["score"], axis=-1)  # -inf while fewer than `size` texts are done
        # Without a penalty a text can only lose by going on: what cannot beat the texts that are asked for now never will.
        least = tf.gather(done["score"], tf.minimum(num_return, size) - 1, axis=2)
        hopeful = following["score"][..., 0] / scale > tf.where(length_penalty == 0, least, worst)
        stuck = {
            "score": carry["score"] / tf.pow(tf.cast(tf.maximum(step, 1), tf.float32), length_penalty),
            "reason": tf.fill(shape, BLOCKED),
            "length": tf.fill(shape, step),
            "text": tf.reshape(columns, [*shape, slots]),
        }
        blocked = (carry["open"] & dead & (done["score"][..., 0] == FORBIDDEN))[..., None]
        for name in done:
            done[name] = tf.where(blocked[..., None] if name == "text" else blocked, stuck[name], done[name])

        parent, token, node = (tf.reshape(following[name], [rows]) for name in ("parent", "token", "node"))
        one_each = [tf.stack([tf.range(rows), token], axis=1), tf.ones([rows], tf.int32)]
        place = tf.gather(carry["place"], parent)
        history = tf.gather(carry["history"], parent, axis=1)
        after = {
            **carry,
            "step": step + 1,
            "state": decoder.take_rows(state, parent, same_sources=True),
            "token": token,
            "history": tf.tensor_scatter_nd_update(history, [[slot + 1]], token[None]),
            "seen": tf.tensor_scatter_nd_add(tf.gather(carry["seen"], parent), *one_each),
            "fresh": tf.tensor_scatter_nd_add(tf.gather(carry["fresh"], parent), *one_each),
            "length": tf.fill([rows], step + 1),
            "node": node,
            "place": place if rules.constraint is None else automata.advance(rules.constraint, rules.degree, place, token),
            "score": following["score"],
            "done": done,
            "open": carry["open"] & hopeful & ~(early_stopping & (worst > FORBIDDEN)),
        }
        return (after,)

    nothing = tf.zeros(shape, tf.int32)
    # All beams begin alike: only the first of each group counts, or they would stay alike.
    carry = {
        **carry,
        "score": tf.zeros(shape) + tf.where(tf.range(size) == 0, 0.0, FORBIDDEN),
        "open": tf.ones([prompts, groups], tf.bool),
        "done": {
            "score": tf.fill(shape, FORBIDDEN),
            "reason": nothing,
            "length": nothing,
            "text": tf.zeros([*shape, slots], tf.int32),
        },
    }
    shapes = (tf.nest.map_structure(lambda tensor: tensor.shape, carry),)
    (carry,) = tf.while_loop(lambda carry: tf.reduce_any(carry["open"]), one_more, (carry,), shape_invariants=shapes)
    together = {name: [prompts, num_beams] + [slots] * (name == "text") for name in carry["done"]}
    found = {name: tf.reshape(value, together[name]) for name, value in carry["done"].items()}
    _, order = tf.math.top_k(found["score"], num_beams)
    return carry["start"], {name: tf.gather(value, order, batch_dims=1) for name, value in found.items()}

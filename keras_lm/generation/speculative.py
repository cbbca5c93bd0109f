"""Speculative decoding: something cheap guesses a few tokens ahead, and the model checks them all in one pass.

Where reading the weights takes longer than multiplying with them, a pass over a few tokens costs little more than one over a single token.
A guess is kept with a probability that makes the text distributed as if the model had drawn every token itself, so only the time changes.
The guesses come from a smaller model of the same vocabulary, or from the text: what followed when its last tokens stood there before.

A guess that is not kept costs nothing to forget: a position looks only at slots up to its own, and those behind the text are written anew
before anything looks at them. The states of a recurrent draft are kept for each guess; a recurrent model cannot check several guesses at
once, and is refused.

References:
    Leviathan et al. 2023, «Fast Inference from Transformers via Speculative Decoding»; Chen et al. 2023, «Accelerating Large Language
    Model Decoding with Speculative Sampling»; Saxena 2023, «Prompt Lookup Decoding».
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation import counter_rng, filters
from keras_lm.generation.decode import Carry, Knobs, begin, bias_against, shaped
from keras_lm.generation.sampler import SMALLEST, UNBOUNDED, Continuation, check_prompts, power_of_two
from keras_lm.generation.settings import CONTEXT, END, FINISH_REASONS, LENGTH, SamplingSettings
from keras_lm.generation.state import Decoder, State

_REFUSED = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "stop", "allow")
_REFUSED += ("num_samples", "top_logprobs", "when_full")


@dataclasses.dataclass(frozen=True)
class SpeculativeStatistics:
    """How well the guesses did.

    Attributes:
        target_passes: Passes of the model, those that read the prompts not counted.
        proposed: Guessed tokens for which there was room in the text.
        accepted: How many of them became part of it.

    Example:

    >>> SpeculativeStatistics(target_passes=5, proposed=20, accepted=15).accepted_share
    0.75
    """

    target_passes: int = 0
    proposed: int = 0
    accepted: int = 0

    @property
    def accepted_share(self) -> float:
        """accepted / proposed; 0 where nothing was proposed."""
        return self.accepted / max(1, self.proposed)


class SpeculativeSampler:
    """Generates ids from a model, several of them for each of its passes; texts are distributed as those of `Sampler`.

    Prompts are extended one at a time: what is gained is the time one reader waits. As in `Sampler`, a text is a function of model, draft,
    prompt, settings and seed; at temperature 0 it is that of `Sampler`, up to rounding.

    Args:
        model: A causal Sequential or Functional model from ids to logits, without recurrent layers.
        draft: A smaller model of the same vocabulary, of any kind that `Decoder` takes; beyond its own context it guesses worse, and that
            is all. `None`: guesses are looked up in the text.
        num_draft: Tokens guessed for each pass of the model.
        max_ngram: The most last tokens that are looked for earlier in the text; if they are not there, fewer are.
        end_id: The token that ends a text.
        never: Ids that are never chosen (padding, unknown, start).
        jit_compile: Whether XLA compiles it; default. Without it the same function runs as an ordinary graph.

    Attributes:
        statistics: `SpeculativeStatistics` of the last call of `generate`.

    Raises:
        UserError: `num_draft` or `max_ngram` below 1; a draft of another vocabulary size; a recurrent layer in the model.

    Example:

    >>> from keras_lm.models import gru_lm, transformer_lm
    >>> model = transformer_lm(50, context_length=16, embedding_dim=8, num_layers=1)
    >>> draft = gru_lm(50, embedding_dim=4, hidden_dim=4, num_layers=1)
    >>> sampler = SpeculativeSampler(model, draft=draft, end_id=3, never=(0, 1, 2), jit_compile=False)
    >>> (text,) = sampler.generate([[5, 6]], SamplingSettings(max_new_tokens=8, seed=1))
    >>> len(text.ids) <= 8, sampler.statistics.target_passes <= 8
    (True, True)

    References:
        Leviathan et al. 2023, algorithm 1; Chen et al. 2023, algorithm 2 and theorem 1.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        draft: keras.Model | None = None,
        num_draft: int = 4,
        max_ngram: int = 3,
        end_id: int,
        never: Sequence[int] = (),
        jit_compile: bool = True,
    ):
        for name, value in (("num_draft", num_draft), ("max_ngram", max_ngram)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value!r}")
        self.decoder = Decoder(model)
        self.draft = None if draft is None else Decoder(draft)
        recurrent = _recurrent(self.decoder.init_state(1, 1))
        if recurrent:
            raise UserError(f"layer {next(iter(recurrent))} is recurrent, so its model cannot check several tokens at once: use Sampler")
        if self.draft and self.draft.vocabulary_size != self.decoder.vocabulary_size:
            sizes = f"{self.draft.vocabulary_size} and {self.decoder.vocabulary_size}"
            raise UserError(f"draft and model must share a vocabulary, got {sizes} tokens")
        self.num_draft = num_draft
        self.max_ngram = max_ngram
        self.end_id = end_id
        self.jit_compile = jit_compile
        self.statistics = SpeculativeStatistics()
        self._bias = bias_against(never, self.decoder.vocabulary_size).numpy()
        self._compiled: dict[tuple, tf.types.experimental.PolymorphicFunction] = {}

    @property
    def num_compilations(self) -> int:
        """How many times TensorFlow has traced, and XLA compiled, a part of the sampler so far."""
        return sum(function.experimental_get_tracing_count() for function in self._compiled.values())

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, *, bias: Mapping[int, float] | None = None
    ) -> list[Continuation]:
        """Extends prompts of any lengths, one after the other.

        Args:
            prompts: Ids, at least one a row; none longer than the context allows.
            settings: How to sample; what depends on the text so far is refused, as are several samples, log-probabilities and sliding.
                Of `logit_bias` and `forbid` it knows nothing.
            bias: What is added to the logits of some ids; -inf forbids them.

        Returns:
            A `Continuation` for each prompt; number b draws with `settings.seed + b`.

        Raises:
            UserError: a setting that is refused.
            ValueError: an empty prompt, or one that fills the context.
        """
        off = SamplingSettings()
        for name in _REFUSED:
            if getattr(settings, name) != getattr(off, name):
                raise UserError(f"speculative decoding knows no {name}, got {getattr(settings, name)!r}: leave it out, or use Sampler")
        check_prompts(prompts, self.decoder.context_length)
        total = self._bias.copy()
        for token, value in (bias or {}).items():
            total[0, token] += value
        self.statistics = SpeculativeStatistics()
        allowed = np.isfinite(total[0])
        allowed[self.end_id] &= settings.min_new_tokens == 0
        if not allowed.any():
            return [Continuation([], "blocked") for _ in prompts]
        knobs, total = vars(Knobs.of(settings, 1)), tf.constant(total)
        return [self._extend(list(prompt), settings, row, knobs, total) for row, prompt in enumerate(prompts)]

    def _extend(
        self, prompt: list[int], settings: SamplingSettings, row: int, knobs: dict[str, tf.Tensor], bias: tf.Tensor
    ) -> Continuation:
        context = self.decoder.context_length
        limit = min(settings.max_new_tokens, (context or UNBOUNDED) - len(prompt))
        slots = max(min(SMALLEST, context or SMALLEST), power_of_two(len(prompt) - 1 + limit))
        slots += self.num_draft  # the last pass may read, and guess, as many tokens more than there is room for
        padding = 1 + power_of_two(max(1, len(prompt) - 1)) - len(prompt)
        read = self._function(lambda *inputs: self._begin(*inputs, slots), padding + len(prompt), slots)
        carry = read(tf.constant([[0] * padding + prompt]), tf.constant([padding]))
        knobs = {**knobs, "seed": tf.constant([(settings.seed + row) % 2**31])}
        text, told = self._function(self._decode, slots)(carry, tf.constant(limit), knobs, bias)
        length, reason, *counts = told.numpy().tolist()
        before = dataclasses.astuple(self.statistics)
        self.statistics = SpeculativeStatistics(*(old + new for old, new in zip(before, counts, strict=True)))
        return Continuation(text.numpy()[len(prompt) : length].tolist(), FINISH_REASONS[reason])

    def _function(self, traced: Callable, *key: int) -> tf.types.experimental.PolymorphicFunction:
        if key not in self._compiled:
            self._compiled[key] = tf.function(traced, jit_compile=self.jit_compile, autograph=False)
        return self._compiled[key]

    def _begin(self, prompt: tf.Tensor, padding: tf.Tensor, slots: int) -> Carry:
        begun = begin(self.decoder, prompt, padding, slots=slots)
        return {
            "text": begun["history"][:, 0],  # (slots + 1,), prompt and guesses included; all without a shape below is scalar
            "length": begun["start"] + 1,
            "reason": tf.constant(-1),
            "salt": begun["salt"],  # (1,)
            "state": begun["state"],
            "draft": {} if self.draft is None else begin(self.draft, prompt, padding, slots=slots)["state"],
            "read": begun["start"],  # slots that the draft has read
            "passes": tf.constant(0),
            "proposed": tf.constant(0),
            "accepted": tf.constant(0),
        }

    def _decode(self, carry: Carry, limit: tf.Tensor, knobs: dict[str, tf.Tensor], bias: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The text, `(slots + 1,)`, prompt included; its length, the reason it ended and the numbers of the statistics, `(5,)`."""
        knobs, first, salt = Knobs(**knobs), carry["length"], carry["salt"]  # first: the slot of the first new token
        # In here a tensor picks by `tf.gather`: of `x[tensor]` XLA makes a constant, and compiles anew for each seed and length.
        no_padding, ahead = tf.constant([0]), tf.range(self.num_draft + 1)

        def filtered(logits: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
            """`(positions, vocabulary)`; `number`: which new token each position gives, `(positions,)`."""
            one_each = Knobs(**{name: tf.broadcast_to(value, number.shape) for name, value in vars(knobs).items()})
            logits = filters.hold_back_end(filters.add_bias(logits, bias), number, one_each.min_new_tokens, self.end_id)
            return shaped(logits, one_each)

        def uniforms(number: tf.Tensor, use: int) -> tf.Tensor:
            # Counted by place: a guess may come from the number of an earlier one there, but only if nothing followed from that.
            return counter_rng.uniforms(knobs.seed, salt, 3 * number[None] + use)[0]

        def by_draft(carry: Carry) -> tuple:
            """The draft reads what it has not read of the text, then its own guesses but the last."""
            length = carry["length"]

            def step(slot, text, q, state, kept):
                place, number = tf.maximum(slot - (length - 1), 0), slot + 1 - first
                logits, state = self.draft.extend(tf.gather(text, slot)[None, None], state, slot, no_padding)
                logits = filtered(logits, number[None])
                token = filters.choose(logits, uniforms(number[None], 0), knobs.temperature)[0]
                token = tf.where(slot < length - 1, tf.gather(text, slot + 1), token)
                text = tf.tensor_scatter_nd_update(text, [[slot + 1]], token[None])
                q = tf.tensor_scatter_nd_update(q, [[place]], _probabilities(logits, knobs.temperature))
                put = lambda kept, new: tf.tensor_scatter_nd_update(kept, [[place]], new[None])
                return slot + 1, text, q, state, tf.nest.map_structure(put, kept, _recurrent(state))

            q = tf.zeros([self.num_draft + 1, self.decoder.vocabulary_size])
            kept = tf.nest.map_structure(lambda state: tf.stack([state] * self.num_draft), _recurrent(carry["draft"]))
            start = [carry["read"], carry["text"], q, carry["draft"], kept]
            _, text, q, state, kept = tf.while_loop(lambda slot, *_: slot < length - 1 + self.num_draft, step, start)
            return text, q, tf.constant(self.num_draft), state, kept

        def looked_up(carry: Carry) -> tuple:
            guesses, found = look_up(carry["text"], carry["length"], self.num_draft, self.max_ngram)
            text = tf.tensor_scatter_nd_update(carry["text"], (carry["length"] + ahead[:-1])[:, None], guesses)
            certain = tf.pad(tf.one_hot(guesses, self.decoder.vocabulary_size), [[0, 1], [0, 0]])
            return text, tf.where(found, certain, 0.0), tf.where(found, self.num_draft, 0), carry["draft"], {}

        def one_round(carry: Carry) -> tuple[Carry]:
            length = carry["length"]
            text, q, count, draft, kept = (looked_up if self.draft is None else by_draft)(carry)
            read = tf.gather(text, length - 1 + ahead)  # the last token and the guesses
            logits, state = self.decoder.extend_all(read[None], carry["state"], length - 1, no_padding)
            number = length - first + ahead  # of the new token that each position gives
            p = _probabilities(filtered(logits[0], number), knobs.temperature)  # as q: (num_draft + 1, vocabulary)

            p_of, q_of = (tf.gather(each[:-1], read[1:], batch_dims=1) for each in (p, q))
            fits = (uniforms(number, 1)[:-1] * q_of < p_of) & (ahead[:-1] < count)
            accepted = tf.reduce_sum(tf.math.cumprod(tf.cast(fits, tf.int32)))
            # Where nothing was guessed, as behind the last guess, q is 0 and what is left is p itself.
            p, q, uniform = (tf.gather(each, accepted) for each in (p, q, uniforms(number, 2)))
            left = tf.maximum(p - q, 0.0)
            left = tf.where(tf.reduce_any(left > 0), left, p)  # rounding may leave nothing where p and q are alike
            own = filters.choose(tf.math.log(left)[None], uniform[None], knobs.temperature)[0]
            tokens = tf.where(ahead == accepted, own, tf.roll(read, -1, axis=0))

            room = limit - (length - first)
            ends = (tokens == self.end_id) & (ahead <= accepted) & (ahead < room)
            ended = tf.reduce_any(ends)
            more = tf.where(ended, tf.argmax(tf.cast(ends, tf.int32), output_type=tf.int32) + 1, tf.minimum(accepted + 1, room))
            new = length - first + more
            reason = tf.where(new >= knobs.max_new_tokens[0], LENGTH, tf.where(new >= limit, CONTEXT, -1))
            # The draft has read all guesses but the last, and its recurrent states go back to the last one accepted.
            place = tf.minimum(accepted, self.num_draft - 1)
            after = {
                **carry,
                "text": tf.tensor_scatter_nd_update(text, (length + ahead)[:, None], tokens),
                "length": length + more,
                "reason": tf.where(ended, END, reason),
                "state": state,
                "draft": {**draft, **tf.nest.map_structure(lambda states: tf.gather(states, place), kept)},
                "read": length + place,
                "passes": carry["passes"] + 1,
                "proposed": carry["proposed"] + tf.where(more > accepted, tf.minimum(count, room), more),
                "accepted": carry["accepted"] + tf.minimum(more, accepted),
            }
            return (after,)

        shapes = (tf.nest.map_structure(lambda tensor: tensor.shape, carry),)
        (carry,) = tf.while_loop(lambda carry: carry["reason"] < 0, one_round, (carry,), shape_invariants=shapes)
        return carry["text"], tf.stack([carry[name] for name in ("length", "reason", "passes", "proposed", "accepted")])


def look_up(text: tf.Tensor, length: tf.Tensor, count: int, max_ngram: int) -> tuple[tf.Tensor, tf.Tensor]:
    """What followed when the last tokens of a text stood there before: the most tokens, up to `max_ngram`, and of those the latest place.

    Where the text ends before `count` tokens, it goes on as it went on since that place: a rhythm is continued.

    Args:
        text: `(slots,)` int32; what lies behind `length` is not looked at.
        length: Scalar int32, at least 1.
        count: How many tokens to guess.
        max_ngram: The most last tokens to look for.

    Returns:
        `(count,)` int32, and whether anything was found.

    Example:

    >>> guesses, found = look_up(tf.constant([5, 6, 7, 8, 5, 6, 0, 0]), tf.constant(6), count=5, max_ngram=3)
    >>> guesses.numpy().tolist(), bool(found)
    ([7, 8, 5, 6, 7], True)
    """
    places = tf.range(tf.shape(text)[0])
    run, same = tf.zeros_like(text), places < length - 1  # run: how many tokens up to this place are the last ones of the text
    for back in range(max_ngram):
        same &= (tf.roll(text, back, axis=0) == tf.gather(text, tf.maximum(length - 1 - back, 0))) & (places >= back)
        run += tf.cast(same, tf.int32)
    place = tf.argmax(run * tf.shape(text)[0] + places * tf.cast(run > 0, tf.int32), output_type=tf.int32)
    rhythm = tf.maximum(length - 1 - place, 1)
    return tf.gather(text, place + 1 + tf.range(count) % rhythm), tf.gather(run, place) > 0


def _probabilities(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """What `filters.choose` draws from: the softmax, or all of it on the largest logit at temperature 0."""
    best = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1])
    return tf.where(temperature > 0, tf.nn.softmax(logits), best)


def _recurrent(state: State) -> State:
    """The states of the recurrent layers, which are lists, without the caches."""
    return {name: memory for name, memory in state.items() if isinstance(memory, list)}

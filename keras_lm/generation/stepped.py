"""A sampler whose steps run outside TensorFlow: something else gives the logits, token by token.

Every knob and rule of `Sampler` works. Where numbers alone decide, tokens are chosen in NumPy (`growing_texts.Texts`), since a call of a
compiled function takes longer than a step of a small model; stop strings, constraints and log-probabilities go through `decode.draw`.
"""

from __future__ import annotations

import abc

import numpy as np
import tensorflow as tf

from keras_lm.generation.decode import Carry, Knobs, Rules, draw
from keras_lm.generation.growing_texts import Steps, Texts
from keras_lm.generation.sampler import Sampler


class SteppedSampler(Sampler, abc.ABC):
    """A `Sampler` whose steps a subclass runs."""

    @abc.abstractmethod
    def _steps_from(self, carry: Carry) -> Steps:
        """What goes on with the texts of `carry`, from its last tokens."""

    def _advance(self, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        steps = self._steps_from(carry)
        carry = {name: value for name, value in carry.items() if name != "state"}
        stops = rules.stop is not None and bool(tf.reduce_any(rules.stop.hit))
        by_table = stops or rules.constraint is not None or "logprobs" in carry
        advance = self._draw_in_tensorflow if by_table else self._draw_in_numpy
        return {**advance(steps, carry, knobs, rules, room, until), "state": None}

    def _draw_in_numpy(self, steps: Steps, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        given = {name: carry[name].numpy() for name in ("history", "seen", "fresh", "salt", "length", "reason")}
        texts = Texts(
            **given,
            end=int(carry["start"]) + int(carry["step"]) + 1,
            padding=carry["padding"].numpy(),
            knobs={name: tensor.numpy() for name, tensor in vars(knobs).items()},
            bias=rules.bias.numpy(),
            room=room,
            end_id=rules.end_id,
        )
        number, token, follow = int(carry["step"]), carry["token"].numpy(), texts.follow(steps)
        while number < until and texts.running:
            token = follow(token)
            number += 1
        after = {name: getattr(texts, name) for name in ("history", "seen", "fresh", "length", "reason")} | {"token": token}
        return {**carry, **{name: tf.constant(value, tf.int32) for name, value in after.items()}, "step": tf.constant(number)}

    def _draw_in_tensorflow(self, steps: Steps, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        tables, knobs, room = rules.tables(), vars(knobs), tf.constant(room)

        def traced(logits, carry, knobs, tables, room):
            return draw(logits, carry, Knobs(**knobs), Rules(rules.end_id, degree=rules.degree, **tables), room=room)

        shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten((carry, tables)) if tensor is not None]
        choose = self._function("draw", traced, *shapes, rules.degree, *(table is None for table in tables.values()))
        number = int(carry["step"])
        while number < until and (carry["reason"].numpy() < 0).any():
            logits = tf.constant(steps.run(carry["token"].numpy()))
            carry = choose(logits, carry, knobs, tables, room)
            number += 1
        return carry

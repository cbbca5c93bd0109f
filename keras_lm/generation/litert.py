"""The sampler on LiteRT (formerly TensorFlow Lite): for CPUs, with weights of 32, 16 or 8 bits.

Reading a token at batch 1 takes as long as reading the weights from memory, so weights of a quarter of the size go up to four times as
fast. Prompts are still read by the Keras model; the steps after it run in a LiteRT interpreter (`litert_runtime.Step`), and every knob and
rule of `Sampler` works here. Where numbers alone decide, tokens are chosen in NumPy (`litert_runtime.Texts`), since a call of a compiled
function takes longer than a step of a small model; stop strings, constraints and log-probabilities go through `decode.draw`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.decode import Carry, Knobs, Rules, draw
from keras_lm.generation.litert_convert import PRECISIONS, convert, memories, values_of
from keras_lm.generation.litert_runtime import Step, Texts
from keras_lm.generation.sampler import Sampler


class LiteRTSampler(Sampler):
    """A `Sampler` whose steps run in LiteRT.

    Args:
        model, end_id, never, pieces, jit_compile: As in `Sampler`; `jit_compile` is for the prompt and the choice of tokens. The weights
            are converted at the first call for a batch size: what is trained afterwards is not seen.
        precision: One of `PRECISIONS`.
        num_threads: For the interpreter; default as many as there are cores.

    Raises:
        UserError: LiteRT is not installed (`pip install keras_lm[tflite]`), or no such precision.
        ValueError: a layer with a cache that is not one of `keras_lm.layers`.

    Example: `LiteRTSampler(model, precision="int8", end_id=3).generate([[5, 6]], SamplingSettings())`
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        precision: str = "float32",
        end_id: int,
        never: Sequence[int] = (),
        pieces: Sequence[bytes] | None = None,
        jit_compile: bool = True,
        num_threads: int | None = None,
    ):
        super().__init__(model, end_id=end_id, never=never, pieces=pieces, jit_compile=jit_compile)
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.precision = precision
        self._num_threads = num_threads
        self._steps: dict[int, Step] = {}

    def log_likelihood(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """ln P of each target as the converted weights give it: what a precision costs.

        Args:
            inputs, targets: `(batch, time)` int32, as the pipeline gives them.

        Returns:
            `(batch, time)` float32.
        """
        return self._step(len(inputs)).log_likelihood(inputs, targets)

    def _step(self, batch: int) -> Step:
        if batch not in self._steps:
            model = self.decoder.model
            content = convert(model, batch=batch, slots=self.decoder.context_length or 1, precision=self.precision)
            self._steps[batch] = Step(content, memories(model), self._num_threads)
        return self._steps[batch]

    def _advance(self, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        step = self._step(batch=carry["history"].shape[1])
        if int(carry["step"]) == 0:
            values = values_of(self.decoder.model, carry["state"])
            step.begin(values, carry["padding"].numpy(), int(carry["start"]))
        carry = {name: value for name, value in carry.items() if name != "state"}
        stops = rules.stop is not None and bool(tf.reduce_any(rules.stop.hit))
        by_table = stops or rules.constraint is not None or "logprobs" in carry
        advance = self._draw_in_tensorflow if by_table else self._draw_in_numpy
        return {**advance(step, carry, knobs, rules, room, until), "state": None}

    def _draw_in_numpy(self, step: Step, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
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
        number, token = int(carry["step"]), carry["token"].numpy()
        while number < until and texts.running:
            token = texts.draw(step.run(token))
            number += 1
        after = {name: getattr(texts, name) for name in ("history", "seen", "fresh", "length", "reason")} | {"token": token}
        return {**carry, **{name: tf.constant(value, tf.int32) for name, value in after.items()}, "step": tf.constant(number)}

    def _draw_in_tensorflow(self, step: Step, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        tables, knobs, room = (rules.bias, rules.stop, rules.pieces, rules.constraint), vars(knobs), tf.constant(room)

        def traced(logits, carry, knobs, tables, room):
            bias, stop, pieces, constraint = tables
            return draw(logits, carry, Knobs(**knobs), Rules(rules.end_id, bias, stop, pieces, constraint, rules.degree), room=room)

        shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten((carry, tables)) if tensor is not None]
        choose = self._function("draw", traced, *shapes, rules.degree, *(table is None for table in tables))
        number = int(carry["step"])
        while number < until and (carry["reason"].numpy() < 0).any():
            logits = tf.constant(step.run(carry["token"].numpy()))
            carry = choose(logits, carry, knobs, tables, room)
            number += 1
        return carry

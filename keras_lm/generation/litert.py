"""The sampler on LiteRT (formerly TensorFlow Lite): for CPUs, with weights of 32, 16 or 8 bits.

Reading a token at batch 1 takes as long as reading the weights from memory, so weights of a quarter of the size go up to four times as
fast. Prompts are still read by the Keras model; the steps after it run in a LiteRT interpreter (`litert_runtime.Step`).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_lm.errors import UserError
from keras_lm.generation.decode import Carry
from keras_lm.generation.litert_convert import PRECISIONS, convert, memories, values_of
from keras_lm.generation.litert_runtime import Step
from keras_lm.generation.stepped import SteppedSampler


class LiteRTSampler(SteppedSampler):
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

    def _steps_from(self, carry: Carry) -> Step:
        step = self._step(batch=carry["history"].shape[1])
        if int(carry["step"]) == 0:
            values = values_of(self.decoder.model, carry["state"])
            step.begin(values, carry["padding"].numpy(), int(carry["start"]))
        return step

"""The learning-rate range test: the rate grows from step to step, and the loss says where it is too small and where too large.

References:
    Smith 2017, «Cyclical Learning Rates for Training Neural Networks» (arXiv:1506.01186), section 3.3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from keras_lm.errors import UserError
from keras_lm.recurrent import zero_states
from keras_lm.training.data import batches_of
from keras_lm.training.loop import first_model
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.run import Run
from keras_lm.training.step import make_train_step, use_xla


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """Losses over learning rates.

    Args:
        rates: Learning rates, growing.
        losses: The smoothed loss of the step made at each, in nats a token.
    """

    rates: list[float]
    losses: list[float]

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest, per factor of the rate: a good highest rate of a schedule."""
        slopes = np.gradient(np.array(self.losses), np.log(self.rates))
        return float(self.rates[int(np.argmin(slopes))])


def range_test(
    run: Run, *, steps: int = 100, lowest: float = 1e-5, highest: float = 1.0, progress: Callable[[int], None] | None = None
) -> RateCurve:
    """Trains a fresh model of a prepared run on one device with a learning rate that grows, and writes nothing.

    Args:
        run: From `prepare`.
        steps: From the lowest rate to the highest; it ends before, when the loss is a nat above that of the first step, or no number.
        lowest: The first rate.
        highest: The last.
        progress: Is told the number of steps made.

    Raises:
        UserError: the loss ran away before five steps were made.
    """
    settings = dataclasses.replace(run.settings, schedule="constant", warmup_steps=0, learning_rate=lowest, ema=0.0)
    model = first_model(run, settings)
    optimizer = make_optimizer(settings, model)
    step = make_train_step(model, optimizer, settings, jit_compile=use_xla(settings))
    states = zero_states(model, settings.batch_size) if settings.stateful else {}
    batches = batches_of(settings, run.load_tokens()["train"], run.load_tokenizer())
    rates: list[float] = []
    losses: list[float] = []
    raw = _losses(np.geomspace(lowest, highest, steps), optimizer, step, batches, states)
    mean = 0.0
    for number, (rate, loss) in enumerate(raw, 1):
        mean = 0.9 * mean + 0.1 * loss
        smooth = mean / (1 - 0.9**number)  # without the pull to the 0 it began with
        if not math.isfinite(smooth) or (number > 10 and smooth > losses[0] + 1.0):
            break
        rates.append(float(rate))
        losses.append(smooth)
        if progress:
            progress(number)
    if len(rates) < 5:
        raise UserError(f"the loss ran away after {len(rates)} steps, at a learning rate of {lowest:g}: the model or its text is at fault")
    return RateCurve(rates, losses)


def _losses(rates: np.ndarray, optimizer, step: Callable, batches: Iterator, states: dict) -> Iterator[tuple[float, float]]:
    for rate in rates:
        optimizer.learning_rate.assign(rate)
        yield rate, float(step(*next(batches), states).loss)

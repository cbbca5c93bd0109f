"""Scaling laws in small: how far the loss falls with the size of a model and with the tokens it has read.

Over a range of sizes the loss follows L(x) = (x_c / x)^α, a line when both axes are logarithmic: for the parameters N without embeddings,
when the tokens suffice, and for the tokens D, when the model does. Four small models show the line; what lies beyond the largest of
them it only guesses, and text has an entropy below which no loss falls.

References:
    Kaplan et al. 2020, «Scaling Laws for Neural Language Models» (arXiv:2001.08361), equations 1.1 and 1.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_lm.errors import UserError


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """L(x) = (scale / x)^exponent.

    Args:
        exponent: α, over 0 where the loss falls.
        scale: x_c, where the line would reach a loss of 1 nat.
        r_squared: The share of the variance of log L that the line explains.

    Example:

    >>> law = PowerLaw(exponent=0.5, scale=400.0, r_squared=1.0)
    >>> law(100.0)
    2.0
    """

    exponent: float
    scale: float
    r_squared: float

    def __call__(self, x: float) -> float:
        return (self.scale / x) ** self.exponent


@dataclasses.dataclass(frozen=True)
class SizedRun:
    """What a run shows of the laws.

    Args:
        parameters: Without those of the embedding.
        curve: `(tokens read, validation loss)` at each evaluation.
    """

    parameters: int
    curve: list[tuple[int, float]]

    @property
    def loss(self) -> float:
        """The best of the curve, in nats a token."""
        return min(loss for _, loss in self.curve)


def fit_power_law(x: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The power law nearest to some points, by least squares of log L over log x.

    Args:
        x: Parameters or tokens, over 0; at least two different ones.
        losses: The loss at each, in nats a token, over 0.

    Raises:
        UserError: fewer than two different sizes.

    Example:

    >>> law = fit_power_law([1e3, 1e4, 1e5], [4.0, 2.0, 1.0])
    >>> round(law.exponent, 3), round(law.scale), round(law.r_squared, 3)
    (0.301, 100000, 1.0)
    """
    if len(set(x)) < 2:
        raise UserError(f"a power law needs at least two different sizes, got {sorted(set(x))}")
    log_x, log_loss = np.log(x), np.log(losses)
    slope, intercept = np.polyfit(log_x, log_loss, 1)
    rest, total = np.sum((log_loss - slope * log_x - intercept) ** 2), np.sum((log_loss - log_loss.mean()) ** 2)
    return PowerLaw(exponent=float(-slope), scale=float(np.exp(-intercept / slope)), r_squared=float(1 - rest / total))

"""What differences of pairs come to: an interval for their mean, a test of it, and what many tests do to each other.

The values are one a template, which is the unit that was drawn (of all sentences that could have been written): samples of one template
say nothing of another, and counting them as units of their own would make intervals too narrow.

Interval and test are one thing: both draw the signs of differences anew, which assumes of them that they lie about their mean
symmetrically and nothing else, and the interval holds the values that the test would not refuse.

References:
    Fisher 1935 (changed signs); Hartigan 1969, «Using Subsample Values as Typical Values» (the interval). Dror et al. 2018 (P18-1128) on
    tests in this field. Phipson and Smyth 2010 (arXiv:1603.05766) on the 1 that is added. Holm 1979, «A Simple Sequentially Rejective
    Multiple Test Procedure».
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from keras_lm.errors import UserError

LEAST = 6
"""Values that an interval needs: of five, no mean is so far out that one sign in 20 would not bring it there."""

_EXACT = 14  # up to so many values all 2^n signs are gone through


def mean_interval(values: Sequence[float], *, level: float = 0.95, draws: int = 19_999, seed: int = 0) -> tuple[float, float]:
    """A confidence interval for the mean of values: the quantiles of the means of random subsets, into each of which a value falls or not.

    Changing signs about a supposed mean brings the sum as far out as it is where the mean of those that changed lies on the other side; so
    these means are the borders between what the sign-flip test accepts and refuses. Up to 14 values all subsets are gone through.

    Args:
        values: `(n,)`, at least six.
        level: How often such an interval covers the mean.
        draws: How many subsets are drawn.
        seed: Decides which.

    Returns:
        Its ends. Of values that are all the same, that value twice.

    Raises:
        UserError: fewer than six values, or a level that is not between 0 and 1.

    Example:

    >>> low, high = mean_interval([0.1, 0.3, 0.2, 0.4, 0.2, 0.3])
    >>> 0.1 < low < 0.25 < high < 0.4
    True
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < LEAST:
        raise UserError(f"an interval needs {LEAST} values or more, got {values.size}")
    if not 0 < level < 1:
        raise UserError(f"level must be between 0 and 1, got {level}")
    if len(values) <= _EXACT:
        chosen = np.array(list(itertools.product((0, 1), repeat=len(values)))[1:], np.float64)
    else:
        chosen = np.random.default_rng(seed).integers(2, size=(draws, len(values))).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
    low, high = np.quantile(chosen @ values / chosen.sum(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p(values: Sequence[float], *, flips: int = 99_999, seed: int = 0) -> float:
    """How often differences whose signs are drawn anew have a mean as far from 0 as these: the two-sided test for paired values.

    Were the two terms of a pair exchangeable, either sign would be as probable. Up to 14 values all signs are gone through, else they
    are drawn.

    Args:
        values: `(n,)`.
        flips: How often they are drawn.
        seed: Decides what is drawn.

    Returns:
        The p-value, at least 1 / (flips + 1), or 2 ** (1 - n).

    Raises:
        UserError: no values.

    Example:

    >>> sign_flip_p([1.0, 2.0, 3.0])
    0.25
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise UserError("a test needs at least one value")
    bound = abs(values.sum()) * (1 - 1e-9) - 1e-12
    if len(values) <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))), np.float64)
        return float((np.abs(signs @ values) >= bound).mean())
    generator = np.random.default_rng(seed)
    reached, left = 0, flips
    while left:
        size = min(left, 10_000)
        signs = 2.0 * generator.integers(2, size=(size, len(values))) - 1
        reached += int((np.abs(signs @ values) >= bound).sum())
        left -= size
    return (reached + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number, by Holm's method: who takes what is under 0.05 errs in one of 20 families at most.

    Args:
        p_values: `(tests,)` of one family, however the tests depend on each other.

    Returns:
        `(tests,)`, each at least as large as it was, at most 1.

    Example:

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    result = np.empty_like(p_values)
    result[order] = np.minimum(corrected, 1.0)
    return result

"""From counts to probabilities: maximum likelihood, add-k, Kneser-Ney.

Each estimate is two numbers for every n-gram: the logarithm of the probability of its last word after the others, and a weight for what
was never seen after it, by which the probability of the shorter n-gram is multiplied (backing off). Interpolated estimates are written in
the same form, since a word that was never seen after some others gets its probability from the shorter n-gram alone. It is also the form
of ARPA files.

References:
    Kneser and Ney 1995, «Improved backing-off for m-gram language modeling»; Chen and Goodman 1999, «An empirical study of smoothing
    techniques for language modeling» (the modified form, and its discounts); Heafield et al. 2013, «Scalable modified Kneser-Ney
    language model estimation» (KenLM, whose conventions are kept).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_lm.classical.counting import NGramCounts
from keras_lm.errors import UserError

Estimate = tuple[list[np.ndarray], list[np.ndarray]]
"""For each order ln P of the last word, and ln of the weight for backing off; `(size,)` float64 each."""

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text is too small, or too regular, for them to be estimated: those KenLM takes."""


def maximum_likelihood(counts: NGramCounts) -> Estimate:
    """c(context, word) / c(context): what was never seen after a context that was seen has probability 0.

    After a context that was never seen itself, the longest end of it that was seen counts.
    """
    return _from_shares(counts, added=0.0)


def add_k(counts: NGramCounts, k: float = 1.0) -> Estimate:
    """(c(context, word) + k) / (c(context) + k V), V being the number of words that can come; a context never seen gives 1 / V.

    Raises:
        UserError: k is not above 0.
    """
    if not k > 0:
        raise UserError(f"k must be above 0, got {k}")
    return _from_shares(counts, added=k)


def _from_shares(counts: NGramCounts, added: float) -> Estimate:
    index, order = counts.index, counts.index.order
    words = _predictable(counts)
    log_probabilities, log_backoffs = [], []
    # With something added a shorter n-gram is only a step on the way to 1 / V; but a document begins with short ones.
    from_start = np.arange(index.vocabulary_size) == counts.start_id
    for length in range(1, order + 1):
        seen, parents = _seen(counts, counts.counts, length), index.parents(length)
        totals = np.bincount(parents, seen, minlength=_num_contexts(counts, length))
        shares = _ratio(seen + added, (totals + added * words.sum())[parents])
        if length == 1:
            shares = np.where(words, shares, 0.0)
            complete = np.array([order == 1])
        else:
            from_start = from_start if length == 2 else from_start[index.parents(length - 1)]
            complete = from_start | (length == order)
        if added:
            shares = np.where(complete[parents], shares, words[index.words(length)] / words.sum())
        log_probabilities.append(_log(shares))
        if length > 1:
            rest = _ratio(added * words.sum(), totals + added * words.sum())
            weights = np.where(complete, rest, 1.0) if added else rest
            log_backoffs.append(_log(np.where(totals > 0, weights, 1.0)))
    return log_probabilities, [*log_backoffs, np.zeros(index.size(order))]


def kneser_ney(counts: NGramCounts, discounts: Sequence[float] | None = None) -> Estimate:
    """Interpolated Kneser-Ney with one discount for each order.

    Args:
        counts: Of a text.
        discounts: One for each order, from 0 to 1; default n₁ / (n₁ + 2 n₂), where n_c is the number of n-grams that were seen c times.
    """
    if discounts is not None:
        _check(discounts, counts.index.order)
        return _interpolated(counts, [(value,) * 3 for value in discounts])
    return _interpolated(counts, [_single_discount(seen) for seen in _adjusted(counts)])


def modified_kneser_ney(counts: NGramCounts) -> Estimate:
    """Interpolated Kneser-Ney with a discount each for n-grams seen once, twice, and more often (Chen and Goodman 1999, equation 26).

    It is what `lmplz` of KenLM estimates, and with fixed ids for a vocabulary that may hold words the text has not.
    """
    return _interpolated(counts, [_three_discounts(seen) for seen in _adjusted(counts)])


SMOOTHINGS: dict[str, Callable[..., Estimate]] = {
    "mle": maximum_likelihood,
    "add_k": add_k,
    "kneser_ney": kneser_ney,
    "modified_kneser_ney": modified_kneser_ney,
}


def _interpolated(counts: NGramCounts, discounts: list[tuple[float, float, float]]) -> Estimate:
    index = counts.index
    words = _predictable(counts)
    lower = np.where(words, 1 / words.sum(), 0.0)  # below unigrams: every word alike
    log_probabilities, log_backoffs = [], []
    for length, (seen, discount) in enumerate(zip(_adjusted(counts), discounts, strict=True), start=1):
        parents, contexts = index.parents(length), _num_contexts(counts, length)
        totals = np.bincount(parents, seen, minlength=contexts)
        taken = np.array([0.0, *discount])[np.minimum(seen, 3)]
        left_over = np.where(totals > 0, _ratio(np.bincount(parents, taken, minlength=contexts), totals), 1.0)
        below = lower if length == 1 else lower[index.suffixes(length)]
        lower = _ratio(seen - taken, totals[parents]) + left_over[parents] * below
        log_probabilities.append(_log(lower))
        if length > 1:
            log_backoffs.append(_log(left_over))
    return log_probabilities, [*log_backoffs, np.zeros(index.size(index.order))]


def _adjusted(counts: NGramCounts) -> list[np.ndarray]:
    """For each order what Kneser-Ney counts: below the highest, how many different words stand before an n-gram.

    Before one that begins a text or a document there stands none, so it keeps its own count.
    """
    index, adjusted = counts.index, []
    for length in range(1, index.order):
        before = np.bincount(index.suffixes(length + 1), minlength=index.size(length))
        adjusted.append(np.where(before > 0, before, counts.counts[length - 1]))
    return [_seen(counts, [*adjusted, counts.counts[-1]], length) for length in range(1, index.order + 1)]


def _seen(counts: NGramCounts, seen: Sequence[np.ndarray], length: int) -> np.ndarray:
    return np.where(_predictable(counts), seen[0], 0) if length == 1 else seen[length - 1]


def _predictable(counts: NGramCounts) -> np.ndarray:
    return ~np.isin(np.arange(counts.index.vocabulary_size), counts.unpredictable)


def _num_contexts(counts: NGramCounts, length: int) -> int:
    return 1 if length == 1 else counts.index.size(length - 1)


def _single_discount(seen: np.ndarray) -> tuple[float, float, float]:
    once, twice = ((seen == times).sum() for times in (1, 2))
    discount = once / (once + 2 * twice) if once and twice else 0.75
    return (discount,) * 3


def _three_discounts(seen: np.ndarray) -> tuple[float, float, float]:
    n1, n2, n3, n4 = (int((seen == times).sum()) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return FALLBACK
    share = n1 / (n1 + 2 * n2)
    estimated = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    return estimated if all(0 <= value <= times for times, value in enumerate(estimated, start=1)) else FALLBACK


def _check(discounts: Sequence[float], order: int) -> None:
    if len(discounts) != order or not all(0 <= value <= 1 for value in discounts):
        raise UserError(f"discounts must be {order} numbers from 0 to 1, one for each order, got {list(discounts)}")


def _ratio(above: np.ndarray | float, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(np.shape(above), below.shape)), where=below > 0)


def _log(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(values)

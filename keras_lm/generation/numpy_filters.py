"""The filters of `filters`, in NumPy: for a loop that runs in Python, where a call of a compiled function costs more than the filter.

Each takes the logits of one row, `(vocabulary,)` float32, and its knob as a number, and gives new logits; none writes into what it is
given. What is kept and what is forbidden is the same as there, ties included; `tests/generation/test_numpy_filters.py` compares them all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FORBIDDEN = np.float32("-inf")
_FEW = 1024  # numbers that are summed sooner than searched for those that count

KNOBS = (
    "max_new_tokens",
    "min_new_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "seed",
)
"""The numbers of `SamplingSettings`, as in `decode.Knobs`."""

_OFF = {
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


def nothing_filters(knobs: Mapping[str, float]) -> bool:
    """Whether all filters but the temperature are off."""
    return all(knobs[name] == value for name, value in _OFF.items())


def filtered(
    logits: np.ndarray,
    knobs: Mapping[str, float],
    *,
    bias: np.ndarray,
    text: np.ndarray,
    seen: np.ndarray,
    fresh: np.ndarray,
    length: int,
    end_id: int,
) -> np.ndarray:
    """All rules and filters in their order.

    Args:
        logits: `(vocabulary,)`, the model's own.
        knobs: A number for each of `KNOBS`.
        bias: `(vocabulary,)`, added to the logits; -inf forbids a token.
        text: `(n,)` int32: prompt and new tokens so far.
        seen, fresh: `(vocabulary,)` int32: how often each token stands in `text`, and among the new ones.
        length: How many new tokens there are.
        end_id: The token that ends a text.

    Example:

    >>> knobs = {**_OFF, "temperature": 1.0, "top_k": 2}
    >>> none = np.zeros(3, np.int32)
    >>> logits, text = np.array([1.0, 3.0, 2.0], np.float32), none[:0]
    >>> filtered(logits, knobs, bias=np.zeros(3, np.float32), text=text, seen=none, fresh=none, length=0, end_id=0).tolist()
    [-inf, 3.0, 2.0]
    """
    if knobs["repetition_penalty"] != 1:
        logits = apply_repetition_penalty(logits, seen, knobs["repetition_penalty"])
    if knobs["presence_penalty"]:
        logits = logits - np.where(fresh > 0, np.float32(knobs["presence_penalty"]), np.float32(0))
    if knobs["frequency_penalty"]:
        logits = logits - fresh.astype(np.float32) * np.float32(knobs["frequency_penalty"])
    if knobs["no_repeat_ngram_size"]:
        logits = forbid_repeated_ngrams(logits, text, int(knobs["no_repeat_ngram_size"]))
    logits = logits + bias
    if length < knobs["min_new_tokens"]:
        logits[end_id] = FORBIDDEN
    if knobs["temperature"] > 0 and knobs["temperature"] != 1:
        logits = logits / np.float32(knobs["temperature"])
    if 0 < knobs["top_k"] < logits.size:
        logits = keep_top_k(logits, int(knobs["top_k"]))
    if knobs["top_p"] < 1:
        logits = keep_top_p(logits, knobs["top_p"])
    if knobs["min_p"]:
        logits = keep_min_p(logits, knobs["min_p"])
    if knobs["typical_p"] < 1:
        logits = keep_typical(logits, knobs["typical_p"])
    if knobs["epsilon_cutoff"]:
        logits = cut_epsilon(logits, knobs["epsilon_cutoff"])
    if knobs["eta_cutoff"]:
        logits = cut_eta(logits, knobs["eta_cutoff"])
    return logits


def apply_repetition_penalty(logits: np.ndarray, counts: np.ndarray, penalty: float) -> np.ndarray:
    """logit/penalty where it is positive, logit·penalty where it is negative, for tokens whose count is over 0."""
    penalty = np.float32(penalty)
    return np.where(counts > 0, np.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_repeated_ngrams(logits: np.ndarray, text: np.ndarray, size: int) -> np.ndarray:
    """Forbids each token that would complete an n-gram which `text`, `(n,)`, holds already.

    Example:

    >>> forbid_repeated_ngrams(np.zeros(6, np.float32), np.array([1, 2, 3, 1, 2]), 3).tolist()
    [0.0, 0.0, 0.0, -inf, 0.0, 0.0]
    """
    if len(text) < size:
        return logits
    starts = np.lib.stride_tricks.sliding_window_view(text, size)
    repeats = (starts[:, :-1] == text[len(text) - size + 1 :]).all(axis=1)
    logits = logits.copy()
    logits[starts[repeats, -1]] = FORBIDDEN
    return logits


def keep_top_k(logits: np.ndarray, top_k: int) -> np.ndarray:
    """Keeps the k largest, and any that equal the k-th; k is less than the vocabulary."""
    return _keep(logits, logits, np.partition(logits, logits.size - top_k)[logits.size - top_k])


def keep_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Keeps the smallest set of most probable tokens whose probabilities sum to at least p, and any that equal its last."""
    probabilities = softmax(logits)
    return _keep(logits, probabilities, _least_kept(probabilities, probabilities, top_p))


def keep_min_p(logits: np.ndarray, min_p: float) -> np.ndarray:
    """Keeps what is at least min_p times as probable as the most probable token."""
    return _keep(logits, logits, logits.max() + np.log(np.float32(min_p)))


def keep_typical(logits: np.ndarray, typical_p: float) -> np.ndarray:
    """Keeps the smallest set of tokens nearest the entropy whose probabilities sum to at least typical_p, and any as near as its last."""
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    nearness = -np.abs(log_probabilities + _entropy(probabilities, log_probabilities))
    return _keep(logits, nearness, _least_kept(nearness, probabilities, typical_p))


def cut_epsilon(logits: np.ndarray, epsilon: float) -> np.ndarray:
    """Forbids what is less probable than epsilon; the most probable token stays."""
    return _cut(logits, softmax(logits), epsilon)


def cut_eta(logits: np.ndarray, eta: float) -> np.ndarray:
    """Forbids what is less probable than min(eta, √eta·exp(-H)), H the entropy; the most probable token stays."""
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    eta = np.float32(eta)
    return _cut(logits, probabilities, min(eta, np.sqrt(eta) * np.exp(-_entropy(probabilities, log_probabilities))))


def choose(logits: np.ndarray, uniform: float, temperature: float) -> int | None:
    """Draws from softmax(logits) by inverting the cumulative distribution; at temperature 0 the largest logit.

    Args:
        logits: `(vocabulary,)`.
        uniform: In [0, 1).
        temperature: Only whether it is 0 counts.

    Returns:
        The token, or `None` where all are forbidden.

    Example:

    >>> [choose(np.log(np.float32([0.5, 0.5])), uniform, 1.0) for uniform in (0.3, 0.8)]
    [0, 1]
    """
    largest = logits.argmax()
    if logits[largest] == FORBIDDEN:
        return None
    if temperature <= 0:
        return int(largest)
    places = None if logits.size < _FEW else (logits > FORBIDDEN).nonzero()[0]
    kept = logits if places is None else logits[places]
    upto = np.exp(kept - logits[largest]).cumsum(dtype=np.float64)  # flat where a token is forbidden, which is passed over
    place = int(upto.searchsorted(uniform * upto[-1], side="right"))
    if place == len(kept):
        return int(largest)
    return place if places is None else int(places[place])


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(vocabulary,)` → probabilities; -inf gives 0."""
    weights = np.exp(logits - logits[logits.argmax()])  # faster than `max` for a few
    return weights / np.add.reduce(weights)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """`(..., vocabulary)` → ln of the probabilities along the last axis; -inf stays."""
    moved = logits - logits.max(axis=-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))


def _entropy(probabilities: np.ndarray, log_probabilities: np.ndarray) -> np.float32:
    return -np.sum(probabilities * np.where(probabilities > 0, log_probabilities, np.float32(0)))


def _keep(logits: np.ndarray, values: np.ndarray, least: float) -> np.ndarray:
    return np.where(values >= least, logits, FORBIDDEN)


def _cut(logits: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    return _keep(logits, probabilities, min(np.float32(threshold), probabilities.max()))


def _least_kept(values: np.ndarray, weights: np.ndarray, mass: float) -> np.float32:
    """The largest of `values` such that the tokens that reach it weigh `mass` or more together; -inf where all of them do not.

    The largest few hundred are nearly always enough: they are found without sorting the vocabulary.
    """
    count = min(256, values.size)
    while True:
        if values is weights:  # then it does not matter which they are
            largest = np.sort(values if count == values.size else np.partition(values, values.size - count)[values.size - count :])[::-1]
            upto = largest.cumsum()
        else:
            places = np.argpartition(values, values.size - count)[values.size - count :] if count < values.size else np.arange(count)
            places = places[np.argsort(-values[places])]
            largest, upto = values[places], weights[places].cumsum()
        place = int(upto.searchsorted(np.float32(mass)))
        if place < count:
            return largest[place]
        if count == values.size:
            return FORBIDDEN
        count = min(8 * count, values.size)

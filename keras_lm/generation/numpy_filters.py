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


class Filters:
    """All rules and filters of a row, in their order; what is off is left out once, not at every token.

    Args:
        knobs: A number for each of `KNOBS`.
        end_id: The token that ends a text.

    Attributes:
        counts: Whether a rule asks how often tokens stand in the text.
        reads: Whether a rule looks at the text at all.
        choice: Temperature, top-k and top-p as a LiteRT file that chooses tokens takes them, if nothing else has a say.

    Example:

    >>> filters = Filters({**_OFF, "temperature": 1.0, "top_k": 2}, end_id=0)
    >>> logits, bias = np.array([1.0, 3.0, 2.0], np.float32), np.zeros(3, np.float32)
    >>> filters(logits, bias, length=0).tolist()
    [-inf, 3.0, 2.0]
    >>> [filters.draw(logits, bias, length=0, uniform=uniform) for uniform in (0.1, 0.9)]
    [1, 2]
    """

    def __init__(self, knobs: Mapping[str, float], end_id: int):
        self._knobs, self._end_id = knobs, end_id
        self._greedy = knobs["temperature"] <= 0
        self.counts = bool(knobs["repetition_penalty"] != 1 or knobs["presence_penalty"] or knobs["frequency_penalty"])
        self.reads = self.counts or knobs["no_repeat_ngram_size"] > 0
        shaping = [(name, function) for name, function in _SHAPING.items() if knobs[name] != _OFF.get(name, 1.0)]
        shaping = [(name, function) for name, function in shaping if name != "temperature" or not self._greedy]
        self._shaping = [(function, knobs[name]) for name, function in shaping]
        self.choice = self._few_knobs() if {name for name, _ in shaping} <= {"temperature", "top_k", "top_p"} else None
        last = shaping[-1][0] if shaping and not self._greedy else ""
        self._weigh, self._before = _weights, self._shaping  # what gives a draw its weights, and the filters before it
        if last in _WEIGHING:
            self._weigh, self._before = lambda logits: _WEIGHING[last](logits, knobs[last]), self._shaping[:-1]

    def _few_knobs(self) -> tuple[float, int, float] | None:
        if self.reads or self._knobs["min_new_tokens"] > 0:
            return None
        if self._greedy:
            return 1.0, 1, 2.0
        all_tokens, top_p = 2**31 - 1, self._knobs["top_p"]
        return self._knobs["temperature"], min(self._knobs["top_k"] or all_tokens, all_tokens), top_p if top_p < 1 else 2.0

    def __call__(self, logits: np.ndarray, bias: np.ndarray, length: int, **rest: np.ndarray) -> np.ndarray:
        """What may come next: logits, with -inf where it may not.

        Args:
            logits: `(vocabulary,)`, the model's own.
            bias: `(vocabulary,)`, added to the logits; -inf forbids a token.
            length: How many new tokens there are.
            rest: Where `reads` holds, `text`, `(n,)` int32, prompt and new tokens so far; `seen` and `fresh`, `(vocabulary,)` int32, how
                often each token stands in it, and among the new ones.
        """
        logits = self._ruled(logits, bias, length, **rest)
        for function, knob in self._shaping:
            logits = function(logits, knob)
        return logits

    def draw(self, logits: np.ndarray, bias: np.ndarray, length: int, uniform: float, **rest: np.ndarray) -> int | None:
        """A token of what may come next, or `None` where all are forbidden; the most probable one at temperature 0.

        Args:
            logits, bias, length, rest: As in a call.
            uniform: In [0, 1).
        """
        logits = self._ruled(logits, bias, length, **rest)
        for function, knob in self._before:
            logits = function(logits, knob)
        if self._greedy:
            largest = logits.argmax()
            return int(largest) if logits[largest] > FORBIDDEN else None
        return choose(self._weigh(logits), uniform)

    def _ruled(self, logits: np.ndarray, bias: np.ndarray, length: int, **rest: np.ndarray) -> np.ndarray:
        logits = (self._read(logits, **rest) if self.reads else logits) + bias
        if length < self._knobs["min_new_tokens"]:
            logits[self._end_id] = FORBIDDEN
        return logits

    def _read(self, logits: np.ndarray, text: np.ndarray, seen: np.ndarray, fresh: np.ndarray) -> np.ndarray:
        knobs = self._knobs
        if knobs["repetition_penalty"] != 1:
            logits = apply_repetition_penalty(logits, seen, knobs["repetition_penalty"])
        if knobs["presence_penalty"]:
            logits = logits - np.where(fresh > 0, np.float32(knobs["presence_penalty"]), np.float32(0))
        if knobs["frequency_penalty"]:
            logits = logits - fresh.astype(np.float32) * np.float32(knobs["frequency_penalty"])
        if knobs["no_repeat_ngram_size"]:
            logits = forbid_repeated_ngrams(logits, text, int(knobs["no_repeat_ngram_size"]))
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


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divides by it."""
    return logits / np.float32(temperature)


def keep_top_k(logits: np.ndarray, top_k: int) -> np.ndarray:
    """Keeps the k largest, and any that equal the k-th."""
    return logits if top_k >= logits.size else _keep(logits, logits, _at_rank(logits, int(top_k)))


def _top(logits: np.ndarray, top_k: int) -> np.ndarray:
    """The weights of what `keep_top_k` keeps, 0 elsewhere."""
    weights = _weights(logits)
    if top_k < logits.size:
        weights *= logits >= _at_rank(logits, int(top_k))
    return weights


def keep_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Keeps the smallest set of most probable tokens whose probabilities sum to at least p, and any that equal its last."""
    probabilities = softmax(logits)
    return _keep(logits, probabilities, _least_kept(probabilities, probabilities, top_p))


def _nucleus(logits: np.ndarray, top_p: float) -> np.ndarray:
    """The weights of what `keep_top_p` keeps, 0 elsewhere."""
    weights = _weights(logits)
    weights *= weights >= _least_kept(weights, weights, top_p)
    return weights


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


def choose(weights: np.ndarray, uniform: float) -> int | None:
    """Draws a token by inverting the cumulative distribution.

    Args:
        weights: `(vocabulary,)`, in proportion to the probabilities; 0 forbids a token.
        uniform: In [0, 1).

    Returns:
        The token, or `None` where all are forbidden.

    Example:

    >>> [choose(np.float32([0.5, 0.0, 0.5]), uniform) for uniform in (0.3, 0.8)]
    [0, 2]
    """
    places = None if weights.size < _FEW else (weights > 0).nonzero()[0]
    kept = weights if places is None else weights[places]
    if not kept.size:
        return None
    upto = kept.cumsum(dtype=None if places is None else np.float64)  # flat where a token is forbidden, which is passed over
    place = int(upto.searchsorted(uniform * upto[-1], side="right"))
    if place == len(kept):
        largest = weights.argmax()
        return int(largest) if weights[largest] > 0 else None
    return place if places is None else int(places[place])


def softmax(logits: np.ndarray) -> np.ndarray:
    """`(vocabulary,)` → probabilities; -inf gives 0."""
    weights = _weights(logits)
    weights /= np.add.reduce(weights) or np.float32(1)
    return weights


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """`(..., vocabulary)` → ln of the probabilities along the last axis; -inf stays."""
    moved = logits - logits.max(axis=-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))


def _weights(logits: np.ndarray) -> np.ndarray:
    """The probabilities times some factor; 0 everywhere if all are forbidden."""
    largest = logits[logits.argmax()]  # faster than `max` for a few
    if largest == FORBIDDEN:
        return np.zeros_like(logits)
    moved = logits - largest
    return np.exp(moved, out=moved)


def _entropy(probabilities: np.ndarray, log_probabilities: np.ndarray) -> np.float32:
    return -np.sum(probabilities * np.where(probabilities > 0, log_probabilities, np.float32(0)))


def _keep(logits: np.ndarray, values: np.ndarray, least: float) -> np.ndarray:
    return np.where(values >= least, logits, FORBIDDEN)


def _cut(logits: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    return _keep(logits, probabilities, min(np.float32(threshold), probabilities.max()))


def _least_kept(values: np.ndarray, weights: np.ndarray, share: float) -> np.float32:
    """The largest of `values` such that the tokens that reach it have that share of all weights or more; -inf where none is such.

    The largest few hundred are nearly always enough: they are found without sorting the vocabulary.
    """
    share = np.float32(share)
    if values is weights and values.size < _FEW:  # every call counts
        largest = _descending(values.copy())
        upto = largest.cumsum()
        return largest[upto.searchsorted(share * upto[-1])]
    count, total = min(256, values.size), np.add.reduce(weights)
    while True:
        if values is weights:  # then it does not matter which they are
            largest = _descending(_largest(values, count))
            upto = largest.cumsum()
        else:
            places = np.argpartition(values, values.size - count)[values.size - count :] if count < values.size else np.arange(count)
            places = places[np.argsort(-values[places])]
            largest, upto = values[places], weights[places].cumsum()
        place = int(upto.searchsorted(share * total))
        if place < len(largest):
            return largest[place]
        if count == values.size:
            return FORBIDDEN
        count = min(8 * count, values.size)


def _descending(values: np.ndarray) -> np.ndarray:
    """Sorts them where they lie; gives them from the largest on."""
    values.sort()
    return values[::-1]


def _at_rank(values: np.ndarray, count: int) -> np.float32:
    """The `count`-th largest."""
    largest = _largest(values, count)
    largest.partition(largest.size - count)
    return largest[largest.size - count]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest, and perhaps others, in no order; a copy.

    Of many, most are smaller than as many maxima of groups, which a comparison finds sooner than a partition of all.
    """
    if values.size < _FEW:
        return values.copy()
    width = values.size // (4 * count)
    if width < 4:
        return np.partition(values, values.size - count)[values.size - count :]
    maxima = values[: values.size // width * width].reshape(width, -1).max(axis=0)
    maxima.partition(maxima.size - count)
    return values[values >= maxima[maxima.size - count]]


_SHAPING = {
    "temperature": apply_temperature,
    "top_k": keep_top_k,
    "top_p": keep_top_p,
    "min_p": keep_min_p,
    "typical_p": keep_typical,
    "epsilon_cutoff": cut_epsilon,
    "eta_cutoff": cut_eta,
}
"""The filters that look at the logits alone, by their knobs, in their order."""

_WEIGHING = {"top_k": _top, "top_p": _nucleus}
"""Filters whose last part, the exponentials, is done already when weights are what is asked for."""

"""Learning from context without learning: what having read a token once is worth when it comes again.

No weight changes while a text is read, yet a name that has just stood there is expected again. How much of that is the name itself, and not
the subject it belongs to? The first occurrence is put out of the text, another token into its place, and the probability of the second
one compared: log P(token | text as it is) - log P(token | first occurrence replaced), in nats, by the distance between the two.

References:
    Article A4 §2.3 (a model predicts better by its context). Kuhn and De Mori 1990 (cache models). Olsson et al. 2022, arXiv:2209.11895
    (in-context learning as a loss that falls along the text).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.recurrent import run_model


class Repetitions(NamedTuple):
    """Tokens that come a second time.

    Attributes:
        distances: Tokens from the first occurrence to the second, `(repetitions,)`.
        gains: What the first is worth to the second, in nats, `(repetitions,)`.
    """

    distances: np.ndarray
    gains: np.ndarray


def repetition_gain(
    model: keras.Model, ids: np.ndarray, counted: np.ndarray, *, limit: int | None = None, seed: int = 0, batch_size: int = 64
) -> Repetitions:
    """Measures what the first occurrence of a token is worth to the second, for every token that stands in a window for the second time.

    Args:
        model: From ids to logits, causal.
        ids: `(windows, time + 1)` int32 of text that the model has not been trained on.
        counted: Ids to look at, e.g. those that are rare; what replaces a first occurrence is drawn from them too.
        limit: Take as many repetitions at the most, drawn at random; default all.
        seed: Decides what is drawn.
        batch_size: Windows at a time.

    Returns:
        Distances and gains.

    Raises:
        UserError: no such token comes twice, or fewer than two ids to choose from.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> found = repetition_gain(gru_lm(20, embedding_dim=8, hidden_dim=8), np.array([[4, 9, 5, 9, 6]]), np.array([8, 9]))
    >>> found.distances.tolist()
    [2]
    """
    ids, counted = np.asarray(ids, np.int32), np.unique(counted)
    if len(counted) < 2:
        raise UserError(f"at least two ids have to be counted, so that one can stand in for the other, got {len(counted)}")
    places = [(row, *pair) for row, window in enumerate(ids) for pair in _second_occurrences(window, counted)]
    if not places:
        raise UserError("none of the counted ids stands in a window twice: give more text, or count more ids")
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(places))[:limit]
    rows, first, second = np.array(places)[np.sort(chosen)].T
    whole = ids[rows]
    number = np.arange(len(whole))
    token = whole[number, second]
    other = generator.integers(len(counted) - 1, size=len(whole))
    other += other >= np.searchsorted(counted, token)  # any of them but the token itself
    replaced = whole.copy()
    replaced[number, first] = counted[other]
    log_probability = _log_probability(model)
    gains = []
    for start in range(0, len(whole), batch_size):
        part = slice(start, start + batch_size)
        as_it_is, without = (log_probability(text[part], second[part] - 1, token[part]) for text in (whole, replaced))
        gains.append(as_it_is - without)
    return Repetitions(second - first, np.concatenate(gains))


def _second_occurrences(window: np.ndarray, counted: np.ndarray) -> list[tuple[int, int]]:
    """Places of the first and the second occurrence of each counted id that stands in the window twice."""
    found = []
    for token in np.intersect1d(window, counted):
        places = np.flatnonzero(window == token)
        if len(places) > 1:
            found.append((int(places[0]), int(places[1])))
    return found


def _log_probability(model: keras.Model) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """`(ids (batch, time + 1), places (batch,), tokens (batch,)) -> (batch,)`: log P of each row's token after the input at its place."""

    @tf.function(reduce_retracing=True)
    def compiled(inputs: tf.Tensor, places: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        logits = tf.gather(run_model(model, inputs), places, batch_dims=1)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(tokens, logits)

    return lambda ids, places, tokens: compiled(tf.constant(ids[:, :-1]), tf.constant(places), tf.constant(tokens)).numpy()

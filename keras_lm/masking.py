"""Hidden tokens: what a masked language model learns from, as BERT does.

Of each window a share of the tokens is asked for. Most of these the model sees hidden, some replaced by another, some as they are, so that
it cannot tell from what it sees which it will be asked for. A token is hidden by the unknown one: a vocabulary needs no token of its own
for that, and the head for it has one task less.

References:
    Devlin et al. 2019, «BERT», §3.1 (15 %; of these 80 % hidden, 10 % replaced, 10 % kept).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from keras_lm.tokenizer_base import NUM_SPECIAL, UNKNOWN_ID

SHARE = 0.15


def hide(ids: np.ndarray, vocabulary_size: int, generator: np.random.Generator, share: float = SHARE) -> tuple[np.ndarray, np.ndarray]:
    """Hides some tokens of windows.

    Args:
        ids: `(batch, time)`: what stands there; special tokens are never asked for.
        vocabulary_size: Number of ids.
        generator: Decides which.
        share: Of the tokens that are asked for, 0 to 1.

    Returns:
        What the model sees, of the shape and dtype of `ids`, and `(batch, time)` bool: what it is asked for, at least one token where there
        is any that can be.

    Example:

    >>> seen, asked = hide(np.array([[2, 10, 11, 12, 3]]), 20, np.random.default_rng(0), share=0.5)
    >>> bool((seen[~asked] == np.array([[2, 10, 11, 12, 3]])[~asked]).all()), bool(asked[0, 0])
    (True, False)
    """
    plain = ids >= NUM_SPECIAL
    drawn = np.where(plain, generator.random(ids.shape), 2.0)
    asked = drawn < share
    if plain.any() and not asked.any():
        asked.flat[drawn.argmin()] = True
    fate = generator.random(ids.shape)
    others = generator.integers(NUM_SPECIAL, max(vocabulary_size, NUM_SPECIAL + 1), ids.shape).astype(ids.dtype)
    seen = np.where(fate < 0.8, np.asarray(UNKNOWN_ID, ids.dtype), np.where(fate < 0.9, others, ids))
    return np.where(asked, seen, ids), asked


def masked_batches(
    windows: Iterable, vocabulary_size: int, *, seed: int, start_step: int = 0, rows: tuple[int, int] | None = None
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Training batches of windows, with tokens hidden as a function of the seed and the step.

    Args:
        windows: `(inputs, targets)` as `pipeline.training_batches` gives them from step `start_step` on, all rows of a batch; the inputs
            are read.
        vocabulary_size: Number of ids.
        seed, start_step: Decide what is hidden.
        rows: First and end of the rows that are wanted; default all.

    Yields:
        `(seen, (ids, weights))`, each `(rows, time)`; weights are the same for all tokens asked for, and add up to 1 over the whole batch.
    """
    first, end = rows or (0, None)
    for step, (inputs, _) in zip(itertools.count(start_step), windows):
        ids = np.asarray(inputs)
        seen, asked = hide(ids, vocabulary_size, np.random.default_rng([seed, step, _OF_TRAINING]))
        weights = asked / np.float32(max(asked.sum(), 1))
        yield seen[first:end], (ids[first:end], weights[first:end])


def masked_evaluation_batches(windows: Iterable, vocabulary_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`(seen, ids, weights)` for each `(inputs, targets, weights)` of `pipeline.evaluation_batches`; the same at every pass."""
    for step, (inputs, _, real) in enumerate(windows):
        seen, asked = hide(inputs, vocabulary_size, np.random.default_rng([step, _OF_EVALUATION]))
        yield seen, inputs, (asked & (real > 0)).astype(np.float32)


_OF_TRAINING, _OF_EVALUATION = 1, 2

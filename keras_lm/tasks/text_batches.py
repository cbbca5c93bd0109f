"""Texts as batches that a model reads: texts of like lengths together, all batches of one number of rows and few widths, so that few shapes
are compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_lm.parallel import batch_width
from keras_lm.tokenizer_base import Tokenizer


def text_rows(texts: Sequence[str], tokenizer: Tokenizer, clean: Callable[[tf.Tensor], tf.Tensor], longest: int) -> list[np.ndarray]:
    """The ids of each text between start and end; of a long one as many as fit.

    Args:
        texts: Any number.
        tokenizer: A fitted tokenizer.
        clean: As `keras_lm.cleaning.compose` makes it.
        longest: Tokens to which a text is cut, its start and end counted.

    Returns:
        An array int32 for each text.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> [row.tolist() for row in text_rows(["ab", ""], ByteTokenizer(), lambda texts: texts, 8)]
    [[2, 101, 102, 3], [2, 3]]
    """
    if not len(texts):
        return []
    rows = tokenizer.tokenize(clean(tf.constant(list(texts), tf.string)))
    flat, splits = rows.flat_values.numpy(), rows.row_splits.numpy().tolist()
    start, end = [tokenizer.start_id], [tokenizer.end_id]
    inside = (flat[first : min(after, first + longest - 2)] for first, after in itertools.pairwise(splits))
    return [np.concatenate([start, own, end]).astype(np.int32) for own in inside]


def row_batches(rows: Sequence[np.ndarray], longest: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of ids in batches, short ones first.

    Args:
        rows: Of at most `longest` ids each.
        longest: Most ids of a row.
        batch_size: Rows a batch.

    Yields:
        The numbers of some rows, and these padded with 0: `(batch_size, width)` int32; rows behind the last are all 0.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        ids = np.zeros([batch_size, batch_width(int(lengths[numbers].max()), longest)], np.int32)
        for place, number in enumerate(numbers.tolist()):
            ids[place, : lengths[number]] = rows[number]
        yield numbers, ids

"""Counts of n-grams as sorted arrays of integers: no dictionary, no tuple.

An n-gram is a row: the row of what stands before its last word (one word shorter), and that word. Both go into one whole number,
`parent * vocabulary_size + word`; sorting these numbers counts them, and a binary search finds one of them again. So a text of a million
tokens is counted in a second, and a whole text is looked up at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_lm.errors import UserError


class NGramIndex:
    """The different n-grams of orders 1 to n, and where to find them.

    Args:
        keys: For each order from 2 on the sorted numbers `parent * vocabulary_size + word`, int64. Rows of order 1 are the ids themselves.
        vocabulary_size: The number of ids.
    """

    def __init__(self, keys: Sequence[np.ndarray], vocabulary_size: int):
        self.vocabulary_size = vocabulary_size
        self._keys = [np.arange(vocabulary_size), *keys]

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self._keys)

    def size(self, order: int) -> int:
        """How many different n-grams of this order there are; of order 1 as many as there are ids, seen or not."""
        return len(self._keys[order - 1])

    def keys(self, order: int) -> np.ndarray:
        """`parent * vocabulary_size + word` of each, sorted: what an index is made from."""
        return self._keys[order - 1]

    def parents(self, order: int) -> np.ndarray:
        """Rows, one order below, of the n-grams without their last words; of order 1 all 0, the empty one."""
        return self._keys[order - 1] // self.vocabulary_size

    def words(self, order: int, rows: slice = slice(None)) -> np.ndarray:
        """The last words of some of them; default all."""
        return self._keys[order - 1][rows] % self.vocabulary_size

    def find(self, order: int, parents: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The rows of n-grams that go on from the rows `parents`, one order below, with `words`; -1 where there is none."""
        known = self._keys[order - 1]
        if order == 1:
            return np.asarray(words, np.int64)
        if not len(known):  # every text was shorter
            return np.full(np.shape(words), -1, np.int64)
        wanted = np.asarray(parents, np.int64) * self.vocabulary_size + words
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where((np.asarray(parents) >= 0) & (known[places] == wanted), places, -1)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """For each place of a text the rows of the n-grams that end there.

        Args:
            ids: `(tokens,)`.

        Returns:
            `(order, tokens)` int64; -1 where the n-gram is not known, or the text has not yet so many words.
        """
        rows = np.full([self.order, len(ids)], -1, np.int64)
        rows[0] = ids
        for order in range(2, self.order + 1):
            if len(ids) >= order:
                rows[order - 1, 1:] = self.find(order, rows[order - 2, :-1], ids[1:])
        return rows

    def children(self, order: int, row: int) -> slice:
        """The rows, one order above, of what goes on from a row of this order; of order 0 there is one row, the empty n-gram."""
        bounds = np.searchsorted(self._keys[order], np.array([row, row + 1], np.int64) * self.vocabulary_size)
        return slice(*bounds.tolist())

    def suffixes(self, order: int) -> np.ndarray:
        """Rows, one order below, of the n-grams without their first words; -1 where that one is not known."""
        if order == 1:
            return np.zeros(self.vocabulary_size, np.int64)
        if order == 2:
            return self.words(2)
        return self.find(order - 1, self.suffixes(order - 1)[self.parents(order)], self.words(order))

    def ids(self, order: int) -> np.ndarray:
        """The n-grams written out: `(size, order)`."""
        columns, rows = [], np.arange(self.size(order))
        for length in range(order, 0, -1):
            columns.append(self.words(length)[rows])
            rows = self.parents(length)[rows]
        return np.stack(columns[::-1], axis=1)


@dataclasses.dataclass(frozen=True)
class NGramCounts:
    """How often each n-gram stands in a text.

    Args:
        index: The n-grams.
        counts: For each order `(size,)` int64.
        start_id: The token that begins a document: it is given, never predicted, and no n-gram reaches across it.
        unpredictable: Ids that have no probability: padding and start.
    """

    index: NGramIndex
    counts: list[np.ndarray]
    start_id: int
    unpredictable: tuple[int, ...]


def check_ids(ids: np.ndarray, vocabulary_size: int) -> None:
    """Refuses ids that no word of the vocabulary has.

    Raises:
        UserError: an id below 0, or not below the vocabulary's size.
    """
    if len(ids) and (ids.max() >= vocabulary_size or ids.min() < 0):
        raise UserError(f"ids must be from 0 to {vocabulary_size - 1}, one for each word of the vocabulary, got {ids.min()} to {ids.max()}")


def count_ngrams(ids: np.ndarray, order: int, *, vocabulary_size: int, pad_id: int = 0, start_id: int = 2) -> NGramCounts:
    """Counts the n-grams of orders 1 to `order`.

    Args:
        ids: `(tokens,)`, one text or documents in a row, each begun by `start_id`; as `pipeline.Tokens.ids` are. They and the counts lie
            in memory: about 25 bytes a token and order.
        order: The length of the longest.
        vocabulary_size: The number of ids.
        pad_id, start_id: The ids that are never predicted.

    Raises:
        UserError: an order below 1, an empty text, or one shorter than the order.

    Example:

    >>> counts = count_ngrams(np.array([4, 5, 4, 5, 6]), 2, vocabulary_size=7)
    >>> dict(zip(map(tuple, counts.index.ids(2).tolist()), counts.counts[1].tolist()))
    {(4, 5): 2, (5, 4): 1, (5, 6): 1}
    """
    ids = np.asarray(ids[:], np.int64)
    if not isinstance(order, int | np.integer) or order < 1:
        raise UserError(f"order must be a whole number from 1 on, got {order!r}")
    if not len(ids):
        raise UserError("there is nothing to count: the text is empty")
    if order > len(ids):
        raise UserError(f"order must be at most the length of the text, {len(ids)} tokens, got {order}")
    check_ids(ids, vocabulary_size)
    keys, counts, rows = [], [np.bincount(ids, minlength=vocabulary_size)], ids
    for _ in range(2, order + 1):
        numbers = rows[:-1] * vocabulary_size + ids[1:]
        inside = (rows[:-1] >= 0) & (ids[1:] != start_id)
        different, found, number = np.unique(numbers[inside], return_inverse=True, return_counts=True)
        rows = np.full(len(ids), -1, np.int64)
        rows[1:][inside] = found
        keys.append(different)
        counts.append(number)
    return NGramCounts(NGramIndex(keys, vocabulary_size), counts, start_id, (pad_id, start_id))

"""Pairs of texts as ids: on disk, and as batches whose order is a function of the seed and the step.

A split lies on disk as any tokenized corpus does, each source followed by its target, both as documents. So nothing new is to be stored: a
source is what stands between a start and an end token, and so is the target behind it.

A batch is as wide as its longest text wants, a power of two or halfway to the next, since each width is compiled once. So that little of a
batch is padding, pairs of like length are put together: an epoch's order is drawn, cut into stretches of some batches, and each stretch is
sorted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from keras_lm.files import replacing
from keras_lm.pipeline import Tokens, encode, load_tokens
from keras_lm.shards import SPLITS, ShardedIds
from keras_lm.tokenizer_base import START_ID, Tokenizer

_STRETCH = 64  # batches
_NARROWEST = 8
_TARGETS = "targets.json"


class PairIds:
    """The pairs of a split.

    Args:
        ids: `(tokens,)`: each source and each target as `start, ids ..., end`, in turns.
        longest: What is longer is cut, a source and its end token, or a target and its end token, to this many tokens.

    Attributes:
        source_lengths, target_lengths: `(pairs,)`: tokens of each, the end token counted, before anything is cut.

    Example:

    >>> pairs = PairIds(np.array([2, 10, 11, 3, 2, 20, 3, 2, 12, 3, 2, 21, 22, 23, 3]), longest=8)
    >>> len(pairs), [part.tolist() for part in pairs[1]]
    (2, [[12, 3], [2, 21, 22, 23, 3]])
    """

    def __init__(self, ids: np.ndarray | ShardedIds, longest: int):
        self.ids, self.longest = ids, longest
        starts = np.flatnonzero(np.asarray(ids) == START_ID)
        self._places = np.append(starts, len(ids)).astype(np.int64)
        lengths = np.diff(self._places) - 1
        self.source_lengths, self.target_lengths = lengths[0::2], lengths[1::2]

    def __len__(self) -> int:
        return len(self.target_lengths)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The source with its end token, and the target between its start and its end token."""
        first, middle, end = self._places[2 * number : 2 * number + 3].tolist()
        return self.ids[first + 1 : min(middle, first + 1 + self.longest)], self.ids[middle : min(end, middle + 1 + self.longest)]

    def width(self, numbers: np.ndarray) -> int:
        """How wide a batch of these pairs is."""
        return batch_width(max(int(self.source_lengths[numbers].max()), int(self.target_lengths[numbers].max())), self.longest)

    def cut(self) -> tuple[int, int]:
        """How many sources and how many targets are longer than `longest`."""
        return int((self.source_lengths > self.longest).sum()), int((self.target_lengths > self.longest).sum())

    def padded(self, numbers: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources, targets but for their last tokens, and targets but for their first, each `(pairs, width)` int32, padded with 0."""
        sources, inputs, labels = np.zeros([3, len(numbers), width], np.int32)
        for row, number in enumerate(numbers.tolist()):
            source, target = self[number]
            sources[row, : len(source)] = source
            inputs[row, : len(target) - 1] = target[:-1]
            labels[row, : len(target) - 1] = target[1:]
        return sources, inputs, labels


class DocumentIds(PairIds):
    """The documents of a split, each the target of itself: what a VAE reads and writes.

    Args:
        ids: `(tokens,)`: each document as `start, ids ..., end`.
        longest: What is longer is cut, with its end token, to this many tokens.

    Example:

    >>> documents = DocumentIds(np.array([2, 10, 11, 3, 2, 20, 3]), longest=8)
    >>> len(documents), [part.tolist() for part in documents[0]]
    (2, [[10, 11, 3], [2, 10, 11, 3]])
    """

    def __init__(self, ids: np.ndarray | ShardedIds, longest: int):
        super().__init__(ids, longest)
        self.source_lengths = self.target_lengths = np.diff(self._places) - 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        first, end = self._places[number : number + 2].tolist()
        document = self.ids[first : min(end, first + 1 + self.longest)]
        return document[1:], document


def encode_pairs(pairs: Iterable[tuple[str, str, str]], tokenizer: Tokenizer, folder: str | os.PathLike) -> dict[str, Tokens]:
    """Tokenizes pairs into `folder`, one pass.

    Args:
        pairs: `(split, source, target)`, from `keras_lm.pairs.split_pairs`.
        tokenizer: Of both sides.
        folder: Is created; must not exist.

    Returns:
        What `load_pair_tokens(folder)` gives.
    """
    targets = {name: {"characters": 0, "bytes": 0, "documents": 0} for name in SPLITS}

    def texts() -> Iterator[tuple[str, str]]:
        for split, source, target in pairs:
            count = targets[split]
            count["characters"] += len(target)
            count["bytes"] += len(target.encode())
            count["documents"] += 1
            yield split, source
            yield split, target

    encode(texts(), tokenizer, folder)
    with replacing(pathlib.Path(folder) / _TARGETS) as temporary:
        temporary.write_text(json.dumps(targets, indent=1) + "\n", encoding="utf-8")
    return load_pair_tokens(folder)


def load_pair_tokens(folder: str | os.PathLike) -> dict[str, Tokens]:
    """Opens what `encode_pairs` wrote: by split, with the characters, bytes and number of the targets.

    Raises:
        UserError: as `pipeline.load_tokens`.
    """
    targets = json.loads((pathlib.Path(folder) / _TARGETS).read_text(encoding="utf-8"))
    return {name: dataclasses.replace(tokens, **targets[name]) for name, tokens in load_tokens(folder).items()}


Batch = tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def pair_batches(
    pairs: PairIds, *, batch_size: int, seed: int = 0, start_step: int = 0, rows: tuple[int, int] | None = None
) -> Iterator[Batch]:
    """An endless iterator over training batches. Batch number `step` depends on `(seed, step)` alone; in an epoch each pair comes once.

    Args:
        pairs: A split.
        batch_size: Pairs a batch.
        seed: Chooses the order.
        start_step: Number of the first batch: a run that resumes after step n passes n.
        rows: First and end of the rows of each batch that are wanted, where several processes read a batch together; default all.

    Yields:
        `((sources, inputs), (labels, weights))`, each `(batch_size, width)`: ids int32, and float32 weights that are 0 where there is
        padding, the same for all tokens, and add up to 1 over the whole batch.

    Example:

    >>> pairs = PairIds(np.array([2, 10, 11, 3, 2, 20, 3, 2, 12, 3, 2, 21, 22, 23, 3]), longest=8)
    >>> (sources, inputs), (labels, weights) = next(pair_batches(pairs, batch_size=2))
    >>> sources.shape, float(tf.reduce_sum(weights))
    (TensorShape([2, 8]), 1.0)
    """
    first, end = rows or (0, batch_size)
    epoch_steps = -(-len(pairs) // batch_size)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return batch_order(np.maximum(pairs.source_lengths, pairs.target_lengths), batch_size, seed, epoch)

    def batches() -> Iterator[Batch]:
        step = start_step
        while True:
            numbers = order(step // epoch_steps)[step % epoch_steps]
            width = pairs.width(numbers)
            tokens = np.minimum(pairs.target_lengths[numbers], pairs.longest).sum()
            sources, inputs, labels = pairs.padded(numbers[first:end], width)
            yield (sources, inputs), (labels, (labels != 0) / np.float32(tokens))
            step += 1

    ids, weights = tf.TensorSpec([end - first, None], tf.int32), tf.TensorSpec([end - first, None], tf.float32)
    return iter(tf.data.Dataset.from_generator(batches, output_signature=((ids, ids), (ids, weights))).prefetch(4))


def batch_order(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The examples of each batch of an epoch, `(steps, batch_size)`, those of like lengths together; some may come twice to fill the last.

    Args:
        lengths: `(examples,)`: tokens of each.
        batch_size: Examples a batch.
        seed, epoch: Decide the order.
    """
    steps = -(-len(lengths) // batch_size)
    generator = np.random.default_rng([seed, epoch])
    drawn = np.resize(generator.permutation(len(lengths)), steps * batch_size)
    for start in range(0, len(drawn), _STRETCH * batch_size):
        stretch = drawn[start : start + _STRETCH * batch_size]
        stretch[:] = stretch[np.argsort(lengths[stretch], kind="stable")]
    return generator.permutation(drawn.reshape(steps, batch_size))


def batch_width(longest: int, most: int) -> int:
    """How wide a batch is whose longest text has so many tokens: a power of two or halfway to the next, `most` at most.

    Example:

    >>> [batch_width(longest, 100) for longest in (1, 9, 13, 70)]
    [8, 12, 16, 96]
    """
    power = max(_NARROWEST, 1 << (longest - 1).bit_length())
    halfway = power * 3 // 4
    return min(most, halfway if max(longest, _NARROWEST) <= halfway else power)


def pair_evaluation_batches(pairs: PairIds, *, batch_size: int) -> Iterator[Batch]:
    """One pass in which every token of every target is predicted once; `weights` are 0 where there is padding, else 1."""
    order = np.argsort(np.maximum(pairs.source_lengths, pairs.target_lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        missing = [(0, batch_size - len(numbers)), (0, 0)]
        sources, inputs, labels = (np.pad(part, missing) for part in pairs.padded(numbers, pairs.width(numbers)))
        yield (sources, inputs), (labels, (labels != 0).astype(np.float32))

"""Texts with labels as ids: on disk, and as batches whose order is a function of the seed and the step.

A split lies on disk as any tokenized corpus does, a text a document, and the labels beside it in `labels.npz`: one a text, or one a token.
Batches are made as those of pairs are (`keras_lm.parallel`): texts of like lengths together, in few widths.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.parallel import batch_order, batch_width
from keras_lm.pipeline import Tokens, encode, load_tokens
from keras_lm.shards import SPLITS
from keras_lm.tokenizer_base import START_ID, Tokenizer

_LABELS = "labels.npz"

Batch = tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTokens(Tokens):
    """One split of texts with labels.

    Args:
        labels: `(labels,)` int32: those of all texts, one after the other.
        ends: `(documents,)` int64: where those of each text end.
        per_token: Whether each token has a label, or each text one.
    """

    labels: np.ndarray
    ends: np.ndarray
    per_token: bool = False


class LabelledIds:
    """The texts of a split with their labels.

    Args:
        tokens: The split.
        longest: A text is cut to this many tokens, its start and end counted.

    Attributes:
        lengths: `(texts,)`: tokens of each, start and end counted, before anything is cut.

    Example:

    >>> ids = np.array([2, 10, 11, 3, 2, 12, 3])
    >>> counts = {"characters": 3, "bytes": 3, "documents": 2, "unknown": 0}
    >>> texts = LabelledIds(LabelledTokens(ids=ids, labels=np.array([1, 0]), ends=np.array([1, 2]), **counts), longest=8)
    >>> [part.tolist() for part in texts.padded(np.array([1, 0]), 4)]
    [[[2, 12, 3, 0], [2, 10, 11, 3]], [0, 1], [1.0, 1.0]]
    """

    def __init__(self, tokens: LabelledTokens, longest: int):
        self.longest, self._ids, self._labels = longest, tokens.ids, tokens.labels
        starts = np.flatnonzero(np.asarray(tokens.ids) == START_ID)
        self._places = np.append(starts, len(tokens.ids)).astype(np.int64)
        self.lengths = np.diff(self._places)
        self._ends = np.concatenate([[0], tokens.ends]).astype(np.int64)
        self.per_token = tokens.per_token

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, numbers: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The texts, `(texts, width)` int32, their labels, `(texts,)` or `(texts, width)`, and weights: 1 for a label, 0 for none."""
        texts = np.zeros([len(numbers), width], np.int32)
        labels, weights = np.zeros_like(texts), np.zeros(texts.shape, np.float32)
        for row, number in enumerate(numbers.tolist()):
            text, own = self[number]
            texts[row, : len(text)] = text
            places = slice(1, len(text) - 1) if self.per_token else slice(0, 1)  # start and end have no label
            labels[row, places], weights[row, places] = own[: places.stop - places.start], 1
        return (texts, labels, weights) if self.per_token else (texts, labels[:, 0], weights[:, 0])

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A text's ids and its labels; of one that is too long the end token stays."""
        first, end = self._places[number : number + 2].tolist()
        text = self._ids[first:end]
        if len(text) > self.longest:
            text = np.append(text[: self.longest - 1], text[-1])
        return text, self._labels[self._ends[number] : self._ends[number + 1]]

    def width(self, numbers: np.ndarray) -> int:
        """How wide a batch of these texts is."""
        return batch_width(int(self.lengths[numbers].max()), self.longest)


def encode_labelled(
    examples: Iterable[tuple[str, str, Sequence[int]]], tokenizer: Tokenizer, folder: str | os.PathLike, *, per_token: bool = False
) -> dict[str, LabelledTokens]:
    """Tokenizes texts with labels into `folder`, one pass.

    Args:
        examples: `(split, text, labels)`: one label, or one for each token.
        tokenizer: A fitted tokenizer.
        folder: Is created; must not exist.
        per_token: Whether each token has a label, or each text one (default).

    Returns:
        What `load_labelled(folder)` gives.
    """
    labels: dict[str, list[Sequence[int]]] = {name: [] for name in SPLITS}

    def texts() -> Iterator[tuple[str, str]]:
        for split, text, own in examples:
            labels[split].append(own)
            yield split, text

    encode(texts(), tokenizer, folder)
    arrays = {"per_token": np.array(per_token)}
    for name, rows in labels.items():
        arrays[f"{name}_labels"] = np.fromiter((label for row in rows for label in row), np.int32)
        arrays[f"{name}_ends"] = np.cumsum([len(row) for row in rows], dtype=np.int64)
    with replacing(pathlib.Path(folder) / _LABELS) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    return load_labelled(folder)


def load_labelled(folder: str | os.PathLike) -> dict[str, LabelledTokens]:
    """Opens what `encode_labelled` wrote, by split.

    Raises:
        UserError: as `pipeline.load_tokens`; labels that are not there, or not those of these texts.
    """
    path = pathlib.Path(folder) / _LABELS
    try:
        with np.load(path) as arrays:
            labels = {name: (arrays[f"{name}_labels"], arrays[f"{name}_ends"]) for name in SPLITS}
            per_token = bool(arrays["per_token"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is missing or damaged: train the run anew") from None
    result = {}
    for name, tokens in load_tokens(folder).items():
        own, ends = labels[name]
        if len(ends) != tokens.documents or (len(ends) and ends[-1] != len(own)):
            raise UserError(f"{path} holds labels of {len(ends)} texts, but there are {tokens.documents}: train the run anew")
        counts = {field: getattr(tokens, field) for field in tokens.__dataclass_fields__}
        result[name] = LabelledTokens(labels=own, ends=ends, per_token=per_token, **counts)
    return result


def label_batches(texts: LabelledIds, *, batch_size: int, seed: int = 0, start_step: int = 0) -> Iterator[Batch]:
    """An endless iterator over training batches. Batch number `step` depends on `(seed, step)` alone; in an epoch each text comes once.

    Args:
        texts: A split.
        batch_size: Texts a batch.
        seed: Chooses the order.
        start_step: Number of the first batch: a run that resumes after step n passes n.

    Yields:
        `(ids, (labels, weights))`: ids `(batch_size, width)` int32; labels int32 and weights float32 `(batch_size,)`, or
        `(batch_size, width)` where tokens have labels; weights add up to 1.
    """
    epoch_steps = -(-len(texts) // batch_size)
    order = functools.lru_cache(maxsize=2)(lambda epoch: batch_order(texts.lengths, batch_size, seed, epoch))

    def batches() -> Iterator[tuple]:
        step = start_step
        while True:
            numbers = order(step // epoch_steps)[step % epoch_steps]
            ids, labels, weights = texts.padded(numbers, texts.width(numbers))
            yield ids, (labels, weights / max(weights.sum(), 1))
            step += 1

    shape = [batch_size, None] if texts.per_token else [batch_size]
    signature = (tf.TensorSpec([batch_size, None], tf.int32), (tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape, tf.float32)))
    return iter(tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4))


def label_evaluation_batches(texts: LabelledIds, *, batch_size: int) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """One pass in which every label is asked for once; `weights` are 0 where there is none, else 1. The last batch is filled with 0."""
    order = np.argsort(texts.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        missing = (0, batch_size - len(numbers))
        ids, *targets = texts.padded(numbers, texts.width(numbers))
        ids = np.pad(ids, [missing, (0, 0)])
        yield ids, tuple(np.pad(part, [missing, (0, 0)][: part.ndim]) for part in targets)

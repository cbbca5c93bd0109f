"""Texts with labels as ids: on disk, and as batches whose order is a function of the seed and the step.

A split lies on disk as any tokenized corpus does, a text a document, and the labels beside it in `labels.npz`. `FORMS` says what a label is
of. Batches are made as those of pairs are (`keras_lm.parallel`): texts of like lengths together, in few widths.
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
from keras_lm.tokenizer_base import Tokenizer

FORMS = {
    "text": 1,  # a label a text
    "token": 1,  # a label a token between start and end
    "span": 2,  # two texts read as one, `start first end second end`, with two labels: the first and the last token of a span
    "pair": 2,  # two texts, each read for itself, with a label of both: a number of float32 is how alike they are
}
"""What labels are of, and how many documents on disk make one text."""

_LABELS = "labels.npz"

Batch = tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTokens(Tokens):
    """One split of texts with labels.

    Args:
        labels: `(labels,)` int32, or float32: those of all texts, one after the other.
        ends: `(texts,)` int64: where those of each text end.
        form: One of `FORMS`.
    """

    labels: np.ndarray
    ends: np.ndarray
    form: str = "text"


class LabelledIds:
    """The texts of a split with their labels.

    Args:
        tokens: The split.
        longest: A text is cut to this many tokens, its start and end counted.

    Attributes:
        form: Of the labels.
        lengths: `(texts,)`: tokens of each, start and end counted, before anything is cut; of a pair those of the longer one.

    Example:

    >>> ids = np.array([2, 10, 11, 3, 2, 12, 3])
    >>> counts = {"characters": 3, "bytes": 3, "documents": 2, "unknown": 0}
    >>> texts = LabelledIds(LabelledTokens(ids=ids, labels=np.array([1, 0]), ends=np.array([1, 2]), **counts), longest=8)
    >>> [part.tolist() for part in texts.padded(np.array([1, 0]), 4)]
    [[[2, 12, 3, 0], [2, 10, 11, 3]], [0, 1], [1.0, 1.0]]
    """

    def __init__(self, tokens: LabelledTokens, longest: int):
        self.form, self.longest, self._ids, self._labels = tokens.form, longest, tokens.ids, tokens.labels
        ids = np.asarray(tokens.ids)
        starts = np.flatnonzero(ids == ids[:1])  # the first token of all begins a text, whichever id the tokenizer has for it
        self._places = np.append(starts, len(tokens.ids)).astype(np.int64)
        self.lengths = np.diff(self._places)
        if self.form == "span":
            self.lengths = self.lengths[::2] + self.lengths[1::2] - 1  # the second start token is left out
        elif self.form == "pair":
            self.lengths = np.maximum(self.lengths[::2], self.lengths[1::2])
        self._ends = np.concatenate([[0], tokens.ends]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def dtype(self) -> np.dtype:
        """Of the labels: float32 where they are scores, else int32."""
        return np.dtype(np.float32 if np.issubdtype(self._labels.dtype, np.floating) else np.int32)

    def padded(self, numbers: np.ndarray, width: int, rows: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts as one batch.

        Args:
            numbers: Of the texts.
            width: Tokens a row.
            rows: Texts that the batch has room for; those that are missing are padding without labels. Default: as many as there are.

        Returns:
            Ids `(rows, width)` int32, of pairs `(2 x rows, width)`, all first ones before all second ones; labels `(rows,)`, of tokens
            `(rows, width)`, of spans `(rows, 2)`; and weights float32 of the same shape: 1 for a label, 0 for none.
        """
        rows = len(numbers) if rows is None else rows
        texts = np.zeros([2 if self.form == "pair" else 1, rows, width], np.int32)
        labels = np.zeros([rows, {"token": width, "span": 2}.get(self.form, 1)], self.dtype)
        weights = np.zeros(labels.shape, np.float32)
        for row, number in enumerate(numbers.tolist()):
            own, label = self[number]
            for side, text in enumerate(own):
                texts[side, row, : len(text)] = text
            places = slice(1, len(own[0]) - 1) if self.form == "token" else slice(0, len(label))  # start and end have no label
            labels[row, places], weights[row, places] = label[: places.stop - places.start], 1
        shape = [rows] if self.form in ("text", "pair") else labels.shape
        return texts.reshape([-1, width]), labels.reshape(shape), weights.reshape(shape)

    def __getitem__(self, number: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """A text's ids, of a pair those of both, and its labels; of one that is too long the end token stays."""
        labels = self._labels[self._ends[number] : self._ends[number + 1]]
        if self.form == "span":
            first, second = self._document(2 * number), self._document(2 * number + 1)
            return (self._cut(np.concatenate([first, second[1:]])),), labels
        if self.form == "pair":
            return (self._cut(self._document(2 * number)), self._cut(self._document(2 * number + 1))), labels
        return (self._cut(self._document(number)),), labels

    def _document(self, number: int) -> np.ndarray:
        first, end = self._places[number : number + 2].tolist()
        return self._ids[first:end]

    def _cut(self, text: np.ndarray) -> np.ndarray:
        return text if len(text) <= self.longest else np.append(text[: self.longest - 1], text[-1])

    def width(self, numbers: np.ndarray) -> int:
        """How wide a batch of these texts is."""
        return batch_width(int(self.lengths[numbers].max()), self.longest)


def encode_labelled(
    examples: Iterable[tuple[str, Sequence[str], Sequence[float]]], tokenizer: Tokenizer, folder: str | os.PathLike, *, form: str = "text"
) -> dict[str, LabelledTokens]:
    """Tokenizes texts with labels into `folder`, one pass.

    Args:
        examples: `(split, texts, labels)`: one text or two, and their labels, as the form has them.
        tokenizer: A fitted tokenizer.
        folder: Is created; must not exist.
        form: One of `FORMS`. Labels are written as float32 where the first of all is a float.

    Returns:
        What `load_labelled(folder)` gives.
    """
    labels: dict[str, list[Sequence[float]]] = {name: [] for name in SPLITS}

    def documents() -> Iterator[tuple[str, str]]:
        for split, texts, own in examples:
            labels[split].append(own)
            yield from ((split, text) for text in texts)

    encode(documents(), tokenizer, folder)
    first = next((label for rows in labels.values() for row in rows for label in row), 0)
    dtype = np.float32 if isinstance(first, float) else np.int32
    arrays = {"form": np.array(form)}
    for name, rows in labels.items():
        arrays[f"{name}_labels"] = np.fromiter((label for row in rows for label in row), dtype)
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
            form = str(arrays["form"])
            documents = FORMS[form]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path} is missing or damaged: train the run anew") from None
    result = {}
    for name, tokens in load_tokens(folder).items():
        own, ends = labels[name]
        if len(ends) * documents != tokens.documents or (len(ends) and ends[-1] != len(own)):
            raise UserError(f"{path} holds labels of {len(ends)} texts, but there are {tokens.documents // documents}: train the run anew")
        counts = {field: getattr(tokens, field) for field in tokens.__dataclass_fields__}
        result[name] = LabelledTokens(labels=own, ends=ends, form=form, **counts)
    return result


def label_batches(texts: LabelledIds, *, batch_size: int, seed: int = 0, start_step: int = 0) -> Iterator[Batch]:
    """An endless iterator over training batches. Batch number `step` depends on `(seed, step)` alone; in an epoch each text comes once.

    Args:
        texts: A split.
        batch_size: Texts a batch.
        seed: Chooses the order.
        start_step: Number of the first batch: a run that resumes after step n passes n.

    Yields:
        `(ids, (labels, weights))`, as `LabelledIds.padded` gives them; weights add up to 1.
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

    rows = 2 * batch_size if texts.form == "pair" else batch_size
    shape = [batch_size] if texts.form in ("text", "pair") else [batch_size, None]
    signature = (tf.TensorSpec([rows, None], tf.int32), (tf.TensorSpec(shape, texts.dtype), tf.TensorSpec(shape, tf.float32)))
    return iter(tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4))


def label_evaluation_batches(texts: LabelledIds, *, batch_size: int) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """One pass in which every label is asked for once; `weights` are 0 where there is none, else 1. The last batch is filled with 0."""
    order = np.argsort(texts.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        ids, *targets = texts.padded(numbers, texts.width(numbers), batch_size)
        yield ids, tuple(targets)

"""Ids → windows → batches; the order is a pure function of the seed and the step.

A corpus is tokenized once, in a streaming pass, into one flat file of ids a split (`encode`), which is then mapped into memory: so it
may be larger than memory, any window can be read at once, and a run can start again in the middle without replaying its input.

A window of length T is the pair `(ids[i : i+T], ids[i+1 : i+T+1])`: the same text, shifted by one. Windows share the id at their
border, once as the last target and once as the next first input, so that every id but the first is predicted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.files import replacing, replacing_folder
from keras_lm.tokenizers import Tokenizer

SPLITS = ("train", "validation", "test")
SPLIT_MODES = ("hash", "contiguous", "given")
"""`hash`: 90/5/5 by a hash of each document. `contiguous`: the first 90 % of the text against the last 10 %. `given`: the corpus' own."""

_BATCH = 512  # documents tokenized at a time


def split_of(document: bytes) -> str:
    """The split that a document belongs to: a function of its text alone, so neither order nor repetition matters.

    Args:
        document: The UTF-8 text.

    Returns:
        `"train"` for 90 % of all texts, `"validation"` for 5 %, `"test"` for 5 %.

    Example:

    >>> split_of("我喜欢编程".encode())
    'train'
    """
    fraction = int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "big") / 2**64
    return "train" if fraction < 0.90 else "validation" if fraction < 0.95 else "test"


def split_texts(corpus: Corpus, mode: str, clean: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """One pass over the corpus as `(split, text)` pairs.

    Under `hash` and `given` each pair is a document; under `contiguous` the texts are pieces of one long text, to be joined as they are.

    Args:
        corpus: What to read.
        mode: One of `SPLIT_MODES`.
        clean: Names of `keras_lm.cleaning.CLEANERS` to apply first, in this order.

    Raises:
        UserError: `given` for a corpus that defines no splits.
    """
    if mode == "given":
        if not corpus.splits:
            raise UserError(f"the corpus {corpus.name} defines no splits of its own: use --split hash or --split contiguous")
        for name, documents in corpus.splits.items():
            if name in SPLITS:
                yield from ((name, text) for text in _cleaned(documents, clean) if text.strip())
    elif mode == "hash":
        yield from ((split_of(text.encode()), text) for text in _cleaned(corpus.documents, clean) if text.strip())
    elif mode == "contiguous":
        pieces = lambda: _with_separator(_cleaned(corpus.documents, clean), corpus.separator)
        border = sum(map(len, pieces())) * 9 // 10
        for text in pieces():
            if border > 0:
                yield "train", text[:border]
            if len(text) > max(border, 0):
                yield "validation", text[max(border, 0) :]
            border -= len(text)
    else:
        raise UserError(f"split must be one of {', '.join(SPLIT_MODES)}, got {mode!r}")


def _cleaned(documents: Callable[[], Iterator[str]], names: Sequence[str]) -> Iterator[str]:
    if not names:
        yield from documents()
        return
    dataset = tf.data.Dataset.from_generator(documents, output_signature=tf.TensorSpec([], tf.string))
    for batch in dataset.batch(_BATCH).map(cleaning.compose(names)).prefetch(2).as_numpy_iterator():
        yield from (text.decode("utf-8", "replace") for text in batch)


def _with_separator(texts: Iterator[str], separator: str) -> Iterator[str]:
    first = next(texts, None)
    if first is not None:
        yield first
        yield from (separator + text for text in texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """One split as ids, and what is needed to turn its loss into bits a character.

    Args:
        ids: int array `(tokens,)`, in general mapped from a file.
        characters: Unicode characters of the text behind it.
        bytes: UTF-8 bytes of that text.
        documents: Number of documents.
        unknown: Number of ids that are the unknown token.
    """

    ids: np.ndarray
    characters: int
    bytes: int
    documents: int
    unknown: int


def whole_texts(corpus: Corpus, documents: bool, clean: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """As `split_texts`, with all of the corpus in `test`: as documents, or as the pieces of one text."""
    texts = _cleaned(corpus.documents, clean)
    pieces = (text for text in texts if text.strip()) if documents else _with_separator(texts, corpus.separator)
    yield from (("test", text) for text in pieces)


def encode(
    pairs: Iterator[tuple[str, str]], tokenizer: Tokenizer, folder: str | os.PathLike, *, documents: bool = True
) -> dict[str, Tokens]:
    """Tokenizes texts into `folder`, one pass, whatever their size, and maps the result.

    Args:
        pairs: `(split, text)`, from `split_texts` or `whole_texts`.
        tokenizer: A fitted tokenizer.
        folder: Is created; must not exist.
        documents: Whether each text is a document, written as `start, ids ..., end`, or a piece of one text, written as it is.

    Returns:
        What `load_tokens(folder)` gives.
    """
    dtype = np.uint16 if tokenizer.vocabulary_size <= 1 << 16 else np.int32
    counts = {name: {"characters": 0, "bytes": 0, "documents": 0, "unknown": 0} for name in SPLITS}

    def batches() -> Iterator[tuple[list[str], list[str]]]:  # a batch at a time: one text at a time costs a dataset 50 µs each
        while batch := list(itertools.islice(pairs, _BATCH)):
            yield tuple(map(list, zip(*batch, strict=True)))

    def encoded(splits: tf.Tensor, texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        ids = tokenizer.tokenize(texts)
        if documents:
            edge = tf.ones([tf.shape(texts)[0], 1], tf.int32)
            ids = tf.concat([edge * tokenizer.start_id, ids, edge * tokenizer.end_id], axis=1)
        return splits, ids.flat_values, ids.row_lengths(), tf.strings.length(texts, unit="UTF8_CHAR"), tf.strings.length(texts)

    signature = (tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.string))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    with replacing_folder(folder) as temporary:
        files = {name: (temporary / f"{name}.bin").open("wb") for name in SPLITS}
        for splits, ids, lengths, characters, sizes in dataset.map(encoded).prefetch(2).as_numpy_iterator():
            owners = np.repeat(splits, lengths)
            for name in SPLITS:
                rows, own = splits == name.encode(), ids[owners == name.encode()]
                files[name].write(own.astype(dtype).tobytes())
                count = counts[name]
                count["characters"] += int(characters[rows].sum())
                count["bytes"] += int(sizes[rows].sum())
                count["documents"] += int(rows.sum())
                count["unknown"] += int((own == tokenizer.unknown_id).sum())
        for file in files.values():
            file.close()
        with replacing(temporary / "info.json") as info:
            info.write_text(json.dumps({"dtype": np.dtype(dtype).name, "splits": counts}, indent=1) + "\n", encoding="utf-8")
    return load_tokens(folder)


def load_tokens(folder: str | os.PathLike) -> dict[str, Tokens]:
    """Maps what `encode` wrote; keys are the splits."""
    folder = pathlib.Path(folder)
    try:
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no tokenized corpus (no info.json)") from None
    result = {}
    for name, counts in info["splits"].items():
        path = folder / f"{name}.bin"
        empty = path.stat().st_size == 0  # an empty file cannot be mapped
        ids = np.zeros(0, info["dtype"]) if empty else np.memmap(path, dtype=info["dtype"], mode="r")
        result[name] = Tokens(ids=ids, **counts)
    return result


def training_batches(
    ids: np.ndarray, *, sequence_length: int, batch_size: int, seed: int = 0, start_step: int = 0, stateful: bool = False
) -> tf.data.Dataset:
    """An endless dataset of training batches. Batch number `step` depends on `(seed, step)` alone.

    Shuffled (the default): each epoch is a permutation of all windows, whose borders are shifted anew each epoch. Stateful: row `b` of a
    batch continues row `b` of the batch before it, through the b-th of `batch_size` equal parts of the text; a new epoch starts
    every `stateful_steps(...)` batches, and there the carried state must be reset.

    Args:
        ids: `(tokens,)`.
        sequence_length: Length T of a window, in tokens.
        batch_size: Windows a batch.
        seed: Chooses the permutations.
        start_step: Number of the first batch: a run that resumes after step n passes n.
        stateful: Whether windows continue each other.

    Returns:
        A dataset of `(inputs, targets)`, each `(batch_size, sequence_length)` int32.

    Raises:
        UserError: a text shorter than one window (or, stateful, than one window a row).

    Example:

    >>> dataset = training_batches(np.arange(10), sequence_length=3, batch_size=2)
    >>> inputs, targets = next(iter(dataset))
    >>> bool(tf.reduce_all(inputs + 1 == targets))
    True
    """
    last = len(ids) - 1 - sequence_length  # the last place where a window can start
    if last < 0:
        raise UserError(
            f"the training text has {len(ids)} tokens, shorter than one window of {sequence_length} and its target: lower sequence_length"
        )
    if stateful:
        part = (len(ids) - 1) // batch_size
        steps = stateful_steps(len(ids), sequence_length, batch_size)
        slack = len(ids) - batch_size * part

        def starts(step: tf.Tensor) -> tf.Tensor:
            epoch, place = step // steps, step % steps
            # Parts do not divide the text evenly: what is left over at the end moves to the front in turn.
            offset = _permuted(epoch % slack, slack, seed, 0)
            return offset + tf.range(batch_size, dtype=tf.int64) * part + place * sequence_length
    else:
        windows = -(-(len(ids) - 1) // sequence_length) + 1  # one more, since shifting the borders cuts one window in two

        def starts(step: tf.Tensor) -> tf.Tensor:
            number = step * batch_size + tf.range(batch_size, dtype=tf.int64)
            epoch, place = number // windows, number % windows
            place = _permuted(place, windows, seed, epoch)
            shift = _permuted(epoch % sequence_length, sequence_length, seed, -1)
            return tf.clip_by_value(place * sequence_length - shift, 0, last)

    def windows_at(starts: np.ndarray) -> np.ndarray:
        return np.stack([ids[start : start + sequence_length + 1] for start in starts]).astype(np.int32)

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.numpy_function(windows_at, [starts(step)], tf.int32, stateful=False)
        window = tf.ensure_shape(window, [batch_size, sequence_length + 1])
        return window[:, :-1], window[:, 1:]

    return tf.data.Dataset.counter(start_step).map(batch).prefetch(4)


def _permuted(index: tf.Tensor, size: int, seed: int, key: tf.Tensor | int) -> tf.Tensor:
    """Where a permutation of `range(size)`, chosen by `(seed, key)`, puts `index`; `index` and `key` are scalars or `(batch,)` int64."""
    index, key = tf.cast(index, tf.int64), tf.cast(key, tf.int64)
    seeds = tf.stack([tf.zeros_like(index) + seed, tf.zeros_like(index) + key, tf.zeros_like(index)], axis=-1)
    # The raw op: `tf.random.experimental.index_shuffle` mends its seed to the wrong shape when there is one an index.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=tf.constant(size - 1, tf.int64), rounds=4)


def stateful_steps(num_tokens: int, sequence_length: int, batch_size: int) -> int:
    """Batches an epoch when windows continue each other.

    Raises:
        UserError: a text shorter than one window a row.
    """
    steps = (num_tokens - 1) // batch_size // sequence_length
    if steps == 0:
        raise UserError(
            f"the training text has {num_tokens} tokens, too few for {batch_size} rows of {sequence_length}: "
            "lower batch_size or sequence_length"
        )
    return steps


def evaluation_batches(
    ids: np.ndarray, *, sequence_length: int, batch_size: int, stateful: bool = False
) -> Iterator[tuple[np.ndarray, ...]]:
    """One pass in which every id but the first is predicted exactly once.

    Args:
        ids: `(tokens,)`, at least 2.
        sequence_length: Length of a window.
        batch_size: Windows a batch.
        stateful: As in `training_batches`: row `b` walks through the b-th part of the text.

    Yields:
        `(inputs, targets, weights)`, each `(batch_size, sequence_length)`; weights are float32, 0 where a window is padded, else 1.

    Example:

    >>> int(sum(weights.sum() for _, _, weights in evaluation_batches(np.arange(10), sequence_length=4, batch_size=2)))
    9
    """
    total = len(ids) - 1
    if stateful:
        part = -(-total // batch_size)
        steps = -(-part // sequence_length)
        bounds = [(row * part, min((row + 1) * part, total)) for row in range(batch_size)]
        groups = ([(start + step * sequence_length, end) for start, end in bounds] for step in range(steps))
    else:
        starts = iter(range(0, total, sequence_length))
        groups = ([(start, total) for start in group] for group in iter(lambda: list(itertools.islice(starts, batch_size)), []))
    for group in groups:
        inputs = np.zeros((batch_size, sequence_length), np.int32)
        targets, weights = np.zeros_like(inputs), np.zeros(inputs.shape, np.float32)
        for row, (start, end) in enumerate(group):
            size = min(sequence_length, end - start)
            if size > 0:
                inputs[row, :size] = ids[start : start + size]
                targets[row, :size] = ids[start + 1 : start + size + 1]
                weights[row, :size] = 1.0
        yield inputs, targets, weights

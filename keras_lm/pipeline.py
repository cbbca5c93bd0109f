"""Ids → windows → batches; the order is a pure function of the seed and the step.

A corpus is tokenized once, in a streaming pass, into shards on disk (`encode`; `keras_lm.preparation` does it for large ones, with many
processes), and windows are read from there (`keras_lm.shards`): so it may be larger than memory, any window can be read at once, and a
run can start again in the middle without replaying its input.

A window of length T is the pair `(ids[i : i+T], ids[i+1 : i+T+1])`: the same text, shifted by one. Windows share the id at their
border, once as the last target and once as the next first input, so that every id but the first is predicted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm import cleaning, shards
from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.files import replacing_folder
from keras_lm.shards import SPLITS, ShardedIds, ShardWriter
from keras_lm.tokenizers import Tokenizer

SPLIT_MODES = ("hash", "contiguous", "given")
"""`hash`: 90/5/5 by a hash of each document. `contiguous`: the first 90 % of the text against the last 10 %. `given`: the corpus' own."""

_BATCH = 1024  # documents tokenized at a time, at most,
_BATCH_CHARACTERS = 1 << 20  # and about so many characters, if they are long


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
                yield from ((name, text) for text in cleaned(documents(), clean) if text.strip())
    elif mode == "hash":
        yield from ((split_of(text.encode()), text) for text in cleaned(corpus.documents(), clean) if text.strip())
    elif mode == "contiguous":
        yield from split_pieces(text_pieces(corpus, clean), sum(map(len, text_pieces(corpus, clean))) * 9 // 10)
    else:
        raise UserError(f"split must be one of {', '.join(SPLIT_MODES)}, got {mode!r}")


def text_pieces(corpus: Corpus, clean: Sequence[str] = (), *, first: bool = True) -> Iterator[str]:
    """The corpus as the pieces of one text: a document each, with the separator before all but the first (or all, if not `first`)."""
    for text in cleaned(corpus.documents(), clean):
        yield text if first else corpus.separator + text
        first = False


def split_pieces(pieces: Iterable[str], border: int) -> Iterator[tuple[str, str]]:
    """The pieces of one text as `(split, text)`: `train` up to `border`, counted in characters, and `validation` from there on."""
    for text in pieces:
        if border > 0:
            yield "train", text[:border]
        if len(text) > max(border, 0):
            yield "validation", text[max(border, 0) :]
        border -= len(text)


def cleaned(documents: Iterator[str], names: Sequence[str]) -> Iterator[str]:
    """Texts through the cleaners of these names, many at a time."""
    if not names:
        yield from documents
        return
    clean = tf.function(cleaning.compose(names), input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    for batch in _batches(documents, len):
        yield from (text.decode("utf-8", "replace") for text in clean(tf.constant(batch)).numpy())


def _batches(items: Iterator[Any], size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Lists of items: one text at a time costs 50 µs each in TensorFlow, and a thousand long ones would cost memory."""
    batch, characters = [], 0
    for item in items:
        batch.append(item)
        characters += size(item)
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """One split as ids, and what is needed to turn its loss into bits a character.

    Args:
        ids: Ints `(tokens,)`: in general `ShardedIds`, which lie on disk; any array will do.
        characters: Unicode characters of the text behind it.
        bytes: UTF-8 bytes of that text.
        documents: Number of documents.
        unknown: Number of ids that are the unknown token.
    """

    ids: np.ndarray | ShardedIds
    characters: int
    bytes: int
    documents: int
    unknown: int


def whole_texts(corpus: Corpus, documents: bool, clean: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """As `split_texts`, with all of the corpus in `test`: as documents, or as the pieces of one text."""
    pieces = (text for text in cleaned(corpus.documents(), clean) if text.strip()) if documents else text_pieces(corpus, clean)
    yield from (("test", text) for text in pieces)


def encode(
    pairs: Iterator[tuple[str, str]],
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    *,
    documents: bool = True,
    description: Mapping[str, Any] | None = None,
) -> dict[str, Tokens]:
    """Tokenizes texts into `folder`, one pass, whatever their size.

    Args:
        pairs: `(split, text)`, from `split_texts` or `whole_texts`.
        tokenizer: A fitted tokenizer.
        folder: Is created; must not exist.
        documents: Whether each text is a document, written as `start, ids ..., end`, or a piece of one text, written as it is.
        description: What the manifest says of where the texts come from: `corpus`, `clean`, `split`.

    Returns:
        What `load_tokens(folder)` gives.
    """
    encoder = Encoder(tokenizer, documents)
    with replacing_folder(folder) as temporary:
        part = encoder.write(pairs, temporary)
        shards.finish(temporary, [(temporary, part)], {**(description or {}), **encoder.description(shards.fingerprint(tokenizer))})
    return load_tokens(folder)


class Encoder:
    """Texts → shards, traced once for any number of parts.

    Args:
        tokenizer: A fitted tokenizer.
        documents: As `encode` takes it.
    """

    def __init__(self, tokenizer: Tokenizer, documents: bool = True):
        self.tokenizer, self.documents = tokenizer, documents
        self.dtype = np.dtype(np.uint16 if tokenizer.vocabulary_size <= 1 << 16 else np.int32)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def encoded(texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
            ids = tokenizer.tokenize(texts)
            return ids.flat_values, ids.row_splits, tf.strings.length(texts, unit="UTF8_CHAR"), tf.strings.length(texts)

        self._encoded = encoded

    def description(self, fingerprint: str) -> dict[str, Any]:
        """What a manifest says of ids that this wrote."""
        tokenizer = self.tokenizer
        vocabulary = {"kind": tokenizer.kind, "vocabulary_size": tokenizer.vocabulary_size, "tokenizer": fingerprint}
        return {"documents": self.documents, **vocabulary, "dtype": self.dtype.name}

    def write(
        self,
        pairs: Iterator[tuple[str, str]],
        folder: str | os.PathLike,
        *,
        shard_tokens: int = shards.SHARD_TOKENS,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Tokenizes one part of a corpus.

        Args:
            pairs: `(split, text)`.
            folder: Where the shards go; exists.
            shard_tokens: Most ids a shard.
            progress: Is told the bytes of text and the tokens done so far.

        Returns:
            By split: `tokens`, `characters`, `bytes`, `documents`, `unknown`, and `shards` (`file`, `tokens`, `bytes`, `checksum` of each).
        """
        counts = {name: dict.fromkeys(shards.COUNTS, 0) for name in SPLITS}
        failures: list[Exception] = []

        def batches() -> Iterator[tuple[list[int], list[str]]]:  # the texts of a split stand together, in their order
            try:
                for batch in _batches(pairs, lambda pair: len(pair[1])):
                    texts = {name: [text for split, text in batch if split == name] for name in SPLITS}
                    yield [len(texts[name]) for name in SPLITS], [text for name in SPLITS for text in texts[name]]
            except Exception as error:
                failures.append(error)
                raise

        def encoded(numbers: tf.Tensor, texts: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return numbers, *self._encoded(texts)

        signature = (tf.TensorSpec([len(SPLITS)], tf.int64), tf.TensorSpec([None], tf.string))
        dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
        try:
            with contextlib.ExitStack() as stack:
                writers = [stack.enter_context(ShardWriter(folder, name, self.dtype, shard_tokens)) for name in SPLITS]
                for numbers, ids, places, characters, sizes in dataset.map(encoded).prefetch(2).as_numpy_iterator():
                    if self.documents:  # here and not in the graph, where joining ragged tensors takes as long as tokenizing
                        ids, places = self._with_edges(ids, places)
                    edges = [0, *np.cumsum(numbers).tolist()]
                    for (first, end), writer in zip(itertools.pairwise(edges), writers, strict=True):
                        own, count = ids[places[first] : places[end]], counts[writer.name]
                        writer.write(own)
                        count["tokens"] += len(own)
                        count["characters"] += int(characters[first:end].sum())
                        count["bytes"] += int(sizes[first:end].sum())
                        count["documents"] += end - first
                        count["unknown"] += int(np.count_nonzero(own == self.tokenizer.unknown_id))
                    if progress:
                        progress(sum(count["bytes"] for count in counts.values()), sum(count["tokens"] for count in counts.values()))
        except tf.errors.OpError:
            if failures:
                raise failures[0] from None  # as it was raised, and not as TensorFlow passes it on
            raise
        return {writer.name: {**counts[writer.name], "shards": writer.shards} for writer in writers}

    def _with_edges(self, ids: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Puts `start` before and `end` behind each row of `ids`; `places` `(rows + 1,)` are the row splits.

        Where the two are one token, as in GPT-2, it stands behind alone: there it is before the next text as well.
        """
        if self.tokenizer.start_id == self.tokenizer.end_id:
            return np.insert(ids, places[1:], self.tokenizer.end_id), places + np.arange(len(places))
        edges = np.stack([places[:-1], places[1:]], axis=1).ravel()
        values = np.tile([self.tokenizer.start_id, self.tokenizer.end_id], len(places) - 1)
        return np.insert(ids, edges, values), places + 2 * np.arange(len(places))


def load_tokens(folder: str | os.PathLike) -> dict[str, Tokens]:
    """Opens what `encode` or `keras_lm-prepare` wrote; keys are the splits.

    Raises:
        UserError: no tokenized corpus there, or a shard that is missing or has another size. `shards.verify` reads them all.
    """
    manifest = shards.read_manifest(folder)
    result = {}
    for name, entry in manifest["splits"].items():
        counts = {count: entry[count] for count in shards.COUNTS if count != "tokens"}
        result[name] = Tokens(ids=shards.open_ids(folder, manifest, name), **counts)
    return result


def training_batches(
    ids: np.ndarray | ShardedIds,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    stateful: bool = False,
    rows: tuple[int, int] | None = None,
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
        rows: First and end of the rows of each batch that are wanted, where several processes read a batch together; default all.

    Returns:
        A dataset of `(inputs, targets)`, each `(batch_size, sequence_length)` int32, or as many rows as `rows` says.

    Raises:
        UserError: a text shorter than one window (or, stateful, than one window a row).

    Example:

    >>> dataset = training_batches(np.arange(10), sequence_length=3, batch_size=2)
    >>> inputs, targets = next(iter(dataset))
    >>> bool(tf.reduce_all(inputs + 1 == targets))
    True
    """
    starts, span = window_starts(len(ids), sequence_length, batch_size, seed, stateful, rows), sequence_length + 1
    height = batch_size if rows is None else rows[1] - rows[0]

    def windows_at(starts: np.ndarray) -> np.ndarray:
        windows = np.empty((len(starts), span), np.int32)
        for row, start in enumerate(starts.tolist()):
            windows[row] = ids[start : start + span]
        return windows

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        window = tf.ensure_shape(tf.numpy_function(windows_at, [starts(step)], tf.int32, stateful=False), [height, span])
        return window[:, :-1], window[:, 1:]

    return tf.data.Dataset.counter(start_step).map(batch).prefetch(4)


def window_starts(
    num_tokens: int, sequence_length: int, batch_size: int, seed: int, stateful: bool = False, rows: tuple[int, int] | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Where the windows of a batch begin, as a function in the graph: scalar int64 step → `(rows,)` int64; see `training_batches`.

    Raises:
        UserError: a text shorter than one window (or, stateful, than one window a row).
    """
    first, end = rows or (0, batch_size)
    if not 0 <= first < end <= batch_size:
        raise ValueError(f"rows must be (first, end) within the {batch_size} rows of a batch, got {rows}")
    last = num_tokens - 1 - sequence_length  # the last place where a window can start
    if last < 0:
        raise UserError(
            f"the training text has {num_tokens} tokens, shorter than one window of {sequence_length} and its target: lower sequence_length"
        )
    row = tf.range(first, end, dtype=tf.int64)
    if stateful:
        part = (num_tokens - 1) // batch_size
        steps = stateful_steps(num_tokens, sequence_length, batch_size)
        slack = num_tokens - batch_size * part

        def starts(step: tf.Tensor) -> tf.Tensor:
            epoch, place = step // steps, step % steps
            # Parts do not divide the text evenly: what is left over at the end moves to the front in turn.
            return _permuted(epoch % slack, slack, seed, 0) + row * part + place * sequence_length
    else:
        windows = -(-(num_tokens - 1) // sequence_length) + 1  # one more, since shifting the borders cuts one window in two

        def starts(step: tf.Tensor) -> tf.Tensor:
            number = step * batch_size + row
            epoch, place = number // windows, number % windows
            place = _permuted(place, windows, seed, epoch)
            shift = _permuted(epoch % sequence_length, sequence_length, seed, -1)
            return tf.clip_by_value(place * sequence_length - shift, 0, last)

    return starts


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
    ids: np.ndarray | ShardedIds, *, sequence_length: int, batch_size: int, stateful: bool = False
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

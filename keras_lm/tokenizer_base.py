"""What every tokenizer offers, and what they share: the special ids, and small operations on ragged ids."""

from __future__ import annotations

import abc
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.files import replacing

PAD_ID, UNKNOWN_ID, START_ID, END_ID = range(4)
NUM_SPECIAL = 4
REPLACEMENT = "\ufffd"


class Tokenizer(tf.Module, abc.ABC):
    """What every tokenizer offers.

    Attributes:
        kind: The name under which `create` and `load` find the class.
        vocabulary_size: The number of ids, the four special ones included.
        pad_id, unknown_id, start_id, end_id: The special ids; 0, 1, 2 and 3 but for tokenizers that come with a checkpoint.
        special_ids: All ids that stand for no text.
        needs_tensorflow_text: Whether a process that loads an export must import tensorflow_text.
    """

    kind: str
    needs_tensorflow_text = False
    pad_id, unknown_id, start_id, end_id = PAD_ID, UNKNOWN_ID, START_ID, END_ID
    special_ids: frozenset[int] = frozenset(range(NUM_SPECIAL))

    @property
    @abc.abstractmethod
    def vocabulary_size(self) -> int:
        """The number of ids."""

    @classmethod
    @abc.abstractmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> Tokenizer:
        """Learns a vocabulary.

        Args:
            texts: A dataset of scalar strings, or `str`s; one pass is made.
            vocabulary_size: The largest number of ids wanted; `None` takes the tokenizer's own default.

        Returns:
            A new tokenizer.

        Raises:
            UserError: a vocabulary size that cannot be had from these texts.
        """

    @abc.abstractmethod
    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Strings `(batch,)` → ids `(batch, (tokens))`, int32, without start and end."""

    @abc.abstractmethod
    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch, tokens)`, dense or ragged → strings `(batch,)`; padding, start and end are left out."""

    @abc.abstractmethod
    def pieces(self) -> list[bytes]:
        """What each id writes, in bytes: the special ids nothing, but for the unknown one, which writes U+FFFD.

        Joined, the pieces of any ids are what `detokenize` makes of them. Only SentencePiece and words differ: where single bytes form no
        whole UTF-8 character, their `detokenize` writes U+FFFD for each, and the pieces are the bytes themselves; and their unknown token,
        which no text is made of, writes what the model says (` ⁇ ` by default).

        Example:

        >>> from keras_lm.tokenizers import CharacterTokenizer
        >>> CharacterTokenizer(["中", "a"]).pieces()[4:]
        [b'\\xe4\\xb8\\xad', b'a']
        """

    @abc.abstractmethod
    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.json` (and, for SentencePiece, its model) into `folder`."""

    @classmethod
    @abc.abstractmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> Tokenizer:
        """Reads back what `save` wrote; `load` calls it."""

    @property
    def never(self) -> tuple[int, ...]:
        """The ids that a model may not write: padding, unknown and start, where none of them is the end as well."""
        return tuple(sorted({self.pad_id, self.unknown_id, self.start_id} - {self.end_id}))

    def unknown_characters(self, text: str) -> list[str]:
        """The different characters of `text` that no token covers, in the order they appear.

        Example:

        >>> from keras_lm.tokenizers import CharacterTokenizer
        >>> CharacterTokenizer.fit(["abc"]).unknown_characters("a?b!")
        ['?', '!']
        """
        different = list(dict.fromkeys(text))
        if not different:
            return []
        unknown = tf.reduce_any(self.tokenize(tf.constant(different)) == self.unknown_id, axis=1)
        return [character for character, is_unknown in zip(different, unknown.numpy().tolist(), strict=True) if is_unknown]


SPECIAL = ("pad", "unknown", "start", "end")
"""The special tokens that every tokenizer has."""


class CheckpointTokenizer(Tokenizer):
    """A tokenizer that comes with a checkpoint: its ids are the checkpoint's, and it is not learnt here.

    Args:
        special: The ids of `SPECIAL`, which may be one id; under other names further ids that write nothing.

    Attributes:
        special: The same.
    """

    _strings: list[bytes]

    def __init__(self, special: Mapping[str, int]):
        super().__init__()
        self.special = dict(special)
        self.pad_id, self.unknown_id, self.start_id, self.end_id = (special[name] for name in SPECIAL)
        self.special_ids = frozenset(special.values())

    @property
    def vocabulary_size(self) -> int:
        return len(self._strings)

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> Tokenizer:
        """Refused."""
        raise UserError(f"the {cls.kind} tokenizer comes with a checkpoint (keras_lm.pretrained.load); to learn one, take sentencepiece")

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        return join(ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(ids), self._strings)

    def pieces(self) -> list[bytes]:
        return list(self._strings)


def iterate_texts(texts: tf.data.Dataset | Iterable[str]) -> Iterator[str]:
    """`str`s from a dataset of scalar strings or from any iterable of `str` or UTF-8 `bytes`."""
    for text in texts.as_numpy_iterator() if isinstance(texts, tf.data.Dataset) else texts:
        yield text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def without_special(ids: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    if not isinstance(ids, tf.RaggedTensor):
        ids = tf.RaggedTensor.from_tensor(ids)
    # On flat values and row splits: `tf.ragged.boolean_mask` and `from_value_rowids` took 17 s for 4 million ids with one very long row.
    flat = tf.cast(ids.flat_values, tf.int32)
    keep = (flat >= NUM_SPECIAL) | (flat == UNKNOWN_ID)
    kept_before = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], axis=0)
    return tf.RaggedTensor.from_row_splits(tf.boolean_mask(flat, keep), tf.gather(kept_before, ids.row_splits), validate=False)


def join(ids: tf.RaggedTensor, strings: list[bytes]) -> tf.Tensor:
    # Not `tf.strings.reduce_join`, which pads every row to the longest.
    return tf.strings.unsorted_segment_join(tf.gather(tf.constant(strings), ids.flat_values), ids.value_rowids(), ids.nrows())


def write_description(folder: str | os.PathLike, description: dict[str, Any]) -> None:
    with replacing(pathlib.Path(folder) / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

"""Text ↔ ids inside the graph: characters, bytes, WordPiece, SentencePiece, words.

Every tokenizer is a `tf.Module` with the same few methods, so that the pipeline, the sampler and the exported model know no
difference. Ids 0 to 3 are the same everywhere: padding, unknown, start and end of a document. They never come out as text,
but for the unknown token, which comes out as U+FFFD. Tokenizers that come with a checkpoint (`byte_pairs`, `word_pieces`) have its ids.

Characters and bytes use core TensorFlow ops only: what is exported with them runs wherever TensorFlow runs. The others
(`keras_lm.subwords`) use tensorflow-text, imported only when asked for. None changes a text: spaces, line feeds and case survive a round
trip.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.byte_pairs import BytePairTokenizer
from keras_lm.errors import UserError, unknown_name
from keras_lm.subwords import SentencePieceTokenizer, WordPieceTokenizer, WordTokenizer
from keras_lm.text_codec import surfaces
from keras_lm.tokenizer_base import NUM_SPECIAL, REPLACEMENT, Tokenizer, iterate_texts, join, without_special, write_description
from keras_lm.word_pieces import BertTokenizer


class CharacterTokenizer(Tokenizer):
    """One id a Unicode character.

    Args:
        vocabulary: The characters; the first gets id 4.

    Example:

    >>> tokenizer = CharacterTokenizer.fit(["我喜欢编程", "我喜欢读书"])
    >>> ids = tokenizer.tokenize(tf.constant(["我喜欢书"]))
    >>> tokenizer.detokenize(ids).numpy()[0].decode()
    '我喜欢书'
    """

    kind = "char"

    def __init__(self, vocabulary: Sequence[str]):
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        code_points = np.array([ord(character) for character in self.vocabulary], np.int32)
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError("a character stands twice in the vocabulary")
        order = np.argsort(code_points)
        # A sorted array and a binary search: no table to initialise, so it also runs in a bare C++ session.
        self._sorted_code_points = code_points[order]
        self._ids_of_sorted = (order + NUM_SPECIAL).astype(np.int32)
        self._code_points = np.concatenate([np.full(NUM_SPECIAL, ord(REPLACEMENT), np.int32), code_points])

    @property
    def vocabulary_size(self) -> int:
        return NUM_SPECIAL + len(self.vocabulary)

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> CharacterTokenizer:
        """Takes the characters of `texts`, the most frequent first; `vocabulary_size=None` keeps all of them."""
        counts: collections.Counter[str] = collections.Counter()
        for text in iterate_texts(texts):
            counts.update(text)
        return cls.from_counts(counts, vocabulary_size)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], vocabulary_size: int | None = None) -> CharacterTokenizer:
        """As `fit`, of texts whose characters were counted elsewhere."""
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        if vocabulary_size is not None:
            if vocabulary_size <= NUM_SPECIAL:
                raise UserError(f"vocabulary_size must be over {NUM_SPECIAL} (the special tokens), got {vocabulary_size}")
            ranked = ranked[: vocabulary_size - NUM_SPECIAL]
        return cls(ranked)

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        code_points = tf.strings.unicode_decode(texts, "UTF-8")
        flat = code_points.flat_values
        if not self.vocabulary:
            return code_points.with_flat_values(tf.fill(tf.shape(flat), self.unknown_id))
        known = tf.constant(self._sorted_code_points)
        place = tf.minimum(tf.searchsorted(known, flat), len(self.vocabulary) - 1)
        ids = tf.where(tf.gather(known, place) == flat, tf.gather(tf.constant(self._ids_of_sorted), place), self.unknown_id)
        return code_points.with_flat_values(ids)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        ids = without_special(ids)
        ids = without_special(ids)
        return tf.strings.unicode_encode(ids.with_flat_values(tf.gather(tf.constant(self._code_points), ids.flat_values)), "UTF-8")

    def pieces(self) -> list[bytes]:
        return surfaces(self.vocabulary)

    def save(self, folder: str | os.PathLike) -> None:
        write_description(folder, {"kind": self.kind, "vocabulary": list(self.vocabulary)})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> CharacterTokenizer:
        return cls(description["vocabulary"])


class ByteTokenizer(Tokenizer):
    """One id a byte of the UTF-8 text: 260 ids, nothing to learn, nothing unknown.

    Example:

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.tokenize(tf.constant(["hi"])).to_list()
    [[108, 109]]
    """

    kind = "byte"

    def __init__(self):
        super().__init__()
        self._strings = [*surfaces([]), *(bytes([value]) for value in range(256))]

    @property
    def vocabulary_size(self) -> int:
        return NUM_SPECIAL + 256

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str] = (), vocabulary_size: int | None = None) -> ByteTokenizer:
        """Nothing is learnt: the vocabulary is the 256 bytes."""
        if vocabulary_size not in (None, NUM_SPECIAL + 256):
            raise UserError(f"the byte tokenizer has {NUM_SPECIAL + 256} ids; leave vocabulary_size out (got {vocabulary_size})")
        return cls()

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        pieces = tf.strings.bytes_split(texts)
        values = tf.reshape(tf.io.decode_raw(pieces.flat_values, tf.uint8), [-1])
        return pieces.with_flat_values(tf.cast(values, tf.int32) + NUM_SPECIAL)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        return join(without_special(ids), self._strings)

    def pieces(self) -> list[bytes]:
        return list(self._strings)

    def save(self, folder: str | os.PathLike) -> None:
        write_description(folder, {"kind": self.kind})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> ByteTokenizer:
        return cls()


TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer
    for tokenizer in (CharacterTokenizer, ByteTokenizer, WordPieceTokenizer, SentencePieceTokenizer, WordTokenizer)
}
"""The tokenizers by the name that `--tokenizer` takes."""

_OF_CHECKPOINTS: dict[str, type[Tokenizer]] = {tokenizer.kind: tokenizer for tokenizer in (BytePairTokenizer, BertTokenizer)}


def get(kind: str) -> type[Tokenizer]:
    """The tokenizer class called `kind`.

    Raises:
        UserError: no such tokenizer; the message names the nearest.
    """
    if kind not in TOKENIZERS:
        raise unknown_name("tokenizer", kind, TOKENIZERS)
    return TOKENIZERS[kind]


def load(folder: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer that `Tokenizer.save` wrote.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> ByteTokenizer().save(folder)
    >>> load(folder).vocabulary_size
    260
    """
    folder = pathlib.Path(folder)
    try:
        description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no tokenizer.json") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'tokenizer.json'} is damaged: {error}") from None
    kind = description["kind"]
    return (_OF_CHECKPOINTS.get(kind) or get(kind)).from_folder(folder, description)

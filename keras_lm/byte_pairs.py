"""GPT-2's tokenizer inside the graph: byte pairs, merged in the order in which they were learnt.

A text is cut into words, each with the space before it; a word is its bytes, and of all neighbours in it the pair that was learnt first
becomes one, until no pair is known. Here the words of a batch are merged side by side, each different word once, so that an export takes
text wherever tensorflow-text's ops are.

References:
    Sennrich et al. 2016 (arXiv:1508.07909); Radford et al. 2019, «Language Models are Unsupervised Multitask Learners», §2.2.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.cleaning import tensorflow_text
from keras_lm.errors import UserError
from keras_lm.tokenizer_base import REPLACEMENT, CheckpointTokenizer, write_description

BLANK = r"\t\n\v\f\r \x{85}\p{Z}"
"""Unicode's white space inside a class of RE2, whose own `\\s` is that of ASCII."""

_CUT = "\U0010fffe"  # a code point that is no character; one that stands in a text becomes U+FFFD
_WORDS = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^{BLANK}\p{{L}}\p{{N}}{_CUT}]+|[{BLANK}]+"


def byte_letters() -> list[str]:
    """The character that stands for each byte in such vocabularies: the byte's own where it can be seen, otherwise one from 256 on.

    Example:

    >>> letters = byte_letters()
    >>> letters[ord("a")], letters[ord(" ")]
    ('a', 'Ġ')
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


class BytePairTokenizer(CheckpointTokenizer):
    """Byte-level BPE with the ids of transformers' `GPT2Tokenizer`. Nothing is unknown, and no text is changed.

    The names of special tokens in a text are text, as with every tokenizer here: `<|endoftext|>` in a prompt ends nothing.

    Args:
        vocabulary: The name of each id, in `byte_letters`.
        merges: Pairs of names, the first learnt first.
        special: The ids of `pad`, `unknown`, `start` and `end`, which may be one id; under other names further ids that write nothing.

    Raises:
        UserError: a vocabulary without all bytes, a merge whose parts or whole no id has, or merges in an impossible order.

    Example:

    >>> from keras_lm.tokenizer_base import SPECIAL
    >>> tokenizer = BytePairTokenizer([*byte_letters(), "lo", "low", "<e>"], [("l", "o"), ("lo", "w")], dict.fromkeys(SPECIAL, 258))
    >>> tokenizer.tokenize(tf.constant(["low lo"])).to_list()
    [[257, 32, 256]]
    """

    kind = "gpt2"
    needs_tensorflow_text = True

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[tuple[str, str]], special: Mapping[str, int]):
        super().__init__(special)
        self._description = {"vocabulary": list(vocabulary), "merges": [list(pair) for pair in merges], "special": self.special}
        letters = byte_letters()
        ids = {name: number for number, name in enumerate(vocabulary)}
        lacking = [letter for letter in letters if letter not in ids]
        if lacking:
            raise UserError(f"the vocabulary lacks {len(lacking)} of the 256 bytes, {lacking[0]!r} among them: it is not of GPT-2's kind")
        self._byte_ids = np.array([ids[letter] for letter in letters], np.int32)
        keys, merged = _merge_table(ids, merges, letters)
        order = np.argsort(keys)
        # A sorted array and a binary search: no table to initialise, so it also runs in a bare C++ session.
        self._keys, self._ranks, self._merged = keys[order], order.astype(np.int32), merged[order]
        byte_of = {letter: byte for byte, letter in enumerate(letters)}
        written = lambda name: bytes(byte_of[letter] for letter in name) if set(name) <= byte_of.keys() else name.encode()
        self._strings = [b"" if number in self.special_ids else written(name) for number, name in enumerate(vocabulary)]

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = _split_words(texts)
        different, place = tf.unique(words.flat_values)
        return words.with_flat_values(tf.gather(self._merge(different), place)).merge_dims(-2, -1)

    def save(self, folder: str | os.PathLike) -> None:
        write_description(folder, {"kind": self.kind, **self._description})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> BytePairTokenizer:
        return cls(description["vocabulary"], [tuple(pair) for pair in description["merges"]], description["special"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)  # without a graph each of its steps takes 20 ms
    def _merge(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Words `(words,)` → their ids `(words, (tokens))`."""
        split = tf.strings.bytes_split(words)
        values = tf.reshape(tf.io.decode_raw(split.flat_values, tf.uint8), [-1])
        ids = tf.gather(tf.constant(self._byte_ids), tf.cast(values, tf.int32))
        count, owners = tf.size(words), tf.cast(split.value_rowids(), tf.int32)
        if not len(self._keys):
            return split.with_flat_values(ids)
        none = tf.constant(len(self._keys), tf.int32)
        keys, ranks, merged = tf.constant(self._keys), tf.constant(self._ranks), tf.constant(self._merged)

        def found(ids: tf.Tensor, owners: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """The rank of each pair of neighbours, `none` where there is none, and what they become."""
            key = tf.cast(ids[:-1], tf.int64) * self.vocabulary_size + tf.cast(ids[1:], tf.int64)
            place = tf.minimum(tf.searchsorted(keys, key), len(self._keys) - 1)
            known = (tf.gather(keys, place) == key) & (owners[:-1] == owners[1:])
            return tf.where(known, tf.gather(ranks, place), none), tf.gather(merged, place)

        def merge(ids: tf.Tensor, owners: tf.Tensor, rank: tf.Tensor, whole: tf.Tensor) -> tuple[tf.Tensor, ...]:
            best = tf.math.unsorted_segment_min(rank, owners[:-1], count)
            hit = (rank < none) & (rank == tf.gather(best, owners[:-1]))
            hit &= _every_other(hit, owners[:-1])
            kept = tf.concat([[True], ~hit], axis=0)
            ids = tf.boolean_mask(tf.concat([tf.where(hit, whole, ids[:-1]), ids[-1:]], axis=0), kept)
            owners = tf.boolean_mask(owners, kept)
            return ids, owners, *found(ids, owners)

        ids, owners, *_ = tf.while_loop(
            lambda ids, owners, rank, whole: tf.reduce_any(rank < none),
            merge,
            (ids, owners, *found(ids, owners)),
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(owners, tf.int64), owners, count)
        return tf.RaggedTensor.from_row_lengths(ids, lengths, validate=False)


def _merge_table(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], letters: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """`left id x size + right id` of each merge, int64, and the id that it makes, int32."""
    made, size = set(letters), len(ids)
    keys, merged = np.zeros(len(merges), np.int64), np.zeros(len(merges), np.int32)
    for rank, (left, right) in enumerate(merges):
        for name in (left, right, left + right):
            if name not in ids:
                raise UserError(f"merge {rank + 1} ({left} {right}) is of {name!r}, which the vocabulary lacks")
        if left not in made or right not in made:
            raise UserError(f"merge {rank + 1} ({left} {right}) stands before those that make its parts")
        made.add(left + right)
        keys[rank], merged[rank] = ids[left] * size + ids[right], ids[left + right]
    if len(np.unique(keys)) != len(keys):
        raise UserError("a merge stands twice in the list")
    return keys, merged


def _every_other(hit: tf.Tensor, owners: tf.Tensor) -> tf.Tensor:
    """Of hits side by side in a word the first, the third and so on: in «aaa» the first two letters are merged, and not the last two."""
    place = tf.range(tf.size(hit))
    before = tf.concat([[False], hit[:-1] & (owners[1:] == owners[:-1])], axis=0)
    first = hit & ~before
    starts = tf.concat([[0], tf.boolean_mask(place, first)], axis=0)
    return (place - tf.gather(starts, tf.cumsum(tf.cast(first, tf.int32)))) % 2 == 0


def _split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Strings `(batch,)` → words `(batch, (words))`, as GPT-2's regular expression cuts them.

    That expression looks ahead, to leave the last of several blanks to the word behind them; RE2 cannot, so a mark is set there first.
    """
    texts = tf.strings.regex_replace(texts, _CUT, REPLACEMENT)
    texts = tf.strings.regex_replace(texts, rf"([{BLANK}])([{BLANK}][^{BLANK}])", rf"\1{_CUT}\2")
    return tensorflow_text().regex_split(texts, f"{_CUT}|{_WORDS}", _WORDS)

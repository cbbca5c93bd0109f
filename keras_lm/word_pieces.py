"""BERT's tokenizer inside the graph: words without accents and case, then the longest pieces from the left.

References:
    Devlin et al. 2019 (arXiv:1810.04805) and its `tokenization.py`; Song et al. 2021, «Fast WordPiece Tokenization».
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_lm.byte_pairs import BLANK
from keras_lm.cleaning import tensorflow_text
from keras_lm.errors import UserError
from keras_lm.tokenizer_base import REPLACEMENT, CheckpointTokenizer, write_description

LONGEST_WORD = 100
"""Characters; a longer word is one unknown token."""

_JOINER = "##"
_MARKS = r"!-/:-@\[-`{-~\p{P}"
_IDEOGRAPHS = (
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}\x{2B920}-\x{2CEAF}\x{F900}-\x{FAFF}"
    r"\x{2F800}-\x{2FA1F}"
)
_SPACED = re.compile(r"[^\W_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0002fa1f]")  # letters and digits of scripts with spaces


class BertTokenizer(CheckpointTokenizer):
    """WordPiece with the ids of transformers' `BertTokenizer`, as in BERT, MiniLM and the Chinese GPT-2 checkpoints.

    What it reads is changed: white space is lost, and case and accents where `lowercase`. What it writes is as near as may be: words of
    letters and digits with a space in front, Chinese characters and marks without. The names of special tokens in a text are text.

    Args:
        vocabulary: The name of each id; one inside a word begins with `##`.
        special: The ids of `pad`, `unknown`, `start` ([CLS]) and `end` ([SEP]); under other names further ids that write nothing.
        lowercase: Whether case is lost.
        strip_accents: Whether accents are; default as `lowercase`.
        ideographs: Whether each Chinese character is a word of its own.
        clean: Whether control characters are left out.

    Raises:
        UserError: a special id that is none of the vocabulary, or a name that stands twice.

    Example:

    >>> from keras_lm.tokenizer_base import SPECIAL
    >>> tokenizer = BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "棋"], dict(zip(SPECIAL, range(4))))
    >>> ids = tokenizer.tokenize(tf.constant(["Playing 棋棋"]))
    >>> ids.to_list(), tokenizer.detokenize(ids).numpy()[0].decode()
    ([[4, 5, 6, 6]], ' playing棋棋')
    """

    kind = "bert"
    needs_tensorflow_text = True

    def __init__(
        self,
        vocabulary: Sequence[str],
        special: Mapping[str, int],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        ideographs: bool = True,
        clean: bool = True,
    ):
        super().__init__(special)
        self.vocabulary = tuple(vocabulary)
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError("a name stands twice in the vocabulary")
        if not all(0 <= number < len(self.vocabulary) for number in special.values()):
            raise UserError(f"a special token has an id that is not below {len(self.vocabulary)}, the size of the vocabulary")
        self.lowercase, self.ideographs, self.clean = lowercase, ideographs, clean
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self._pieces = tensorflow_text().FastWordpieceTokenizer(
            vocab=list(self.vocabulary),
            suffix_indicator=_JOINER,
            max_bytes_per_word=4 * LONGEST_WORD,
            token_out_type=tf.int32,
            unknown_token=self.vocabulary[self.unknown_id],
            no_pretokenization=True,
        )
        self._strings = [self._written(number, name) for number, name in enumerate(self.vocabulary)]

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = tensorflow_text().regex_split(self._normalized(texts), rf"[{BLANK}]+|[{_MARKS}]", rf"[{_MARKS}]")
        too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > LONGEST_WORD
        words = words.with_flat_values(tf.where(too_long, "\x01", words.flat_values))  # which is in no vocabulary
        return tf.cast(self._pieces.tokenize(words), tf.int32).merge_dims(-2, -1)

    def save(self, folder: str | os.PathLike) -> None:
        names = ("special", "lowercase", "strip_accents", "ideographs", "clean")
        write_description(folder, {"kind": self.kind, "vocabulary": list(self.vocabulary), **{name: getattr(self, name) for name in names}})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> BertTokenizer:
        return cls(**{name: value for name, value in description.items() if name != "kind"})

    def _normalized(self, texts: tf.Tensor) -> tf.Tensor:
        replace = tf.strings.regex_replace
        if self.clean:
            texts = replace(texts, r"[\t\n\r]", " ")
            texts = replace(texts, r"[\x{FFFD}\p{Cc}\p{Cf}\p{Co}]", "")
        if self.ideographs:
            texts = replace(texts, f"([{_IDEOGRAPHS}])", r" \1 ")
        if self.strip_accents:
            texts = replace(tensorflow_text().normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        if self.lowercase:
            texts = tf.strings.lower(replace(texts, "Σ", "σ"), encoding="utf-8")  # never ς, which depends on what stands beside it
        return texts

    def _written(self, number: int, name: str) -> bytes:
        if number in self.special_ids:
            return REPLACEMENT.encode() if number == self.unknown_id else b""
        if name.startswith(_JOINER) and name != _JOINER:
            return name.removeprefix(_JOINER).encode()
        return (f" {name}" if _SPACED.match(name) else name).encode()

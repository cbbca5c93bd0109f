"""The cleaners and tokenizers once more, in Python alone: what runs beside a LiteRT file, where there is no TensorFlow.

`keras_lm.export.tflite` writes down, as JSON, what a tokenizer and a list of cleaners do; `TextCodec` does it from there, with the ids of
`keras_lm.tokenizers` and the text of `keras_lm.cleaning`. The classes of Unicode are written down too: which character is a letter depends
on the release of Unicode, and TensorFlow and each Python bring their own. Lower case and NFKC are Python's: they know other characters than
TensorFlow's where one of the two is of a later release.
"""

from __future__ import annotations

import base64
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from keras_lm.errors import UserError

PAD_ID, UNKNOWN_ID, START_ID, END_ID = range(4)
NUM_SPECIAL = 4
REPLACEMENT = "\ufffd"
_SPACE, _JOINER = "▁", "##"


class TextCodec:
    """Text ↔ ids without TensorFlow.

    Args:
        description: `kind`, `vocabulary` (the pieces from id 4 on, where there are any), `model` (SentencePiece's, in base64), `clean`, and
            in `classes` ranges of code points by name.

    Attributes:
        vocabulary_size: The number of ids.

    Raises:
        UserError: a kind of tokenizer or a cleaner that this release does not know.

    Example:

    >>> codec = TextCodec({"kind": "char", "vocabulary": ["我", "你"], "clean": ["whitespace"], "classes": {"blank": [[32, 32]]}})
    >>> codec.encode(codec.clean(" 我? ")), codec.pieces()[4].decode()
    ([4, 1], '我')
    """

    def __init__(self, description: dict[str, Any]):
        if description["kind"] not in KINDS:
            raise UserError(f"this release of keras_lm knows no tokenizer {description['kind']!r}: it is of a later one")
        self._tokenizer = KINDS[description["kind"]](description)
        classes = {name: _class(ranges) for name, ranges in description["classes"].items()}
        cleaners = {
            "control": lambda text: re.sub(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{classes['format']}]", "", text),
            "lower": str.lower,
            "nfkc": lambda text: unicodedata.normalize("NFKC", text),
            "whitespace": lambda text: _collapse_whitespace(text, classes["blank"]),
        }
        for name in description["clean"]:
            if name not in cleaners:
                raise UserError(f"this release of keras_lm knows no cleaner {name!r}: it is of a later one")
        self._cleaners = [cleaners[name] for name in description["clean"]]
        self.vocabulary_size = len(self.pieces())

    def clean(self, text: str) -> str:
        """What the training text's cleaners make of `text`; what is no UTF-8 becomes U+FFFD."""
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for cleaner in self._cleaners:
            text = cleaner(text)
        return text

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without start and end."""
        return self._tokenizer.encode(text)

    @functools.cache  # noqa: B019  a codec lives as long as its process
    def pieces(self) -> list[bytes]:
        """What each id writes, as `Tokenizer.pieces` gives it."""
        return self._tokenizer.pieces()

    def unknown_characters(self, text: str) -> list[str]:
        """The different characters of `text` that no token covers, in the order they appear."""
        return [character for character in dict.fromkeys(text) if UNKNOWN_ID in self.encode(character)]


class _Characters:
    def __init__(self, description: dict[str, Any]):
        self._vocabulary = description["vocabulary"]
        self._ids = {character: number for number, character in enumerate(self._vocabulary, NUM_SPECIAL)}

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(character, UNKNOWN_ID) for character in text]

    def pieces(self) -> list[bytes]:
        return surfaces(self._vocabulary)


class _Bytes:
    def __init__(self, description: dict[str, Any]):
        pass

    def encode(self, text: str) -> list[int]:
        return [NUM_SPECIAL + byte for byte in text.encode()]

    def pieces(self) -> list[bytes]:
        return [*surfaces([]), *(bytes([value]) for value in range(256))]


class _WordPiece:
    """Greedy longest match from the left; a word that cannot be spelled is one unknown token."""

    def __init__(self, description: dict[str, Any]):
        self._vocabulary = description["vocabulary"]
        self._ids = {piece: number for number, piece in enumerate(self._vocabulary, NUM_SPECIAL)}
        self._longest = max(map(len, self._vocabulary), default=0)
        letters, digits = (_class(description["classes"][name]) for name in ("letter", "digit"))
        self._words = re.compile(f" ?[{letters}]+| ?[{digits}]+|.", re.DOTALL)

    def encode(self, text: str) -> list[int]:
        text = re.sub(f"[\x00{_SPACE}]", REPLACEMENT, text)
        return [token for word in self._words.findall(text) for token in self._word(word.replace(" ", _SPACE))]

    def _word(self, word: str) -> list[int]:
        ids, start = [], 0
        while start < len(word):
            prefix = _JOINER if start else ""
            ends = range(min(len(word), start + self._longest), start, -1)
            found = next(((end, self._ids[piece]) for end in ends if (piece := prefix + word[start:end]) in self._ids), None)
            if found is None:
                return [UNKNOWN_ID]
            start = found[0]
            ids.append(found[1])
        return ids

    def pieces(self) -> list[bytes]:
        return surfaces(piece.removeprefix(_JOINER).replace(_SPACE, " ") for piece in self._vocabulary)


class _SentencePiece:
    def __init__(self, description: dict[str, Any]):
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(description["model"]))

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def pieces(self) -> list[bytes]:
        return sentencepiece_pieces(self._model)


KINDS = {"char": _Characters, "byte": _Bytes, "wordpiece": _WordPiece, "sentencepiece": _SentencePiece, "word": _SentencePiece}
"""What is known here, by the tokenizers' `kind`."""


def sentencepiece_pieces(model: Any) -> list[bytes]:
    """What each id of a `SentencePieceProcessor` writes."""

    def written(token: int) -> bytes:
        piece = model.id_to_piece(token)
        if model.is_control(token):
            return b""
        if model.is_unknown(token):
            return model.decode([token]).encode()
        return bytes([int(piece[1:-1], 16)]) if model.is_byte(token) else piece.replace(_SPACE, " ").encode()

    return [written(token) for token in range(model.vocab_size())]


def surfaces(pieces: Iterable[str]) -> list[bytes]:
    """What each id writes, the special ones first, from what the others do."""
    return [b"", REPLACEMENT.encode(), b"", b"", *(piece.encode() for piece in pieces)]


def _collapse_whitespace(text: str, blank: str) -> str:
    text = re.sub(f"[\t{blank}]+", " ", text)
    text = re.sub(" ?\n ?", "\n", text)
    text = re.sub("\n{3,}", "\n\n", text)
    return text.strip(" \t\n\v\f\r")


def _class(ranges: Sequence[Sequence[int]]) -> str:
    """Ranges of code points as the inside of a character class."""
    return "".join(f"{_escaped(first)}-{_escaped(last)}" for first, last in ranges)


def _escaped(code_point: int) -> str:
    return f"\\U{code_point:08x}"

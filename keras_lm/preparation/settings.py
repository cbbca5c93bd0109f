"""What a preparation is made of, as one value that checks itself; free of TensorFlow, so that bad input is refused at once."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from keras_lm.corpora import DOCUMENT_UNITS
from keras_lm.errors import UserError, unknown_name
from keras_lm.privacy.desensitizing import check_kinds

CHOICES: dict[str, tuple[str, ...]] = {
    "document": DOCUMENT_UNITS,
    "errors": ("strict", "replace"),
    "split": ("hash", "contiguous", "given"),
    "tokenizer": ("char", "byte", "wordpiece", "sentencepiece", "word"),
}
"""The words that a field takes. The tables of the library hold the same names as these and `CLEANERS`, and a test compares them."""

CLEANERS = ("control", "lower", "nfkc", "whitespace")

GROUPS: dict[str, str] = {"corpus": "text", "tokenizer": "tokens", "workers": "work and output"}
"""Headings of `--help`, by the field that each begins with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Everything that decides what a tokenized corpus holds, and how the work is done.

    Args:
        corpus: Text to tokenize, one or several, in this order: files or globs of UTF-8 text (.gz too), tfds:NAME[/CONFIG], peoples-daily,
            reviews, kjv, pydoc.
        document: What one document of a text file is: line, paragraph or file.
        errors: Bytes that are not UTF-8: strict refuses them, replace reads them as U+FFFD.
        data_dir: Folder of prepared TensorFlow datasets; default their own.
        clean: Cleaners to apply, in this order: control, lower, nfkc, whitespace.
        desensitize: Secrets to mask before all else: all, or some of email, mac, ip, id_card, bank_card, phone, plate, name; presidio adds
            what presidio-analyzer finds.
        names_file: File of the names of persons to mask, one a line.
        split: How text is held out: hash (90/5/5 by document), contiguous (first 90 %, last 10 %), given (the corpus' own).
        tokenizer: What a token is: char (the default), byte, wordpiece, sentencepiece or word.
        tokenizer_from: Take the tokenizer of this run, tokenized corpus or folder instead of learning one.
        vocabulary_size: Most tokens in the vocabulary; default all characters, 8000 sub-words or 20000 words.
        vocabulary_sample: Megabytes of training text that sub-words are learnt from, taken evenly from all of the corpus; characters are
            counted in all of it.
        workers: Processes that tokenize; default one a core.
        shard_tokens: Most tokens in a shard, 2 bytes each (4 where the vocabulary has over 65,536).
        out: Folder of the tokenized corpus; default data/CORPUS-TOKENIZER.

    Raises:
        UserError: a value out of range or not among the choices, or two that contradict each other; the message names the field.

    Example:

    >>> PreparationSettings(corpus=("books/*.txt",), tokenizer="byte").folder
    'data/books---txt-byte'
    >>> PreparationSettings(corpus=("book.txt",), workers=0)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: workers must be at least 1, got 0
    """

    corpus: tuple[str, ...] = ()
    document: str = "line"
    errors: str = "strict"
    data_dir: str | None = None
    clean: tuple[str, ...] = ()
    desensitize: tuple[str, ...] = ()
    names_file: str | None = None
    split: str = "hash"
    tokenizer: str | None = None
    tokenizer_from: str | None = None
    vocabulary_size: int | None = None
    vocabulary_sample: int = 100
    workers: int | None = None
    shard_tokens: int = 1 << 25
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.corpus:
            raise UserError("corpus must name a text: a file, a glob, tfds:NAME or a registered corpus")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "tokenizer" and value is None):
                raise unknown_name(name, value, choices)
        for name in self.clean:
            if name not in CLEANERS:
                raise unknown_name("cleaner", name, CLEANERS)
        check_kinds(self.desensitize)
        for name in ("vocabulary_size", "vocabulary_sample", "workers", "shard_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.tokenizer_from is not None:
            for name in ("tokenizer", "vocabulary_size"):
                if getattr(self, name) is not None:
                    raise UserError(f"tokenizer_from takes a tokenizer that is ready: leave {name} out")
            tokenizer_folder(self.tokenizer_from)
        check_vocabulary_size(self.tokenizer or "char", self.vocabulary_size)

    @property
    def folder(self) -> str:
        """The folder of the tokenized corpus: `out`, or a name made of corpus and tokenizer."""
        corpus = "".join(character if character.isalnum() or character in "-_" else "-" for character in self.corpus[0])
        return self.out or f"data/{corpus.strip('-')}-{self.tokenizer or (self.tokenizer_from and 'tokens') or 'char'}"

    @property
    def documents(self) -> bool:
        """Whether the text is read as documents, each between a start and an end token, or as one long text without them."""
        return self.split != "contiguous"

    @property
    def processes(self) -> int:
        """How many processes tokenize."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.workers or cores or 1


def check_vocabulary_size(tokenizer: str, size: int | None) -> None:
    """Refuses a size that a tokenizer cannot have, as far as that is known before the text is read.

    Raises:
        UserError: a size below the special tokens and what every vocabulary of this kind holds.
    """
    least = {"char": 5, "byte": 260, "word": 262}.get(tokenizer, 1)
    if size is not None and size < least:
        raise UserError(f"vocabulary_size must be at least {least} for the tokenizer {tokenizer}, got {size}")


def tokenizer_folder(folder: str | os.PathLike) -> pathlib.Path:
    """Where the tokenizer of a run, of a tokenized corpus, or in a folder of its own lies.

    Raises:
        UserError: there is none.
    """
    folder = pathlib.Path(folder)
    for candidate in (folder, folder / "tokenizer"):
        if (candidate / "tokenizer.json").is_file():
            return candidate
    raise UserError(f"{folder} holds no tokenizer (no tokenizer.json there, nor in {folder / 'tokenizer'})")

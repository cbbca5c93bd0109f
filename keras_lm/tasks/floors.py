"""What a model has to beat that answers one text with another: the answer to the nearest known text, and the beginning of the text itself.

References:
    Rush, Chopra and Weston 2015 (arXiv:1509.00685) compare headlines with the first 75 bytes of a text («Prefix»); See, Liu and Manning
    2017 (arXiv:1704.04368) summaries with its first three sentences («lead-3»).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from keras_lm.classical.bag_of_words import BagOfWords
from keras_lm.errors import UserError


class NearestNeighbour:
    """Answers a text as the most similar known one was answered. It makes nothing new: any translation it gives has been seen.

    Similar is what has a high cosine of TF-IDF vectors; of equals, the first. A text that shares no word with any gets the first target.

    Args:
        sources: The known texts; all of them are held.
        targets: The answer to each.
        ngrams: The longest run of words (Chinese: characters) that counts. Default 2.

    Raises:
        UserError: no texts, another number of targets than of sources, or scikit-learn is not installed.

    Example:

    >>> floor = NearestNeighbour(["I like tea.", "He is late."], ["我喜欢茶。", "他迟到了。"])
    >>> floor.predict(["She is late."])
    ['他迟到了。']
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str], *, ngrams: int = 2):
        if len(sources) != len(targets):
            raise UserError(f"there are {len(sources)} sources, but {len(targets)} targets")
        self.targets = tuple(targets)
        self.bag = BagOfWords.fit(sources, words="characters", ngrams=ngrams)
        self._known = self.bag.vectors(sources).T.tocsr()  # (vocabulary, sources)

    def nearest(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → `(texts,)` int64: the place of the nearest source of each."""
        vectors = self.bag.vectors(texts)
        # A block at a time: the cosines with 100,000 sources take 200 MB here.
        blocks = [(vectors[start : start + 256] @ self._known).toarray().argmax(axis=1) for start in range(0, len(texts), 256)]
        return np.concatenate(blocks)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The target of the nearest source of each text."""
        return [self.targets[place] for place in self.nearest(texts)]


_SENTENCE = re.compile(r"""[^\n]*?(?:[。！？!?]+[”’』」）"')]*|[.]+["'”’)]*(?=\s|$)|(?=\n)|$)\s*""")


def lead_sentence(text: str, limit: int | None = None, *, sentences: int = 1) -> str:
    """The beginning of a text: what a headline or a summary has to beat.

    Args:
        text: Chinese or of a script with spaces; there a full stop before a space ends a sentence, be it behind «Mr» too.
        limit: Most characters, without marks that would then stand at the end; no word of letters is cut in two. For headlines
            the usual limit is their mean length. Default: none.
        sentences: How many sentences. Default 1; for long summaries 3 are usual.

    Raises:
        UserError: a limit or a number of sentences below 1.

    Example:

    >>> lead_sentence("国债发行顺利结束，共发行２４１２亿元。其中凭证式国债１６４３亿元。")
    '国债发行顺利结束，共发行２４１２亿元。'
    >>> lead_sentence("国债发行顺利结束，共发行２４１２亿元。", limit=9)
    '国债发行顺利结束'
    >>> lead_sentence("Prices rose 3.5 percent. Nobody knew why.", limit=15)
    'Prices rose 3.5'
    """
    for name, value in (("limit", limit), ("sentences", sentences)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    text = text.strip()
    end = 0
    for _ in range(sentences):
        end = _SENTENCE.match(text, end).end()
    lead = text[:end].rstrip()
    if limit is None or len(lead) <= limit:
        return lead
    cut = lead[:limit]
    if re.match(r"[A-Za-zÀ-ɏ0-9]{2}", lead[limit - 1 :]):  # `limit` is inside a word
        cut = re.sub(r"[A-Za-zÀ-ɏ0-9]+$", "", cut) or cut
    return re.sub(r"[\s，、；：,;:（(“‘]+$", "", cut)

"""Text → words. Chinese writes no spaces between its words: jieba finds them, or each character counts as one.

Words are what counts of words, n-grams of words and word vectors are made of (articles A1 §3 and A4 §2.1 name segmentation as a step of
preparing text). Letters of other scripts form a word with the space before them, as GPT-2 has it, so that joining the words always gives
back the text. This is Python; what runs inside the graph is `tokenizers.WordTokenizer`, which learns its words here.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import sys
from collections.abc import Callable

from keras_lm.errors import UserError, unknown_name

HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_OTHER = f"{HAN}\u3040-\u30ff"  # Hiragana and Katakana too have no spaces between words
_UNITS = re.compile(
    rf"[{HAN}]+"
    rf"| ?[^\W\d_{_OTHER}]+"  # letters, the space before them included
    r"| ?\d+"
    r"|(?s:.)"  # any other character alone: kana, punctuation, white space
)


def segmenter(name: str = "auto") -> Callable[[str], list[str]]:
    """A function from a text to its words, whose join is the text.

    Args:
        name: `"jieba"`; `"characters"`, which makes each Chinese character a word; `"auto"` (default): jieba where it is installed, and
            otherwise characters, with a line on stderr that says so.

    Raises:
        UserError: an unknown name, or `"jieba"` where it is not installed.

    Example:

    >>> segmenter("characters")("我喜欢编程, in Python 3.")
    ['我', '喜', '欢', '编', '程', ',', ' in', ' Python', ' 3', '.']

    References:
        jieba: words by the most probable path through a dictionary, and a hidden Markov model for those that are not in it.
    """
    if name not in ("auto", "jieba", "characters"):
        raise unknown_name("segmenter", name, ["auto", "jieba", "characters"])
    installed = importlib.util.find_spec("jieba") is not None
    if name == "jieba" and not installed:
        raise UserError("words of Chinese text are found with jieba: pip install 'keras_lm[tasks]' (or take characters)")
    if name == "auto" and not installed:
        print("jieba is not installed (pip install 'keras_lm[tasks]'): each Chinese character counts as a word", file=sys.stderr)
    cut = _jieba() if installed and name != "characters" else list

    def words(text: str) -> list[str]:
        found = []
        for unit in _UNITS.findall(text):
            found += cut(unit) if unit[0] != " " and len(unit) > 1 and _is_han(unit[0]) else [unit]
        return found

    return words


def _is_han(character: str) -> bool:
    return re.match(f"[{HAN}]", character) is not None


@functools.cache
def _jieba() -> Callable[[str], list[str]]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, and of escapes in its strings
        import jieba
    jieba.setLogLevel(logging.WARNING)  # it tells of its dictionary on stderr
    jieba.initialize()
    return jieba.lcut


def boundary_scores(found: list[list[str]], right: list[list[str]]) -> tuple[float, float, float]:
    """How well words were found: precision, recall and F1 over whole words, as the SIGHAN bakeoffs count them.

    Args:
        found: The words of each text as they were found.
        right: The words of the same texts as they should be.

    Raises:
        ValueError: the texts are not the same.

    Example:

    >>> precision, recall, f1 = boundary_scores([["我", "喜欢", "编", "程"]], [["我", "喜欢", "编程"]])
    >>> precision, round(recall, 3), round(f1, 3)
    (0.5, 0.667, 0.571)

    References:
        Sproat and Emerson 2003, «The First International Chinese Word Segmentation Bakeoff».
    """
    number_found = number_right = both = 0
    for ours, theirs in zip(found, right, strict=True):
        if "".join(ours) != "".join(theirs):
            raise ValueError(f"the words are not of the same text: {''.join(ours)!r}, {''.join(theirs)!r}")
        a, b = _spans(ours), _spans(theirs)
        number_found, number_right, both = number_found + len(a), number_right + len(b), both + len(a & b)
    precision, recall = both / max(number_found, 1), both / max(number_right, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def _spans(words: list[str]) -> set[tuple[int, int]]:
    spans, start = set(), 0
    for word in words:
        spans.add((start, start + len(word)))
        start += len(word)
    return spans

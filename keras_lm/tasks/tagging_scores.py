"""How well words and their tags are found: precision, recall and F1 over whole words.

Found is a word where it begins and ends as it should; with its tag, where that is right as well. Tags of single characters come third: they
are what a model answers, but a word of four characters counts there four times.

References:
    Sproat and Emerson 2003, «The First International Chinese Word Segmentation Bakeoff»; Tjong Kim Sang and Buchholz 2000 (F1 over whole
    chunks); Ng and Low 2004 (words and parts of speech in one).
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence

from keras_lm.errors import UserError
from keras_lm.segmentation import boundary_scores, segmenter

Words = Sequence[tuple[str, str]]
"""The words of a text, each with its tag."""


@dataclasses.dataclass(frozen=True)
class TaggingScores:
    """How near words and tags are to the right ones, of all texts together, 0 to 1.

    Attributes:
        precision: The share of the words found that are words.
        recall: The share of the words that were found.
        f1: Their harmonic mean.
        tagged_precision, tagged_recall, tagged_f1: The same of words with their tags: both must be right.
        tag_accuracy: The share of characters whose word has the right tag, be its borders right or not.
        unknown_recall: The share found of the words that were not known, without their tags; `None` where that was not asked, or all were.
        words: How many right ones there are.
        texts: How many there were.
    """

    precision: float
    recall: float
    f1: float
    tagged_precision: float
    tagged_recall: float
    tagged_f1: float
    tag_accuracy: float
    unknown_recall: float | None
    words: int
    texts: int


def tagging_scores(found: Sequence[Words], right: Sequence[Words], known: Collection[str] | None = None) -> TaggingScores:
    """Compares words and tags with the right ones.

    Args:
        found: The words of each text as they were found, each with its tag.
        right: The words of the same texts as they should be.
        known: The words of the training texts, for `unknown_recall`. Default: not asked.

    Raises:
        UserError: no texts, another number of them, or two that are not the same; the message has the text's number.

    Example:

    >>> right = [[("我", "r"), ("喜欢", "v"), ("编程", "v")]]
    >>> scores = tagging_scores([[("我", "r"), ("喜欢", "n"), ("编", "v"), ("程", "v")]], right)
    >>> scores.precision, scores.tagged_precision, scores.tag_accuracy
    (0.5, 0.25, 0.6)
    """
    if not len(right):
        raise UserError("there are no texts to judge")
    if len(found) != len(right):
        raise UserError(f"the words of {len(found)} texts were found, but there are {len(right)}")
    spans_found = spans_right = both = characters = same_tag = unknown = unknown_found = 0
    for number, (ours, theirs) in enumerate(zip(found, right, strict=True), start=1):
        if _text(ours) != _text(theirs):
            raise UserError(f"text {number} is {_text(theirs)!r}, but the words found are of {_text(ours)!r}")
        a, b = _spans(ours), _spans(theirs)
        spans_found, spans_right, both = spans_found + len(a), spans_right + len(b), both + len(a.items() & b.items())
        characters += len(_text(theirs))
        same_tag += sum(one == other for one, other in zip(_tags(ours), _tags(theirs), strict=True))
        if known is not None:
            new = [span for span, (word, _) in zip(b, theirs, strict=True) if word not in known]
            unknown, unknown_found = unknown + len(new), unknown_found + sum(span in a for span in new)
    precision, recall, f1 = boundary_scores(*([[word for word, _ in words] for words in texts] for texts in (found, right)))
    tagged_precision, tagged_recall = both / max(spans_found, 1), both / max(spans_right, 1)
    return TaggingScores(
        precision=precision,
        recall=recall,
        f1=f1,
        tagged_precision=tagged_precision,
        tagged_recall=tagged_recall,
        tagged_f1=2 * both / max(spans_found + spans_right, 1),
        tag_accuracy=same_tag / max(characters, 1),
        unknown_recall=unknown_found / unknown if unknown else None,
        words=spans_right,
        texts=len(right),
    )


def _text(words: Words) -> str:
    return "".join(word for word, _ in words)


def _tags(words: Words) -> list[str]:
    return [tag for word, tag in words for _ in word]


def _spans(words: Words) -> dict[tuple[int, int], str]:
    """The tag of each word, by where it begins and ends."""
    spans, start = {}, 0
    for word, tag in words:
        spans[start, start + len(word)] = tag
        start += len(word)
    return spans


def coarse(words: Words) -> list[tuple[str, str]]:
    """Words with the first letters of their tags, in lower case: what the tag sets of People's Daily and of jieba have in common.

    So all nouns are `n`, names among them, and a verb used as a noun is a verb. Of jieba's own tags `x`, which marks have, becomes the `w`
    of People's Daily, and `eng` an `n` as its `nx` does. What the two disagree about beyond that stays, and counts as wrong.

    Example:

    >>> coarse([("江", "nr"), ("Internet", "eng"), ("，", "x"), ("摄", "Vg")])
    [('江', 'n'), ('Internet', 'n'), ('，', 'w'), ('摄', 'v')]
    """
    return [(word, {"x": "w", "eng": "n"}.get(tag, tag[:1].lower())) for word, tag in words]


_HALF_WIDTH = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), 0xFF0E)}
"""Digits, letters and the point of numbers, as jieba reads them: as wide as a Chinese character, each would be a mark by itself."""


def jieba_floor(texts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The words that jieba finds, each with its tag made `coarse`: what a tagger has to beat that learnt from marked texts.

    Its words and tags follow rules of its own; compare it with right words made `coarse` too. The other way it has an advantage: it is said
    to have learnt from this month of People's Daily among other texts (fxsjy/jieba issue 7), those held back here included.

    Args:
        texts: Any number.

    Returns:
        The words of each, whose join is the text.

    Raises:
        UserError: jieba is not installed.

    Example:

    >>> jieba_floor(["我喜欢编程。"])
    [[('我', 'r'), ('喜欢', 'v'), ('编程', 'n'), ('。', 'w')]]
    """
    cut = _jieba_tagger()
    floor = []
    for text in texts:
        words, start = [], 0
        for word, tag in cut(text.translate(_HALF_WIDTH)):
            if tag == "x" and word.isalnum():  # no mark, but a figure, a letter or a character that its dictionary lacks
                tag = "m" if word.isdecimal() else "n"
            words.append((text[start : start + len(word)], tag))
            start += len(word)
        floor.append(coarse(words))
    return floor


@functools.cache
def _jieba_tagger() -> Callable[[str], Iterator[tuple[str, str]]]:
    segmenter("jieba")  # says what to install, and loads the dictionary in silence
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in its strings
        import jieba.posseg
    return lambda text: ((pair.word, pair.flag) for pair in jieba.posseg.cut(text))

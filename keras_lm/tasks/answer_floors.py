"""What has to be beaten in answering: the sentence of the passage that is most like the question, and a span of it. Nothing is learnt.

References:
    Richardson, Burges and Renshaw 2013 (MCTest), whose baseline slides over the text and counts the words shared with the question;
    Rajpurkar et al. 2016 (arXiv:1606.05250) have it with spans as the floor of SQuAD.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator

from keras_lm.errors import UserError
from keras_lm.segmentation import HAN
from keras_lm.tasks.floors import lead_sentence


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, as `lead_sentence` finds them, without the white space around it.

    Example:

    >>> text = "涨了3.5%。为什么？Nobody knew. None."
    >>> [text[start:end] for start, end in sentences(text)]
    ['涨了3.5%。', '为什么？', 'Nobody knew.', 'None.']
    """
    found, end = [], 0
    while own := lead_sentence(text[end:]):
        start = text.index(own, end)
        end = start + len(own)
        found.append((start, end))
    return found


def nearest_sentence(question: str, passage: str) -> str:
    """The sentence of a passage that shares most with the question: the floor for answering.

    What is shared are pairs of Chinese characters, and words of other scripts, in lower case. Each counts once, and for more the fewer
    sentences of the passage have it: ln((1 + sentences) / (1 + sentences with it)) + 1, the weight of TF-IDF. Of equals the first.

    Args:
        question, passage: Chinese, or of a script with spaces.

    Raises:
        UserError: a passage without a letter.

    Example:

    >>> nearest_sentence("谁写了《呐喊》？", "鲁迅生于绍兴。《呐喊》是他写的。")
    '《呐喊》是他写的。'
    """
    start, end = _nearest(question, passage)[0]
    return passage[start:end]


def nearest_span(question: str, passage: str, length: int) -> str:
    """A span of the nearest sentence: the stronger floor.

    It has nothing in it that the question has, nor a mark, and stands near to what the question has.

    Args:
        question, passage: As `nearest_sentence` takes them.
        length: Characters of the span, such as `Questions.median_length`. It has fewer where a mark ends it, and more where a word of
            letters or digits does not end.

    Returns:
        The span; the whole sentence where nothing else is in it.

    Raises:
        UserError: a passage without a letter, or a length below 1.

    Example:

    >>> nearest_span("《呐喊》的作者是谁？", "鲁迅生于绍兴。《呐喊》的作者是鲁迅，他学过医。", length=2)
    '鲁迅'
    """
    if length < 1:
        raise UserError(f"length must be at least 1, got {length}")
    (first, end), weights = _nearest(question, passage)
    sentence = passage[first:end]
    shared = [(start, end, weights[piece]) for start, end, piece in _pieces(sentence) if piece in weights]
    free = [span for span in _spans(sentence, length) if all(end <= span[0] or span[1] <= start for start, end, _ in shared)]

    def merit(span: tuple[int, int]) -> float:  # 5: what stands at either side of a span counts, and not the nearer alone
        return sum(weight / (5 + max(span[0] - end, start - span[1])) for start, end, weight in shared)

    start, end = max(free, key=merit, default=(0, len(sentence)))
    return sentence[start:end]


_WORD = re.compile(rf"[{HAN}]+|[^\W_{HAN}]+")
_MARK = re.compile(r"[，。；：！？、…,;:!?()（）\n]")


def _pieces(text: str) -> list[tuple[int, int, str]]:
    """Start, end and text of what is compared: pairs of Chinese characters (one, where it stands alone), and other words."""
    found = []
    for word in _WORD.finditer(text):
        start, end = word.span()
        if end - start > 2 and re.match(f"[{HAN}]", word[0]):
            found += [(place, place + 2, text[place : place + 2]) for place in range(start, end - 1)]
        else:
            found.append((start, end, word[0].lower()))
    return found


def _nearest(question: str, passage: str) -> tuple[tuple[int, int], dict[str, float]]:
    """Where the sentence stands, and what each piece of the question weighs."""
    places = sentences(passage)
    if not any(map(_pieces, (passage[start:end] for start, end in places))):
        raise UserError("the passage has no letter, so no sentence of it can be an answer")
    found = [{piece for *_, piece in _pieces(passage[start:end])} for start, end in places]
    frequencies = collections.Counter(piece for own in found for piece in own)
    weights = {piece: math.log((1 + len(found)) / (1 + frequencies[piece])) + 1 for *_, piece in _pieces(question)}
    best = max(range(len(found)), key=lambda number: sum(weight for piece, weight in weights.items() if piece in found[number]))
    return places[best], weights


def _spans(sentence: str, length: int) -> Iterator[tuple[int, int]]:
    """From each Chinese character and each other word to where `length` is reached, or to the mark before that."""
    units = [place for word in _WORD.finditer(sentence) for place in _units(word)]
    for number, (start, end) in enumerate(units):
        for _, following in units[number:]:
            if _MARK.search(sentence, start, following):
                break
            end = following
            if end - start >= length:
                break
        yield start, end


def _units(word: re.Match[str]) -> list[tuple[int, int]]:
    start, end = word.span()
    return [(place, place + 1) for place in range(start, end)] if re.match(f"[{HAN}]", word[0]) else [(start, end)]

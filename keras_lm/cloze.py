"""Questions made of texts whose words are marked, so that answering has data of its own: nothing is downloaded, nobody wrote them.

A sentence with a name in it becomes a question: a question word takes the place of the name. The rest of its text is the passage, and what
is asked for stands there as well. To answer, a model has to find what the rest says of the same matter, as with questions that people ask;
but the words are often those of the passage's own author, and some questions ask for what the passage does not say.

References:
    Lewis, Denoyer and Riedel 2019, «Unsupervised Question Answering by Cloze Translation» (arXiv:1906.04980), where question words stand
    for names by their kind; Hermann et al. 2015, «Teaching Machines to Read and Comprehend» (arXiv:1506.03340), which asks for the names
    left out of summaries.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from keras_lm.errors import UserError
from keras_lm.pairs import _DATELINE
from keras_lm.passages import Question, Questions, open_questions
from keras_lm.tagged import TaggedText, TaggedTexts, peoples_daily_tagged

QUESTION_WORDS = {"nr": "谁", "ns": "哪里", "nt": "哪个机构", "nz": "什么"}
"""What asks for a name, by what its tag begins with: persons, places, organisations, others."""

MOST_QUESTIONS = 3
"""Of one text."""

_LENGTHS = range(6, 61)  # characters of a question
_SHORTEST_PASSAGE = 20
_SENTENCE = re.compile(r"[^。！？]*[。！？]+[”’』」）]*")
_FINAL_MARKS = re.compile(r"[。！？]+(?=[”’』」）]*$)")
_BRACKETS = ("“”", "‘’", "『』", "「」", "（）", "《》")
_NOUNS = ("n", "vn", "an", "Ng", "nz", "b", "j")


def cloze_questions(texts: TaggedTexts) -> Questions:
    """Questions about what is left of a text without one of its sentences, which ask for a name in that sentence.

    The name has two characters or more, and stands in the rest of the text as a name of the same kind; the answer is the first such place.
    Surname and given name, which are two words in Chinese corpora, are one name. A sentence is asked once, for the first name that fits; a
    text at most `MOST_QUESTIONS` times. Left out are questions that hold the name once more, have under 6 or over 60 characters or
    brackets without their other half, passages under 20, persons with a title behind (谁主席) and places with another behind.

    Args:
        texts: With tags as Peking University has them: nr for persons, ns places, nt organisations, nz other names.

    Returns:
        Questions whose `given` is the split of their whole text, that of `TaggedTexts.split`: passages of one text, which differ by a
        sentence, stand in one split then, and what a language model of the same corpus held back is held back here. In the order of the
        splits, and in each of the texts.

    Raises:
        UserError: no question can be made of these texts.

    Example:

    >>> words = "李/nr 雷/nr 住/v 在/p 北京/ns 。/w 他/r 每天/r 骑车/v 上班/v ，/w 走遍/v 了/u 大街小巷/n 。/w 李/nr 雷/nr 很/d 热心/a 。/w"
    >>> words, tags = zip(*(pair.split("/") for pair in words.split()))
    >>> questions = cloze_questions(TaggedTexts(name="one", texts=(TaggedText(words=words, tags=tags),)))
    >>> questions.questions[0]
    Question(id='1', question='谁住在北京？', passage='他每天骑车上班，走遍了大街小巷。李雷很热心。', answers=(('李雷', 16),))
    """
    made, given = [], []
    for split, part in texts.split().items():
        for text in part.texts:
            for question, passage, answer in itertools.islice(_questions_of(text), MOST_QUESTIONS):
                made.append(Question(str(len(made) + 1), question, passage, (answer,)))
                given.append(split)
    if not made:
        raise UserError(f"no question can be made of {texts.name}: no sentence has a name that stands in the rest of its text as well")
    return Questions(name=texts.name, questions=tuple(made), given=tuple(given))


def peoples_daily_cloze() -> Questions:
    """Questions of People's Daily (`keras_lm.tagged.peoples_daily_tagged`), 5,000 of them; `split("given")` is the split to use.

    Raises:
        UserError: the package that the newspaper comes in is not installed.
    """
    return cloze_questions(peoples_daily_tagged())


def answering_questions(corpus: str, test_corpus: str | None = None, data_dir: str | None = None) -> dict[str, Questions]:
    """The questions of a corpus as `train`, `validation` and `test`.

    Args:
        corpus: `peoples-daily` (`peoples_daily_cloze`), or what `keras_lm.passages.open_questions` opens. The splits are its own, where it
            has `train` and `validation`; a dataset without `test` has none here either. Default: 90/5/5 by a hash of each passage.
        test_corpus: Another one, which is held out whole; what would have been the test is then learnt from.
        data_dir: For `tfds:`: the folder that holds prepared datasets.

    Raises:
        UserError: as those functions.
    """
    questions = _opened(corpus, data_dir)
    parts = questions.split("given" if {"train", "validation"} <= set(questions.given) else "hash")
    if test_corpus:
        parts["train"] = dataclasses.replace(parts["train"], questions=parts["train"].questions + parts["test"].questions)
        parts["test"] = _opened(test_corpus, data_dir)
    return parts


def _opened(source: str, data_dir: str | None) -> Questions:
    return peoples_daily_cloze() if source == "peoples-daily" else open_questions(source, data_dir=data_dir)


class _Word(NamedTuple):
    """A word of a text, or the words of a person's name; `kind` is how its tag begins."""

    text: str
    start: int
    kind: str


def _words(text: TaggedText) -> list[_Word]:
    words: list[_Word] = []
    place, before = 0, ""
    for word, tag in text.pairs:
        kind = tag[:2]
        if kind == before == "nr":
            words[-1] = words[-1]._replace(text=words[-1].text + word)
        else:
            words.append(_Word(word, place, kind))
        place, before = place + len(word), kind
    return words


def _questions_of(text: TaggedText) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """Question, passage and answer, of each sentence that one can be made of."""
    words, whole = _words(text), text.text
    names = [(word, behind.kind) for word, behind in itertools.pairwise((*words, _Word("", len(whole), ""))) if word.kind in QUESTION_WORDS]
    places = collections.defaultdict(list)
    for name, _ in names:
        places[name.text, name.kind].append(name.start)
    for sentence in _SENTENCE.finditer(whole) if len(places) < len(names) else ():
        start, end = sentence.span()
        begin = start + _DATELINE.match(sentence[0]).end()  # a question does not begin with «our reporter in Beijing»
        for name, following in names:
            others = [place for place in places[name.text, name.kind] if not start <= place < end]
            if not others or not begin <= name.start < end or len(whole) - (end - start) < _SHORTEST_PASSAGE:
                continue
            question = _question(whole[begin:end], name, name.start - begin, following)
            if question:
                place = others[0] if others[0] < start else others[0] - (end - start)
                yield question, whole[:start] + whole[end:], (name.text, place)
                break


def _question(sentence: str, name: _Word, place: int, following: str) -> str | None:
    """The sentence with a question word for a name, `following` the kind of word behind it; `None` where that makes no good question."""
    if len(name.text) < 2 or (name.kind, following) in (("nr", "n"), ("ns", "ns")):
        return None
    asks = QUESTION_WORDS[name.kind] + ("的" if name.kind in ("ns", "nt") and following in _NOUNS else "")  # 哪里的报纸
    question = _FINAL_MARKS.sub("？", sentence[:place] + asks + sentence[place + len(name.text) :])
    balanced = all(question.count(opening) == question.count(closing) for opening, closing in _BRACKETS)
    return question if balanced and len(question) in _LENGTHS and name.text not in question else None

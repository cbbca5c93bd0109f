"""Sentences by hand, and the nearest one against scikit-learn's TF-IDF."""

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from keras_lm.errors import UserError
from keras_lm.tasks.answer_floors import nearest_sentence, nearest_span, sentences

PASSAGE = "鲁迅生于绍兴，原名周树人。《呐喊》是他一九二三年出版的小说集。他说：“救救孩子！”\n后来他在上海去世。"
QUESTIONS = ["《呐喊》是哪一年出版的？", "鲁迅原名是什么？", "他在哪里去世？", "谁说“救救孩子”？", "什么小说集出版了？"]


def test_sentences_are_all_of_the_text_but_white_space():
    text = f"  {PASSAGE}\n\nHe died in 1936. Dr. No?  "
    found = [text[start:end] for start, end in sentences(text)]
    assert found[:4] == ["鲁迅生于绍兴，原名周树人。", "《呐喊》是他一九二三年出版的小说集。", "他说：“救救孩子！”", "后来他在上海去世。"]
    assert found[4:] == ["He died in 1936.", "Dr.", "No?"]
    assert "".join(found) == "".join(text.split("\n")).replace("1936. ", "1936.").replace("Dr. ", "Dr.").strip()
    assert sentences(" \n") == []


def test_the_nearest_sentence_is_that_of_scikit_learns_weights():
    texts = [PASSAGE[start:end] for start, end in sentences(PASSAGE)]
    pairs = lambda text: [pair for pair in map("".join, itertools.pairwise(text)) if pair.isalpha()]
    vectorizer = TfidfVectorizer(analyzer=pairs, binary=True, norm=None)
    known = vectorizer.fit_transform(texts)
    nearest = []
    for question in QUESTIONS:
        asked = vectorizer.transform([question]) > 0
        shared = (known @ asked.T).toarray().ravel()
        assert shared.max() > 0
        nearest.append(int(np.argmax(shared)))
        assert nearest_sentence(question, PASSAGE) == texts[nearest[-1]]
    assert set(nearest) == {0, 1, 2, 3}


def test_of_equals_the_first_and_case_does_not_count():
    assert nearest_sentence("Xyz?", "One came. Two left.") == "One came."
    assert nearest_sentence("WHO LEFT?", "One came. Two left.") == "Two left."


@pytest.mark.parametrize(
    ("question", "passage", "length", "span"),
    [
        ("《呐喊》的作者是谁？", "《呐喊》的作者是鲁迅，他学过医。", 2, "鲁迅"),
        ("谁原名周树人？", "鲁迅原名周树人。", 2, "鲁迅"),
        ("In which city was he born?", "He was born in Shaoxing, and died in Shanghai.", 5, "Shaoxing"),
        ("《呐喊》出版时他几岁？", "《呐喊》出版时他42岁。", 1, "42"),
    ],
)
def test_a_span_stands_beside_what_was_asked(question, passage, length, span):
    assert nearest_span(question, passage, length) == span


def test_a_span_is_as_long_as_asked_or_ends_at_a_mark():
    spans = set()
    for question in QUESTIONS:
        sentence = nearest_sentence(question, PASSAGE)
        for length in (1, 2, 3, 4, 30):
            span = nearest_span(question, PASSAGE, length)
            behind = sentence.partition(span)[2]
            assert span and (len(span) == length or behind[:1] in set("，。；：！？") or span == sentence)
            spans.add(span)
    assert len(spans) > 10


def test_where_no_span_is_left_the_sentence_is_the_answer():
    assert nearest_span("鲁迅是谁？", "鲁迅。", 3) == "鲁迅。"


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(UserError, match="the passage has no letter"):
        nearest_sentence("谁？", "\n")
    with pytest.raises(UserError, match="length must be at least 1, got 0"):
        nearest_span("谁？", PASSAGE, 0)

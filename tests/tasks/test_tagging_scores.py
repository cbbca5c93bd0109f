"""Scores of words and tags beside seqeval's and those of the benchmark of words; jieba as a floor."""

import random
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from keras_lm.errors import UserError
from keras_lm.segmentation import boundary_scores, segmenter
from keras_lm.tagged import from_labels, label_names, peoples_daily_tagged, to_labels
from keras_lm.tasks.tagging_scores import coarse, jieba_floor, tagging_scores

TAGS = ["n", "v", "a"]


def random_words(draw, text):
    """Words of a text and their tags, by chance."""
    pairs, start = [], 0
    while start < len(text):
        end = min(start + draw.randint(1, 4), len(text))
        pairs.append((text[start:end], draw.choice(TAGS)))
        start = end
    return pairs


def changed(draw, text, pairs):
    """As a model errs: some labels are others, and contradict each other."""
    labels = to_labels(*zip(*pairs, strict=True))
    names = label_names(TAGS)
    return from_labels(text, [draw.choice(names) if draw.random() < 0.2 else label for label in labels])


@pytest.fixture(scope="module")
def judged():
    draw = random.Random(0)
    texts = ["".join(draw.choices("我喜欢编程", k=draw.randint(1, 40))) for _ in range(200)]
    right = [random_words(draw, text) for text in texts]
    return [changed(draw, text, pairs) for text, pairs in zip(texts, right, strict=True)], right


def only_words(texts):
    return [[word for word, _ in pairs] for pairs in texts]


def test_words_with_tags_are_counted_as_seqeval_counts_entities(judged):
    metrics, scheme = pytest.importorskip("seqeval.metrics"), pytest.importorskip("seqeval.scheme")
    labels = [
        [[label.replace("M-", "I-") for label in to_labels(*zip(*pairs, strict=True))] for pairs in texts] for texts in reversed(judged)
    ]
    counts = (metrics.precision_score, metrics.recall_score, metrics.f1_score)
    expected = [count(*labels, mode="strict", scheme=scheme.IOBES) for count in counts]
    scores = tagging_scores(*judged)
    assert (scores.tagged_precision, scores.tagged_recall, scores.tagged_f1) == pytest.approx(tuple(expected))
    assert 0.2 < scores.tagged_f1 < scores.f1 < 1


def test_words_are_counted_as_the_benchmark_counts_them(judged):
    scores = tagging_scores(*judged)
    assert (scores.precision, scores.recall, scores.f1) == boundary_scores(*map(only_words, judged))
    assert scores.words == sum(map(len, judged[1])) and scores.texts == 200


def test_tags_of_characters_are_counted_whatever_the_words(judged):
    tags = [[tag for pairs in texts for word, tag in pairs for _ in word] for texts in judged]
    expected = sum(one == other for one, other in zip(*tags, strict=True)) / len(tags[0])
    assert tagging_scores(*judged).tag_accuracy == pytest.approx(expected)
    as_characters = [[(character, tag) for word, tag in pairs for character in word] for pairs in judged[1]]
    assert tagging_scores(as_characters, judged[1]).tag_accuracy == 1


def test_the_right_words_score_one_and_wrong_tags_leave_the_words(judged):
    _, right = judged
    scores = tagging_scores(right, right)
    assert (scores.f1, scores.tagged_f1, scores.tag_accuracy, scores.unknown_recall) == (1, 1, 1, None)
    wrong = [[(word, "x") for word, _ in pairs] for pairs in right]
    scores = tagging_scores(wrong, right)
    assert (scores.f1, scores.tagged_f1, scores.tag_accuracy) == (1, 0, 0)


def test_recall_of_unknown_words_is_that_of_words_not_learnt():
    right = [[("中国", "n"), ("编程", "v")], [("编程", "n"), ("好", "a"), ("图书馆", "n")]]
    found = [[("中国", "v"), ("编", "v"), ("程", "v")], [("编程", "v"), ("好", "a"), ("图书", "n"), ("馆", "n")]]
    assert tagging_scores(found, right, known={"中国", "好"}).unknown_recall == pytest.approx(1 / 3)
    assert tagging_scores(found, right, known=["中国", "好", "编程", "图书馆"]).unknown_recall is None


@pytest.mark.parametrize(
    ("found", "right", "message"),
    [
        ([], [], "there are no texts to judge"),
        ([[("我", "r")]], [[("我", "r")], []], "the words of 1 texts were found, but there are 2"),
        ([[("我", "r")], [("好", "a")]], [[("我", "r")], [("坏", "a")]], "text 2 is '坏', but the words found are of '好'"),
    ],
)
def test_texts_that_are_not_the_same_are_refused(found, right, message):
    with pytest.raises(UserError, match=message):
        tagging_scores(found, right)


@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("中国人民银行１２３．abcＡ, ，。\r\n1"))
@hypothesis.settings(max_examples=100, deadline=None)
def test_words_of_the_floor_joined_are_the_text(text):
    (words,) = jieba_floor([text])
    assert "".join(word for word, _ in words) == text
    assert all(len(tag) == 1 and tag == tag.lower() for _, tag in words)


def test_the_floor_reads_wide_figures_as_figures():
    assert jieba_floor(["１９９８年，ＧＤＰ增长８．８％"])[0][:4] == [("１９９８", "m"), ("年", "m"), ("，", "w"), ("ＧＤＰ", "n")]
    assert jieba_floor(["1，A，8"])[0] == [("1", "m"), ("，", "w"), ("A", "n"), ("，", "w"), ("8", "m")]


def test_the_floor_finds_words_and_tags_of_the_newspaper():
    texts = peoples_daily_tagged().texts[:400]
    right = [coarse(text.pairs) for text in texts]
    scores = tagging_scores(jieba_floor([text.text for text in texts]), right)
    cut = segmenter("jieba")
    _, _, f1 = boundary_scores([cut(text.text) for text in texts], [list(text.words) for text in texts])
    assert abs(scores.f1 - f1) < 0.02  # the same dictionary, another model of the words that are not in it
    assert scores.f1 > scores.tagged_f1 > 0.6
    assert scores.tag_accuracy > 0.7


def test_the_floor_says_nothing():
    program = "from keras_lm.tasks.tagging_scores import jieba_floor; jieba_floor(['中国人民'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""

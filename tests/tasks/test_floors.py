"""Nearest neighbours against scikit-learn's own, and beginnings of texts by hand."""

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from keras_lm.errors import UserError
from keras_lm.pairs import open_pairs, split_pairs
from keras_lm.tasks.floors import NearestNeighbour, lead_sentence


@pytest.mark.parametrize("ngrams", [1, 2])
def test_neighbours_are_those_of_scikit_learn(ngrams):
    train, test = [], []
    for split, source, target in itertools.islice(split_pairs(open_pairs("translations")), 1_500):
        (train if split == "train" else test).append((source, target))
    floor = NearestNeighbour(*zip(*train, strict=True), ngrams=ngrams)
    vectorizer = TfidfVectorizer(tokenizer=floor.bag.cut, token_pattern=None, lowercase=False, ngram_range=(1, ngrams))
    known = vectorizer.fit_transform([source for source, _ in train])
    vectors = vectorizer.transform([source for source, _ in test])
    distances, _ = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known).kneighbors(vectors)
    nearest = floor.nearest([source for source, _ in test])
    cosines = np.asarray(known[nearest].multiply(vectors).sum(axis=1))
    assert np.allclose(1 - cosines, distances)  # their places may differ where two are as near


def test_a_known_source_gets_its_own_target_and_of_equals_the_first():
    floor = NearestNeighbour(["I like tea.", "He is late.", "He is late."], ["我喜欢茶。", "他迟到了。", "他来晚了。"])
    assert floor.predict(["He is late.", "I like tea."]) == ["他迟到了。", "我喜欢茶。"]
    assert floor.nearest(["nothing known"]).tolist() == [0]


def test_chinese_sources_are_compared_by_characters():
    floor = NearestNeighbour(["我喜欢茶", "他迟到了"], ["tea", "late"])
    assert floor.predict(["他来了", "喝茶"]) == ["late", "tea"]


def test_many_texts_are_done_in_blocks():
    sources = [f"word{number}" for number in range(600)]
    assert NearestNeighbour(sources, sources).predict(["word599 x", *sources[:599]]) == ["word599", *sources[:599]]


def test_sources_without_targets_are_refused():
    with pytest.raises(UserError, match="there are 2 sources, but 1 targets"):
        NearestNeighbour(["a", "b"], ["x"])
    with pytest.raises(UserError, match="there is nothing to count"):
        NearestNeighbour([], [])


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("国债发行结束。其中有凭证式国债。", "国债发行结束。"),
        ("他说：“结束了！”然后走了。", "他说：“结束了！”"),
        ("“北京欢迎你。”他说。", "“北京欢迎你。”"),
        ("没有句号", "没有句号"),
        ("标题\n正文。", "标题"),
        ("增长２．８％。好。", "增长２．８％。"),
        ("Prices rose 3.5 percent. Why?", "Prices rose 3.5 percent."),
        ('"Stop!" he said.', '"Stop!"'),
        ("He left... Then he came.", "He left..."),
        ("(CNN) It ended.", "(CNN) It ended."),
        ("  text. more", "text."),
        ("", ""),
    ],
)
def test_first_sentences(text, first):
    assert lead_sentence(text) == first


def test_several_sentences():
    assert lead_sentence("One. Two! Three? Four.", sentences=3) == "One. Two! Three?"
    assert lead_sentence("一。二。", sentences=3) == "一。二。"


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [
        ("国债发行结束。其中有凭证式国债。", 4, "国债发行"),
        ("国债发行，结束了。", 5, "国债发行"),
        ("国债发行结束。", 100, "国债发行结束。"),
        ("Prices rose quickly.", 15, "Prices rose"),
        ("Prices rose quickly.", 11, "Prices rose"),
        ("Antidisestablishmentarianism", 5, "Antid"),
        ("使用Python编程", 4, "使用"),
    ],
)
def test_a_limit_cuts_no_word(text, limit, cut):
    assert lead_sentence(text, limit) == cut


@pytest.mark.parametrize("options", [{"limit": 0}, {"sentences": 0}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(UserError, match="must be at least 1, got 0"):
        lead_sentence("text", **options)

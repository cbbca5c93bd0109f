"""Bags of words against scikit-learn's own pipelines, and against counts made by hand."""

import json
import math
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from keras_lm import segmentation
from keras_lm.classical.bag_of_words import BagOfWords, BagOfWordsClassifier
from keras_lm.errors import UserError
from keras_lm.labelled import reviews

TEXTS = ["水开了，水！", "开了水", "Windows 好 windows"]
SMALL = {"words": "characters", "ngrams": 1}


@pytest.fixture(scope="module")
def some():
    """A few reviews to learn from, and a few to judge on."""
    splits = reviews().split()
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(splits["train"]))[:800]
    train = [splits["train"].texts[place] for place in chosen], [splits["train"].labels[place] for place in chosen]
    return train, (splits["test"].texts[::4], splits["test"].labels[::4])


def test_counts_by_hand():
    bag = BagOfWords.fit(TEXTS, weighting="counts", **SMALL)
    assert bag.document_counts == {"windows": 1, "了": 2, "好": 1, "开": 2, "水": 2, "！": 1, "，": 1}
    assert bag.vectors(TEXTS).toarray().tolist() == [[0, 1, 0, 1, 2, 1, 1], [0, 1, 0, 1, 1, 0, 0], [2, 0, 1, 0, 0, 0, 0]]


def test_tf_idf_by_hand():
    bag = BagOfWords.fit(TEXTS, **SMALL)
    common, rare = math.log(4 / 3) + 1, math.log(4 / 2) + 1
    expected = np.array([0, common, 0, common, 2 * common, rare, rare])
    assert np.allclose(bag.vectors(TEXTS[:1]).toarray()[0], expected / np.linalg.norm(expected))


def test_runs_of_words_by_hand():
    bag = BagOfWords.fit(["不 喜欢 a", "a"], weighting="counts", words="characters", ngrams=3)
    runs = ["不 喜", "不 喜 欢", "喜 欢", "喜 欢 a", "欢 a"]
    assert sorted(bag.vocabulary) == sorted(["不", "喜", "欢", "a", *runs])
    assert bag.vectors(["喜欢喜欢"]).sum() == 2 + 2 + 2  # 喜 twice, 欢 twice, 喜 欢 twice; 欢 喜 is not known


def test_words_are_lower_case_without_white_space():
    assert BagOfWords.fit(["x"], **SMALL).cut("  In Python\t3.13，\n很 好") == ["in", "python", "3", ".", "13", "，", "很", "好"]


def test_jieba_finds_words_where_it_is_asked_to():
    bag = BagOfWords.fit(["我喜欢编程"], words="jieba")
    assert bag.vocabulary == ("喜欢", "我", "编程")
    assert BagOfWords.fit(["我喜欢编程"]).words == "jieba"  # the tests have it installed


def test_without_jieba_characters_are_words_and_that_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(segmentation.importlib.util, "find_spec", lambda name: None)
    bag = BagOfWords.fit(["我喜欢编程"])
    assert bag.words == "characters"
    assert bag.vocabulary == tuple(sorted("我喜欢编程"))
    assert capsys.readouterr().err.count("jieba is not installed") == 1
    bag.save(tmp_path)
    monkeypatch.undo()
    assert BagOfWords.load(tmp_path).cut("我喜欢编程") == list("我喜欢编程")


@pytest.mark.parametrize("weighting", ["counts", "tf_idf"])
@pytest.mark.parametrize("ngrams", [1, 2])
def test_vectors_are_those_of_scikit_learn(some, weighting, ngrams):
    (texts, _), (others, _) = some
    # Chinese characters and punctuation alone: of letters and digits we make longer words than scikit-learn's characters.
    texts, others = (["".join(re.findall(r"[\u4e00-\u9fff]|[^\w\s]", text)) for text in rows] for rows in (texts, others))
    bag = BagOfWords.fit(texts, weighting=weighting, words="characters", ngrams=ngrams, min_documents=2)
    reference = (CountVectorizer if weighting == "counts" else TfidfVectorizer)(analyzer="char", ngram_range=(1, ngrams), min_df=2)
    theirs = reference.fit_transform(texts)
    order = [reference.vocabulary_[word.replace(" ", "")] for word in bag.vocabulary]
    assert len(order) == theirs.shape[1] > 500
    for rows in (texts, others):
        assert abs(bag.vectors(rows) - reference.transform(rows)[:, order]).max() < 1e-12


@pytest.mark.parametrize(
    ("model", "reference"), [("logistic_regression", LogisticRegression(C=3.0, max_iter=1000)), ("naive_bayes", MultinomialNB())]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_those_of_a_pipeline_of_scikit_learn(some, model, reference, classes):
    (texts, labels), (others, other_labels) = some
    if classes == 3:  # the positive ones in two, by their length
        labels = [label * (1 + len(text) % 2) for text, label in zip(texts, labels, strict=True)]
        other_labels = [label * (1 + len(text) % 2) for text, label in zip(others, other_labels, strict=True)]
    cut = BagOfWords({}, 0, words="jieba").cut
    pipeline = make_pipeline(TfidfVectorizer(tokenizer=cut, token_pattern=None, lowercase=False, ngram_range=(1, 2)), reference)
    pipeline.fit(texts, labels)
    ours = BagOfWordsClassifier.fit(texts, labels, model=model, words="jieba", ngrams=2)
    assert len(ours.classes) == classes
    assert np.abs(ours.predict_probabilities(others) - pipeline.predict_proba(others)).max() < 1e-9
    predicted = pipeline.predict(others)
    assert ours.predict(others) == predicted.tolist()
    scores = ours.evaluate(others, other_labels)
    assert scores.accuracy == accuracy_score(other_labels, predicted)
    assert scores.macro_f1 == f1_score(other_labels, predicted, average="macro")
    assert scores.texts == len(others)


def test_the_order_of_words_does_not_matter():
    """A bag is no model of sequences: every order of the same words is the same vector."""
    texts = reviews().split()["test"].texts[:50]
    bag = BagOfWords.fit(texts, **SMALL)
    words = [bag.cut(text) for text in texts]
    shuffled = [" ".join(random.Random(0).sample(row, len(row))) for row in words]
    assert sum(" ".join(row) != text for row, text in zip(words, shuffled, strict=True)) > 40
    assert (bag.vectors(texts) != bag.vectors(shuffled)).nnz == 0
    pairs = BagOfWords.fit(texts, words="characters", ngrams=2)  # runs of two words do see some of it
    assert (pairs.vectors(texts) != pairs.vectors(shuffled)).nnz > 0


def test_it_learns_what_reviews_say(some):
    (texts, labels), (others, other_labels) = some
    classifier = BagOfWordsClassifier.fit(texts, labels, words="jieba")
    assert classifier.evaluate(others, other_labels).accuracy > 0.7
    best, worst = ({word for word, _ in classifier.heaviest_words(label, 30)} for label in (1, 0))
    assert "不错" in best - worst
    assert {"太", "差"} & (worst - best)
    weights = [weight for _, weight in classifier.heaviest_words(1, 30)]
    assert weights == sorted(weights, reverse=True)


@pytest.mark.parametrize("labels", [["pos", "neg", "pos"], [2, 0, 1], np.array([5, 5, 9])])
def test_a_saved_classifier_says_the_same(tmp_path, labels):
    classifier = BagOfWordsClassifier.fit(TEXTS, labels)
    classifier.save(tmp_path / "floor")
    again = BagOfWordsClassifier.load(tmp_path / "floor")
    assert again.classes == classifier.classes
    assert (again.bag.words, again.bag.ngrams, again.bag.weighting) == ("characters", 2, "tf_idf")
    assert np.array_equal(again.predict_probabilities(TEXTS), classifier.predict_probabilities(TEXTS))
    assert again.predict(TEXTS) == classifier.predict(TEXTS)
    assert sorted(path.name for path in (tmp_path / "floor").iterdir()) == ["bag_of_words.json", "classes.json", "weights.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["floor"]
    with pytest.raises(UserError, match="floor is there already"):
        classifier.save(tmp_path / "floor")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("bag_of_words.json", lambda path: path.write_text(path.read_text()[:-20]), "bag_of_words.json is damaged: "),
        ("bag_of_words.json", lambda path: path.write_bytes(b"\xff"), "bag_of_words.json is damaged: "),
        ("bag_of_words.json", lambda path: path.write_text("{}"), "bag_of_words.json is damaged: .*document_counts"),
        ("bag_of_words.json", lambda path: path.write_text("[]"), "bag_of_words.json is damaged: "),
        ("classes.json", lambda path: path.write_text("["), "classes.json is damaged: "),
        ("classes.json", lambda path: path.write_text("[0]"), "weights.npz is damaged: 7 words and 1 classes"),
        ("weights.npz", lambda path: path.write_bytes(path.read_bytes()[:60]), "weights.npz is damaged: "),
        ("weights.npz", lambda path: np.savez(path, weights=np.zeros([7, 3])), "weights.npz is damaged: .*biases"),
        ("weights.npz", lambda path: np.savez(path, weights=np.array([{}]), biases=np.zeros(3)), "weights.npz is damaged: .*pickle"),
        *((name, lambda path: path.unlink(), f"floor holds no {name}") for name in ("bag_of_words.json", "classes.json", "weights.npz")),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, name, damage, message):
    BagOfWordsClassifier.fit(TEXTS, [0, 1, 2], **SMALL).save(tmp_path / "floor")
    damage(tmp_path / "floor" / name)
    with pytest.raises(UserError, match=message):
        BagOfWordsClassifier.load(tmp_path / "floor")


@pytest.mark.parametrize("model", ["logistic_regression", "naive_bayes"])
@pytest.mark.parametrize("weighting", ["counts", "tf_idf"])
def test_a_text_without_a_known_word_still_gets_a_class(model, weighting):
    classifier = BagOfWordsClassifier.fit(TEXTS, [0, 1, 1], model=model, weighting=weighting, **SMALL)
    values = classifier.predict_probabilities(["龘", "", "水"])
    assert np.isfinite(values).all()
    assert np.allclose(values.sum(axis=1), 1)
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": [], "labels": []}, "there is nothing to count"),
        ({"texts": ["", " \n"], "labels": [0, 1]}, "there is nothing to count"),
        ({"labels": [1, 1, 1]}, "labels must be of two classes at least, all are 1"),
        ({"labels": [1, 0]}, "there are 3 texts, but 2 labels"),
        ({"words": "jeba"}, "unknown segmenter 'jeba': did you mean 'jieba'"),
        ({"weighting": "tfidf"}, "unknown weighting 'tfidf': did you mean 'tf_idf'"),
        ({"model": "naive"}, "unknown model 'naive': did you mean 'naive_bayes'"),
        ({"texts": "很好", "labels": [0, 1]}, "texts must be a list of texts, got one text"),
        ({"ngrams": 0}, "ngrams must be at least 1, got 0"),
        ({"min_documents": 4}, "no word stands in 4 texts: lower min_documents"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(change, message):
    with pytest.raises(UserError, match=message):
        BagOfWordsClassifier.fit(**{"texts": TEXTS, "labels": [0, 1, 1], **SMALL, **change})


def test_what_cannot_be_asked_is_said():
    classifier = BagOfWordsClassifier.fit(TEXTS, ["a", "b", "b"], **SMALL)
    with pytest.raises(UserError, match="label must be one of 'a', 'b', got 'c'"):
        classifier.heaviest_words("c")
    with pytest.raises(UserError, match="there are no texts"):
        classifier.predict([])
    with pytest.raises(UserError, match="texts must be a list of texts, got one text"):
        classifier.predict("很好")
    with pytest.raises(UserError, match="there are 2 texts, but 1 labels"):
        classifier.evaluate(TEXTS[:2], ["a"])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"pip install 'keras_lm\[tasks\]'"):
        BagOfWords.fit(TEXTS, **SMALL)


@pytest.mark.slow
def test_the_benchmark_prints_a_row_for_each_way(repository, tmp_path):
    data = reviews()
    lines = [f"{text}\t{data.classes[label]}\n" for text, label in zip(data.texts[::20], data.labels[::20], strict=True)]
    (tmp_path / "some.tsv").write_text("".join(lines), encoding="utf-8")
    program = [sys.executable, str(repository / "benchmarks" / "bag_of_words.py"), "--data", "some.tsv", "--test", "some.tsv"]
    shown = subprocess.run([*program, "--ngrams", "1", "--c", "1"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"^\| (?:jieba|characters) \| 1 \| [\d,]+ \| \w+ \| [\w ,]+( \| 0\.\d{4}){4} \|$", shown, re.MULTILINE)) == 8
    assert re.search(r"best on validation, 0\.\d{4}: (jieba|characters), 1", shown)


def test_saved_files_are_plain(tmp_path):
    BagOfWordsClassifier.fit(TEXTS, [0, 1, 1], **SMALL).save(tmp_path / "floor")
    description = json.loads((tmp_path / "floor" / "bag_of_words.json").read_text(encoding="utf-8"))
    assert description["document_counts"]["水"] == 2
    with np.load(tmp_path / "floor" / "weights.npz", allow_pickle=False) as arrays:
        assert arrays["weights"].shape == (7, 2)

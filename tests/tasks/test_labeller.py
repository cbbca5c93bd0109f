import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from keras_lm.errors import UserError
from keras_lm.tasks import classification, tagging
from keras_lm.tasks.classification import classification_scores, confusion
from keras_lm.tasks.labeller import Labeller


@pytest.fixture(scope="module")
def labeller(small_label_run):
    return Labeller.of(small_label_run)


@pytest.fixture(scope="module")
def tagger(small_tag_run):
    return Labeller.of(small_tag_run)


def test_a_classifier_says_of_new_texts_what_they_are(labeller):
    predictions = labeller.classify(["书店很满意！", "书店太吵，真的。"])
    assert [prediction.label for prediction in predictions] == ["good", "bad"]
    for prediction in predictions:
        assert prediction.probability == prediction.probabilities[prediction.label] == max(prediction.probabilities.values()) > 0.8
        assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_a_prediction_does_not_depend_on_the_texts_beside_it(labeller):
    texts = ["房间很好。", "", "x" * 500, "电脑糟糕，朋友也这么说。", "🙂"] * 9
    together = labeller.probabilities(texts)
    for number in range(5):
        np.testing.assert_allclose(labeller.probabilities([texts[number]])[0], together[number], atol=1e-5)
    assert labeller.probabilities([]).shape == (0, 2)
    assert labeller.classify([]) == []


def test_what_is_beyond_the_context_is_not_read(labeller):
    start = "早餐真棒" * 6
    np.testing.assert_array_equal(labeller.probabilities([start + "很差"]), labeller.probabilities([start + "很好"]))


def test_progress_comes_to_the_number_of_texts(labeller):
    told = []
    labeller.classify(["房间很好。"] * 40, told.append)
    assert told[-1] == 40


def test_a_tagger_marks_words_and_loses_nothing(tagger):
    assert tagger.tag(["我喜欢书。"])[0] == [("我", "r"), ("喜欢", "v"), ("书", "n"), ("。", "w")]
    texts = ["老师不看新电影！", "", "我看图书馆。" * 30, "unknown 字符\n🙂"]
    for text, words in zip(texts, tagger.tag(texts), strict=True):
        assert "".join(word for word, _ in words) == text
    assert tagger.tag([texts[2]])[0][:4] == tagger.tag(["我看图书馆。"])[0]


def test_a_run_that_writes_is_no_labeller_and_one_with_labels_writes_nothing(small_run, small_label_run):
    with pytest.raises(UserError, match="is a run of lm, not of classification or tagging"):
        Labeller.of(small_run)
    with pytest.raises(UserError, match="is a run of classification, which writes no text: keras_lm-predict"):
        small_label_run.make_generator()


def test_names_of_another_run_are_refused(small_label_run):
    with pytest.raises(UserError, match="the model knows 2 labels, but there are 3 names"):
        Labeller(small_label_run.load_model(), small_label_run.load_tokenizer(), ["a", "b", "c"], longest=8)


def test_scores_against_scikit_learn():
    probabilities = np.random.dirichlet(np.ones(4), size=200)
    labels = np.random.randint(0, 4, size=200)
    scores, chosen = classification_scores(probabilities, labels), probabilities.argmax(axis=1)
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(labels, chosen))
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, chosen, average="macro"))
    np.testing.assert_array_equal(confusion(probabilities, labels), metrics.confusion_matrix(labels, chosen, labels=range(4)))


def test_the_calibration_error_is_that_of_its_definition():
    confident = np.array([[0.95, 0.05]] * 10)
    assert classification_scores(confident, [0] * 7 + [1] * 3).calibration_error == pytest.approx(0.25)
    assert classification_scores(np.array([[1.0, 0.0]] * 4), [0] * 4).calibration_error == 0


def test_a_run_is_judged_on_its_own_texts_beside_a_floor(small_label_run, small_tag_run):
    scores, predictions = classification.evaluate(small_label_run, "test")
    assert scores.texts == len(predictions) == small_label_run.load_tokens()["test"].documents
    result = small_label_run.load_evaluator()(small_label_run.load_tokens()["test"])
    assert (scores.accuracy, scores.texts) == (pytest.approx(result.accuracy), result.labels)
    assert classification.floor(small_label_run).texts == scores.texts
    marks, words = tagging.evaluate(small_tag_run, "validation")
    assert marks.f1 > 0.8
    assert marks.texts == len(words)
    assert tagging.floor(small_tag_run, "validation").words == marks.words


def test_a_floor_that_has_seen_few_classes_still_has_a_column_for_each(tmp_path, small_label_run):
    run = dataclasses.replace(small_label_run, settings=dataclasses.replace(small_label_run.settings, examples=200))
    assert classification.floor(run).texts > 0


def test_labels_that_are_lost_are_told(small_label_run, tmp_path):
    (tmp_path / "labels.json").write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match=r"labels.json is missing or damaged"):
        dataclasses.replace(small_label_run, folder=tmp_path).load_labels()


def test_the_model_is_saved_with_its_names(small_tag_run):
    names = json.loads((small_tag_run.folder / "labels.json").read_text(encoding="utf-8"))
    assert {"B-v", "M-v", "E-v", "S-v"} <= set(names)
    assert small_tag_run.load_model()(tf.constant([[2, 5, 3]])).shape == (1, 3, len(names))

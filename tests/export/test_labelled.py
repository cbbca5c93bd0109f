"""Exports of classifiers and taggers: the same answers as the library, through the session that TF Serving uses."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.export.labelled import ExportedLabeller
from keras_lm.export.saved_model import export_labeller, export_run
from keras_lm.tasks.answering import Answerer
from keras_lm.tasks.labeller import Labeller
from keras_lm.tasks.similarity import SentenceVectors
from tests.export.session import Served

TEXTS = ["房间很好。", "", "电脑糟糕，朋友也这么说。", "unknown 🙂", "早餐真棒" * 20]


@pytest.fixture(scope="module")
def exported(small_label_run, tmp_path_factory):
    return export_run(small_label_run, tmp_path_factory.mktemp("exports") / "texts")


@pytest.fixture(scope="module")
def exported_tags(small_tag_run, tmp_path_factory):
    return export_run(small_tag_run, tmp_path_factory.mktemp("exports") / "words")


def test_an_export_says_what_the_library_says(exported, exported_tags, small_label_run, small_tag_run):
    ours, theirs = Labeller.of(small_label_run), ExportedLabeller(exported)
    for one, other in zip(ours.classify(TEXTS), theirs.classify(TEXTS), strict=True):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    texts = ["我喜欢书。", "", "老师不看新电影！" * 12, "unknown 🙂"]
    assert ExportedLabeller(exported_tags).tag(texts) == Labeller.of(small_tag_run).tag(texts)


def test_answers_and_vectors_of_an_export_are_those_of_the_library(small_answer_run, small_similar_run, tmp_path):
    theirs = ExportedLabeller(export_run(small_answer_run, tmp_path / "answers"))
    asked = [("谁写的？", "巴金在1931年写成了它。"), ("哪年写的？", "🙂老舍在1950年写成了。"), ("？", "短")]
    questions, passages = zip(*asked, strict=True)
    for one, other in zip(Answerer.of(small_answer_run).answer(questions, passages), theirs.answer(questions, passages), strict=True):
        assert (one.text, one.start) == (other.text, other.start)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    theirs = ExportedLabeller(export_run(small_similar_run, tmp_path / "similar"))
    ours = SentenceVectors.of(small_similar_run).vectors(TEXTS)
    np.testing.assert_allclose(theirs.vectors(TEXTS), ours, atol=1e-5)
    assert theirs.vectors([]).shape == (0, ours.shape[1])


def test_any_bytes_and_a_batch_of_none_are_answered_through_a_c_session(small_answer_run, tmp_path):
    served = Served(export_run(small_answer_run, tmp_path / "answers"))
    questions, passages = ["谁写的？".encode(), b"", b"\xff"], ["《家》很有名，巴金在1931年写成了它。".encode() * 9, b"", b"\xfe\x00"]
    outputs = served("serving_default", {"questions": np.array(questions, object), "passages": np.array(passages, object)})
    assert outputs["answer"][0].decode() in passages[0].decode()
    assert ((outputs["probability"] >= 0) & (outputs["probability"] <= 1)).all()
    none = {"questions": np.array([], object), "passages": np.array([], object)}
    assert {name: len(output) for name, output in served("serving_default", none).items()} == dict.fromkeys(outputs, 0)


def test_the_metadata_can_be_read_without_loading(exported, exported_tags, small_tag_run):
    metadata = json.loads((exported / "assets.extra" / "keras_lm.json").read_text(encoding="utf-8"))
    assert (metadata["task"], metadata["classes"], metadata["longest"]) == ("classification", ["bad", "good"], 24)
    assert metadata["signatures"]["serving_default"]["outputs"]["probabilities"] == {"dtype": "float32", "shape": ["batch", 2]}
    assert metadata["metrics"]["val_accuracy"] > 0.9
    tags = json.loads((exported_tags / "assets.extra" / "keras_lm.json").read_text(encoding="utf-8"))
    assert (tags["task"], tags["classes"]) == ("tagging", list(small_tag_run.load_labels()))


def test_through_a_c_session_any_bytes_and_a_batch_of_none(exported, exported_tags, small_label_run):
    texts = [*(text.encode() for text in TEXTS), b"\xff\xfe\xe6", b"\x00"]
    served = Served(exported)
    outputs = served("serving_default", {"texts": np.array(texts, object)})
    expected = Labeller.of(small_label_run).probabilities([text.decode("utf-8", "replace") for text in texts])
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    assert outputs["classes"].tolist() == [[b"bad", b"good"]] * len(texts)
    empty = served("serving_default", {"texts": np.array([], object)})
    assert {name: len(output) for name, output in empty.items()} == dict.fromkeys(outputs, 0)
    served = Served(exported_tags)
    outputs = served("serving_default", {"texts": np.array(["我喜欢书。".encode(), b"", b"\xff"], object)})
    assert [text.decode() for text in outputs["marked"]][:2] == ["我/r 喜欢/v 书/n 。/w", ""]
    assert b"".join(outputs["characters"][0]).decode() == "我喜欢书。"
    assert served("serving_default", {"texts": np.array([], object)})["marked"].shape == (0,)


def test_a_row_does_not_depend_on_those_beside_it(exported):
    signature = tf.saved_model.load(str(exported)).signatures["serving_default"]
    together = signature(texts=tf.constant(TEXTS))["probabilities"].numpy()
    for number, text in enumerate(TEXTS):
        np.testing.assert_allclose(signature(texts=tf.constant([text]))["probabilities"].numpy()[0], together[number], atol=1e-5)


def test_what_cannot_be_exported_is_refused(small_label_run, tmp_path):
    with pytest.raises(UserError, match="exported without XLA"):
        export_run(small_label_run, tmp_path / "x", xla=True)
    with pytest.raises(UserError, match="there are 1 names"):
        export_labeller(small_label_run.load_model(), small_label_run.load_tokenizer(), ["one"], tmp_path / "x", longest=8)
    assert not (tmp_path / "x").exists()

"""An encoder's checkpoint that goes on with a task: BERT, whose start and end are none of our ids, with a head."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers
from tokenizers import BertWordPieceTokenizer

from keras_lm.cli.train import train
from keras_lm.errors import UserError
from keras_lm.export.labelled import ExportedLabeller
from keras_lm.export.saved_model import export_run
from keras_lm.heads import body_of
from keras_lm.tasks.labeller import Labeller
from keras_lm.tasks.similarity import SentenceVectors
from keras_lm.training.loop import first_model
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from tests.pretrained.checkpoints import bert, saved

SPECIAL = ["[PAD]", "[unused1]", "[unused2]", "[unused3]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SENTENCES = [f"{one} plus {two} {pet}" for one, two, pet in itertools.product(WORDS, WORDS, ["cats", "black cats", "dogs", "old dogs"])]
FLAGS = ["--sequence-length", "16", "--batch-size", "8", "--warmup-steps", "0", "--evaluate-every", "30", "--learning-rate", "0.01"]


@pytest.fixture
def checkpoint(tmp_path):
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(SENTENCES, vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    folder = saved(bert(vocab_size=tokenizer.get_vocab_size()), tmp_path / "bert")
    tokenizer.save_model(str(folder))
    return folder


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "pets.tsv"
    path.write_text("".join(f"{text}\t{'c' if text.endswith('cats') else 'd'}\n" for text in SENTENCES))
    return str(path)


def settings_of(checkpoint, corpus, tmp_path, **changes):
    given = {"task": "classification", "corpus": corpus, "pretrained": str(checkpoint), "sequence_length": 16, "out": str(tmp_path / "run")}
    return TrainingSettings(**{**given, **changes})


def test_its_states_are_those_of_transformers_and_their_mean_goes_into_the_classes(checkpoint, labelled, tmp_path):
    run = prepare(settings_of(checkpoint, labelled, tmp_path))
    model, tokenizer = first_model(run), run.load_tokenizer()
    assert (tokenizer.start_id, tokenizer.end_id) == (5, 6)
    texts = ["one plus two cats", "Nine plus nine"]
    ids = transformers.BertTokenizer(str(checkpoint / "vocab.txt"))(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = transformers.BertForMaskedLM.from_pretrained(checkpoint).bert(**ids).last_hidden_state
    visible = ids["attention_mask"][..., None]
    kernel, bias = model.get_layer("classes").get_weights()
    expected = ((states * visible).sum(1) / visible.sum(1)).numpy() @ kernel + bias
    np.testing.assert_allclose(model(tf.constant(ids["input_ids"].numpy(), tf.int32)), expected, atol=1e-4)
    probabilities = Labeller(model, tokenizer, run.load_labels(), longest=16).probabilities(texts)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(expected), atol=1e-4)


@pytest.mark.parametrize("tuned", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("head", "lora"))])
def test_it_learns_classes_and_is_exported(checkpoint, labelled, tmp_path, tuned):
    """The checkpoint itself is needed no more once the run has begun."""
    flags = ["--task", "classification", "--corpus", labelled, "--pretrained", str(checkpoint), "--tune", tuned, *FLAGS]
    assert train([*flags, "--steps", "60", "--word-dropout", "0.05", "--out", str(tmp_path / "run")]) == 0
    shutil.rmtree(checkpoint)
    run = Run.open(tmp_path / "run")
    if tuned != "head":  # the states that a head reads here are of weights that were drawn
        assert run.read_metrics()[-1]["val_accuracy"] > 0.9
    before, after = (body_of(model).get_layer("embedding").get_weights()[0] for model in (first_model(run), run.load_model()))
    assert np.array_equal(before, after) == (tuned != "full")
    texts = [*SENTENCES[:9], "", "nobody knows 猫", "one " * 40]
    exported = ExportedLabeller(export_run(run, tmp_path / "saved_models" / "pets")).classify(texts)
    for one, other in zip(Labeller.of(run).classify(texts), exported, strict=True):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.slow
def test_it_learns_vectors_from_where_it_was(checkpoint, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{text}\t{text.replace('plus', 'and')}\n" for text in SENTENCES))
    flags = ["--task", "similarity", "--corpus", str(path), "--pretrained", str(checkpoint), *FLAGS]
    assert train([*flags, "--steps", "30", "--out", str(tmp_path / "run")]) == 0
    one, other, another = SentenceVectors.of(Run.open(tmp_path / "run")).vectors(
        ["two plus six cats", "two and six cats", "nine plus one dogs"]
    )
    assert one @ other > one @ another


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 32}, "embedding_dim is the checkpoint's where there is a pretrained one: leave it out"),
        ({"bidirectional": False}, "bidirectional is the checkpoint's where there is a pretrained one: leave it out"),
        ({"task": "tagging"}, "pretrained is for --task lm, classification and similarity, not for tagging"),
        (
            {"task": "lm", "tune": "head"},
            "tune head is for a task with labels that begins with another run: give --start-from or --pretrained",
        ),
    ],
)
def test_settings_that_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        settings_of("bert", "reviews", tmp_path, **changes)


def test_a_vocabulary_of_another_size_is_refused(checkpoint, labelled, tmp_path):
    (checkpoint / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text() + "more\n")
    with pytest.raises(UserError, match=r"has a tokenizer of \d+ tokens, and a model of"):
        prepare(settings_of(checkpoint, labelled, tmp_path))

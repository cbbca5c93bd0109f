"""Runs of texts with labels, and of hidden tokens: the same loop, with what they need of it."""

import dataclasses
import itertools

import numpy as np
import pytest

from keras_lm import augmentation
from keras_lm.errors import UserError
from keras_lm.heads import body_of
from keras_lm.training import loop
from keras_lm.training.data import batches_of, examples_of
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import AUGMENTATIONS, TrainingSettings
from tests.training.test_loop import StopAt, weights_of

SMALL = {
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 4,
    "steps": 9,
    "evaluate_every": 5,
    "checkpoint_every": 3,
    "warmup_steps": 2,
    "dropout": 0.2,
    "sample_tokens": 0,
    "xla": "off",
}


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"text number {number}\t{number % 3}\n" for number in range(200)), encoding="utf-8")
    return str(path)


def trained(**changes):
    run = prepare(TrainingSettings(**{**SMALL, "out": "run", **changes}))
    return run, loop.train(run)


def test_texts_are_read_once_and_again_when_their_file_has_changed(table):
    settings = TrainingSettings(**SMALL, task="classification", corpus=table)
    whole = examples_of(settings)
    assert examples_of(dataclasses.replace(settings, seed=5)) is whole
    assert len(examples_of(dataclasses.replace(settings, examples=7)).splits["train"]) == 7
    with open(table, "a", encoding="utf-8") as file:
        file.writelines(f"another text {number}\t{number % 3}\n" for number in range(50))
    assert sum(map(len, examples_of(settings).splits.values())) == 250


@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_a_stopped_run_ends_as_one_that_never_was(model, table):
    changes = {"task": "classification", "corpus": table, "model": model}
    whole, _ = trained(**changes, out="whole")
    run = prepare(TrainingSettings(**{**SMALL, **changes, "out": "stopped"}))
    for number, steps in enumerate((4, 2)):
        with pytest.raises(loop.Interrupted):
            loop.train(run, resume=number > 0, callbacks=[StopAt(steps)])
    loop.train(run, resume=True)
    for one, other in zip(weights_of(run), weights_of(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    clock = {"tokens_per_second"}
    strip = lambda lines: [{name: value for name, value in line.items() if name not in clock} for line in lines]
    assert strip(run.read_metrics()) == strip(whole.read_metrics())


def test_the_result_is_that_of_model_keras_and_resumed_at_the_end_it_is_told_again(small_label_run):
    result = loop.train(small_label_run, resume=True)
    assert small_label_run.load_evaluator()(small_label_run.load_tokens()["validation"]) == pytest.approx(result)
    line = small_label_run.read_metrics()[-1]
    assert {"val_loss", "val_accuracy", "val_labels"} <= set(line)
    assert "perplexity" not in line


def test_compiled_by_xla_a_step_is_the_same(small_tag_run):
    losses = []
    for xla in ("off", "on"):
        settings = dataclasses.replace(small_tag_run.settings, xla=xla, steps=2, evaluate_every=2, out=f"run-{xla}")
        losses.append(loop.train(prepare(settings)).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_classifier_begins_with_what_a_language_model_has_learnt(bidirectional, table):
    task = "masked" if bidirectional else "lm"
    learnt, _ = trained(task=task, corpus="pydoc", split="contiguous", out="learnt", model="transformer")
    settings = TrainingSettings(
        **{**SMALL, "out": "classifier"},
        task="classification",
        corpus=table,
        model="transformer",
        bidirectional=bidirectional,
        start_from="learnt",
    )
    run = prepare(settings)
    first = loop.first_model(run)
    ids = np.array([[2, 10, 11, 12, 3]])
    np.testing.assert_allclose(body_of(first)(ids), body_of(learnt.load_model())(ids), atol=1e-6)
    assert run.load_tokenizer().vocabulary_size == learnt.load_tokenizer().vocabulary_size
    loop.train(run)
    assert (run.folder / "model.keras").is_file()


def test_what_a_classifier_reads_is_changed_as_a_function_of_seed_and_step(small_label_run):
    tokens, tokenizer = small_label_run.load_tokens()["train"], small_label_run.load_tokenizer()
    plain = dataclasses.replace(small_label_run.settings, batch_size=32)
    changed = dataclasses.replace(plain, augment=("swap", "delete"), augment_share=0.3, word_dropout=0.2)

    def read(settings, start=0):
        batches = batches_of(settings, tokens, tokenizer, start_step=start)
        return [(ids.numpy(), labels.numpy()) for ids, (labels, _) in itertools.islice(batches, 4)]

    whole, first, later = read(plain), read(changed), read(changed, start=2)
    for (ids, labels), (other, same) in zip(first[2:], later, strict=False):
        np.testing.assert_array_equal(ids, other)
        np.testing.assert_array_equal(labels, same)
    hidden = np.concatenate([(ids == 1)[(ids == 1) | (ids > 3)] for ids, _ in first])
    assert 0.1 < hidden.mean() < 0.3
    for (before, labels), (after, same) in zip(whole, first, strict=True):
        np.testing.assert_array_equal(labels, same)
        assert after.shape == before.shape
        assert (after[:, 0] == 2).all() and ((after == 3).sum(axis=1) == 1).all()
    only = dataclasses.replace(plain, augment=("delete",), augment_share=0.5)
    shorter = [(after > 0).sum(axis=1) < (before > 0).sum(axis=1) for (before, _), (after, _) in zip(whole, read(only), strict=True)]
    assert 0.3 < np.concatenate(shorter).mean() < 0.6  # a half is changed, of which a few have nothing to lose


def test_the_names_of_augmentations_are_those_of_the_table():
    assert tuple(sorted(augmentation.AUGMENTATIONS)) == AUGMENTATIONS


def test_a_masked_language_model_learns(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghijklmnop\n" * 300, encoding="utf-8")
    run, result = trained(
        task="masked", corpus="text.txt", split="contiguous", model="transformer", steps=120, evaluate_every=60, learning_rate=0.01
    )
    assert result.loss < run.read_metrics()[0]["val_loss"] < 2.9  # from ln 21
    assert result.tokens > 0
    with pytest.raises(UserError, match="is a run of masked, which writes no text"):
        run.make_generator()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "classification", "pointer": True}, "pointer is for pairs"),
        ({"examples": 10}, "examples is for texts with labels"),
        ({"task": "tagging", "pooling": "max"}, "pooling is for --task classification or similarity, not for tagging"),
        ({"task": "tagging", "ngrams": 2}, "ngrams is for --task classification, not for tagging"),
        ({"task": "classification", "ngrams": -1}, "ngrams must be 0 or more"),
        ({"task": "classification", "crf": False}, "crf is for --task tagging, not for classification"),
        ({"bidirectional": False}, "bidirectional is for texts with labels"),
        ({"task": "tagging", "tokenizer": "byte"}, "tokenizer must be char for tagging"),
        ({"task": "tagging", "clean": ("lower",)}, "clean must be empty for tagging"),
        ({"task": "classification", "split": "contiguous"}, "split must be hash for classification"),
        ({"task": "classification", "split": "given"}, "split must be hash for classification"),
        ({"task": "classification", "errors": "replace"}, "errors is for models that write text, not for classification"),
        ({"task": "tagging", "label_smoothing": 0.1}, "label_smoothing must be 0 with a crf"),
        ({"task": "classification", "accumulate": 2}, "accumulate is for --task lm and pairs"),
        ({"task": "classification", "strategy": "mirrored"}, "strategy is for --task lm and pairs"),
        ({"task": "classification", "tune": "head"}, "tune head is for a task with labels that begins with another run"),
        ({"task": "classification", "tune": "lora", "model": "gru", "start_from": "x"}, "tune lora is for the transformer, not for gru"),
        ({"augment": ("swap",)}, "augment is for --task classification, not for lm"),
        ({"task": "classification", "augment": ("swop",)}, "did you mean 'swap'"),
        ({"task": "translation", "model": "gru", "word_dropout": 0.1}, "word_dropout is for lm, vae and tasks with labels"),
        ({"word_dropout": 1.0}, "word_dropout must be at least 0 and under 1"),
        ({"task": "answering", "tokenizer": "byte"}, "tokenizer must be char for answering"),
        ({"task": "answering", "label_smoothing": 0.1}, "label_smoothing must be 0 for answering, which has no classes"),
        ({"task": "answering", "bidirectional": False}, "bidirectional must be true for answering"),
        ({"task": "similarity", "class_names": "x"}, "class_names is for --task classification, not for similarity"),
        ({"task": "masked", "model": "lstm"}, "model must be transformer for masked"),
        ({"task": "masked", "export": "saved_models/x"}, "export is for --task lm, not for masked"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**changes)


def test_a_start_that_reads_otherwise_is_refused(small_run, small_label_run, small_pair_run):
    sizes = {name: getattr(small_run.settings, name) for name in ("model", "embedding_dim", "hidden_dim", "num_layers")}
    both = TrainingSettings(task="classification", start_from=str(small_run.folder), **sizes)
    with pytest.raises(UserError, match="reads_both_ways is True here, but False in"):
        both.check_same_model(small_run.settings)
    dataclasses.replace(both, bidirectional=False).check_same_model(small_run.settings)
    with pytest.raises(UserError, match="reads_pairs is False here, but True in"):
        both.check_same_model(small_pair_run.settings)
    with pytest.raises(UserError, match="reads_labels is False here, but True in"):
        TrainingSettings(start_from="x").check_same_model(small_label_run.settings)


def test_a_run_of_labels_opens_again(small_label_run):
    assert Run.open(small_label_run.folder).load_labels() == ("bad", "good")

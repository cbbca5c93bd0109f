"""Runs of pairs: the same loop, with what a source and a target need of it."""

import dataclasses
import itertools
import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import seq2seq
from keras_lm.errors import UserError
from keras_lm.evaluation import PairEvaluator
from keras_lm.pairs import made_up, register
from keras_lm.parallel import PairIds, pair_batches
from keras_lm.training import loop
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import make_train_step
from tests.test_parallel import made_up as made_up_ids
from tests.training.test_distribution import TRAIN, TWO_DEVICES, assert_close, cluster, finish, start
from tests.training.test_loop import StopAt, weights_of

BASE = {
    "task": "translation",
    "corpus": "backwards",
    "model": "gru",
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 4,
    "steps": 12,
    "evaluate_every": 5,
    "checkpoint_every": 3,
    "warmup_steps": 2,
    "sample_tokens": 0,
    "dropout": 0.2,
    "xla": "off",
    "out": "run",
}


@pytest.fixture(autouse=True, scope="module")
def _corpus():
    """Strings of up to twelve letters: batches of two widths."""
    register("backwards")(lambda: made_up("backwards", lambda source: source[::-1], number=200, longest=12))


def trained(**changes):
    run = prepare(TrainingSettings(**{**BASE, **changes}))
    return run, loop.train(run)


def test_a_run_of_pairs_learns_and_tells_what_it_writes(small_pair_run):
    lines = small_pair_run.read_metrics()
    assert lines[-1]["val_loss"] < lines[0]["val_loss"] < 2.0  # from ln 30 = 3.4
    assert {"loss", "perplexity", "tokens_per_second", "learning_rate", "val_loss", "val_bits_per_character"} <= set(lines[0])
    samples = (small_pair_run.folder / "samples.txt").read_text()
    assert samples.count("3 plus 14 → ") == samples.count("=== step ") == len(lines)
    targets = json.loads((small_pair_run.folder / "tokens" / "targets.json").read_text())["validation"]
    assert lines[-1]["val_characters"] == targets["characters"]  # of targets alone


def test_the_result_is_the_validation_loss_of_model_keras(small_pair_run):
    evaluator, tokens = small_pair_run.load_evaluator(), small_pair_run.load_tokens()["validation"]
    assert isinstance(evaluator, PairEvaluator)
    best = min(small_pair_run.read_metrics(), key=lambda line: line["val_loss"])
    assert evaluator(tokens).loss == pytest.approx(best["val_loss"], abs=1e-6)
    assert evaluator(tokens).tokens == PairIds(tokens.ids, 16).target_lengths.sum() == best["val_tokens"]


@pytest.mark.slow
def test_without_a_prompt_the_first_source_held_out_is_the_sample():
    run, _ = trained(sample_tokens=3, steps=2, evaluate_every=2)
    source, _ = PairIds(run.load_tokens()["validation"].ids, 16)[0]
    pieces = run.load_tokenizer().pieces()
    shown = b"".join(pieces[token] for token in source).decode()
    assert (run.folder / "samples.txt").read_text().startswith(f"=== step 2\n{shown} → ")


def some_slow(*cases):
    return [pytest.param(*case, marks=() if number == 0 else pytest.mark.slow) for number, case in enumerate(cases)]


@pytest.mark.parametrize(
    ("changes", "stop_at"),
    some_slow(
        ({"model": "transformer", "sequence_length": 8}, 4),
        ({"model": "gru"}, 4),
        ({"model": "transformer", "xla": "on"}, 1),
        ({"model": "gru", "attention": "luong", "accumulate": 2, "label_smoothing": 0.1}, 7),
        ({"model": "gru", "num_layers": 2, "ema": 0.9, "batch_size": 64, "sample_tokens": 4}, 4),  # into the next epoch
    ),
)
def test_an_interrupted_run_ends_as_one_that_was_not(changes, stop_at):
    whole, result = trained(out="whole", **changes)
    run = prepare(TrainingSettings(**{**BASE, **changes, "out": "stopped"}))
    with pytest.raises(loop.Interrupted):
        loop.train(run, callbacks=[StopAt(stop_at, signal.SIGTERM)])
    assert loop.train(Run.open("stopped"), resume=True) == result
    expected, got = weights_of(whole), weights_of(run)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    timeless = lambda run: [{key: line[key] for key in line if key != "tokens_per_second"} for line in run.read_metrics()]
    assert timeless(run) == timeless(whole)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_accumulation_equals_the_large_batch(model):
    """Though its parts have different numbers of tokens; the losses and norms that are told too."""
    runs = [trained(model=model, dropout=0.0, out=f"run-{parts}", accumulate=parts, label_smoothing=0.1)[0] for parts in (1, 2)]
    for one, other in zip(*(run.load_model().get_weights() for run in runs), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    for one, other in zip(*(run.read_metrics() for run in runs), strict=True):
        for name in ("loss", "gradient_norm", "val_loss"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)


@pytest.mark.parametrize(
    ("model", "label_smoothing"),
    [("gru", 0.2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("gru", 0.0), ("transformer", 0.0), ("transformer", 0.2)))],
)
def test_a_training_step_equals_keras_fit(model, label_smoothing):
    """With Keras' own label smoothing, and weights of tokens; the loss that is told is the plain one. So does one in two parts."""
    plain = {"dropout": 0.0, "optimizer": "adam", "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.01}
    settings = TrainingSettings(**{**BASE, **plain, "model": model, "label_smoothing": label_smoothing})
    build = seq2seq.SEQ2SEQ[model]
    ours, cut, theirs = (build(60, **settings.model_arguments()) for _ in range(3))
    for other in (cut, theirs):
        other.set_weights(ours.get_weights())
    ids = np.where(made_up_ids(20, longest=6) < 100, made_up_ids(20, longest=6), 59)
    batches = list(itertools.islice(pair_batches(PairIds(ids, 16), batch_size=4), 3))
    parts = dataclasses.replace(settings, accumulate=2)
    step, in_parts = (
        make_train_step(model, make_optimizer(own, model), own, jit_compile=False) for model, own in ((ours, settings), (cut, parts))
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing, reduction="sum")
    theirs.compile(keras.optimizers.Adam(0.01, beta_2=settings.beta_2, global_clipnorm=settings.clip_norm), loss)
    for inputs, (labels, weights) in batches:
        logits = ours(list(inputs))
        expected = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) * weights)
        whole, halves = step(inputs, (labels, weights)), in_parts(inputs, (labels, weights))
        np.testing.assert_allclose([whole.loss, halves.loss], expected, atol=1e-5)
        assert float(halves.gradient_norm) == pytest.approx(float(whole.gradient_norm), rel=1e-4)
        theirs.train_on_batch(list(inputs), tf.one_hot(labels, 60), sample_weight=weights)
    for one, half, other in zip(ours.get_weights(), cut.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)
        np.testing.assert_allclose(half, one, atol=3e-5)


@pytest.mark.slow
def test_smoothed_labels_keep_a_model_from_being_sure():
    sure, _ = trained(out="sure", steps=150, evaluate_every=150, learning_rate=0.01, dropout=0.0)
    smoothed, _ = trained(out="smoothed", steps=150, evaluate_every=150, learning_rate=0.01, dropout=0.0, label_smoothing=0.3)
    inputs, _ = next(pair_batches(PairIds(sure.load_tokens()["train"].ids, 16), batch_size=16))
    peaks = [tf.reduce_mean(tf.reduce_max(tf.nn.softmax(run.load_model()(list(inputs))), axis=-1)) for run in (sure, smoothed)]
    assert float(peaks[1]) < float(peaks[0])


@pytest.mark.slow
def test_16_bits_and_averages_of_weights():
    _, plain = trained(out="plain", dropout=0.0)
    for number, changes in enumerate(
        [{"precision": "mixed_bfloat16"}, {"model": "transformer", "precision": "mixed_bfloat16", "ema": 0.5}]
    ):
        run, result = trained(out=f"run-{number}", dropout=0.0, **changes)
        assert {layer.compute_dtype for layer in run.load_model().layers} == {"float32"}
        if "ema" not in changes:
            assert result.loss == pytest.approx(plain.loss, abs=0.02)


FLAGS = [
    *("--task", "translation", "--corpus", "pairs.tsv", "--embedding-dim", "16", "--num-layers", "1", "--num-heads", "2"),
    *("--sequence-length", "16", "--batch-size", "12", "--steps", "12", "--evaluate-every", "5", "--checkpoint-every", "3"),
    *("--warmup-steps", "2", "--learning-rate", "0.01", "--clip-norm", "0.1", "--sample-tokens", "5", "--label-smoothing", "0.1"),
]


def write_tsv():
    with open("pairs.tsv", "w") as file:
        file.writelines(f"{source}\t{source[::-1]}\n" for source, _ in made_up("pairs", str, number=200, longest=12).pairs())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gru", "transformer"])
def test_mirrored_over_two_devices_equals_one_device(model):
    write_tsv()
    flags = [*FLAGS, "--model", model]
    starts = [start(*flags, "--out", "one"), start(*flags, "--out", "two", "--strategy", "mirrored", code=TWO_DEVICES + TRAIN)]
    for status, errors in finish(starts):
        assert status == 0, errors
    assert_close("two", "one")
    for line, other in zip(*(Run.open(folder).read_metrics() for folder in ("one", "two")), strict=True):
        for name in ("loss", "val_loss", "gradient_norm"):
            assert line[name] == pytest.approx(other[name], abs=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one():
    write_tsv()
    flags = [*FLAGS, "--model", "gru"]
    several = [start(*flags, "--strategy", "multiworker", "--out", "two", environment=environment) for environment in cluster(2)]
    for status, errors in finish([start(*flags, "--out", "one"), *several]):
        assert status == 0, errors
    assert_close("two", "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lstm"}, "model must be gru or transformer for translation, got 'lstm'"),
        ({"task": "summarization", "model": "simple_rnn"}, "model must be gru or transformer for summarization, got 'simple_rnn'"),
        ({"split": "contiguous"}, "split must be hash or given for pairs, got 'contiguous'"),
        ({"tokens": "data"}, "tokens is for --task lm, not for translation"),
        ({"word_vectors": "vectors.txt"}, "word_vectors is for --task lm, not for translation"),
        ({"stateful": True}, "stateful is for --task lm, not for translation"),
        ({"data_service": "grpc://localhost:1"}, "data_service is for --task lm, not for translation"),
        ({"model": "transformer", "num_heads": 4, "num_kv_heads": 2}, "num_kv_heads is for --task lm, not for translation"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and under 1, got 1.0"),
        ({"attention": "loung"}, "unknown attention 'loung': did you mean 'luong'"),
        ({"task": "translate"}, "unknown task 'translate': did you mean 'translation'"),
        ({"task": "lm", "swap": True}, "swap is for pairs: give --task translation or summarization"),
        ({"task": "lm", "simplified": True}, "simplified is for pairs: give --task translation or summarization"),
        ({"task": "lm", "pointer": True}, "pointer is for pairs: give --task translation or summarization"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**{**BASE, **changes})


def test_a_task_has_a_corpus_of_its_own():
    assert TrainingSettings(task="translation").corpus == "translations"
    assert TrainingSettings(task="summarization").corpus == "headlines"
    assert TrainingSettings().corpus == "peoples-daily"


def written(tokens, tokenizer):
    """The pairs of a split as texts."""
    pairs, pieces = PairIds(tokens.ids, 1000), tokenizer.pieces()
    text = lambda ids: b"".join(pieces[token] for token in ids).decode()
    return [tuple(map(text, pairs[number])) for number in range(len(pairs))]


def test_what_is_prepared_is_the_corpus_cleaned_and_swapped(capsys):
    plain = prepare(TrainingSettings(**BASE))
    said = capsys.readouterr().err
    changed = prepare(TrainingSettings(**{**BASE, "out": "changed", "swap": True}))
    texts = {run.folder.name: [written(part, run.load_tokenizer()) for part in run.load_tokens().values()] for run in (plain, changed)}
    expected = [(source, source[::-1]) for source, _ in made_up("backwards", str, number=200, longest=12).pairs()]
    assert sorted(itertools.chain(*texts["run"])) == sorted(expected)
    assert sorted(itertools.chain(*texts["changed"])) == sorted((target, source) for source, target in expected)
    assert f"20 tokens in the vocabulary; {len(texts['run'][0])} pairs to train on" in said
    assert "are cut" not in said
    prepare(TrainingSettings(**{**BASE, "out": "short", "sequence_length": 8}))
    longer = sum(len(source) + 1 > 8 for source, _ in texts["run"][0])
    assert f"{longer} sources and {longer} targets are longer than 8 tokens and are cut" in capsys.readouterr().err


def test_cleaners_go_over_both_sides(tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(f"A  {number}\tB  {number}\n" for number in range(200)))
    run = prepare(TrainingSettings(**{**BASE, "corpus": "pairs.tsv", "clean": ("lower", "whitespace")}))
    texts = [pair for part in run.load_tokens().values() for pair in written(part, run.load_tokenizer())]
    assert sorted(texts) == sorted((f"a {number}", f"b {number}") for number in range(200))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", r"no pair of pairs\.tsv falls into the (train|validation) split: give more pairs"),
        ("a\tb\nc\n", r"pairs\.tsv, line 2: a source, a tab and a target should stand here"),
        ("", r"pairs\.tsv is empty"),
    ],
)
def test_pairs_that_cannot_be_used_leave_nothing_behind(tmp_path, text, message):
    (tmp_path / "pairs.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare(TrainingSettings(**{**BASE, "corpus": "pairs.tsv"}))
    assert not (tmp_path / "run").exists()

import dataclasses
import json
import resource
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models, pipeline
from keras_lm.embeddings.vectors import WordVectors
from keras_lm.errors import UserError
from keras_lm.evaluation import Evaluator
from keras_lm.training import loop
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import make_train_step

BASE = {
    "corpus": "text.txt",
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 8,
    "batch_size": 4,
    "steps": 12,
    "evaluate_every": 5,
    "checkpoint_every": 3,
    "warmup_steps": 2,
    "sample_tokens": 0,
    "dropout": 0.2,
    "out": "run",
}


@pytest.fixture(autouse=True)
def _text(tmp_path):
    lines = [f"{number} times {other} is {number * other}" for number in range(20) for other in range(20)]
    (tmp_path / "text.txt").write_text("\n".join(lines))


def trained(**changes):
    settings = TrainingSettings(**{**BASE, **changes})
    run = prepare(settings)
    return run, loop.train(run)


def weights_of(run):
    """All variables of the last checkpoint: weights, optimizer, counters."""
    last = max((run.folder / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    reader = tf.train.load_checkpoint(str(last / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if "save_counter" not in name and "_CHECKPOINTABLE" not in name]
    return {name: reader.get_tensor(name) for name in names}


class StopAt(keras.callbacks.Callback):
    """Sends the process a signal at the end of a step, as Ctrl-C would."""

    def __init__(self, step, number=signal.SIGINT):
        super().__init__()
        self.left, self.number = step, number

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


def test_a_run_folder_holds_what_it_should(small_run):
    names = {path.name for path in small_run.folder.iterdir()}
    assert names == {
        *("settings.yaml", "versions.json", "tokenizer", "tokens", "model.keras", "checkpoints"),
        *("metrics.jsonl", "metrics.csv", "samples.txt", "curves.png"),
    }
    lines = [json.loads(line) for line in (small_run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [30, 60]
    assert {"loss", "perplexity", "tokens_per_second", "learning_rate", "val_loss", "val_bits_per_character"} <= set(lines[0])
    assert lines[1]["val_loss"] < lines[0]["val_loss"] < 4.5
    samples = (small_run.folder / "samples.txt").read_text()
    assert samples.count("=== step ") == 2
    assert samples.count("The ") >= 2
    assert Run.open(small_run.folder).settings == small_run.settings
    assert not list(small_run.folder.rglob(".*"))  # no temporary file left behind


def test_the_result_is_the_validation_loss_of_model_keras(small_run):
    lines = small_run.read_metrics()
    evaluator = Evaluator(small_run.load_model(), sequence_length=32, batch_size=16)
    result = evaluator(small_run.load_tokens()["validation"])
    assert result.loss == pytest.approx(min(line["val_loss"] for line in lines), abs=1e-6)
    assert result.perplexity == pytest.approx(np.exp(result.loss))
    assert result.bits_per_character == pytest.approx(result.loss / np.log(2) * result.tokens / result.characters)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "transformer"},
        pytest.param({"model": "lstm", "stateful": True}, marks=pytest.mark.slow),
        pytest.param({"model": "gru", "accumulate": 2}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("stop_at", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(7, marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_as_one_that_was_not(changes, stop_at):
    whole, result = trained(out="whole", **changes)
    run = prepare(TrainingSettings(**{**BASE, **changes, "out": "stopped"}))
    with pytest.raises(loop.Interrupted):
        loop.train(run, callbacks=[StopAt(stop_at, signal.SIGTERM if stop_at == 4 else signal.SIGINT)])
    again = loop.train(Run.open("stopped"), resume=True)
    assert again == result
    expected, got = weights_of(whole), weights_of(run)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    timeless = lambda run: [{key: line[key] for key in line if key != "tokens_per_second"} for line in run.read_metrics()]
    assert timeless(run) == timeless(whole)


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing():
    run, result = trained(model="gru")
    before = (run.folder / "metrics.jsonl").read_text()
    assert loop.train(Run.open(run.folder), resume=True).loss == pytest.approx(result.loss, abs=1e-6)
    assert (run.folder / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_steps_can_be_raised_at_any_step():
    """The mean loss of the stretch after an evaluation that fell between two others is over its own steps."""
    run, _ = trained(model="gru", learning_rate=1e-9, dropout=0.0)  # evaluates at 5, 10 and 12
    longer = Run(run.folder, dataclasses.replace(run.settings, steps=15))
    loop.train(longer, resume=True)
    lines = run.read_metrics()
    assert [line["step"] for line in lines] == [5, 10, 12, 15]
    assert lines[-1]["loss"] == pytest.approx(lines[0]["loss"], abs=0.3)


@pytest.mark.slow
def test_same_seed_same_run_and_other_seed_another():
    first, second, third = (trained(model="gru", out=out, seed=seed)[1].loss for out, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first == second != third


@pytest.mark.slow
@pytest.mark.parametrize("stateful", [False, True])
def test_accumulation_equals_the_large_batch(stateful):
    whole, _ = trained(model="lstm", dropout=0.0, out="whole", stateful=stateful)
    parts, _ = trained(model="lstm", dropout=0.0, out="parts", stateful=stateful, accumulate=4)
    for one, other in zip(whole.load_model().get_weights(), parts.load_model().get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("lstm", "transformer") else pytest.mark.slow) for kind in models.MODELS]
)
def test_a_training_step_equals_keras_fit(kind):
    """`compile` and `fit` on the same model, optimizer and batches give the same weights."""
    settings = TrainingSettings(**{**BASE, "model": kind, "dropout": 0.0, "optimizer": "adam", "schedule": "constant", "warmup_steps": 0})
    ids = np.random.randint(0, 30, 500)
    batches = pipeline.training_batches(ids, sequence_length=8, batch_size=4, seed=1).take(5)
    ours = models.get(kind)(30, **settings.model_arguments())
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    step = make_train_step(ours, make_optimizer(settings, ours), settings, jit_compile=True)
    for inputs, targets in batches:
        step(inputs, targets, {})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(keras.optimizers.Adam(settings.learning_rate, beta_2=settings.beta_2, global_clipnorm=settings.clip_norm), loss)
    theirs.fit(batches, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop", "sgd"])
def test_every_optimizer_learns(optimizer):
    rate = {"sgd": 1.0, "rmsprop": 0.003}.get(optimizer, 0.01)
    _, result = trained(model="gru", optimizer=optimizer, learning_rate=rate, steps=60, evaluate_every=60, dropout=0.0)
    assert result.loss < 2.7  # from ln 27 = 3.3


@pytest.mark.slow
def test_penalties_shrink_the_weights():
    size = lambda run: sum(float(np.abs(weight).sum()) for weight in run.load_model().get_weights() if weight.ndim > 1)
    free, _ = trained(model="gru", out="free", weight_decay=0.0, steps=40)
    for name, changes in {"l1": {"l1": 1e-2}, "l2": {"l2": 1e-1}, "decay": {"weight_decay": 5.0}}.items():
        run, _ = trained(model="gru", out=name, steps=40, **{"weight_decay": 0.0, **changes})
        assert size(run) < 0.95 * size(free)


def test_the_learning_rate_rises_and_falls():
    settings = TrainingSettings(**{**BASE, "steps": 100, "warmup_steps": 10, "learning_rate": 0.01})
    optimizer = make_optimizer(settings, models.gru_lm(10, embedding_dim=4, hidden_dim=4))
    rate = lambda step: float(optimizer._learning_rate(step))
    assert rate(0) == 0.0
    assert rate(5) == pytest.approx(0.005)
    assert rate(10) == pytest.approx(0.01)
    assert 0.004 < rate(55) < 0.006
    assert rate(100) == pytest.approx(0.001)


def test_weight_decay_leaves_vectors_alone():
    settings = TrainingSettings(**BASE)
    model = models.transformer_lm(10, **settings.model_arguments())
    optimizer = make_optimizer(settings, model)
    decayed = [variable for variable in model.trainable_variables if optimizer._use_weight_decay(variable)]
    assert decayed and all(len(variable.shape) > 1 for variable in decayed)


@pytest.mark.slow
def test_patience_ends_a_run_that_does_not_get_better():
    run, _ = trained(model="gru", learning_rate=1e-9, steps=100, evaluate_every=2, patience=3, dropout=0.0)
    losses = [line["val_loss"] for line in run.read_metrics()]
    assert len(losses) < 50
    best = int(np.argmin(losses))
    assert len(losses) == best + 4


@pytest.mark.slow
def test_last_checkpoints_are_kept():
    run, _ = trained(model="gru", keep_checkpoints=2)
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step-10", "step-12"]


@pytest.mark.parametrize("damage", ["altered", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut short", "missing"))])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, capfd):
    run, result = trained(model="gru")
    expected = weights_of(run)
    (data,) = (run.folder / "checkpoints" / "step-12").glob("*.data*")
    content = bytearray(data.read_bytes())
    if damage == "cut short":
        data.write_bytes(content[:100])
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    else:
        data.unlink()
    assert loop.train(run, resume=True) == result
    assert "checkpoints/step-12 cannot be read" in capfd.readouterr().err
    for name, value in weights_of(run).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert [line["step"] for line in run.read_metrics()] == [5, 10, 12]


@pytest.mark.slow
def test_no_checkpoint_that_can_be_read():
    run, _ = trained(model="gru", keep_checkpoints=1)
    for path in (run.folder / "checkpoints").glob("*/*.data*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the checkpoints in .* can be read"):
        loop.train(run, resume=True)


@pytest.mark.slow
def test_what_a_killed_save_left_is_swept():
    run, result = trained(model="gru")
    left = run.folder / "checkpoints" / ".step-15-abcdef"
    left.mkdir()
    (left / "state.data-00000-of-00001").write_bytes(b"half")
    (run.folder / ".model-abcdef.keras").write_bytes(b"half")
    assert loop.train(run, resume=True) == result
    assert not list(run.folder.rglob(".*"))


@pytest.mark.slow
def test_a_run_without_a_checkpoint_begins_at_step_0():
    run = prepare(TrainingSettings(**{**BASE, "model": "gru"}))
    with pytest.raises(UserError, match=r"has no model\.keras yet"):
        run.load_model()
    result = loop.train(run, resume=True)
    assert result == trained(model="gru", out="other")[1]


@pytest.mark.parametrize(("versions", "message"), [(None, "an older keras_lm"), ('{"format": 99, "keras_lm": "9.9"}', "keras_lm 9.9")])
def test_a_run_of_another_version_is_refused(versions, message):
    run = prepare(TrainingSettings(**BASE))
    path = run.folder / "versions.json"
    path.write_text(versions) if versions else path.unlink()
    with pytest.raises(UserError, match=f"begun with {message}, whose runs cannot be resumed"):
        loop.train(run, resume=True)


@pytest.mark.slow
def test_no_room_for_the_next_checkpoint_leaves_the_last_one():
    class Full(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = prepare(TrainingSettings(**{**BASE, "model": "gru"}))
    try:
        with pytest.raises(UserError, match=r"the checkpoint of step 5 cannot be written .*; the checkpoint of step 3 is whole: make room"):
            loop.train(run, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    result = loop.train(run, resume=True)
    assert result == trained(model="gru", out="other")[1]
    assert not list((run.folder / "checkpoints").glob(".*"))


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept():
    """Against Keras' own averages, which its `EMA` overwrites the model with at the end."""
    run, _ = trained(
        model="gru", ema=0.5, dropout=0.0, clip_norm=0.0, optimizer="sgd", learning_rate=0.5, schedule="constant", warmup_steps=0
    )
    ours = run.load_model()
    model = loop.first_model(run)
    batches = pipeline.training_batches(run.load_tokens()["train"].ids, sequence_length=8, batch_size=4, seed=0)
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    best = int(min(run.read_metrics(), key=lambda line: line["val_loss"])["step"])
    model.fit(batches.take(best), verbose=0)  # overwrites the weights with their averages at its end
    for one, other in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_mixed_precision_learns_and_keeps_a_float32_model():
    run, result = trained(model="gru", precision="mixed_bfloat16", dropout=0.0, out="mixed")
    _, plain = trained(model="gru", dropout=0.0, out="plain")
    assert result.loss == pytest.approx(plain.loss, abs=0.02)
    assert {layer.compute_dtype for layer in run.load_model().layers} == {"float32"}


def test_callbacks_are_driven_as_keras_does():
    class Recorder(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen, self.batches = [], 0

        def on_train_begin(self, logs=None):
            self.seen.append("begin")

        def on_epoch_end(self, epoch, logs=None):
            assert {"loss", "perplexity", "val_loss", "val_perplexity"} <= set(logs)
            self.seen.append(epoch)

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1

        def on_train_end(self, logs=None):
            self.seen.append("end")

    recorder = Recorder()
    loop.train(prepare(TrainingSettings(**{**BASE, "model": "gru"})), callbacks=[recorder])
    assert recorder.seen == ["begin", 0, 1, 2, "end"]
    assert recorder.batches == 12
    assert isinstance(recorder.model, keras.Model)


def test_a_loss_that_is_no_number_ends_the_run_with_a_hint():
    with pytest.raises(UserError, match=r"the loss became (inf|nan) at step .*: lower --learning-rate"):
        trained(model="simple_rnn", optimizer="sgd", learning_rate=3e38, clip_norm=0.0, warmup_steps=0, dropout=0.0)  # near float32's end


@pytest.mark.slow
def test_xla_off_gives_the_same():
    _, compiled = trained(model="transformer", dropout=0.0, out="on")
    _, plain = trained(model="transformer", dropout=0.0, out="off", xla="off")
    assert plain.loss == pytest.approx(compiled.loss, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (b"", {}, "has 0 characters"),
        (b"x", {}, "has 1 characters"),
        (b"x\n" * 3, {"split": "contiguous"}, "shorter than one window of 8"),
        (b"a short text", {"sequence_length": 64}, "shorter than one window of 64"),
        (b"good\n\xff\xfe\n", {}, "is not UTF-8: byte 0xff at offset 5"),
        (b"one line, but long enough for a window of eight\n", {}, "falls into the validation split: --split contiguous"),
        (b"some words\n" * 50, {"tokenizer": "wordpiece", "vocabulary_size": 8}, "too small for WordPiece"),
    ],
)
def test_corpora_that_cannot_be_used_leave_nothing_behind(tmp_path, text, changes, message):
    (tmp_path / "text.txt").write_bytes(text)
    with pytest.raises(UserError, match=message):
        prepare(TrainingSettings(**{**BASE, **changes}))
    assert not (tmp_path / "run").exists()


def test_an_existing_folder_is_not_overwritten(tmp_path):
    run, _ = trained(model="gru")
    with pytest.raises(UserError, match="already holds a run: go on with it by --resume"):
        prepare(run.settings)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        prepare(dataclasses.replace(run.settings, out="other"))
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match=r"text\.txt is a file"):
        prepare(dataclasses.replace(run.settings, out="text.txt"))


@pytest.mark.parametrize("model", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_an_embedding_begins_with_word_vectors_and_a_resumed_run_needs_their_file_no_more(model, tmp_path, capsys):
    words = [*"0123456789 times", "nothing"]
    vectors = WordVectors(sorted({*words} - {" "}), np.random.default_rng(0).normal(size=[len({*words} - {" "}), 16]))
    vectors.save("vectors.txt")
    with_vectors = {"model": model, "word_vectors": "vectors.txt", "learning_rate": 1e-12, "weight_decay": 0.0}
    run = prepare(TrainingSettings(**{**BASE, **with_vectors}))
    assert "15 of" in capsys.readouterr().err
    (tmp_path / "vectors.txt").unlink()
    loop.train(run)
    table = next(layer for layer in run.load_model().layers if isinstance(layer, keras.layers.Embedding)).embeddings.numpy()
    digits = [number for number, piece in enumerate(run.load_tokenizer().pieces()) if piece.isdigit()]
    expected = np.stack([vectors[run.load_tokenizer().pieces()[number].decode()] for number in digits])
    assert np.corrcoef(table[digits].ravel(), expected.ravel())[0, 1] > 0.9999
    assert loop.train(Run.open(run.folder), resume=True).loss > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 8\nt 1 2 3 4 5 6 7 8\n", "8 dimensions, but the model's embedding 16: --embedding-dim 8"),
        (b"1 16\nt 1 2\n", "vectors.txt, line 2: a word and 16 numbers are due"),
        (b"1 16\nnothing " + b"1 " * 16, "none of the .* tokens has a vector"),
    ],
)
def test_word_vectors_that_do_not_fit_are_refused_and_leave_nothing(content, message, tmp_path):
    (tmp_path / "vectors.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        trained(word_vectors="vectors.txt")
    assert not (tmp_path / "run").exists()

"""Runs of sentence VAEs, and of language models that read a document at a time."""

import itertools
import signal

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.evaluation import DocumentEvaluator
from keras_lm.parallel import DocumentIds
from keras_lm.training import loop
from keras_lm.training.data import batches_of
from keras_lm.training.optimizers import make_optimizer
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import make_train_step
from keras_lm.vae import kl_of_units, posterior_of
from keras_lm.vae_evaluation import VAEEvaluator, collapse
from tests.training.test_loop import StopAt, weights_of

BASE = {
    "task": "vae",
    "corpus": "sentences.txt",
    "model": "gru",
    "latent_dim": 3,
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 8,
    "steps": 12,
    "evaluate_every": 5,
    "checkpoint_every": 3,
    "warmup_steps": 2,
    "sample_tokens": 0,
    "dropout": 0.2,
    "xla": "off",
    "out": "run",
}


@pytest.fixture(autouse=True)
def _sentences(tmp_path):
    words = ("the", "a", "one"), ("cat", "dog", "horse", "bird"), ("sees", "likes", "is"), ("me", "it", "us", "", "him")
    lines = {" ".join(filter(None, chosen)) for chosen in itertools.product(*words)}
    (tmp_path / "sentences.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))


def trained(**changes):
    run = prepare(TrainingSettings(**{**BASE, **changes}))
    return run, loop.train(run)


def test_a_run_learns_and_its_vector_is_used(small_vae_run):
    lines = small_vae_run.read_metrics()
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    evaluator = small_vae_run.load_evaluator()
    assert isinstance(evaluator, VAEEvaluator)
    result = evaluator(small_vae_run.load_tokens()["validation"])
    assert result.loss == pytest.approx(min(line["val_loss"] for line in lines), abs=1e-6)
    assert result.kl > 3
    assert result.active_units == 4
    assert collapse(result) is None
    samples = (small_vae_run.folder / "samples.txt").read_text(encoding="utf-8")
    assert samples.count(" → ") == len(lines)


@pytest.mark.slow
def test_without_free_bits_a_strong_decoder_collapses_and_says_so():
    _, result = trained(model="lstm", steps=60, evaluate_every=60, learning_rate=0.01)
    assert "the posterior has collapsed" in collapse(result)


@pytest.mark.parametrize(
    ("changes", "stop_at"),
    [
        ({"model": "gru", "kl_steps": 8, "kl_cycles": 2, "word_dropout": 0.3, "free_bits": 0.5}, 4),
        pytest.param({"model": "transformer", "xla": "on", "kl_steps": 5}, 7, marks=pytest.mark.slow),
        pytest.param({"model": "lstm", "accumulate": 2, "free_bits": 0.2, "ema": 0.9}, 4, marks=pytest.mark.slow),
    ],
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


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_kl_enters_the_update_with_its_weight(jit_compile):
    """A decoder that does not read z leaves its encoder the KL alone: whose gradient, times the weight of the step, is what moves it."""
    plain = {"dropout": 0.0, "optimizer": "sgd", "schedule": "constant", "warmup_steps": 0, "learning_rate": 1.0, "clip_norm": 0.0}
    settings = TrainingSettings(**{**BASE, **plain, "weight_decay": 0.0, "kl_steps": 4})
    run = prepare(settings)
    model = loop.build_model(settings, run.load_tokenizer().vocabulary_size)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.0, 0.3, variable.shape))
    dense = next(variable for variable in model.trainable_variables if variable.path.endswith("posterior/bias"))
    step = make_train_step(model, make_optimizer(settings, model), settings, jit_compile=jit_compile)
    reader = posterior_of(model)
    for number, (inputs, targets) in enumerate(itertools.islice(batches_of(settings, run.load_tokens()["train"], run.load_tokenizer()), 3)):
        before = dense.numpy()
        for side in ("input", "output"):
            layer = model.get_layer(f"latent_to_{side}")
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
        with tf.GradientTape() as tape:
            kl = tf.reduce_sum(kl_of_units(reader(inputs[0]))) / tf.cast(tf.math.count_nonzero(targets[0]), tf.float32)
        gradient = tape.gradient(kl, dense.value)
        step(inputs, targets)
        np.testing.assert_allclose(dense.numpy(), before - number / 4 * gradient, atol=1e-5)


def test_word_dropout_hides_what_the_decoder_reads_alone():
    run = prepare(TrainingSettings(**BASE, word_dropout=0.5))
    tokens, tokenizer = run.load_tokens()["train"], run.load_tokenizer()
    (sources, inputs), (labels, _) = next(batches_of(run.settings, tokens, tokenizer))
    np.testing.assert_array_equal(sources, labels)
    whole = np.concatenate([np.full([8, 1], tokenizer.start_id), labels[:, :-1]], axis=1)
    hidden = (inputs.numpy() == tokenizer.unknown_id) & (whole != tokenizer.unknown_id)
    kept = (inputs.numpy() == whole) | (whole == tokenizer.end_id)  # behind the end an input is padding
    assert (hidden | kept).all()
    inside = whole > 3
    assert 0.3 < hidden[inside].mean() < 0.7


def test_a_language_model_that_reads_documents_counts_what_a_vae_does():
    run, result = trained(task="lm", model="lstm", by_document=True, latent_dim=16, sequence_length=24)
    tokens = run.load_tokens()["validation"]
    assert isinstance(run.load_evaluator(), DocumentEvaluator)
    assert result.tokens == DocumentIds(tokens.ids, 24).target_lengths.sum() == len(tokens.ids) - tokens.documents
    inputs, (labels, weights) = next(batches_of(run.settings, run.load_tokens()["train"], run.load_tokenizer()))
    assert (inputs[:, 0].numpy() == 2).all()
    assert float(tf.reduce_sum(weights)) == pytest.approx(1.0)
    assert labels.shape == inputs.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "simple_rnn"}, "model must be lstm, gru or transformer for vae, got 'simple_rnn'"),
        ({"split": "contiguous"}, "split must be hash or given for vae"),
        ({"stateful": True}, "stateful is for windows cut out of a text, not for vae"),
        ({"strategy": "mirrored"}, "strategy is for --task lm and pairs, not for vae"),
        ({"word_vectors": "vectors.txt"}, "word_vectors is for --task lm, not for vae"),
        ({"model": "transformer", "num_heads": 4, "num_kv_heads": 2}, "num_kv_heads is for --task lm, not for vae"),
        ({"by_document": True}, "by_document is for --task lm, not for vae"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"free_bits": -1.0}, "free_bits must be 0 or more, got -1.0"),
        ({"kl_cycles": 0}, "kl_cycles must be at least 1, got 0"),
        ({"task": "lm", "latent_dim": 3}, "latent_dim is for --task vae, not for lm"),
        ({"task": "lm", "latent_dim": 16, "kl_steps": 3}, "kl_steps is for --task vae, not for lm"),
        ({"task": "lm", "latent_dim": 16, "by_document": True, "data_service": "grpc://localhost:1"}, "not for by_document"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**{**BASE, **changes})


def test_a_run_starts_from_a_vae_of_the_same_form_alone():
    settings = TrainingSettings(**BASE)
    settings.check_same_model(TrainingSettings(**{**BASE, "steps": 3}))
    with pytest.raises(UserError, match="latent_dim is 3 here, but 5"):
        settings.check_same_model(TrainingSettings(**{**BASE, "latent_dim": 5}))
    with pytest.raises(UserError, match="has_latent is True here, but False"):
        settings.check_same_model(TrainingSettings(**{**BASE, "task": "lm", "latent_dim": 16}))

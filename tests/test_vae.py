import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import torch

from keras_lm import vae
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.recurrent import run_model
from tests.test_seq2seq import some_ids

SMALL = {
    "lstm": {"embedding_dim": 8, "hidden_dim": 12},
    "gru": {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 2, "dropout": 0.1},
    "transformer": {"context_length": 16, "embedding_dim": 16, "num_layers": 2},
    "transformer-learned": {"context_length": 16, "embedding_dim": 16, "num_layers": 1, "positions": "learned", "dropout": 0.1},
}
FORMS = pytest.mark.parametrize("name", SMALL)


def build(name):
    """Weights so large that z matters."""
    model, random = vae.VAES[name.partition("-")[0]](20, latent_dim=3, **SMALL[name]), np.random.default_rng(6)
    for variable in model.trainable_variables:
        variable.assign(random.normal(1.0 if "gamma" in variable.path else 0.0, 0.4, variable.shape))
    return model


def some_posterior(rows=5, latent_dim=3):
    return np.random.default_rng(1).normal(size=(rows, 2 * latent_dim)).astype(np.float32)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "gru" else pytest.mark.slow) for name in SMALL])
def test_model(name, tmp_path):
    """Logits at every position, dynamic batch and times, XLA, `.keras` and back in another process, the posterior beside."""
    model = build(name)
    sources, targets = some_ids()
    expected = model([sources, targets]).numpy()
    assert expected.shape == (3, 9, 20)
    assert model([sources[:1], targets[:1, :1]]).shape == (1, 1, 20)
    compiled = tf.function(lambda inputs: run_model(model, inputs), jit_compile=True)
    np.testing.assert_allclose(compiled([tf.constant(sources), tf.constant(targets)]), expected, atol=2e-5)
    logits, posterior = vae.with_posterior(model)([sources, targets])
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    np.testing.assert_allclose(posterior, vae.posterior_of(model)(sources), atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "ids.npz", sources=sources, targets=targets)
    program = (
        "import keras, numpy, keras_lm.vae\n"
        "model, ids = keras.saving.load_model('model.keras'), numpy.load('ids.npz')\n"
        "decoder, reader = keras_lm.vae.latent_decoder(model), keras_lm.vae.posterior_of(model)\n"
        "numpy.save('logits.npy', decoder([reader(ids['sources']).numpy()[:, :3], ids['targets']]))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


@FORMS
def test_sentences_differ_by_their_vector_alone(name):
    model = build(name)
    sources, targets = some_ids()
    same = np.repeat(targets[:1], 3, axis=0)
    logits = model([sources, same]).numpy()
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    wider = np.pad(sources, [(0, 0), (0, 4)])  # padding is not read
    np.testing.assert_allclose(model([wider, same]), logits, atol=1e-5)


def test_an_unknown_cell_and_unknown_positions_are_refused():
    with pytest.raises(ValueError, match="cell must be one of lstm, gru, got 'rnn'"):
        vae.recurrent_vae(20, cell="rnn")
    with pytest.raises(ValueError, match="positions must be rotary or learned, got 'none'"):
        vae.transformer_vae(20, positions="none")


def test_kl_equals_that_of_torch():
    posterior = some_posterior()
    mean, log_variance = np.split(posterior, 2, axis=1)
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(normal(torch.tensor(mean), torch.tensor(np.exp(0.5 * log_variance))), normal(0.0, 1.0))
    np.testing.assert_allclose(vae.kl_of_units(tf.constant(posterior)), theirs, atol=1e-6)


def test_kl_is_the_mean_of_what_is_drawn():
    """KL = E ln q(z) - ln p(z), counted by SciPy's densities over draws."""
    posterior = some_posterior(rows=1, latent_dim=2)
    mean, deviation = posterior[:, :2], np.exp(0.5 * posterior[:, 2:])
    z = vae.draw(tf.repeat(posterior, 100_000, axis=0), tf.constant([3, 4])).numpy()
    counted = scipy.stats.norm.logpdf(z, mean, deviation) - scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(counted.mean(axis=0), vae.kl_of_units(posterior)[0], atol=0.02)


def test_what_is_drawn_is_normal_and_the_same_under_xla():
    posterior, seed = tf.repeat([[0.5, -2.0, 0.4, -0.6]], 50_000, axis=0), tf.constant([7, 8])
    z = vae.draw(posterior, seed)
    for unit, (mean, log_variance) in enumerate([(0.5, 0.4), (-2.0, -0.6)]):
        assert scipy.stats.kstest(z[:, unit], scipy.stats.norm(mean, np.exp(0.5 * log_variance)).cdf).pvalue > 0.01
    assert abs(np.corrcoef(z.numpy().T)[0, 1]) < 0.02
    np.testing.assert_allclose(tf.function(vae.draw, jit_compile=True)(posterior, seed), z, atol=1e-4)
    assert np.abs(vae.draw(posterior, tf.constant([7, 9])) - z).max() > 1


def test_gradients_go_through_what_is_drawn():
    """dz/dmean = 1 and dz/dlog variance = (z - mean) / 2."""
    posterior, seed = tf.constant(some_posterior()), tf.constant([1, 2])
    with tf.GradientTape() as tape:
        tape.watch(posterior)
        z = vae.draw(posterior, seed)
    of_mean, of_log_variance = tf.split(tape.gradient(z, posterior), 2, axis=1)
    np.testing.assert_allclose(of_mean, np.ones_like(of_mean))
    np.testing.assert_allclose(of_log_variance, (z - posterior[:, :3]) / 2, atol=1e-6)


def test_free_bits_are_of_the_mean_over_the_batch():
    posterior, weights = tf.constant(some_posterior()), tf.constant([0.1, 0.2, 0.3, 0.0, 0.4])
    units = vae.kl_of_units(posterior).numpy()
    mean = (units * weights.numpy()[:, None]).sum(axis=0)
    free = float(np.sort(mean)[1] - 1e-4)  # one unit lies below
    with tf.GradientTape() as tape:
        tape.watch(posterior)
        cost = vae.kl_cost(posterior, weights, free)
    assert float(cost) == pytest.approx(np.maximum(mean, free).sum(), abs=1e-5)
    touched = np.abs(tape.gradient(cost, posterior)).max(axis=0) > 0
    assert touched[:3].tolist() == touched[3:].tolist() == (mean > free).tolist()
    assert float(vae.kl_cost(posterior, weights, 0.0)) == pytest.approx(mean.sum(), abs=1e-5)


@FORMS
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cached_decoding_equals_full_forward(name, jit_compile):
    """From z: targets of different lengths, prefilled together and then fed token by token."""
    model = vae.latent_decoder(build(name))
    decoder = Decoder(model)
    assert decoder.source_dim == 3
    z, ids = np.random.normal(size=(3, 3)).astype(np.float32), np.random.randint(0, 20, (3, 12)).astype(np.int32)
    full = model([z, ids]).numpy()
    padding, width = np.array([0, 2, 4], np.int32), 6
    shifted = np.zeros((3, 12), np.int32)
    for row in range(3):
        shifted[row, padding[row] :] = ids[row, : 12 - padding[row]]
    prefill = tf.function(
        lambda ids, z: decoder.extend(ids, decoder.init_state(3, 16, z), 0, tf.constant(padding)), jit_compile=jit_compile, autograph=False
    )
    step = tf.function(
        lambda token, state, slot: decoder.extend(token, state, slot, tf.constant(padding)), jit_compile=jit_compile, autograph=False
    )
    logits, state = prefill(tf.constant(shifted[:, :width]), tf.constant(z))
    for slot in range(width, 13):
        for row in range(3):
            np.testing.assert_allclose(logits[row], full[row, slot - 1 - padding[row]], atol=2e-5)
        if slot < 12:
            logits, state = step(tf.constant(shifted[:, slot : slot + 1]), state, tf.constant(slot))


def test_a_sentence_and_its_vector_give_the_same_text():
    """By the sampler, from ids and from the mean of their posterior, one batch or several, the same seed the same text."""
    model = build("lstm")
    sources = [[5, 6, 7, 3], [8, 9, 3], [10, 3]]
    means = [vae.posterior_of(model)(np.array([source])).numpy()[0, :3] for source in sources]
    settings = SamplingSettings(max_new_tokens=8, temperature=0.0)
    options = {"end_id": 3, "never": (0, 1, 2), "jit_compile": False}
    from_ids = Sampler(model, **options).generate([[2]] * 3, settings, sources=sources)
    writer = Sampler(vae.latent_decoder(model), **options)
    assert [text.ids for text in writer.generate([[2]] * 3, settings, sources=means)] == [text.ids for text in from_ids]
    drawn = SamplingSettings(max_new_tokens=8, temperature=1.0, seed=5, num_samples=2)
    texts = writer.generate([[2]] * 3, drawn, sources=np.array(means))
    assert texts == writer.generate([[2]] * 3, drawn, sources=np.array(means))
    assert texts[:2] == writer.generate([[2]], drawn, sources=means[:1])  # those of a row do not hang on its batch

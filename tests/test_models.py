import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models, recurrent
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator
from keras_lm.tokenizers import CharacterTokenizer

SMALL = {
    "simple_rnn": {"embedding_dim": 8, "hidden_dim": 12},
    "lstm": {"embedding_dim": 8, "hidden_dim": 12, "dropout": 0.1},
    "gru": {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 1},
    "transformer": {"context_length": 16, "embedding_dim": 16, "num_layers": 2, "num_heads": 4},
    "transformer-llama": {
        "context_length": 16,
        "embedding_dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "normalization_kind": "rms",
        "activation": "silu",
        "gated": True,
        "epsilon": 1e-5,
        "head_dim": 6,
        "rotary_base": 500.0,
        "tied": False,
    },
    "transformer-gpt2": {
        "context_length": 16,
        "embedding_dim": 16,
        "num_layers": 2,
        "positions": "learned",
        "activation": "gelu_tanh",
        "use_bias": True,
        "dropout": 0.1,
    },
}


def build(name, vocabulary_size=20):
    return models.get(name.partition("-")[0])(vocabulary_size, **SMALL[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("gru", "transformer-llama") else pytest.mark.slow) for name in SMALL]
)
def test_model(name, tmp_path):
    """Logits at every position, dynamic batch and time, XLA, mixed precision, `.keras` and back in another process."""
    model = build(name)
    ids = np.random.randint(0, 20, (3, 9)).astype(np.int32)
    expected = model(ids).numpy()
    assert expected.shape == (3, 9, 20)
    assert expected.dtype == np.float32
    assert model.output_shape == (None, None, 20)
    assert model(ids[:1, :1]).shape == (1, 1, 20)
    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(compiled(ids), expected, atol=1e-5)

    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "ids.npy", ids)
    program = (
        "import sys, keras, numpy, keras_lm.layers\n"
        "model = keras.saving.load_model('model.keras')\n"
        "numpy.save('logits.npy', model(numpy.load('ids.npy')))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-6)

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build(name)
        assert mixed(ids).dtype == tf.float32  # logits stay float32
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", SMALL)
def test_a_prediction_knows_nothing_of_what_follows(name):
    model = build(name)
    ids = np.random.randint(0, 20, (2, 10)).astype(np.int32)
    changed = ids.copy()
    changed[:, 6:] = (changed[:, 6:] + 1) % 20
    before, after = model(ids).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-4


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_recurrent_models_are_lists_of_keras_layers(name):
    model = build(name)
    assert isinstance(model, keras.Sequential)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert not any("softmax" in str(layer.get_config().get("activation")) for layer in model.layers)


def test_tied_output_is_the_embedding():
    tied, untied = build("transformer"), build("transformer-llama")
    assert sum(variable.shape == (20, 16) for variable in tied.trainable_variables) == 1
    assert sum(variable.shape in ((20, 16), (16, 20)) for variable in untied.trainable_variables) == 2


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_carried_states_equal_one_long_window(name):
    model = build(name)
    ids = np.random.randint(0, 20, (2, 12)).astype(np.int32)
    states, pieces = recurrent.zero_states(model, 2), []
    for start in (0, 5, 6):
        end = {0: 5, 5: 6, 6: 12}[start]
        logits, states = recurrent.run_stateful(model, tf.constant(ids[:, start:end]), states)
        pieces.append(logits.numpy())
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model(ids), atol=1e-5)


ENCODERS = {
    "bert": {"dropout": 0.1},
    "types": {"reads_types": True, "activation": "gelu_tanh"},
    "modern": {"positions": "rotary", "norm_first": True, "normalization_kind": "rms", "use_bias": False, "pad_id": 7},
}


def encoder(name):
    return models.transformer_encoder(20, context_length=16, embedding_dim=16, num_layers=2, **ENCODERS[name])


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name, tmp_path):
    """States and logits, dynamic batch and time, XLA, mixed precision, `.keras` and back."""
    states, logits = encoder(name), models.masked_lm(encoder(name))
    ids = np.random.randint(0, 20, (3, 9)).astype(np.int32)
    inputs = [ids, ids % 2] if "reads_types" in ENCODERS[name] else ids
    for model, width in ((states, 16), (logits, 20)):
        expected = model(inputs).numpy()
        assert expected.shape == (3, 9, width)
        assert model.output_shape == (None, None, width)
        np.testing.assert_allclose(tf.function(model, jit_compile=True)(inputs), expected, atol=1e-5)
        model.save(tmp_path / "model.keras")
        np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(inputs), expected, atol=1e-6)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert models.masked_lm(encoder(name))(inputs).dtype == tf.float32  # logits stay float32
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", ["bert", "modern"])
def test_an_encoder_sees_all_of_a_text_and_nothing_of_its_padding(name):
    model, pad_id = encoder(name), ENCODERS[name].get("pad_id", 0)
    ids = np.random.randint(8, 20, (1, 9)).astype(np.int32)
    changed = ids.copy()
    changed[:, 8] = 3
    assert np.abs(model(ids)[:, 0] - model(changed)[:, 0]).max() > 1e-4
    padded = np.pad(ids, [[0, 0], [0, 4]], constant_values=pad_id)
    np.testing.assert_allclose(model(padded)[:, :9], model(ids), atol=1e-5)


def test_a_head_for_masked_tokens_shares_the_encoder():
    model = encoder("bert")
    ids = np.random.randint(4, 20, (2, 9)).astype(np.int32)
    logits = models.masked_lm(model)
    before = model(ids).numpy()
    assert len(logits.trainable_variables) - len(model.trainable_variables) == 5  # dense, norm, and one bias a token
    logits.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    logits.fit(ids, ids, verbose=0)
    assert np.abs(model(ids) - before).max() > 1e-4


def test_an_encoder_is_not_decoded():
    with pytest.raises(ValueError, match="block_0 sees the whole text, so it sees the tokens it should predict"):
        Decoder(models.masked_lm(encoder("bert")))


def test_run_layers_is_the_model():
    for name in SMALL:
        model = build(name)
        ids = np.random.randint(0, 20, (2, 5)).astype(np.int32)
        np.testing.assert_array_equal(models.run_layers(model, ids, lambda layer: layer), model(ids))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru"])
def test_recurrent_model_learns_a_text_by_heart_and_recites_it(name):
    """With `compile` and `fit`, as in the notebooks: 200 characters to a loss under 0.05, then the same text from its first word."""
    text = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
        "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it "
    )[:200]
    assert len(text) == 200
    tokenizer = CharacterTokenizer.fit([text])
    ids = tokenizer.tokenize(tf.constant([text])).to_tensor()
    model = models.get(name)(tokenizer.vocabulary_size, embedding_dim=32, hidden_dim=128, num_layers=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0), loss, jit_compile=True)
    for _ in range(30):
        history = model.fit(ids[:, :-1], ids[:, 1:], epochs=50, verbose=0)
        if history.history["loss"][-1] < 0.02:
            break
    assert model.evaluate(ids[:, :-1], ids[:, 1:], verbose=0) < 0.05
    generator = TextGenerator(model, tokenizer, documents=False)
    start = text[:20]
    result = generator.generate([start], SamplingSettings(temperature=0.0, max_new_tokens=180))[0]
    assert start + result.text == text


def test_unknown_model_and_wrong_options():
    with pytest.raises(UserError, match="did you mean 'lstm'"):
        models.get("lstmm")
    for build in (models.transformer_lm, models.transformer_encoder):
        with pytest.raises(ValueError, match="positions must be rotary or learned, got 'sinus'"):
            build(10, positions="sinus")
    with pytest.raises(ValueError, match="neither Sequential nor Functional"):

        class Own(keras.Model):
            def call(self, x):
                return x

        models.run_layers(Own(name="own"), tf.zeros([1, 1]), lambda layer: layer)

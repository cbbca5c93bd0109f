import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.generation.state import Decoder
from tests.test_models import SMALL, build


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_cached_decoding_equals_full_forward(name, jit_compile):
    """Prompts of different lengths, prefilled together and then fed token by token, against the full pass over each row."""
    model = build(name)
    decoder = Decoder(model)
    ids = np.random.randint(0, 20, (3, 12)).astype(np.int32)
    full = model(ids).numpy()
    padding, width = np.array([0, 2, 4], np.int32), 6
    shifted = np.zeros((3, 12), np.int32)
    for row in range(3):
        shifted[row, padding[row] :] = ids[row, : 12 - padding[row]]

    @tf.function(jit_compile=jit_compile)
    def prefill(ids):
        return decoder.extend(ids, decoder.init_state(3, 16), 0, tf.constant(padding))

    @tf.function(jit_compile=jit_compile)
    def step(token, state, slot):
        return decoder.extend(token, state, slot, tf.constant(padding))

    logits, state = prefill(tf.constant(shifted[:, :width]))
    for slot in range(width, 13):
        for row in range(3):
            np.testing.assert_allclose(logits[row], full[row, slot - 1 - padding[row]], atol=1e-5)
        if slot < 12:
            logits, state = step(tf.constant(shifted[:, slot : slot + 1]), state, tf.constant(slot))


@pytest.mark.parametrize("name", SMALL)
def test_several_tokens_at_a_time_equal_full_forward(name):
    model = build(name)
    decoder = Decoder(model)
    ids = np.random.randint(0, 20, (2, 12)).astype(np.int32)
    state, padding, pieces = decoder.init_state(2, 12), tf.zeros([2], tf.int32), []
    for start, end in ((0, 4), (4, 9), (9, 10), (10, 12)):
        logits, state = decoder.extend_all(tf.constant(ids[:, start:end]), state, start if start == 0 else tf.constant(start), padding)
        pieces.append(logits.numpy())
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), model(ids), atol=1e-5)


def test_a_functional_chain_with_a_residual_and_a_model_inside():
    ids = keras.Input([None], dtype="int32")
    x = keras.layers.Embedding(20, 16)(ids)
    x = keras.layers.Add()([x, keras.layers.LSTM(16, return_sequences=True)(x)])
    inner = keras.Sequential([keras.Input([None, 16]), keras.layers.GRU(16, return_sequences=True), keras.layers.LayerNormalization()])
    model = keras.Model(ids, keras.layers.Dense(20)(inner(x)))
    decoder = Decoder(model)
    tokens = np.random.randint(0, 20, (2, 8)).astype(np.int32)
    logits, state = decoder.extend(tf.constant(tokens[:, :5]), decoder.init_state(2, 8), 0, tf.zeros([2], tf.int32))
    np.testing.assert_allclose(logits, model(tokens)[:, 4], atol=1e-5)
    logits, state = decoder.extend(tf.constant(tokens[:, 5:6]), state, tf.constant(5), tf.zeros([2], tf.int32))
    np.testing.assert_allclose(logits, model(tokens)[:, 5], atol=1e-5)


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU])
def test_rows_in_place_of_the_input_kernel(layer):
    """The same logits as the full pass; only where they are fewer numbers than the kernel, and the cell is one that is written out."""

    def decoder_of(vocabulary_size, **options):
        recurrent = layer(12, return_sequences=True, **options)
        layers = [keras.Input([None], dtype="int32"), keras.layers.Embedding(vocabulary_size, 24), keras.layers.Dropout(0.5), recurrent]
        return Decoder(keras.Sequential([*layers, keras.layers.Dense(vocabulary_size)]))

    decoder = decoder_of(20)
    rows, padding, state = decoder.input_rows(), tf.zeros([2], tf.int32), decoder.init_state(2, 8)
    assert rows.shape == (20, decoder.model.layers[2].cell.kernel.shape[1])
    ids = np.random.randint(0, 20, (2, 8)).astype(np.int32)
    for place in range(8):
        logits, state = decoder.extend(tf.constant(ids[:, place : place + 1]), state, tf.constant(place), padding, rows)
        np.testing.assert_allclose(logits, decoder.model(ids)[:, place], atol=1e-5)
    assert decoder_of(25).input_rows() is None
    assert decoder_of(20, dtype="mixed_bfloat16").input_rows() is None
    assert Decoder(build("transformer")).input_rows() is None


def test_context_length():
    assert Decoder(build("transformer")).context_length == 16
    assert Decoder(build("lstm")).context_length is None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.LSTM(8), "predicts once a window: give it return_sequences=True"),
        (keras.layers.GRU(8, return_sequences=True, go_backwards=True), "reads backwards"),
        (keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True)), "cannot be decoded step by step"),
        (keras.layers.Conv1D(8, 3, padding="same"), "cannot be decoded step by step"),
    ],
)
def test_layers_that_cannot_be_decoded_are_refused_by_name(layer, message):
    model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(20, 8), layer, keras.layers.Dense(20)])
    with pytest.raises(ValueError, match=message) as caught:
        Decoder(model)
    assert layer.name in str(caught.value)


def test_every_model_of_the_table_can_be_decoded():
    for kind in models.MODELS:
        assert Decoder(models.get(kind)(10)).vocabulary_size == 10

import keras
import numpy as np
import pytest

from keras_lm import cells

FEATURES, UNITS, TIME = 5, 7, 20


@pytest.fixture
def texts():
    return np.random.default_rng(0).normal(size=[3, TIME, FEATURES]).astype(np.float32)


def weights_of(layer):
    """Random ones, the biases too, which Keras begins with zeros."""
    layer.build([None, None, FEATURES])
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(scale=0.7, size=weight.shape).astype(np.float32) for weight in layer.get_weights()])
    return layer.get_weights()


def test_simple_rnn_is_keras(texts):
    layer = keras.layers.SimpleRNN(UNITS, return_sequences=True)
    weights, h, states = weights_of(layer), np.zeros([3, UNITS]), []
    for time in range(TIME):
        h = cells.simple_rnn_step(texts[:, time], h, *weights)
        states.append(h)
    np.testing.assert_allclose(np.stack(states, axis=1), layer(texts), atol=1e-5)


def test_lstm_is_keras(texts):
    layer = keras.layers.LSTM(UNITS, return_sequences=True, return_state=True)
    weights, h, c, states = weights_of(layer), np.zeros([3, UNITS]), np.zeros([3, UNITS]), []
    for time in range(TIME):
        step = cells.lstm_step(texts[:, time], h, c, *weights)
        h, c = step.h, step.c
        states.append(h)
    expected, _, last_memory = layer(texts)
    np.testing.assert_allclose(np.stack(states, axis=1), expected, atol=1e-5)
    np.testing.assert_allclose(c, last_memory, atol=1e-5)


def test_gru_is_keras(texts):
    layer = keras.layers.GRU(UNITS, return_sequences=True)
    weights, h, states = weights_of(layer), np.zeros([3, UNITS]), []
    for time in range(TIME):
        h = cells.gru_step(texts[:, time], h, *weights).h
        states.append(h)
    np.testing.assert_allclose(np.stack(states, axis=1), layer(texts), atol=1e-5)


def test_what_the_gates_do():
    """A forget gate held open keeps the memory; a GRU's update gate held open keeps the state."""
    rng = np.random.default_rng(2)
    x, h, c = rng.normal(size=[3, FEATURES]), rng.normal(size=[3, UNITS]), rng.normal(size=[3, UNITS])
    no_weights = np.zeros([FEATURES, 4 * UNITS]), np.zeros([UNITS, 4 * UNITS])
    step = cells.lstm_step(x, h, c, *no_weights, bias=np.repeat([-100.0, 100.0, 3.0, 100.0], UNITS))
    np.testing.assert_allclose(step.c, c)
    np.testing.assert_allclose(step.h, np.tanh(c))
    no_weights = np.zeros([FEATURES, 3 * UNITS]), np.zeros([UNITS, 3 * UNITS])
    step = cells.gru_step(x, h, *no_weights, bias=np.stack([np.repeat([100.0, 0.0, 3.0], UNITS), np.zeros(3 * UNITS)]))
    np.testing.assert_allclose(step.h, h)

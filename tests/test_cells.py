import keras
import numpy as np
import pytest

from keras_lm import cells
from keras_lm.errors import UserError

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


def test_the_forms_as_the_articles_print_them_are_not_keras(texts):
    """D2: a product of two gates, and no memory; D22: tanh around the gate; D23: a candidate that does not see the state."""
    layer = keras.layers.LSTM(UNITS)
    weights = weights_of(layer)
    h, c = np.zeros([3, UNITS]), np.zeros([3, UNITS])
    for time in range(5):
        step = cells.lstm_step(texts[:, time], h, c, *weights)
        h, c = step.h, step.c
    expected = layer(texts[:, :5])
    without_memory = step.output_gate * np.tanh(step.input_gate * step.forget_gate * step.candidate)
    gated_inside = np.tanh(step.output_gate * step.c)
    assert np.abs(step.h - expected).max() < 1e-5
    assert np.abs(without_memory - expected).max() > 0.1
    assert np.abs(gated_inside - expected).max() > 0.05
    layer = keras.layers.GRU(UNITS)
    kernel, recurrent_kernel, bias = weights_of(layer)
    step = cells.gru_step(texts[:, 0], np.full([3, UNITS], 0.5), kernel, recurrent_kernel, bias)
    candidate = np.tanh(texts[:, 0] @ kernel[:, 2 * UNITS :] + step.reset_gate)
    mixed = step.update_gate * 0.5 + (1 - step.update_gate) * candidate
    expected = layer(texts[:, :1], initial_state=np.full([3, UNITS], 0.5, np.float32))
    assert np.abs(step.h - expected).max() < 1e-5
    assert np.abs(mixed - expected).max() > 0.1


def test_weights_of_the_other_form_of_a_gru_are_refused(texts):
    weights = weights_of(keras.layers.GRU(UNITS, reset_after=False))
    with pytest.raises(UserError, match=rf"bias must be \(2, {3 * UNITS}\), as keras\.layers\.GRU\(reset_after=True\) has it"):
        cells.gru_step(texts[:, 0], np.zeros([3, UNITS]), *weights)


def test_the_three_steps_of_the_article():
    """A4 §4.2 states inputs and beginnings; with the weights of notebook 04 §4 its numbers are these, some worked out by hand."""
    one, nothing = np.eye(3), np.zeros([3, 3])
    kernel = np.hstack([one, nothing, one, one])  # i, f, g, o
    recurrent_kernel = np.hstack([nothing, one, -one, nothing])
    bias = np.array([0, 0, 0, 2, 0, -2, 0, 0, 0, 1, 1, 1])
    h, c = np.array([1.0, 0, 1]), np.array([1.0, 0, 1])
    expected = [
        ([0.9526, 0, 0.2689], [0.6526, 0, 0.2313]),
        ([0.6032, 0.5568, -0.0745], [0.3943, 0.4453, -0.0543]),
        ([0.9483, 0.7078, 0.5643], [0.6509, 0.5367, 0.4502]),
    ]
    for x, (memory, state) in zip(np.array([[1.0, 0, 1], [0, 1, 0], [1, 1, 1]]), expected, strict=True):
        step = cells.lstm_step(x, h, c, kernel, recurrent_kernel, bias)
        h, c = step.h, step.c
        np.testing.assert_allclose(c, memory, atol=5e-5)
        np.testing.assert_allclose(h, state, atol=5e-5)
    sigmoid = lambda value: 1 / (1 + np.exp(-value))
    assert sigmoid(3) == pytest.approx(expected[0][0][0], abs=5e-5)  # the first unit: f = σ(1 + 2), c_0 = 1, g = tanh(1 - 1) = 0
    assert sigmoid(2) * np.tanh(sigmoid(3)) == pytest.approx(expected[0][1][0], abs=5e-5)  # o = σ(1 + 1)

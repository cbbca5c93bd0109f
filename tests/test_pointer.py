"""The output that copies, beside its equation written out in loops."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.pointer import PointerGenerator

VOCABULARY, WIDTH, MEMORY_WIDTH = 11, 8, 6
SOURCE = np.array([[5, 7, 7, 3], [4, 3, 0, 0]], np.int32)
WRITTEN = np.array([[2, 5, 7], [2, 4, 9]], np.int32)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def given():
    return {
        "inputs": tf.constant(normal(0, 2, 3, VOCABULARY)),
        "states": tf.constant(normal(1, 2, 3, WIDTH)),
        "written": tf.constant(WRITTEN),
        "memory": tf.constant(normal(2, 2, 4, MEMORY_WIDTH)),
        "memory_visible": tf.constant(SOURCE != 0),
        "source": tf.constant(SOURCE),
    }


@pytest.fixture
def layer(given):
    layer = PointerGenerator()
    layer(**given)
    layer.set_weights([normal(number, *weight.shape) for number, weight in enumerate(layer.get_weights(), 3)])
    return layer


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def reference(layer, given):
    kernel, gate_kernel, gate_bias, onward_kernel, onward_bias = layer.get_weights()
    logits, states, written, memory, visible, source = (np.array(value) for value in given.values())
    probabilities = np.zeros_like(logits)
    for row in range(2):
        places, read, wrote = np.flatnonzero(visible[row]), [0, 0, *source[row]], [0, *written[row]]
        for time in range(3):
            state = states[row, time]
            gate = 1 / (1 + np.exp(-(state @ gate_kernel + gate_bias)[0]))
            one, two = state @ onward_kernel + onward_bias
            scores = np.array([state @ (memory[row, place] @ kernel) for place in places]) / np.sqrt(WIDTH)
            for place in places:
                if read[place + 1] == wrote[time + 1]:
                    scores[place] += one + (two if read[place] == wrote[time] else 0)
            probabilities[row, time] = gate * softmax(logits[row, time])
            for place, weight in zip(places, softmax(scores), strict=True):
                probabilities[row, time, source[row, place]] += (1 - gate) * weight
    return probabilities


@pytest.mark.parametrize("jit_compile", [False, True])
def test_it_is_the_equation(layer, given, jit_compile):
    ours = tf.exp(tf.function(lambda: layer(**given), jit_compile=jit_compile)())
    np.testing.assert_allclose(ours, reference(layer, given), atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(ours, axis=-1), np.ones([2, 3]), atol=1e-5)
    weights = layer.weights_of(**given)
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), np.ones([2, 1, 3]), atol=1e-5)
    assert not weights.numpy()[1, ..., 2:].any()


def test_gradients_are_those_of_finite_differences(layer, given):
    draw = normal(9, 2, 3, VOCABULARY)
    names = ("inputs", "states", "memory")

    def value(*changed):
        return tf.reduce_sum(layer(**{**given, **dict(zip(names, changed, strict=True))}) * draw)

    watched = [given[name] for name in names]
    with tf.GradientTape() as tape:
        tape.watch(watched)
        total = value(*watched)
    for number, gradient in enumerate(tape.gradient(total, watched)):
        direction, small = normal(10 + number, *gradient.shape), 1e-2
        ends = [
            value(*(part + sign * small * direction if place == number else part for place, part in enumerate(watched))) for sign in (1, -1)
        ]
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * small), np.sum(gradient * direction), rtol=2e-2)


def test_what_is_certain_stays_finite(layer, given):
    """A gate that is closed, logits that are far apart: no infinite loss, no gradient that is not a number."""
    kernel, gate_kernel, gate_bias, *onward = layer.get_weights()
    for closed in (-200.0, 200.0):
        layer.set_weights([kernel, gate_kernel, np.full_like(gate_bias, closed), *onward])
        inputs = 1000 * given["inputs"]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(**{**given, "inputs": inputs})
        assert np.isfinite(outputs).all()
        assert np.isfinite(tape.gradient(outputs, inputs)).all()


def test_steps_read_the_source_once(layer, given):
    expected = layer(**given)
    cache = layer.init_cache(2, 3)
    rest = {name: given[name] for name in ("memory", "memory_visible", "source")}
    padding = tf.zeros([2], tf.int32)
    for time in range(3):
        inputs, states, written = (given[name][:, time : time + 1] for name in ("inputs", "states", "written"))
        outputs, cache = layer.extend(inputs, cache, time, padding, states, written, **(rest if time == 0 else {}))
        np.testing.assert_allclose(outputs[:, 0], expected[:, time], atol=1e-5)

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models, recurrent
from keras_lm.dropout import HashDropout

LAYERS = {
    "simple_rnn": (keras.layers.SimpleRNN, {}),
    "lstm": (keras.layers.LSTM, {}),
    "lstm-no-bias": (keras.layers.LSTM, {"use_bias": False}),
    "gru": (keras.layers.GRU, {}),
    "gru-no-bias": (keras.layers.GRU, {"use_bias": False}),
    "gru-reset-before": (keras.layers.GRU, {"reset_after": False}),
}


def make_layer(name, units=12, width=8):
    kind, options = LAYERS[name]
    layer = kind(units, return_sequences=True, return_state=True, bias_initializer="random_normal", **options)
    layer.build([None, None, width])
    return layer


def with_gradients(run, layer):
    """`(x, states, weights of the sum) -> (outputs and states, gradients)` of a weighted sum of all that `run` gives."""

    def call(x, states, directions):
        with tf.GradientTape() as tape:
            tape.watch([x, *states])
            results = run(x, states)
            total = tf.add_n([tf.reduce_sum(result * direction) for result, direction in zip(results, directions, strict=True)])
        return results, tape.gradient(total, [x, *states, *[variable.value for variable in layer.trainable_variables]])

    return call


def keras_run(layer, mask=None):
    return lambda x, states: list(layer(x, initial_state=states, mask=mask))


def our_run(layer, mask=None):
    def run(x, states):
        outputs, after = recurrent.run_recurrent(layer, x, states, mask, training=True)
        return [outputs, *after]

    return run


def random_case(layer, batch=3, time=7):
    states = [tf.random.normal([batch, 12]) for _ in layer.get_initial_state(batch)]
    directions = [tf.random.normal([batch, time, 12]), *[tf.random.normal([batch, 12]) for _ in states]]
    return tf.random.normal([batch, time, 8]), states, directions


def assert_same(results, expected):
    for one, other in zip(results[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(results[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_the_keras_layer(name, masked):
    """Outputs, states, and the gradients of inputs, states and weights; eagerly, as a graph and under XLA."""
    layer = make_layer(name)
    mask = tf.constant([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0, 1]]) > 0 if masked else None
    case = random_case(layer)
    expected = with_gradients(keras_run(layer, mask), layer)(*case)
    ours = with_gradients(our_run(layer, mask), layer)
    assert_same(ours(*case), expected)
    for jit_compile in (False, True):
        assert_same(tf.function(ours, jit_compile=jit_compile, autograph=False)(*case), expected)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_any_batch_and_length(name, jit_compile):
    """One trace with neither known; a single row and a single step among them."""
    layer = make_layer(name)
    states = [tf.TensorSpec([None, 12])] * len(layer.get_initial_state(1))
    signature = [tf.TensorSpec([None, None, 8]), states, [tf.TensorSpec([None, None, 12]), *states]]
    ours = tf.function(with_gradients(our_run(layer), layer), input_signature=signature, jit_compile=jit_compile, autograph=False)
    for batch, time in ((3, 7), (1, 5), (2, 1)):
        case = random_case(layer, batch, time)
        assert_same(ours(*case), with_gradients(keras_run(layer), layer)(*case))


def test_keras_loop_is_not_entered(monkeypatch):
    ids = tf.random.uniform([2, 5], 0, 20, tf.int32)
    for kind, cell in (("simple_rnn", keras.layers.SimpleRNNCell), ("lstm", keras.layers.LSTMCell), ("gru", keras.layers.GRUCell)):
        model = models.get(kind)(20, embedding_dim=8, hidden_dim=12)

        def refuse(self, *_, **__):
            raise AssertionError(f"{self.name} was called")

        monkeypatch.setattr(cell, "call", refuse)
        assert recurrent.run_model(model, ids, training=True).shape == (2, 5, 20)
        assert recurrent.run_stateful(model, ids, recurrent.zero_states(model, 2))[0].shape == (2, 5, 20)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("embedding_dim", [8, 32])  # of 20 tokens: run through the layer, and looked up
@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_models_and_their_gradients_are_those_of_keras(kind, embedding_dim, jit_compile):
    model = models.get(kind)(20, embedding_dim=embedding_dim, hidden_dim=12)
    ids, targets = np.random.randint(0, 20, (2, 3, 9)).astype(np.int32)

    def gradients(run):
        with tf.GradientTape() as tape:
            logits = run(ids)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        values = [variable.value for variable in model.trainable_variables]
        return [logits], [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values)]

    ours = tf.function(lambda: gradients(lambda x: recurrent.run_model(model, x, training=True)), jit_compile=jit_compile, autograph=False)
    assert_same(ours(), gradients(lambda x: model(x, training=True)))


def test_dropout_between_layers_drops_what_hash_dropout_drops():
    ids = tf.random.uniform([2, 6], 0, 20, tf.int32)
    model = models.lstm_lm(20, embedding_dim=8, hidden_dim=12, dropout=0.5)
    same = [
        HashDropout(layer.rate, seed=layer.seed) if isinstance(layer, keras.layers.Dropout) else layer.from_config(layer.get_config())
        for layer in model.layers
    ]
    hashed = keras.Sequential([keras.Input([None], dtype="int32"), *same])
    for variable, other in zip(hashed.variables, model.variables, strict=True):  # the states of the random layers among them
        variable.assign(other)
    dropped = hashed(ids, training=True)
    np.testing.assert_allclose(recurrent.run_model(model, ids, training=True), dropped, atol=1e-5)
    np.testing.assert_allclose(recurrent.run_model(model, ids), model(ids), atol=1e-5)
    assert np.abs(dropped - model(ids)).max() > 1e-3


@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_mixed_precision(kind):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.get(kind)(20, embedding_dim=32, hidden_dim=12)
    finally:
        keras.config.set_dtype_policy("float32")
    ids = tf.random.uniform([2, 6], 0, 20, tf.int32)
    for jit_compile in (False, True):
        logits = tf.function(lambda x: recurrent.run_model(model, x), jit_compile=jit_compile, autograph=False)(ids)
        assert logits.dtype == tf.float32
        np.testing.assert_allclose(logits, model(ids), atol=0.02)
    inputs, states = tf.cast(tf.random.normal([2, 6, 32]), tf.bfloat16), model.layers[1].get_initial_state(2)
    outputs, after = recurrent.run_recurrent(model.layers[1], inputs, states)
    assert {tensor.dtype for tensor in (outputs, *after)} == {tf.bfloat16}


UNUSUAL = {
    "relu": [keras.layers.LSTM(6, activation="relu", return_sequences=True)],
    "hard sigmoid": [keras.layers.GRU(6, recurrent_activation="hard_sigmoid", return_sequences=True)],
    "backwards": [keras.layers.GRU(6, go_backwards=True, return_sequences=True), keras.layers.LSTM(6, return_sequences=True)],
    "last state": [keras.layers.LSTM(6, return_sequences=True), keras.layers.LSTM(6), keras.layers.RepeatVector(5)],
    "both directions": [
        keras.layers.Bidirectional(keras.layers.LSTM(6, return_sequences=True)),
        keras.layers.GRU(6, return_sequences=True),
    ],
    "stacked cells": [keras.layers.RNN([keras.layers.LSTMCell(6), keras.layers.GRUCell(6)], return_sequences=True)],
    "dropout inside": [keras.layers.LSTM(6, dropout=0.5, recurrent_dropout=0.5, return_sequences=True)],
    "masking": [keras.layers.Masking(), keras.layers.LSTM(6, return_sequences=True), keras.layers.GRU(6, return_sequences=True)],
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_not_written_out_is_left_to_keras(name):
    layers = [keras.layers.deserialize(keras.layers.serialize(layer)) for layer in UNUSUAL[name]]
    model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(20, 8), *layers, keras.layers.Dense(20)])
    model.layers[0].embeddings.assign(tf.concat([tf.zeros([4, 8]), tf.random.normal([16, 8])], 0))  # rows that Masking masks
    ids = tf.random.uniform([2, 5], 0, 20, tf.int32)
    np.testing.assert_allclose(recurrent.run_model(model, ids), model(ids), atol=1e-5)
    if name == "dropout inside":
        runs = [recurrent.run_model(model, ids, training=True).numpy() for _ in range(2)]
        assert np.abs(runs[0] - runs[1]).max() > 1e-3


def test_functional_models_and_penalties():
    """A residual connection around an LSTM; what layers add to the loss is as after a call of the model."""
    ids = keras.Input([None], dtype="int32")
    x = keras.layers.Embedding(20, 32, embeddings_regularizer="l2")(ids)
    y = keras.layers.LSTM(32, return_sequences=True, kernel_regularizer="l2")(x)
    inner = keras.Sequential([keras.Input([None, 32]), keras.layers.GRU(8, return_sequences=True, activity_regularizer="l1")])
    model = keras.Model(ids, keras.layers.Dense(20)(inner(keras.layers.Add()([x, y]))))
    some = tf.random.uniform([2, 5], 0, 20, tf.int32)
    expected = model(some)
    losses = sorted(map(float, model.losses))
    np.testing.assert_allclose(recurrent.run_model(model, some), expected, atol=1e-5)
    np.testing.assert_allclose(sorted(map(float, model.losses)), losses, rtol=1e-5)
    assert len(losses) == 3


def test_a_gpu_without_xla_is_left_to_cudnn(monkeypatch):
    """`run_model` calls the model there, and follows its layers where XLA compiles."""
    model = models.gru_lm(20, embedding_dim=8, hidden_dim=12)
    ids = tf.random.uniform([2, 5], 0, 20, tf.int32)
    walked = []
    walk = recurrent._walk
    monkeypatch.setattr(recurrent, "_walk", lambda *arguments: walked.append(1) or walk(*arguments))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"] if kind == "GPU" else [])
    tf.function(lambda: recurrent.run_model(model, ids), jit_compile=False).get_concrete_function()
    assert not walked
    tf.function(lambda: recurrent.run_model(model, ids), jit_compile=True).get_concrete_function()
    assert walked


def test_a_model_without_recurrent_layers_is_called():
    model = models.transformer_lm(20, context_length=16, embedding_dim=16)
    ids = tf.random.uniform([2, 5], 0, 20, tf.int32)
    np.testing.assert_array_equal(recurrent.run_model(model, ids), model(ids))

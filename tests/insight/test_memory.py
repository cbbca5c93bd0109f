import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.insight.memory import gradient_reach, input_gradients

VOCABULARY, TIME = 20, 12


def make_model(kind):
    shape = {"embedding_dim": 8, "num_layers": 2, "dropout": 0.5}
    shape |= {"num_heads": 2, "context_length": TIME} if kind == "transformer" else {"hidden_dim": 12}
    return models.MODELS[kind](VOCABULARY, **shape)


def some_ids(windows=5, seed=0):
    return np.random.default_rng(seed).integers(VOCABULARY, size=[windows, TIME + 1])


@pytest.mark.parametrize("layer", [keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU], ids=lambda layer: layer.__name__)
def test_they_are_those_of_finite_differences(layer):
    """In float64, each number of each vector moved up and down by itself: no automatic differentiation."""
    embedding = keras.layers.Embedding(VOCABULARY, 4, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.5), dtype="float64")
    layers = [layer(6, return_sequences=True, dtype="float64"), keras.layers.Dense(VOCABULARY, dtype="float64")]
    model = keras.Sequential([keras.Input([None], dtype="int32"), embedding, *layers])
    ids, step = some_ids(2), 1e-6
    changes = step * np.eye(TIME * 4).reshape(TIME * 4, TIME, 4)
    for row, norms in zip(ids, input_gradients(model, ids), strict=True):
        moved = embedding(row[:-1]).numpy() + np.concatenate([changes, -changes])
        logits = layers[1](layers[0](moved))[:, -1]
        up, down = np.split(tf.nn.sparse_softmax_cross_entropy_with_logits(np.full(len(moved), row[-1]), logits).numpy(), 2)
        differences = ((up - down) / (2 * step)).reshape(TIME, 4)
        np.testing.assert_allclose(norms, np.linalg.norm(differences, axis=1), rtol=1e-4, atol=1e-9)


def test_a_linear_recurrence_is_known_in_closed_form():
    """With h' = x + a h and logits c h, the gradient k steps back is aᵏ times that at 0."""
    layer = keras.layers.SimpleRNN(3, activation="linear", return_sequences=True, use_bias=False)
    model = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(VOCABULARY, 3), layer, keras.layers.Dense(VOCABULARY)]
    )
    layer.set_weights([np.eye(3, dtype="float32"), 0.5 * np.eye(3, dtype="float32")])
    reach = gradient_reach(model, some_ids())
    np.testing.assert_allclose(reach / reach[0], 0.5 ** np.arange(TIME), rtol=1e-4)


@pytest.mark.parametrize("kind", models.MODELS)
def test_a_causal_model_has_none_in_what_comes_later(kind):
    norms = input_gradients(make_model(kind), some_ids(), position=6)
    assert (norms[:, :7] > 0).all()
    assert (norms[:, 7:] == 0).all()


def test_a_model_that_reads_both_ways_has_some():
    both = keras.layers.Bidirectional(keras.layers.GRU(6, return_sequences=True))
    model = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(VOCABULARY, 4), both, keras.layers.Dense(VOCABULARY)]
    )
    assert (input_gradients(model, some_ids(), position=6)[:, 7:] > 0).all()


@pytest.mark.parametrize("kind", models.MODELS)
def test_dropout_is_off_and_windows_do_not_meet(kind):
    model, ids = make_model(kind), some_ids()
    found = input_gradients(model, ids)
    np.testing.assert_allclose(input_gradients(model, ids, batch_size=2), found, rtol=1e-4)
    np.testing.assert_allclose(input_gradients(model, ids[2:3]), found[2:3], rtol=1e-4)


def test_in_a_transformer_they_are_those_at_its_input_though_the_output_has_the_same_matrix():
    model, ids = make_model("transformer"), some_ids()
    embedding = model.get_layer("embedding")
    vectors = embedding(ids[:, :-1])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        states = model.get_layer("final_norm")(model.get_layer("block_1")(model.get_layer("block_0")(vectors)))
        loss = keras.losses.sparse_categorical_crossentropy(ids[:, -1], embedding(states, reverse=True)[:, -1], from_logits=True)
    expected = tf.norm(tape.gradient(loss, vectors), axis=-1)
    np.testing.assert_allclose(input_gradients(model, ids), expected, rtol=1e-4)


def test_reach_is_the_mean_over_windows_nearest_first():
    model, ids = make_model("gru"), some_ids()
    norms = input_gradients(model, ids, position=8)
    np.testing.assert_allclose(gradient_reach(model, ids, position=8), norms[:, 8::-1].mean(axis=0))
    np.testing.assert_allclose(gradient_reach(model, ids, distances=3, position=8), norms[:, [8, 7, 6]].mean(axis=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distances": TIME + 1}, f"from 1 to {TIME}"),
        ({"distances": 6, "position": 4}, "from 1 to 5"),
        ({"distances": 0}, "from 1"),
        ({"position": TIME}, "position must be"),
    ],
)
def test_what_lies_beyond_the_window_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        gradient_reach(make_model("gru"), some_ids(), **arguments)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(UserError, match="two tokens"):
        gradient_reach(make_model("gru"), some_ids()[:, :1])
    model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.CategoryEncoding(4, output_mode="one_hot")])
    model.add(keras.layers.Dense(4))
    with pytest.raises(UserError, match="no Embedding"):
        gradient_reach(model, some_ids() % 4)

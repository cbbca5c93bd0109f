import keras
import numpy as np
import pytest

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.insight.states import hidden_states, layer_states

IDS = np.random.default_rng(0).integers(4, 30, size=[3, 9])


def make_model(kind):
    shape = {"embedding_dim": 8, "num_layers": 2, "dropout": 0.5}
    shape |= {"num_heads": 2, "context_length": 16} if kind == "transformer" else {"hidden_dim": 12}
    return models.MODELS[kind](30, **shape)


@pytest.mark.parametrize("kind", models.MODELS)
def test_the_output_layer_makes_the_logits_of_them(kind):
    model = make_model(kind)
    states = hidden_states(model, IDS)
    output = model.layers[-1] if kind != "transformer" else lambda x: model.get_layer("embedding")(x, reverse=True)
    np.testing.assert_allclose(output(states), model(IDS), atol=1e-5)


@pytest.mark.parametrize("kind", ["simple_rnn", "lstm", "gru"])
def test_they_are_those_of_a_model_cut_there(kind):
    model = make_model(kind)
    for layer in model.layers[:-1]:
        if not isinstance(layer, keras.layers.Dropout):
            cut = keras.Model(model.inputs[0], layer.output)
            np.testing.assert_allclose(layer_states(model, IDS)[layer.name], cut(IDS), atol=1e-6)


def test_layers_come_in_their_order_without_dropout_and_logits():
    assert list(layer_states(make_model("transformer"), IDS)) == ["embedding", "block_0", "block_1", "final_norm"]
    assert [name.partition("_")[0] for name in layer_states(make_model("gru"), IDS)] == ["embedding", "gru", "gru"]


@pytest.mark.parametrize("kind", models.MODELS)
def test_a_state_depends_on_what_stands_before_it_alone(kind):
    model, changed = make_model(kind), IDS.copy()
    changed[:, 5] = 4 + (changed[:, 5] - 3) % 26
    before, after = hidden_states(model, IDS), hidden_states(model, changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert (np.abs(before - after)[:, 5:].max(axis=-1) > 1e-6).all()


def test_ids_that_are_no_matrix_are_refused():
    with pytest.raises(UserError, match="ids must be"):
        hidden_states(make_model("gru"), IDS[0])

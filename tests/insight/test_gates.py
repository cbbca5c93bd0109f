import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.heads import classifier, text_body
from keras_lm.insight.gates import all_gate_activations, gate_activations, layer_steps
from keras_lm.insight.reading import Reader
from keras_lm.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
KINDS = ("simple_rnn", "lstm", "gru")
LAYERS = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


def reader_of(kind, **changes):
    return Reader(models.MODELS[kind](260, **{"embedding_dim": 8, "hidden_dim": 12, "num_layers": 2, "dropout": 0.5} | changes), TOKENIZER)


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("use_bias", [True, False])
def test_states_are_those_of_the_layer(make, use_bias):
    layer = make(12, return_sequences=True, return_state=True, use_bias=use_bias)
    inputs = np.random.default_rng(0).normal(size=[1, 30, 8]).astype(np.float32)
    outputs, *last = layer(inputs)
    for weight in layer.trainable_variables:
        weight.assign(tf.random.stateless_normal(weight.shape, [1, 2]) * 0.4)
    outputs, *last = layer(inputs)
    values = layer_steps(layer, inputs[0])
    np.testing.assert_allclose(values["hidden"], outputs[0], atol=1e-5)
    if make is keras.layers.LSTM:
        np.testing.assert_allclose(values["cell"][-1], last[1][0], atol=1e-5)
    assert all(value.min() >= 0 and value.max() <= 1 for name, value in values.items() if name.endswith("_gate"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_of_a_model_is_followed(kind):
    reader = reader_of(kind)
    every = all_gate_activations(reader, "hello")
    assert [one.kind for one in every] == [kind] * 2
    for one in every:
        cut = keras.Model(reader.model.inputs[0], reader.model.get_layer(one.layer).output)
        np.testing.assert_allclose(one.values["hidden"], cut(np.array([reader.read("hello").ids]))[0], atol=1e-5)
    assert gate_activations(reader, "hello", 0).layer == every[0].layer == gate_activations(reader, "hello", every[0].layer).layer
    assert gate_activations(reader, "hello").layer == every[1].layer


def test_a_layer_that_reads_backwards_is_shown_in_the_order_of_the_text():
    model = classifier(text_body("gru", 260, embedding_dim=8, hidden_dim=6, num_layers=2), 2)
    reader = Reader(model, TOKENIZER, classes=["bad", "good"], ends=True)
    every = {one.layer: one for one in all_gate_activations(reader, "hello")}
    assert every["forward_1"].tokens[-1] == "</s>"
    joined = keras.Model(model.inputs[0], model.get_layer("pooling").input[0])(np.array([reader.read("hello").ids]))[0]
    both = np.concatenate([every[f"{side}_1"].values["hidden"] for side in ("forward", "backward")], axis=1)
    np.testing.assert_allclose(both, joined, atol=1e-5)


def test_what_has_no_gates_is_refused():
    model = models.transformer_lm(260, context_length=8, embedding_dim=8, num_layers=1, num_heads=2)
    with pytest.raises(UserError, match="no recurrent layer, and so no gates: its attention can be shown"):
        gate_activations(Reader(model, TOKENIZER), "at")
    recurrent = models.gru_lm(260, embedding_dim=4, hidden_dim=4)
    with pytest.raises(UserError, match="has 9 tokens, and the model reads 7 at a time"):
        gate_activations(Reader(recurrent, TOKENIZER, longest=8), "too long.")
    with pytest.raises(UserError, match="the text is empty"):
        gate_activations(reader_of("gru"), " \n")
    with pytest.raises(UserError, match="unknown recurrent layer 'gru_9'"):
        gate_activations(reader_of("gru"), "at", "gru_9")
    with pytest.raises(UserError, match="layer must be from 0 to 1"):
        gate_activations(reader_of("gru"), "at", 2)
    for layer in (keras.layers.GRU(3, activation="relu"), keras.layers.LSTM(3, recurrent_activation="hard_sigmoid")):
        with pytest.raises(UserError, match="other equations"):
            layer_steps(layer, np.ones([2, 2]))

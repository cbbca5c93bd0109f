import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.heads import classifier, tagger, text_body
from keras_lm.insight.lens import logit_lens
from keras_lm.insight.reading import Reader
from keras_lm.insight.states import layer_states
from keras_lm.seq2seq import transformer_seq2seq
from keras_lm.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
SMALL = {"embedding_dim": 16, "num_heads": 2, "context_length": 16}
TEXT = "hello"


def best(logits):
    p = tf.nn.softmax(logits).numpy()
    return p.argmax(-1), p.max(-1)


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_each_layer_is_read_through_the_last_norm_and_the_output_matrix(kind):
    model = models.transformer_lm(260, num_layers=3, positions=kind, dropout=0.5, **SMALL)
    reader = Reader(model, TOKENIZER)
    lens = logit_lens(reader, TEXT, top=3)
    assert lens.layers == ("embedding", "block_0", "block_1", "block_2") and lens.tokens == ("<s>", *TEXT)
    states = layer_states(model, np.array([reader.read(TEXT).ids]))
    states["embedding"] = states.pop("positions", states["embedding"])
    for row, name in enumerate(lens.layers):
        names, p = best(model.get_layer("embedding")(model.get_layer("final_norm")(states[name]), reverse=True)[0])
        assert lens.candidates[row, :, 0].tolist() == [reader.token_names[number] for number in names]
        np.testing.assert_allclose(lens.probabilities[row, :, 0], p, rtol=1e-4)
    names, _ = best(model(np.array([reader.read(TEXT).ids]))[0])
    assert lens.candidates[-1, :, 0].tolist() == [reader.token_names[number] for number in names]


def test_entropy_and_divergence_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    model = models.transformer_lm(260, num_layers=2, **SMALL)
    lens = logit_lens(Reader(model, TOKENIZER), TEXT, top=1000)
    assert lens.candidates.shape == (3, 6, 260)  # no more than there are
    np.testing.assert_allclose(lens.entropy, stats.entropy(lens.probabilities, axis=-1), atol=1e-4)
    number = {name: place for place, name in enumerate(sorted(lens.candidates[0, 0]))}
    for layer, position in np.ndindex(3, 6):
        rows = np.zeros([2, 260])
        for row, one in zip(rows, (2, layer), strict=True):
            row[[number[name] for name in lens.candidates[one, position]]] = lens.probabilities[one, position]
        assert lens.divergence[layer, position] == pytest.approx(stats.entropy(*rows), abs=1e-4)


def test_a_masked_model_a_tagger_and_a_classifier_are_read_through_their_heads():
    masked = models.masked_lm(models.transformer_encoder(260, num_layers=2, **SMALL))
    assert logit_lens(Reader(masked, TOKENIZER, ends=True), TEXT).candidates.shape == (3, 7, 5)
    body = text_body("transformer", 260, num_layers=2, **SMALL)
    lens = logit_lens(Reader(tagger(body, 3), TOKENIZER, classes=["B", "I", "O"], ends=True), TEXT)
    assert lens.candidates.shape == (3, 7, 3) and set(lens.candidates.ravel()) == {"B", "I", "O"}
    model = classifier(text_body("transformer", 260, num_layers=2, **SMALL), 2)
    reader = Reader(model, TOKENIZER, classes=["bad", "good"], ends=True)
    lens = logit_lens(reader, TEXT)
    assert lens.tokens == (TEXT,) and lens.candidates.shape == (3, 1, 2)
    assert lens.probabilities[-1, 0, 0] == pytest.approx(best(model(np.array([reader.read(TEXT).ids])))[1][0], abs=1e-5)


def test_recurrent_layers_of_equal_widths_can_be_left_out():
    model = models.gru_lm(260, embedding_dim=12, hidden_dim=12, num_layers=2, dropout=0.5)
    reader = Reader(model, TOKENIZER)
    lens = logit_lens(reader, TEXT)
    first = model.layers[1].name
    assert lens.layers == ("embedding", first, model.layers[3].name)
    _, p = best(model.layers[-1](layer_states(model, np.array([reader.read(TEXT).ids]))[first])[0])
    np.testing.assert_allclose(lens.probabilities[1, :, 0], p, rtol=1e-4)
    other = models.gru_lm(260, embedding_dim=8, hidden_dim=12, num_layers=2)
    assert logit_lens(Reader(other, TOKENIZER), TEXT).layers == tuple(layer.name for layer in other.layers[1:3])


def test_what_cannot_be_read_off_is_refused():
    with pytest.raises(UserError, match="no earlier layer to read from; gates and attributions can be shown"):
        logit_lens(Reader(models.lstm_lm(260, embedding_dim=8, hidden_dim=12, num_layers=1), TOKENIZER), TEXT)
    both_ways = classifier(text_body("gru", 260, embedding_dim=8, hidden_dim=12), 2)
    with pytest.raises(UserError, match="none can be left out"):
        logit_lens(Reader(both_ways, TOKENIZER, classes=["a", "b"]), TEXT)
    plain = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(260, 4), keras.layers.Dense(260)])
    with pytest.raises(UserError, match="neither blocks nor recurrent layers"):
        logit_lens(Reader(plain, TOKENIZER), TEXT)
    with pytest.raises(UserError, match="can show its attention"):
        logit_lens(Reader(transformer_seq2seq(260, num_layers=1, **SMALL), TOKENIZER), TEXT)
    with pytest.raises(UserError, match="no distribution over names"):
        logit_lens(Reader(models.transformer_encoder(260, num_layers=1, **SMALL), TOKENIZER), TEXT)
    with pytest.raises(UserError, match="top must be at least 1"):
        logit_lens(Reader(models.gru_lm(260, embedding_dim=8, hidden_dim=8), TOKENIZER), TEXT, top=0)

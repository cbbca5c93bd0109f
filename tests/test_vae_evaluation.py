import math

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import vae
from keras_lm.errors import UserError
from keras_lm.evaluation import DocumentEvaluator
from keras_lm.models import lstm_lm
from keras_lm.pipeline import Tokens
from keras_lm.vae_evaluation import VAEEvaluator, collapse


def some_tokens(sentences=20, longest=6):
    random = np.random.default_rng(2)
    rows = [[2, *random.integers(4, 12, random.integers(1, longest + 1)), 3] for _ in range(sentences)]
    return rows, Tokens(ids=np.concatenate(rows).astype(np.int32), characters=50, bytes=90, documents=sentences, unknown=0)


def one_unit(spread=1.2):
    """A VAE whose z is a single number, which matters."""
    model, random = vae.recurrent_vae(12, latent_dim=1, embedding_dim=6, hidden_dim=6), np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.0, 0.3 if "posterior" in variable.path else spread, variable.shape))
    return model


def exact(model, rows):
    """-ln P of all sentences, the integral over z by Gauss and Hermite."""
    decoder, (places, weights) = vae.latent_decoder(model), np.polynomial.hermite_e.hermegauss(100)
    total = 0.0
    for row in rows:
        ids = np.repeat([row], len(places), axis=0).astype(np.int32)
        logits = decoder([places[:, None].astype(np.float32), ids[:, :-1]])
        losses = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], logits), axis=1).numpy().astype(np.float64)
        total -= math.log(np.sum(weights * np.exp(-losses)) / math.sqrt(2 * math.pi))
    return total


def test_the_bounds_hold_and_close_in_on_the_integral():
    """Reconstruction + KL >= the importance-weighted bound of few z >= that of many, which nears what quadrature finds."""
    model = one_unit()
    rows, tokens = some_tokens()
    evaluator = VAEEvaluator(model, sequence_length=8, batch_size=8, jit_compile=False)
    result = evaluator(tokens)
    right = math.exp(exact(model, rows) / result.tokens)
    few, many = (evaluator.importance_weighted(tokens, samples) for samples in (10, 1000))
    assert result.perplexity > few > right * 0.98
    assert many == pytest.approx(right, rel=0.02)


def test_the_parts_are_those_of_each_sentence():
    model = one_unit(0.5)
    rows, tokens = some_tokens()
    result = VAEEvaluator(model, sequence_length=8, batch_size=7, jit_compile=False)(tokens)
    posteriors = np.concatenate([vae.posterior_of(model)(np.array([row[1:]], np.int32)) for row in rows])
    assert result.kl == pytest.approx(float(np.mean(vae.kl_of_units(posteriors))), abs=1e-5)
    assert result.tokens == sum(len(row) - 1 for row in rows)
    assert result.sentences == len(rows)
    assert result.loss * result.tokens == pytest.approx((result.reconstruction + result.kl) * len(rows))
    assert result.bits_per_character == pytest.approx(result.loss * result.tokens / math.log(2) / 50)
    assert result.active_units == int(posteriors[:, 0].var() > 0.01)
    again = VAEEvaluator(model, sequence_length=8, batch_size=7, jit_compile=True)(tokens)
    assert again.loss == pytest.approx(result.loss, abs=1e-4)


def test_without_its_vector_a_vae_is_a_language_model():
    """With z cut off, the reconstruction is the loss of the LSTM with the same weights on the same sentences, ends counted."""
    model = one_unit(0.5)
    for name in ("latent_to_input", "latent_to_output"):
        layer = model.get_layer(name)
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    plain = lstm_lm(12, embedding_dim=6, hidden_dim=6, num_layers=1)
    plain.set_weights([weight for name in ("embedding", "decoder_0", "logits") for weight in model.get_layer(name).get_weights()])
    _, tokens = some_tokens()
    sizes = {"sequence_length": 8, "batch_size": 6, "jit_compile": False}
    ours, theirs = VAEEvaluator(model, **sizes)(tokens), DocumentEvaluator(plain, **sizes)(tokens)
    assert ours.tokens == theirs.tokens
    assert ours.reconstruction * ours.sentences == pytest.approx(theirs.loss * theirs.tokens, rel=1e-5)


def test_collapse_says_what_is_wrong_and_what_to_change():
    model = one_unit(0.0)
    result = VAEEvaluator(model, sequence_length=8, batch_size=8, jit_compile=False)(some_tokens()[1])
    said = collapse(result)
    assert said.startswith("the posterior has collapsed: the KL is 0.0 nats a sentence (under 3), 0 of 1 units are active (under half);")
    assert "--free-bits" in said
    good = {**vars(result), "kl": 3.5, "active_units": 1}
    assert collapse(type(result)(**good)) is None
    assert "KL" in collapse(type(result)(**{**good, "kl": 2.9}))


def test_no_sentence_is_refused():
    nothing = Tokens(ids=np.array([], np.int32), characters=0, bytes=0, documents=0, unknown=0)
    with pytest.raises(UserError, match="there is no sentence to evaluate on"):
        VAEEvaluator(one_unit(), sequence_length=8, batch_size=8, jit_compile=False)(nothing)

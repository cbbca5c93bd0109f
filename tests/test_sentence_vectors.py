import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.heads import classifier, take_body, text_body
from keras_lm.sentence_vectors import TEMPERATURE, sentence_encoder, summed_pair_loss, summed_pair_right

torch = pytest.importorskip("torch")
SIZES = {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 1}


def units(number, seed=0):
    vectors = np.random.default_rng(seed).normal(size=[number, 6]).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_contrast_is_cross_entropy_of_the_cosines_both_ways():
    vectors = units(10)
    cosines = torch.tensor(vectors[:5]) @ torch.tensor(vectors[5:]).T / TEMPERATURE
    losses = [torch.nn.functional.cross_entropy(one, torch.arange(5), reduction="sum") for one in (cosines, cosines.T)]
    found = summed_pair_loss(tf.constant(vectors), tf.range(5), tf.ones(5))
    assert float(found) == pytest.approx(float(losses[0] + losses[1]) / 2, rel=1e-5)


def test_padding_and_other_texts_of_the_same_first_one_are_no_contrast():
    vectors = units(6)
    alone = float(summed_pair_loss(tf.constant(vectors[[0, 1, 3, 4]]), tf.constant([0, 1]), tf.ones(2)))
    padded = summed_pair_loss(tf.constant(vectors), tf.constant([0, 1, 0]), tf.constant([1.0, 1.0, 0.0]))
    assert float(padded) == pytest.approx(alone, rel=1e-5)
    same = summed_pair_loss(tf.constant(vectors[[0, 0, 3, 4]]), tf.constant([7, 7]), tf.ones(2))
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_scores_are_what_cosines_are_to_be():
    vectors, scores = units(8), np.array([0.2, 0.9, 0.4, 1.0], np.float32)
    cosines = (vectors[:4] * vectors[4:]).sum(axis=1)
    weights = np.array([1.0, 0.0, 0.5, 2.0], np.float32)
    found = summed_pair_loss(*map(tf.constant, (vectors, scores, weights)))
    assert float(found) == pytest.approx(float((weights * (cosines - scores) ** 2).sum()), rel=1e-5)
    right = summed_pair_right(*map(tf.constant, (vectors, scores, weights)))
    assert float(right) == pytest.approx(float(weights[(cosines >= 0.5) == (scores >= 0.5)].sum()))


def test_a_pair_is_told_right_whose_second_text_is_the_nearest():
    vectors = units(10)
    nearest = (vectors[:5] @ vectors[5:].T).argmax(axis=1)
    assert float(summed_pair_right(tf.constant(vectors), tf.range(5), tf.ones(5))) == (nearest == np.arange(5)).sum()


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_an_encoder_is_saved_loaded_and_takes_over_a_body(kind, tmp_path):
    sizes = SIZES if kind == "gru" else {"embedding_dim": 32, "num_heads": 2, "num_layers": 1, "context_length": 16}
    model = sentence_encoder(text_body(kind, 20, **sizes), dropout=0.1)
    ids = tf.constant([[2, 7, 8, 3], [2, 3, 0, 0]])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(ids), model(ids))
    other = classifier(text_body(kind, 20, **sizes), 3)
    take_body(other, model)
    again = sentence_encoder(text_body(kind, 20, **sizes))
    take_body(again, other)
    np.testing.assert_allclose(again(ids), model(ids), atol=1e-6)

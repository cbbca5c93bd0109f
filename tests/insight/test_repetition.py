import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.insight import repetition
from keras_lm.insight.repetition import repetition_gain

VOCABULARY = 12
RARE = np.arange(8, VOCABULARY)


def test_second_occurrences_alone_are_counted(monkeypatch):
    """The third 9 and the repeated 4, which is not counted, are left out."""
    monkeypatch.setattr(repetition, "run_model", lambda model, ids: tf.zeros([*ids.shape, VOCABULARY]))
    ids = np.array([[4, 9, 4, 9, 9, 10], [8, 4, 10, 5, 10, 8], [4, 5, 6, 7, 8, 9]])
    found = repetition_gain(None, ids, RARE)
    assert sorted(found.distances.tolist()) == [2, 2, 5]
    assert not found.gains.any()


def test_a_model_that_copies_gains_what_it_copies(monkeypatch):
    """Each token seen so far gets 3 more: the gain is that of its weight in the sum."""

    def copies(model, ids):
        return 3 * tf.minimum(tf.cumsum(tf.one_hot(ids, VOCABULARY), axis=1), 1)

    monkeypatch.setattr(repetition, "run_model", copies)
    found = repetition_gain(None, np.array([[9, 4, 5, 9, 6]]), np.array([8, 9]))
    assert found.distances.tolist() == [3]
    assert found.gains[0] == pytest.approx(3)  # three tokens seen either way, so the sum is the same


def test_a_model_without_memory_gains_nothing():
    model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(VOCABULARY, 4), keras.layers.Dense(VOCABULARY)])
    found = repetition_gain(model, np.random.default_rng(0).integers(4, VOCABULARY, size=[30, 17]), RARE)
    assert np.abs(found.gains[found.distances > 1]).max() < 1e-6
    assert np.abs(found.gains[found.distances == 1]).min() > 0  # what stands right before is the token itself


@pytest.mark.parametrize("kind", models.MODELS)
def test_every_model_can_be_measured_and_batches_do_not_matter(kind):
    shape = {"embedding_dim": 8, "num_layers": 1, **({"num_heads": 2, "context_length": 16} if kind == "transformer" else {})}
    model = models.MODELS[kind](VOCABULARY, **shape)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, size=[12, 17])
    first, second = (repetition_gain(model, ids, RARE, seed=1, batch_size=size) for size in (64, 5))
    np.testing.assert_array_equal(first.distances, second.distances)
    np.testing.assert_allclose(first.gains, second.gains, atol=1e-5)
    assert len(repetition_gain(model, ids, RARE, limit=7).gains) == 7


def test_what_cannot_be_used_is_refused():
    model = models.gru_lm(VOCABULARY, embedding_dim=4, hidden_dim=4)
    with pytest.raises(UserError, match="stands in a window twice"):
        repetition_gain(model, np.array([[4, 5, 6, 7, 8]]), RARE)
    with pytest.raises(UserError, match="at least two ids"):
        repetition_gain(model, np.array([[9, 5, 9]]), np.array([9]))

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.embeddings import glove as module
from keras_lm.embeddings.glove import GloVeSettings, cooccurrences, glove
from keras_lm.errors import UserError
from tests.embeddings.test_word2vec import topics


def test_pairs_are_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    ids = np.concatenate([[2, *rng.integers(1, 12, 20), 3] for _ in range(5)])
    expected = np.zeros([12, 12])
    for place, word in enumerate(ids):
        for distance in range(1, 5):
            reached = ids[place + 1 : place + distance + 1]
            if len(reached) == distance and 2 not in reached and min(word, reached[-1]) >= 4:
                expected[word, reached[-1]] += 1 / distance
                expected[reached[-1], word] += 1 / distance
    words, neighbours, counts = cooccurrences(ids, 12, window=4)
    found = np.zeros([12, 12])
    found[words, neighbours] = counts
    assert np.allclose(found, expected)
    assert len(words) == (expected > 0).sum()


def test_loss_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    w, c = rng.normal(size=[2, 6, 4])
    counts = np.array([0.5, 1, 10, 99, 100, 1000])
    expected = [
        min(1, (x / 100) ** 0.75) * (a[:-1] @ b[:-1] + a[-1] + b[-1] - np.log(x)) ** 2 / 2 for a, b, x in zip(w, c, counts, strict=True)
    ]
    loss = module.loss_of(*(tf.constant(part, tf.float32) for part in (w, c, counts)), 100.0, 0.75)
    assert np.allclose(loss, expected, rtol=1e-5)


def test_each_pair_is_read_once_an_epoch_in_another_order():
    words, neighbours, counts = cooccurrences(topics(), 44)
    settings = GloVeSettings(batch_size=16, epochs=2)
    batches = [(part[0].numpy(), part[2].numpy(), int(pairs)) for part, _, pairs in module._batches(words, neighbours, counts, settings)]
    assert sum(pairs for *_, pairs in batches) == 2 * len(words)
    half = len(batches) // 2
    epochs = [np.concatenate([w[c > 0] for w, c, _ in part]) for part in (batches[:half], batches[half:])]
    assert all(np.array_equal(np.sort(epoch), np.sort(words)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_products_become_the_logarithms_of_the_counts(monkeypatch):
    """With as many dimensions as words a table of counts can be written exactly."""
    ids = topics(documents=60)
    losses = []
    glove(
        ids,
        44,
        GloVeSettings(dimensions=44, epochs=300, x_max=1.0, learning_rate=0.1, batch_size=64),
        progress=lambda *v: losses.append(v[2]),
    )
    assert losses[-1] < 0.01 < 0.3 < losses[0]


def test_words_of_one_kind_become_neighbours():
    table = glove(topics(), 44, GloVeSettings(dimensions=16, epochs=40, batch_size=64))
    unit = table[4:] / np.linalg.norm(table[4:], axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(40)
    assert all((near < 20) == (word < 20) for word, near in enumerate(cosines.argmax(axis=1)))
    assert not table[:4].any()
    assert np.array_equal(table, glove(topics(), 44, GloVeSettings(dimensions=16, epochs=40, batch_size=64)))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="the text is empty"):
        glove(np.array([], np.int32), 10)
    with pytest.raises(UserError, match=r"ids must be from 0 to 9, .* got 4 to 10"):
        glove(np.array([4, 10] * 9), 10)
    with pytest.raises(UserError, match="no two words that occur 5 times"):
        glove(np.array([2, 4, 5, 3]), 10)
    with pytest.raises(UserError, match="x_max must be over 0"):
        GloVeSettings(x_max=0)
    with pytest.raises(UserError, match="window must be at least 1"):
        GloVeSettings(window=0)

import collections
import itertools

import keras
import numpy as np
import tensorflow as tf

from keras_lm.heads import body_of, classifier, take_body, text_body
from keras_lm.ngram_logits import NgramLogits


def _learnt(longest, num_classes=3, **options):
    layer = NgramLogits(num_classes, longest, **options)
    layer.build((None, None))
    layer.table.assign(np.random.default_rng(0).normal(size=layer.table.shape).astype(np.float32))
    return layer


def test_every_run_counts_once_for_each_place_it_has():
    layer = _learnt(2)
    text = [2, 7, 9, 7, 9, 3]
    rows = layer.table.numpy()
    one = {token: token * 1009 % layer.buckets for token in set(text)}
    said = sum(rows[one[token]] for token in text)
    for (first, second), times in collections.Counter(itertools.pairwise(text)).items():
        said = said + times * rows[(one[first] * 4093 + second * 1009 + 1) % layer.buckets]
    np.testing.assert_allclose(layer(tf.constant([[*text, 0, 0]]))[0], 10 * said / np.sqrt(11), rtol=1e-5)


def test_padding_and_neighbours_say_nothing():
    layer = _learnt(3)
    alone = layer(tf.constant([[2, 40, 3]]))
    beside = layer(tf.constant([[2, 40, 3, 0, 0], [2, 50, 60, 70, 3], [0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(beside[0], alone[0], rtol=1e-6)
    assert not np.any(beside[2])


def test_texts_shorter_than_the_longest_run():
    layer = _learnt(5)
    assert layer(tf.constant([[2, 3]])).shape == (1, 3)
    np.testing.assert_allclose(layer(tf.constant([[2, 3]])), layer(tf.constant([[2, 3, 0, 0, 0, 0, 0]])), rtol=1e-6)


def test_buckets_of_large_vocabularies_are_in_the_table():
    runs, there = NgramLogits(2, 4)._runs(tf.constant([[999_999, 999_998, 999_997, 1, 5, 0]]))
    assert tf.reduce_min(runs) >= 0 and tf.reduce_max(runs) < 2**18
    assert int(tf.reduce_sum(tf.cast(there, tf.int32))) == 5 + 4 + 3 + 2


def test_pairs_seldom_share_a_bucket():
    first, second = np.random.default_rng(1).integers(4, 4000, [2, 100_000])
    pairs = np.unique(np.stack([first, second], axis=1), axis=0)
    runs, _ = NgramLogits(2, 2)._runs(tf.constant(pairs, tf.int32))
    used = len(np.unique(runs.numpy()[:, 2]))  # behind the two tokens
    assert used > 0.98 * 2**18 * (1 - np.exp(-len(pairs) / 2**18))  # as many as chance would leave used


def test_order_of_words_is_learnt_from_runs_alone():
    texts = np.random.default_rng(0).integers(4, 50, [400, 8]).astype(np.int32)
    texts[:200, 2:4], texts[200:, 2:4] = [60, 61], [61, 60]
    labels = np.repeat([0, 1], 200)
    ids = keras.Input([None], dtype="int32")
    model = keras.Model(ids, NgramLogits(2, 2, dropout=0.2)(ids))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(texts, labels, epochs=3, verbose=0)
    unseen = np.random.default_rng(1).integers(4, 50, [100, 8]).astype(np.int32)
    unseen[:, 5:7] = [60, 61]
    assert np.mean(model(unseen).numpy().argmax(axis=1) == 0) > 0.95


def test_a_classifier_with_runs_is_saved_and_begins_with_a_body_like_any_other(tmp_path):
    sizes = {"embedding_dim": 8, "hidden_dim": 8, "num_layers": 1}
    model = classifier(text_body("gru", 100, **sizes), 3, ngrams=2, dropout=0.1)
    ids = tf.constant([[2, 5, 6, 3], [2, 9, 3, 0]])
    model.get_layer("ngrams").table.assign_add(tf.random.normal([2**18, 3], seed=1))
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(ids), model(ids), rtol=1e-6)
    plain = classifier(text_body("gru", 100, **sizes), 2)
    take_body(plain, model)
    np.testing.assert_allclose(body_of(plain)(ids), body_of(model)(ids), rtol=1e-6)

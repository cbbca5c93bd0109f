import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.dropout import HashDropout


def masks(rate, seeds, size=200_000):
    layer = HashDropout(rate, seed=0)
    layer.build([size])
    for seed in seeds:
        layer.seed_generator.state.assign(np.array(seed, np.uint32))
        yield layer(tf.ones([size]), training=True).numpy() > 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_dropped_is_the_rate_and_the_mean_stays(rate):
    x = tf.random.normal([400, 500], mean=1.0, seed=1)
    y = HashDropout(rate, seed=3)(x, training=True)
    assert float(tf.reduce_mean(tf.cast(y == 0, tf.float32))) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 200_000) ** 0.5)
    assert float(tf.reduce_mean(y)) == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(y[y != 0], x[y != 0] / (1 - rate), rtol=1e-6)
    np.testing.assert_array_equal(HashDropout(rate)(x), x)


def test_masks_of_near_seeds_and_of_near_places_are_independent():
    """Correlations of masks at rate 0.5, over shifts too: each within 5 standard errors of 0, as it is for independent ones."""
    found = [mask - 0.5 for mask in masks(0.5, [(7, 0), (7, 1), (7, 2), (8, 0), (8, 1), (1_000_003, 0)])]
    for first in range(len(found)):
        for second in range(first, len(found)):
            for shift in (0, 1, 2, 3, 16, 256):
                if first != second or shift:
                    correlation = 4 * np.mean(found[first][shift:] * found[second][: len(found[second]) - shift])
                    assert abs(correlation) < 5 / 200_000**0.5, (first, second, shift)


def test_dropped_numbers_are_spread_as_chance_spreads_them():
    """The number kept in each block of 64: its variance is that of a binomial."""
    (mask,) = masks(0.3, [(5, 9)], size=64 * 20_000)
    counts = mask.reshape(-1, 64).sum(axis=1)
    assert counts.var() == pytest.approx(64 * 0.3 * 0.7, rel=0.05)


def test_the_same_under_xla_and_in_a_saved_model(tmp_path):
    x = tf.random.normal([20, 30], seed=1)
    results = []
    for jit_compile in (False, True):
        layer = HashDropout(0.4, seed=11)
        layer.build(x.shape)
        results.append(tf.function(lambda x, layer=layer: layer(x, training=True), jit_compile=jit_compile)(x))
    np.testing.assert_array_equal(*results)
    model = keras.Sequential([keras.Input([30]), HashDropout(0.4, seed=11)])
    model.save(tmp_path / "model.keras")
    assert type(keras.saving.load_model(tmp_path / "model.keras").layers[0]) is HashDropout


def test_gradients_pass_where_numbers_stay():
    x = tf.ones([50, 50])
    layer = HashDropout(0.5, seed=2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(y, x), np.where(y != 0, 2.0, 0.0))

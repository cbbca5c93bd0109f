import numpy as np
import pytest
import tensorflow as tf

from keras_lm.generation import counter_rng


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_published_vectors(counter, key, expected):
    """The known answers of Random123, the library of the paper's authors."""
    as_words = lambda pair: tuple(tf.constant(value, tf.uint32) for value in pair)
    assert tuple(int(word) for word in counter_rng.threefry(as_words(key), as_words(counter))) == expected


def test_the_same_numbers_with_and_without_xla():
    seed, salt, counters = tf.range(5), tf.range(5) - 2, tf.zeros([5, 1], tf.int32) + tf.range(100)
    compiled = tf.function(counter_rng.uniforms, jit_compile=True)
    np.testing.assert_array_equal(counter_rng.uniforms(seed, salt, counters), compiled(seed, salt, counters))


def test_numbers_are_uniform_and_rows_independent():
    numbers = counter_rng.uniforms(tf.range(100), tf.zeros([100], tf.int32), tf.zeros([100, 1], tf.int32) + tf.range(1000)).numpy()
    counts, _ = np.histogram(numbers, bins=50, range=(0, 1))
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_square < 85.4  # 99.9 % of the distribution with 49 degrees of freedom
    assert np.abs(np.corrcoef(numbers) - np.eye(100)).max() < 0.2


def test_salt_depends_on_every_id_and_its_place_but_not_on_padding():
    rows = tf.constant([[0, 0, 5, 6], [0, 0, 6, 5], [0, 5, 5, 6], [5, 6, 0, 0]])
    salts = counter_rng.salt_of(rows, tf.constant([2, 2, 1, 0])).numpy()
    assert len(set(salts.tolist())) == 4
    assert counter_rng.salt_of(tf.constant([[5, 6]]), tf.constant([0])).numpy()[0] == salts[0]
    compiled = tf.function(counter_rng.salt_of, jit_compile=True)
    np.testing.assert_array_equal(compiled(rows, tf.constant([2, 2, 1, 0])), salts)

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.generation import filters


def reference_top_k(logits, k):
    kept = np.full_like(logits, -np.inf)
    best = np.argsort(-logits, kind="stable")[:k] if k else np.arange(len(logits))
    kept[best] = logits[best]
    return kept


def reference_top_p(logits, p):
    order = np.argsort(-logits, kind="stable")
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    count = int(np.searchsorted(np.cumsum(probabilities[order], dtype=np.float64), p)) + 1
    kept = np.full_like(logits, -np.inf)
    kept[order[:count]] = logits[order[:count]]
    return kept


@pytest.mark.parametrize("jit_compile", [False, True])
def test_top_k_equals_sorting(jit_compile):
    logits = np.random.normal(size=(8, 1000), scale=4).astype(np.float32)
    top_k = np.array([1, 2, 5, 40, 999, 1000, 5000, 0], np.int32)
    kept = tf.function(filters.keep_top_k, jit_compile=jit_compile)(logits, top_k).numpy()
    for row in range(8):
        np.testing.assert_array_equal(kept[row], reference_top_k(logits[row], top_k[row]))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_top_p_equals_sorting(jit_compile):
    logits = np.random.normal(size=(7, 1000), scale=4).astype(np.float32)
    top_p = np.array([1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0], np.float32)
    kept = tf.function(filters.keep_top_p, jit_compile=jit_compile)(logits, top_p).numpy()
    for row in range(6):
        np.testing.assert_array_equal(kept[row], reference_top_p(logits[row], top_p[row]))
    np.testing.assert_array_equal(kept[6], logits[6])


def test_filters_keep_what_is_forbidden_forbidden():
    logits = np.array([[1.0, -np.inf, 3.0, -np.inf, 2.0]], np.float32)
    assert filters.keep_top_k(logits, tf.constant([4])).numpy().tolist() == logits.tolist()
    assert filters.keep_top_p(logits, tf.constant([0.9])).numpy()[0, [1, 3]].tolist() == [-np.inf, -np.inf]


def test_repetition_penalty_is_ctrls():
    logits, counts = tf.constant([[2.0, -2.0, 2.0, -2.0]]), tf.constant([[1, 3, 0, 0]])
    assert filters.apply_repetition_penalty(logits, counts, tf.constant([2.0])).numpy().tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_temperature_divides_and_zero_is_greedy():
    logits = tf.constant([[1.0, 2.0], [1.0, 2.0]])
    assert filters.apply_temperature(logits, tf.constant([0.5, 0.0])).numpy().tolist() == [[2.0, 4.0], [1.0, 2.0]]
    assert filters.choose(logits, tf.constant([0.0, 0.0]), tf.constant([1.0, 0.0])).numpy().tolist() == [0, 1]


@pytest.mark.parametrize("size", [2, 37, 1000])
def test_choose_inverts_the_cumulative_distribution(size):
    logits = np.random.normal(size=size, scale=2).astype(np.float32)
    uniform = np.linspace(0, 1, 2000, endpoint=False).astype(np.float32)
    rows = np.repeat(logits[None], 2000, axis=0)
    chosen = filters.choose(rows, uniform, tf.ones([2000])).numpy()
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum()
    expected = np.searchsorted(np.cumsum(probabilities), uniform, side="right")
    assert (chosen != expected).mean() < 0.005  # float32 sums move a border by a hair
    assert np.abs(chosen - expected).max() <= 1


def test_choose_never_takes_what_is_forbidden():
    logits = np.full((1000, 500), -np.inf, np.float32)
    logits[:, [7, 250, 499]] = 0.0
    uniform = np.concatenate([np.linspace(0, 1, 999, endpoint=False), [1 - 2.0**-24]]).astype(np.float32)
    assert set(filters.choose(logits, uniform, tf.ones([1000])).numpy().tolist()) == {7, 250, 499}


def test_choose_draws_the_distribution_of_the_softmax():
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    uniform = np.random.default_rng(0).random(20_000).astype(np.float32)
    chosen = filters.choose(np.repeat(logits[None], 20_000, axis=0), uniform, tf.ones([20_000])).numpy()
    expected = np.exp(logits) * 20_000
    chi_square = float(((np.bincount(chosen, minlength=4) - expected) ** 2 / expected).sum())
    assert chi_square < 16.3  # 99.9 % of the distribution with 3 degrees of freedom

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.word_dropout import word_dropout

IDS = np.random.default_rng(0).integers(0, 50, (200, 300)).astype(np.int32)


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
def test_the_share_replaced_is_the_rate(rate, whole_words):
    ids = np.random.default_rng(1).integers(4, 100_000, (200, 300)).astype(np.int32)
    dropped = word_dropout(ids, (3, 8), rate, whole_words=whole_words).numpy() == 1
    assert dropped.mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / ids.size) ** 0.5)


@pytest.mark.parametrize("whole_words", [False, True])
@hypothesis.given(seed=st.integers(-(2**31), 2**31 - 1), step=st.integers(0, 2**31 - 1), rate=st.floats(0, 0.999))
@hypothesis.settings(max_examples=30, deadline=None)
def test_special_tokens_stay_and_others_stay_or_become_unknown(whole_words, seed, step, rate):
    ids = IDS[:20, :30]
    found = word_dropout(ids, (seed, step), rate, unknown_id=49, whole_words=whole_words)
    assert found.dtype == tf.int32
    assert np.all((found == ids) | (found == 49))
    special = (ids == 0) | (ids == 2) | (ids == 3)
    np.testing.assert_array_equal(found.numpy()[special], ids[special])
    np.testing.assert_array_equal(found, word_dropout(ids, (seed, step), rate, unknown_id=49, whole_words=whole_words))


def test_near_seeds_steps_places_and_rows_are_independent():
    """Correlations of masks at rate 0.5: each within 5 standard errors of 0, as it is for independent ones."""
    ids = np.full((200, 300), 7, np.int32)
    masks = [(word_dropout(ids, seed, 0.5).numpy() == 1) - 0.5 for seed in [(7, 0), (7, 1), (8, 0), (0, 7), (1_000_003, 0)]]
    pairs = [(one, other) for number, one in enumerate(masks) for other in masks[:number]]
    pairs += [
        (mask[down:, right:], mask[: 200 - down, : 300 - right]) for mask in masks for down, right in [(0, 1), (1, 0), (1, 1), (16, 0)]
    ]
    for one, other in pairs:
        assert abs(4 * np.mean(one * other)) < 5 / one.size**0.5


def test_whole_words_are_replaced_everywhere_in_a_row_or_nowhere_and_rows_differ():
    found = word_dropout(IDS, (5, 9), 0.4, whole_words=True).numpy()
    of_rows = []
    for before, after in zip(IDS, found, strict=True):
        replaced = set(before[(after == 1) & (before != 1)])
        assert not replaced & set(after)
        of_rows.append(frozenset(replaced))
    assert len(set(of_rows)) == len(of_rows)


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_same_under_xla_with_any_batch_and_step(whole_words):
    traces = []

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([2], tf.int64)])
    def compiled(ids, seed):
        traces.append(1)
        return word_dropout(ids, seed, 0.3, whole_words=whole_words)

    for number in range(3):
        ids = IDS[: 10 + number]
        expected = word_dropout(ids, (4, number), 0.3, whole_words=whole_words)
        np.testing.assert_array_equal(compiled(ids, tf.constant([4, number], tf.int64)), expected)
    assert len(traces) == 1


def test_rate_0_changes_nothing_and_others_than_shares_are_refused():
    np.testing.assert_array_equal(word_dropout(IDS, (0, 0), 0.0), IDS)
    for rate in (-0.1, 1, float("nan")):
        with pytest.raises(UserError, match="rate must be at least 0 and less than 1"):
            word_dropout(IDS, (0, 0), rate)

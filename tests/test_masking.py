import itertools

import numpy as np
import pytest

from keras_lm.masking import hide, masked_batches, masked_evaluation_batches
from keras_lm.pipeline import evaluation_batches, training_batches

IDS = np.random.default_rng(0).integers(4, 50, size=[64, 100]).astype(np.int32)


def test_the_shares_are_those_of_bert():
    seen, asked = hide(IDS, 50, np.random.default_rng(1))
    assert asked.mean() == pytest.approx(0.15, abs=0.01)
    hidden, kept = (seen == 1)[asked].mean(), (seen == IDS)[asked].mean()
    assert hidden == pytest.approx(0.8, abs=0.04)
    assert kept == pytest.approx(0.1 + 0.1 / 46, abs=0.03)  # one in 46 of those replaced is the same by chance
    np.testing.assert_array_equal(seen[~asked], IDS[~asked])
    assert seen[asked][(seen != 1)[asked]].min() >= 4


def test_special_tokens_are_never_asked_for_and_one_token_is_where_there_is_any():
    ids = np.array([[2, 3, 0, 1, 2], [2, 9, 3, 0, 0]], np.int32)
    for seed in range(20):
        _, asked = hide(ids, 50, np.random.default_rng(seed))
        assert asked.tolist() == [[False] * 5, [False, True, False, False, False]]
    assert not hide(ids[:1], 50, np.random.default_rng(0))[1].any()


def windows(start_step=0):
    return training_batches(IDS.ravel(), sequence_length=16, batch_size=6, seed=5, start_step=start_step).as_numpy_iterator()


def test_what_is_hidden_is_a_function_of_seed_and_step():
    first = list(itertools.islice(masked_batches(windows(), 50, seed=5), 6))
    later = list(itertools.islice(masked_batches(windows(4), 50, seed=5, start_step=4), 2))
    for one, other in zip(first[4:], later, strict=True):
        for left, right in zip((one[0], *one[1]), (other[0], *other[1]), strict=True):
            np.testing.assert_array_equal(left, right)
    (seen, (ids, weights)), (other_seen, _) = first[0], next(masked_batches(windows(), 50, seed=6))
    assert (seen != other_seen).any()
    np.testing.assert_array_equal(seen[weights == 0], ids[weights == 0])


def test_parts_of_a_batch_are_those_of_the_whole_and_weights_add_up_to_one():
    whole = next(masked_batches(windows(), 50, seed=5))
    parts = [next(masked_batches(windows(), 50, seed=5, rows=rows)) for rows in ((0, 2), (2, 6))]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole[0])
    assert sum(part[1][1].sum() for part in parts) == pytest.approx(1)


def test_every_pass_of_an_evaluation_hides_the_same_and_nothing_behind_the_text():
    passes = [list(masked_evaluation_batches(evaluation_batches(IDS[0], sequence_length=16, batch_size=4), 50)) for _ in range(2)]
    for one, other in zip(*passes, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    assert passes[0][-1][2][3:].sum() == 0

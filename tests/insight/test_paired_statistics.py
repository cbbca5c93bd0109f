import itertools

import numpy as np
import pytest
from scipy import stats

from keras_lm.errors import UserError
from keras_lm.insight.paired_statistics import holm, mean_interval, sign_flip_p


@pytest.mark.parametrize("size", [12, 25, 60])
def test_of_normal_values_the_interval_is_students(size):
    # Of values that stand at a normal distribution's quantiles, the two have to agree.
    values = 0.3 + stats.norm.ppf((np.arange(size) + 0.5) / size)
    low, high = stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values))
    ours = mean_interval(values)
    assert ours == pytest.approx((low, high), abs=0.08 * (high - low))


def test_the_interval_covers():
    generator = np.random.default_rng(0)
    for draw, least in ((generator.normal, 0.93), (generator.standard_cauchy, 0.93), (generator.exponential, 0.89)):
        middle = 1.0 if draw == generator.exponential else 0.0
        covered = [low <= middle <= high for low, high in (mean_interval(draw(size=20), draws=999) for _ in range(500))]
        assert least <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("size", [9, 25])
def test_the_interval_holds_what_the_test_does_not_refuse(size):
    values = np.random.default_rng(size).normal(0.3, 1, size)
    low, high = mean_interval(values, draws=99_999)
    slack = 0.06 * (high - low)
    assert sign_flip_p(values - (low - slack)) < 0.05 and sign_flip_p(values - (high + slack)) < 0.05
    assert sign_flip_p(values - (low + slack)) > 0.05 and sign_flip_p(values - (high - slack)) > 0.05


def test_one_value_far_out_does_not_carry_the_interval_beyond_it():
    values = np.append(np.random.default_rng(0).normal(size=24), 50.0)
    low, high = mean_interval(values)
    assert -1 < low < values.mean() < high < 6


def test_equal_values_have_an_interval_without_width():
    assert mean_interval([0.0] * 6) == (0.0, 0.0) and mean_interval([0.1] * 17) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("size", [1, 3, 9])
def test_few_signs_are_all_gone_through(size):
    values = np.random.default_rng(size).normal(0.4, 1, size)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=size)]
    assert sign_flip_p(values) == np.mean([one >= abs(values.sum()) - 1e-12 for one in sums])


def test_many_signs_are_drawn_as_scipy_draws_them():
    values = np.random.default_rng(3).normal(0.45, 1, 22)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=99_999, random_state=0).pvalue
    assert sign_flip_p(values) == pytest.approx(theirs, abs=0.004)
    assert sign_flip_p(values) == sign_flip_p(-values) == sign_flip_p(3 * values)
    assert sign_flip_p(np.ones(40)) == 1 / 100_000 and sign_flip_p(np.zeros(40)) == sign_flip_p(np.zeros(4)) == 1.0


def test_holm_is_the_closure_of_bonferroni():
    """Holm 1979: what is rejected is what every intersection that it is part of rejects by Bonferroni."""
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(size=6) ** 3
        subsets = [set(one) for size in range(1, 7) for one in itertools.combinations(range(6), size)]
        closed = [max(min(1.0, len(own) * min(p[list(own)])) for own in subsets if number in own) for number in range(6)]
        assert holm(p) == pytest.approx(closed)


def test_holm_gives_the_numbers_of_r():
    # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"), and that of ?p.adjust's kind with ties
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]).tolist() == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.5, 0.01, 0.01]).tolist() == pytest.approx([0.5, 0.03, 0.03]) and holm([]).tolist() == []


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(UserError, match="6 values or more, got 5"):
        mean_interval([1.0] * 5)
    with pytest.raises(UserError, match="level must be between 0 and 1"):
        mean_interval([1.0] * 6, level=1.0)
    with pytest.raises(UserError, match="at least one value"):
        sign_flip_p([])

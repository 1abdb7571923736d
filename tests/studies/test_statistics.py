import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distill.studies import statistics


def sign_flip_p(differences):
    """Computes p with a loop over all sign patterns, allowing for rounding."""
    observed = abs(sum(differences)) - 1e-9
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product([1, -1], repeat=len(differences))]  # fmt: skip
    return sum(s >= observed for s in sums) / len(sums)


def holm(p_values):
    """Follows Holm's steps: reject, starting with the smallest p, while p <= level / (number of hypotheses left)."""
    order = sorted(p_values)
    return [
        max(min(1.0, p * (len(order) - i)) for i, p in enumerate(order[: order.index(own) + 1]))
        for own in p_values
    ]


def test_spread_divides_by_n_minus_1():
    assert statistics.spread([1.0, 2.0, 3.0, 6.0]) == statistics.Spread(3.0, math.sqrt(14 / 3), 4)
    single = statistics.spread([5.0])
    assert (single.mean, single.n) == (5.0, 1)
    assert math.isnan(single.deviation)
    assert math.isnan(single.half_interval)


def test_half_an_interval_of_a_mean_by_hand():
    """The t quantile for 3 degrees of freedom is 3.182446."""
    half = 3.182446305 * math.sqrt(14 / 3) / 2
    assert statistics.spread([1.0, 2.0, 3.0, 6.0]).half_interval == pytest.approx(half, rel=1e-8)


def test_interval_by_hand():
    """Differences 1, 2, 3, 6 have mean 3 and standard error sqrt(14 / 3) / 2; the t quantile is 3.182446."""
    result = statistics.compare([0, 0, 0, 0], [1, 2, 3, 6])
    half = 3.182446305 * math.sqrt(14 / 3) / 2
    assert (result.difference, result.n) == (3.0, 4)
    assert (result.low, result.high) == pytest.approx((3 - half, 3 + half), rel=1e-8)
    assert result.p == 2 / 2**4 == result.smallest_p


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=8))
# Many flips give a mean that is 0 except for rounding, so p is 1.
@example([(0, 0), (0, 0), (0, 0), (0, 16), (17, 1), (19, 0), (0, 3), (0, 16)])
def test_p_is_that_of_all_sign_flips(pairs):
    before, after = np.array(pairs, float).T / 10
    result = statistics.compare(before, after)
    if len({b - a for a, b in pairs}) == 1:
        assert result.p == 1.0
    else:
        assert result.p == pytest.approx(sign_flip_p(after - before), rel=1e-12)
        assert result.smallest_p <= result.p <= 1
        reverse = statistics.compare(after, before)
        assert reverse.p == pytest.approx(result.p)
        assert (reverse.low, reverse.high) == pytest.approx((-result.high, -result.low))


def test_more_than_sixteen_pairs_draw_the_same_flips_every_time():
    rng = np.random.default_rng(0)
    before = rng.normal(size=17)
    after = before + rng.normal(0.3, 1, size=17)
    result = statistics.compare(before, after)
    assert result == statistics.compare(before, after)
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1)
    exact = np.mean(abs(signs @ (after - before)) >= abs(sum(after - before)) - 1e-9)
    assert result.p != exact
    assert result.p == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("shift", "lower_is_better", "verdict"),
    [
        (1, False, "better"),
        (-1, False, "worse"),
        (1, True, "worse"),
        (-1, True, "better"),
        (0, False, "not shown"),
    ],
)
def test_verdicts(shift, lower_is_better, verdict):
    noise = np.array([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3, 0.4, -0.4])
    result = statistics.compare(np.zeros(8), shift + noise, lower_is_better=lower_is_better)
    assert result.verdict == verdict
    assert np.sign(round(result.difference, 12)) == shift


def test_level_is_five_percent():
    for p, verdict in [(0.05, "better"), (0.0501, "not shown")]:
        assert statistics.Comparison(1.0, 0.5, 1.5, p, 8).verdict == verdict


def test_five_seeds_show_nothing_and_six_can():
    gains = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert statistics.compare([0] * 5, gains[:5]).p == 0.0625
    assert statistics.compare([0] * 5, gains[:5]).verdict == "not shown"
    assert statistics.compare([0] * 6, gains).verdict == "better"


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [([0.5], [0.7], 0.2), ([0.1, 0.3, 0.7], [0.3, 0.5, 0.9], 0.2), ([0.5] * 8, [0.5] * 8, 0.0)],
)
def test_nothing_is_shown_without_spread(before, after, difference):
    result = statistics.compare(before, after)
    assert result.difference == pytest.approx(difference)
    assert (result.p, result.verdict) == (1.0, "not shown")
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_a_small_spread_is_still_a_spread():
    assert statistics.compare([1.0] * 6, 1.0 + 1e-6 * np.arange(1, 7)).verdict == "better"


def test_one_line():
    result = statistics.Comparison(1.1, 0.4, 1.8, 0.0078125, 8, unit="points")
    assert str(result) == "+1.10 points [0.40, 1.80], p = 0.008: better"
    assert (
        str(statistics.Comparison(-0.02, -0.05, 0.01, 0.0005, 12, True))
        == "-0.02 [-0.05, 0.01], p < 0.001: better"
    )
    assert statistics.format_p(0.001) == "p = 0.001"


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9, 0.02, 0.02]) == pytest.approx([1.0, 1.0, 0.08, 0.08])
    assert statistics.holm([0.2]) == [0.2]
    assert statistics.holm([]) == []


@given(st.lists(st.integers(1, 1000), max_size=8))
def test_holm_follows_its_steps(thousandths):
    p_values = [n / 1000 for n in thousandths]
    assert statistics.holm(p_values) == pytest.approx(holm(p_values))


def test_seeds_needed_is_the_fewest():
    for comparisons in range(1, 30):
        needed = statistics.seeds_needed(comparisons)
        for seeds, verdict in [(needed, "better"), (needed - 1, "not shown")]:
            p = statistics.compare(np.zeros(seeds), np.arange(1.0, seeds + 1)).p
            (adjusted, *_) = statistics.holm([p] * comparisons)
            assert statistics.Comparison(1.0, 0.5, 1.5, adjusted, seeds).verdict == verdict


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1.0, 2.0], [1.0], r"same number of values.*Received: 2 and 1 values\. Run both"),
        ([], [], r"Received: \[\]\. Leave out"),
        ([1.0, float("nan")], [1.0, 2.0], r"finite number per seed.*Received: \[1\.0, nan\]"),
        ([[1.0]], [[1.0]], r"Received: \[\[1\.0\]\]"),
    ],
)
def test_bad_values_are_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        statistics.compare(before, after)

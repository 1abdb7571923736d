import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

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
    assert result.sign_flip_p == 2 / 2**4
    assert result.deviation == pytest.approx(math.sqrt(14 / 3))


def test_p_by_hand():
    """With two pairs t is Cauchy's: p = 1 − 2 / π · arctan(t). Differences 1 and 3 have t = 2."""
    assert statistics.compare([0, 0], [1, 3]).p == pytest.approx(1 - 2 / math.pi * math.atan(2), rel=1e-12)
    # With three, the distribution is 1/2 + t / (2 sqrt(2 + t²)). Differences 1, 2, 6 have t = 3 / sqrt(7 / 3).
    t = 3 / math.sqrt(7 / 3)
    assert statistics.compare([0] * 3, [1, 2, 6]).p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=8))
# Many flips give a mean that is 0 except for rounding, so p is 1.
@example([(0, 0), (0, 0), (0, 0), (0, 16), (17, 1), (19, 0), (0, 3), (0, 16)])
def test_the_check_is_of_all_sign_flips_and_the_interval_is_the_test(pairs):
    before, after = np.array(pairs, float).T / 10
    result = statistics.compare(before, after)
    if len({b - a for a, b in pairs}) == 1:
        assert result.p == result.sign_flip_p == 1.0
    else:
        assert result.sign_flip_p == pytest.approx(sign_flip_p(after - before), rel=1e-12)
        assert (result.p <= 0.05) == (not result.low <= 0 <= result.high)
        reverse = statistics.compare(after, before)
        assert reverse.p == pytest.approx(result.p)
        assert reverse.sign_flip_p == pytest.approx(result.sign_flip_p)
        assert (reverse.low, reverse.high) == pytest.approx((-result.high, -result.low))


def test_more_than_sixteen_pairs_draw_the_same_flips_every_time():
    rng = np.random.default_rng(0)
    before = rng.normal(size=17)
    after = before + rng.normal(0.3, 1, size=17)
    result = statistics.compare(before, after)
    assert result == statistics.compare(before, after)
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1)
    exact = np.mean(abs(signs @ (after - before)) >= abs(sum(after - before)) - 1e-9)
    assert result.sign_flip_p != exact
    assert result.sign_flip_p == pytest.approx(exact, rel=0.05)
    # Of those drawn here none is as far from 0 as what was observed, which is one more.
    assert statistics.compare(np.zeros(40), 1 + 0.1 * rng.normal(size=40)).sign_flip_p == 1 / (2**16 + 1)


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


def test_one_seed_that_disagrees_does_not_decide():
    """Seven seeds gain and one loses a little: no test of signs can show it after Holm's adjustment for six."""
    result = statistics.compare([0] * 8, [0.8, 0.9, 1.0, 1.1, 1.2, 1.0, 0.9, -0.05])
    assert result.verdict == "better"
    assert statistics.holm([result.p] * 6)[0] < 0.05 < statistics.holm([result.sign_flip_p] * 6)[0]


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
    assert statistics.compare([1.0] * 6, 1.0 + 1e-6 * np.arange(3, 9)).verdict == "better"


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


def shown(comparisons, adjusted):
    """Whether verdicts and intervals agree, comparison by comparison."""
    for one, other in zip(comparisons, adjusted, strict=True):
        assert one.difference == other.difference
        assert (other.verdict != "not shown") == (not other.low <= 0 <= other.high)


@given(st.lists(st.lists(st.integers(-9, 30), min_size=4, max_size=4, unique=True), min_size=1, max_size=5))
@settings(deadline=None)
def test_intervals_exclude_0_exactly_when_the_verdict_says_so(many):
    found = [statistics.compare([0] * 4, one) for one in many]
    adjusted = statistics.adjust(found)
    assert [one.p for one in adjusted] == pytest.approx(statistics.holm([one.p for one in found]))
    shown(found, adjusted)


def test_the_levels_of_the_intervals_are_those_of_holms_steps():
    """The procedure ends at the second smallest p; the interval of the largest is that of this step, though p < .05."""
    noise = np.array([-1.0, 0.0, 1.0, 0.5, -0.5])
    found = [statistics.compare(noise * 0, noise + shift) for shift in (0.99, 3.0, 1.1)]
    assert found[1].p < 0.05 / 3
    assert 0.05 / 2 < found[2].p < found[0].p < 0.06
    adjusted = statistics.adjust(found)
    assert [one.level for one in adjusted] == [0.025, pytest.approx(0.05 / 3), 0.025]
    assert [one.verdict for one in adjusted] == ["not shown", "better", "not shown"]
    shown(found, adjusted)
    (alone,) = statistics.adjust(found[:1])
    assert alone == found[0]


def test_what_has_no_spread_is_left_out_of_the_levels():
    flat, clear = statistics.compare([0, 0], [1, 1]), statistics.compare([0] * 4, [1, 1.1, 1.2, 1.3])
    adjusted = statistics.adjust([flat, clear])
    assert adjusted[0] == flat
    assert (adjusted[1].level, adjusted[1].p) == (0.025, 2 * clear.p)


@pytest.mark.parametrize(("difference", "n", "comparisons"), [(0.5, 8, 1), (1.0, 5, 3), (0.0, 6, 1)])
def test_power_is_the_share_of_studies_that_show_a_difference(difference, n, comparisons):
    rng = np.random.default_rng(0)
    drawn = rng.normal(difference, 0.6, (40_000, n))
    t = drawn.mean(1) / drawn.std(1, ddof=1) * math.sqrt(n)
    found = np.mean(2 * stats.t.sf(abs(t), n - 1) < 0.05 / comparisons)
    assert statistics.power(difference, 0.6, n, comparisons=comparisons) == pytest.approx(found, abs=0.008)


def test_power_is_that_of_the_noncentral_t():
    for n in (3, 8, 20):
        far = stats.t.ppf(0.975, n - 1)
        for effect in (0.5, 1, 2.5):
            exact = stats.nct.sf(far, n - 1, effect * math.sqrt(n))
            exact += stats.nct.cdf(-far, n - 1, effect * math.sqrt(n))
            assert statistics.power(effect, 1, n) == pytest.approx(exact, abs=1e-5)
    assert statistics.power(1e4, 0.1, 30) == 1.0


def test_seeds_needed_is_the_fewest_and_detectable_turns_power_around():
    for difference, comparisons in ((0.3, 1), (0.5, 2), (2.0, 3), (20.0, 1)):
        needed = statistics.seeds_needed(difference, 0.4, comparisons=comparisons)
        assert statistics.power(difference, 0.4, needed, comparisons=comparisons) >= 0.95
        assert needed == 2 or statistics.power(difference, 0.4, needed - 1, comparisons=comparisons) < 0.95
        found = statistics.detectable(0.4, needed, comparisons=comparisons)
        assert found <= difference
        assert statistics.power(found, 0.4, needed, comparisons=comparisons) == pytest.approx(0.95, abs=1e-6)


def test_a_power_calculation_that_has_no_answer_is_refused():
    with pytest.raises(ValueError, match="not 0, a deviation above 0.* Received: difference=0, deviation=1,"):
        statistics.seeds_needed(0, 1)
    with pytest.raises(
        ValueError, match="so small a difference. Received: difference=0.001 with deviation=1"
    ):
        statistics.seeds_needed(0.001, 1)
    most = statistics.detectable(1, 10_000)
    assert statistics.seeds_needed(1.001 * most, 1) <= 10_000
    with pytest.raises(ValueError, match="more than 10,000 seeds"):
        statistics.seeds_needed(0.99 * most, 1)
    for numbers in ((0.4, 1, 1), (0.0, 8, 1), (0.4, 8, 0)):
        deviation, n, comparisons = numbers
        said = f"Received: deviation={deviation}, n={n}, comparisons={comparisons}"
        with pytest.raises(ValueError, match=said):
            statistics.detectable(deviation, n, comparisons=comparisons)
        with pytest.raises(ValueError, match=said):
            statistics.power(1.0, deviation, n, comparisons=comparisons)
    for chance in (0.025, 1.0):
        with pytest.raises(ValueError, match=f"below 1 and above 0.025, .* Received: chance={chance}"):
            statistics.detectable(0.4, 8, comparisons=2, chance=chance)


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


def test_what_few_seeds_show_of_many_comparisons_is_finite():
    found = statistics.detectable(1.0, 2, comparisons=60)
    assert statistics.power(found, 1.0, 2, comparisons=60) == pytest.approx(statistics.CHANCE, abs=1e-3)

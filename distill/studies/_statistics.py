"""Means over seeds, and differences between two arms that are paired by seed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

LEVEL = 0.05
CHANCE = 0.95  # of showing a difference, which a study of good size has
_ALL_FLIPS = 16  # up to so many pairs, all sign flips are tried; for more pairs, 2**16 are drawn
_FLIPS = 2**_ALL_FLIPS
_MOST_SEEDS = 10_000
_POINTS = 2**12  # of the integral over what a sample's deviation may be


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a measure over the seeds.

    Attributes:
        mean: mean, in the measure's unit.
        deviation: sample standard deviation (divisor n − 1), in the same unit; NaN for one seed.
        n: number of seeds.
    """

    mean: float
    deviation: float
    n: int

    @property
    def half_interval(self) -> float:
        """Half the width of the 95% t interval of the mean; NaN for one seed."""
        if self.n == 1:
            return math.nan
        return float(stats.t.ppf(1 - LEVEL / 2, self.n - 1)) * self.deviation / math.sqrt(self.n)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Difference between an arm and a baseline, paired by seed.

    Attributes:
        difference: mean of arm − baseline, in the measure's unit.
        low: lower end of the t interval of the mean difference; NaN if there is none.
        high: upper end of that interval.
        p: probability of a mean difference at least as far from 0 if the arms did not differ.
        n: number of pairs.
        lower_is_better: whether a negative difference is an improvement.
        unit: unit to print, such as "points" for accuracy in percent; may be empty.
        deviation: sample standard deviation of the paired differences, in the same unit.
        sign_flip_p: p of the exact sign-flip test, as a check on that of the t test.
        level: probability that the interval misses the difference; it is below 0.05 if several comparisons are adjusted
            together.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    lower_is_better: bool = False
    unit: str = ""
    deviation: float = math.nan
    sign_flip_p: float = math.nan
    level: float = LEVEL

    @property
    def verdict(self) -> str:
        """The verdict at the 5% level: `"better"`, `"worse"` or `"not shown"`."""
        if self.p > LEVEL:
            return "not shown"
        return "better" if (self.difference < 0) == self.lower_is_better else "worse"

    def at(self, level: float) -> "Comparison":
        """The same comparison with the interval of another level."""
        half = float(stats.t.ppf(1 - level / 2, self.n - 1)) * self.deviation / math.sqrt(self.n)
        low, high = self.difference - half, self.difference + half
        return dataclasses.replace(self, low=low, high=high, level=level)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        interval = f"[{self.low:.2f}, {self.high:.2f}]"
        return f"{self.difference:+.2f}{unit} {interval}, {format_p(self.p)}: {self.verdict}"


def spread(values: ArrayLike) -> Spread:
    """Computes mean and sample standard deviation over the seeds.

    Args:
        values: values (n,) of one measure, one per seed; n >= 1.

    Returns:
        The mean and the standard deviation, in the unit of the values.

    Raises:
        ValueError: there is no value, or one is not finite.

    Example:
        >>> from distill import studies
        >>> studies.statistics.spread([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0, n=3)
    """
    array = _checked(values)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan, array.size)


def compare(
    baseline: ArrayLike, arm: ArrayLike, *, lower_is_better: bool = False, unit: str = ""
) -> Comparison:
    """Compares two arms that have the same seeds, by a paired t test.

    The interval and the test agree: p is at most .05 exactly when the 95% interval excludes 0. With a handful of seeds
    the t test has more power than a test of signs or ranks, whose p cannot be smaller than 2 / 2^n, so that a single
    seed that disagrees decides the verdict. The t test assumes that the differences are normal. `sign_flip_p` does not,
    and serves as a check [1]: it counts the ways of flipping the signs of the differences that give a mean at least as
    far from 0 (all of them up to 16 pairs; beyond that, flips are drawn from a fixed seed).

    If all pairs differ by the same amount, there is no spread to judge by; most often the seeds had no effect. The
    verdict is then "not shown", with p = 1 and an interval of NaN, as it is for a single pair.

    Args:
        baseline: values (n,) of one measure, in the order of the seeds.
        arm: values (n,) of the same measure with the same seeds.
        lower_is_better: whether smaller values are better, as for losses and errors.
        unit: unit to print.

    Returns:
        The mean of arm − baseline with its 95% interval, p and verdict.

    Raises:
        ValueError: the shapes differ, there is no value, or one is not finite.

    References:
        [1] Fisher 1935, The Design of Experiments, section 21.

    Example:
        >>> from distill import studies
        >>> alone = [96.1, 96.4, 95.9, 96.2, 96.0, 96.3]
        >>> distilled = [96.8, 96.9, 96.5, 96.6, 96.9, 96.7]
        >>> print(studies.statistics.compare(alone, distilled, unit="points"))
        +0.58 points [0.38, 0.79], p < 0.001: better
    """
    before, after = _checked(baseline), _checked(arm)
    if before.shape != after.shape:
        raise ValueError(
            "Arms are compared seed by seed, so both must have the same number of values. "
            f"Received: {before.size} and {after.size} values. Run both arms with the same seeds."
        )
    differences = after - before
    n, mean = differences.size, float(differences.mean())
    # All equal, up to the rounding of the subtraction.
    if np.ptp(differences) <= 1e-12 * max(np.abs(before).max(), np.abs(after).max()):
        return Comparison(mean, math.nan, math.nan, 1.0, n, lower_is_better, unit, sign_flip_p=1.0)
    deviation = float(differences.std(ddof=1))
    p = 2 * float(stats.t.sf(abs(mean) * math.sqrt(n) / deviation, n - 1))
    check = _sign_flip_p(differences)
    return Comparison(mean, math.nan, math.nan, p, n, lower_is_better, unit, deviation, check).at(LEVEL)


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjusts comparisons that together answer one question for their number, by Holm's method.

    Each interval gets the level at which Holm's procedure tested the comparison: .05 divided by the number of
    comparisons that were left at its step, or at the step at which the procedure ended. So the interval excludes 0
    exactly when the verdict says that there is a difference.

    Args:
        comparisons: comparisons (m,) as `compare` returns them.

    Returns:
        The comparisons in the same order, with adjusted p and intervals.

    Example:
        >>> from distill import studies
        >>> alone, smoothed, distilled = [1.0, 2.0, 3.0], [2.0, 3.5, 4.4], [1.5, 2.0, 3.8]
        >>> found = [studies.statistics.compare(alone, arm) for arm in (smoothed, distilled)]
        >>> [round(one.level, 3) for one in studies.statistics.adjust(found)]
        [0.025, 0.05]
    """
    p_values = [one.p for one in comparisons]
    order, adjusted = np.argsort(p_values, kind="stable"), holm(p_values)
    levels: dict[int, float] = {}
    level = LEVEL
    ended = False
    for rank, index in enumerate(order):
        if not ended:
            level = LEVEL / (len(comparisons) - rank)
            ended = p_values[index] > level
        levels[int(index)] = level
    return [
        dataclasses.replace(one.at(levels[i]), p=adjusted[i]) if one.deviation > 0 else one
        for i, one in enumerate(comparisons)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of a study's comparisons for their number (Holm 1979).

    The i-th smallest of m values, counted from 0, becomes the largest (m − j) p_(j) over j <= i, at most 1. With
    verdicts from adjusted values, the probability that any of them is a false positive is at most 5%.

    Args:
        p_values: p-values (m,) in any order.

    Returns:
        The adjusted values, in the same order.

    Example:
        >>> from distill import studies
        >>> studies.statistics.holm([0.01, 0.25, 0.5])
        [0.03, 0.5, 0.5]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power(difference: float, deviation: float, n: int, *, comparisons: int = 1) -> float:
    """Returns the probability that a paired t test over n seeds shows a true difference.

    Args:
        difference: true mean difference, in any unit.
        deviation: standard deviation of the paired differences, in the same unit, > 0.
        n: number of seeds, >= 2.
        comparisons: number of comparisons that are adjusted together; the test is at the level .05 / comparisons, which
            is Holm's hardest.

    Returns:
        A probability, from the noncentral t distribution, to four digits.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> from distill import studies
        >>> round(studies.statistics.power(0.5, 0.4, 8), 2)
        0.86
    """
    _require_sizes(deviation, n, comparisons)
    far = float(stats.t.ppf(1 - LEVEL / comparisons / 2, n - 1))
    shift = abs(difference) / deviation * math.sqrt(n)
    # Given how far the sample's deviation s is off, the t statistic is normal; SciPy's noncentral t is NaN far out.
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    off = np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))
    return float(np.mean(stats.norm.sf(far * off - shift) + stats.norm.cdf(-far * off - shift)))


def seeds_needed(difference: float, deviation: float, *, comparisons: int = 1, chance: float = CHANCE) -> int:
    """Returns the fewest seeds with which a paired t test shows a true difference with the given chance.

    Args:
        difference: true mean difference, in any unit; not 0.
        deviation: standard deviation of the paired differences, in the same unit, > 0, estimated from a pilot.
        comparisons: number of comparisons that are adjusted together.
        chance: probability that the difference is shown.

    Returns:
        A number of seeds, >= 2.

    Raises:
        ValueError: more than 10,000 seeds would be needed, or a number is out of range.

    Example:
        >>> from distill import studies
        >>> studies.statistics.seeds_needed(0.5, 0.4, comparisons=2)
        13
    """
    if not (difference != 0 and deviation > 0 and comparisons >= 1 and 0 < chance < 1):
        raise ValueError(
            "A power calculation needs a difference that is not 0, a deviation above 0, one or more comparisons and a "
            f"chance between 0 and 1. Received: difference={difference}, deviation={deviation}, "
            f"comparisons={comparisons}, chance={chance}."
        )
    low, high = 1, 2
    while power(difference, deviation, high, comparisons=comparisons) < chance:
        low, high = high, 2 * high
        if high > 2**14:
            break
    while high - low > 1 and low < _MOST_SEEDS:
        middle = (low + high) // 2
        if power(difference, deviation, middle, comparisons=comparisons) < chance:
            low = middle
        else:
            high = middle
    if high > _MOST_SEEDS:
        raise ValueError(
            f"No study can show so small a difference. Received: difference={difference} with "
            f"deviation={deviation}, which takes more than {_MOST_SEEDS:,} seeds."
        )
    return high


def detectable(deviation: float, n: int, *, comparisons: int = 1, chance: float = CHANCE) -> float:
    """Returns the smallest true difference that n seeds show with the given chance.

    Args:
        deviation: standard deviation of the paired differences, > 0.
        n: number of seeds, >= 2.
        comparisons: number of comparisons that are adjusted together.
        chance: probability that the difference is shown.

    Returns:
        A difference, in the unit of the deviation.

    Raises:
        ValueError: a number is out of range, or the chance is no more than that of a false alarm.

    Example:
        >>> from distill import studies
        >>> round(studies.statistics.detectable(0.4, 8), 2)
        0.6
    """
    _require_sizes(deviation, n, comparisons)
    if not LEVEL / comparisons < chance < 1:
        raise ValueError(
            f"chance must be below 1 and above {LEVEL / comparisons:g}, the chance with which the test shows a "
            f"difference that is not there. Received: chance={chance}."
        )
    high = 1e3
    while power(high, 1.0, n, comparisons=comparisons) < chance:
        high *= 10
    found = optimize.brentq(lambda d: power(d, 1.0, n, comparisons=comparisons) - chance, 1e-3, high)
    return deviation * float(found)


def _require_sizes(deviation: float, n: int, comparisons: int) -> None:
    if not (deviation > 0 and n >= 2 and comparisons >= 1):
        raise ValueError(
            "A power calculation needs a deviation above 0, two or more seeds and one or more comparisons. Received: "
            f"deviation={deviation}, n={n}, comparisons={comparisons}."
        )


def format_p(p: float) -> str:
    """Returns `"p = 0.008"`, or `"p < 0.001"` if three decimals would all be 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sign_flip_p(differences: NDArray[np.float64]) -> float:
    """The share of sign flips with a mean at least as far from 0; SciPy's takes 50 times as long for 16 pairs."""
    n = differences.size
    drawn = n > _ALL_FLIPS
    if drawn:
        flipped = np.random.default_rng(0).integers(2, size=(_FLIPS, n))
    else:
        flipped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    scaled = differences / (np.abs(differences).max() or 1.0)
    # Rounded, since flips with the same mean may differ in the last digits, and would count or not by chance.
    means = np.round((1.0 - 2.0 * flipped) @ scaled / n, 12)
    extreme = np.count_nonzero(np.abs(means) >= abs(np.round(scaled.mean(), 12)))
    # Drawn flips may all be less extreme; what was observed counts as one more [Phipson, Smyth 2010, arXiv:1603.05766].
    return float((extreme + drawn) / (len(means) + drawn))


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            "A measure needs one finite number per seed. "
            f"Received: {array.tolist()}. Leave out the arm, or repair the seed that diverged."
        )
    return array

"""Means over seeds, and differences between two arms that are paired by seed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.05
# Up to 16 pairs, all sign flips are tried; beyond, as many as this are drawn.
_FLIPS = 2**16


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
        low: lower end of the 95% t interval of the mean difference; NaN if there is none.
        high: upper end of that interval.
        p: probability of a mean difference at least as far from 0 if the arms did not differ.
        n: number of pairs.
        lower_is_better: whether a negative difference is an improvement.
        unit: unit to print, such as "points" for accuracy in percent; may be empty.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    lower_is_better: bool = False
    unit: str = ""

    @property
    def smallest_p(self) -> float:
        """The smallest p that n pairs can give, 2 / 2^n; with five pairs or fewer it is above .05."""
        return 2.0 ** (1 - self.n)

    @property
    def verdict(self) -> str:
        """The verdict at the 5% level: `"better"`, `"worse"` or `"not shown"`."""
        if self.p > LEVEL:
            return "not shown"
        return "better" if (self.difference < 0) == self.lower_is_better else "worse"

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
    """Compares two arms that have the same seeds.

    The test flips the signs of the paired differences in every possible way and counts how often their mean is at
    least as far from 0 [1]. It does not assume a normal distribution, it is exact up to 16 pairs (beyond, flips are
    drawn from a fixed seed), it uses the sizes of the differences, which a Wilcoxon test discards, and it handles ties
    and zeros. Its p cannot be smaller than 2 / 2^n. With five pairs that is .0625, so five seeds can never show a
    difference; `seeds_needed` says how many a study needs.

    If all pairs differ by the same amount, there is no spread to judge by; most often the seeds had no effect. The
    verdict is then "not shown", with p = 1 and an interval of NaN, as it is for a single pair.

    Args:
        baseline: values (n,) of one measure, in the order of the seeds.
        arm: values (n,) of the same measure with the same seeds.
        lower_is_better: whether smaller values are better, as for losses and errors.
        unit: unit to print.

    Returns:
        The mean of arm − baseline with its interval, p and verdict.

    Raises:
        ValueError: the shapes differ, there is no value, or one is not finite.

    References:
        [1] Fisher 1935, The Design of Experiments, section 21.

    Example:
        >>> from distill import studies
        >>> alone = [96.1, 96.4, 95.9, 96.2, 96.0, 96.3]
        >>> distilled = [96.8, 96.9, 96.5, 96.6, 96.9, 96.7]
        >>> print(studies.statistics.compare(alone, distilled, unit="points"))
        +0.58 points [0.38, 0.79], p = 0.031: better
    """
    before, after = _checked(baseline), _checked(arm)
    if before.shape != after.shape:
        raise ValueError(
            "Arms are compared seed by seed, so both must have the same number of values. "
            f"Received: {before.size} and {after.size} values. Run both arms with the same seeds."
        )
    differences = after - before
    n, mean = differences.size, float(differences.mean())
    low, high, p = math.nan, math.nan, 1.0
    # Not all equal, up to the rounding of the subtraction.
    if np.ptp(differences) > 1e-12 * max(np.abs(before).max(), np.abs(after).max()):
        half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * differences.std(ddof=1)) / math.sqrt(n)
        low, high, p = mean - half, mean + half, _sign_flip_p(differences)
    return Comparison(mean, low, high, p, n, lower_is_better, unit)


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


def seeds_needed(comparisons: int) -> int:
    """Returns the fewest seeds n with which all comparisons can be shown: comparisons · 2 / 2^n <= .05.

    Args:
        comparisons: number of comparisons that are adjusted together; >= 1.

    Returns:
        6 for one comparison, 8 for up to six, 9 for up to twelve.

    Example:
        >>> from distill import studies
        >>> studies.statistics.seeds_needed(6)
        8
    """
    return math.ceil(1 + math.log2(comparisons / LEVEL))


def format_p(p: float) -> str:
    """Returns `"p = 0.008"`, or `"p < 0.001"` if three decimals would all be 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sign_flip_p(differences: NDArray[np.float64]) -> float:
    scale = np.abs(differences).max() or 1.0

    # Rounded, since flips with the same mean may differ in its last digits, and would count or not by chance.
    def mean(sample: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.round(sample.mean(axis=axis) / scale, 12)

    # For a single sample, the permutation type "samples" flips signs.
    test = stats.permutation_test(
        (differences,), mean, permutation_type="samples", n_resamples=_FLIPS, vectorized=True, rng=0
    )
    return float(test.pvalue)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            "A measure needs one finite number per seed. "
            f"Received: {array.tolist()}. Leave out the arm, or repair the seed that diverged."
        )
    return array

"""Means over seeds, and differences between two arms paired by seed."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.05
# Sign flips are enumerated up to 2^16 of them, that is up to 16 pairs; beyond, as many are drawn.
_FLIPS = 2**16


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one measure over the seeds.

    Attributes:
        mean: in the measure's unit.
        deviation: sample standard deviation (divisor n − 1), same unit; nan for one seed.
        n: number of seeds.
    """

    mean: float
    deviation: float
    n: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one arm differs from a baseline, paired by seed.

    Attributes:
        difference: mean of arm − baseline, in the measure's unit.
        low: lower end of the 95 % t interval of the mean difference; nan where it cannot be had.
        high: upper end.
        p: probability, were both arms alike, of a mean difference at least as far from 0.
        n: number of pairs.
        lower_is_better: whether a negative difference is an improvement.
        unit: for printing, such as "points" for accuracy in percent; may be empty.
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
        """The smallest p that n pairs can give, 2 / 2^n: above .05 for five pairs or fewer."""
        return 2.0 ** (1 - self.n)

    @property
    def verdict(self) -> str:
        """`"better"`, `"worse"` or `"not shown"`, at the 5 % level."""
        if self.p > LEVEL:
            return "not shown"
        return "better" if (self.difference < 0) == self.lower_is_better else "worse"

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        interval = f"[{self.low:.2f}, {self.high:.2f}]"
        return f"{self.difference:+.2f}{unit} {interval}, {format_p(self.p)}: {self.verdict}"


def spread(values: ArrayLike) -> Spread:
    """Mean and sample standard deviation over the seeds.

    Args:
        values: (n,) one measure, a value a seed; n >= 1.

    Returns:
        The mean and the standard deviation, in the unit of the values.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    array = _checked(values)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else math.nan, array.size)


def compare(
    baseline: ArrayLike, arm: ArrayLike, *, lower_is_better: bool = False, unit: str = ""
) -> Comparison:
    """Compares two arms that share their seeds.

    The test flips the sign of each pair's difference in every possible way and asks how often the mean
    lands at least as far from 0 [1]. It assumes no normal distribution, is exact up to 16 pairs (drawn
    from a fixed seed beyond), keeps the sizes that a Wilcoxon test throws away, and takes ties and zeros
    as they come. Its p cannot fall below 2 / 2^n: with five pairs that is .0625, so that five seeds never
    show anything; `seeds_needed` says how many a study needs.

    Pairs that all differ by the same amount have no spread to judge by: most often the seeds changed
    nothing. That, like fewer than two pairs, is "not shown" with p = 1 and an interval of nan.

    Args:
        baseline: (n,) one measure, in the order of the seeds.
        arm: (n,) the same measure with the same seeds.
        lower_is_better: whether smaller values are better, as for losses and errors.
        unit: for printing.

    Returns:
        The mean of arm − baseline with its interval, p and verdict.

    Raises:
        ValueError: the shapes differ, there is no value, or one is not finite.

    References:
        [1] Fisher 1935, The Design of Experiments, section 21.
    """
    before, after = _checked(baseline), _checked(arm)
    if before.shape != after.shape:
        raise ValueError(
            "Paired arms have one value a seed, in the same order. "
            f"Received: {before.size} and {after.size} values. Run both arms with the same seeds."
        )
    differences = after - before
    n, mean = differences.size, float(differences.mean())
    low, high, p = math.nan, math.nan, 1.0
    # Equal up to the rounding of the subtraction.
    if np.ptp(differences) > 1e-12 * max(np.abs(before).max(), np.abs(after).max()):
        half = float(stats.t.ppf(1 - LEVEL / 2, n - 1) * differences.std(ddof=1)) / math.sqrt(n)
        low, high, p = mean - half, mean + half, _sign_flip_p(differences)
    return Comparison(mean, low, high, p, n, lower_is_better, unit)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of one study's comparisons for their number (Holm 1979).

    The i-th smallest of m (from 0) becomes the largest (m − j) p_(j) over j <= i, at most 1. If every
    verdict is read off adjusted values, the chance of any false one stays within 5 %.

    Args:
        p_values: (m,) in any order.

    Returns:
        Adjusted values in the same order.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(comparisons: int) -> int:
    """Fewest seeds with which a study can show all its comparisons: n with comparisons · 2 / 2^n <= .05.

    Args:
        comparisons: number of comparisons that are adjusted together; >= 1.

    Returns:
        6 for one comparison, 8 for up to six, 9 for up to twelve.
    """
    return math.ceil(1 + math.log2(comparisons / LEVEL))


def format_p(p: float) -> str:
    """`"p = 0.008"`, or `"p < 0.001"` where three decimals would show none."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _sign_flip_p(differences: NDArray[np.float64]) -> float:
    scale = np.abs(differences).max() or 1.0

    # Rounded, since flips that give the same mean would else differ in its last digits, and count or not by chance.
    def mean(sample: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.round(sample.mean(axis=axis) / scale, 12)

    # A single sample with "samples" flips signs.
    test = stats.permutation_test(
        (differences,), mean, permutation_type="samples", n_resamples=_FLIPS, vectorized=True, rng=0
    )
    return float(test.pvalue)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(
            "A measure over seeds is a list of finite numbers, one a seed. "
            f"Received: {array.tolist()}. Leave out the arm, or repair the seed that diverged."
        )
    return array

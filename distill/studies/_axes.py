"""The two axes of the chart of scores against costs."""

import math
from collections.abc import Sequence

from distill.studies._measures import Measure
from distill.studies._pictures import Json, scaled
from distill.studies._statistics import Spread


class Scores:
    """The vertical axis of scores: linear, or logarithmic in the error where percentages lie far apart.

    Args:
        scores: what is to be seen: all means, and as much of the intervals as does not squeeze them.
        measure: what the scores are.
    """

    def __init__(self, scores: Sequence[Spread], measure: Measure) -> None:
        self.measure = measure
        means = [one.mean for one in scores]
        errors = [100 - mean for mean in means]
        self.of_errors = measure.scale == 100 and min(errors) > 0 and max(errors) > 4 * min(errors)
        between = max(means) - min(means)
        widest = max((one.half_interval for one in scores if one.n > 1), default=0.0)
        margin = min(widest, 0.5 * between) + 0.1 * between or widest or 1.0
        self.domain = [min(means) - margin, max(means) + margin]
        if self.of_errors:
            self.domain = [max(errors) * 1.15, min(errors) / 1.25]

    def drawn(self, score: float) -> float:
        """What is drawn for a score; no error has no place on a logarithmic axis."""
        return max(100 - score, self.domain[1] / 10) if self.of_errors else score

    def place(self, score: float) -> float:
        """The share of the height that lies above a score."""
        low, high, at = (*self.domain, self.drawn(score))
        if self.of_errors:
            low, high, at = (-math.log(one) for one in (low, high, at))
        return (high - at) / (high - low)

    @property
    def scale(self) -> Json:
        """The scale; errors grow downwards, as accuracies fall."""
        if not self.of_errors:
            return scaled(self.domain)
        return scaled(self.domain[::-1], type="log", reverse=True)

    @property
    def axis(self) -> Json:
        """The axis, which shows scores."""
        title = {"title": f"test {self.measure.heading}"}
        if not self.of_errors:
            return {**title, "tickCount": 6}
        high, low = self.domain
        errors = [one for one in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 70, 90) if low <= one <= high]
        return {**title, "values": errors, "labelExpr": "format(100 - datum.value, '~g')"}


def along(cost: float, xs: Sequence[float]) -> float:
    """The share of the width that lies left of a cost."""
    return math.log(cost / xs[0]) / math.log(xs[1] / xs[0])


def log_domain(lows: Sequence[float], highs: Sequence[float]) -> list[float]:
    """The ends of the logarithmic axis of costs."""
    low, high = min(lows), max(highs)
    margin = max((high / low) ** 0.08, 1.15)
    return [low / margin, high * margin]


def ticks(domain: Sequence[float]) -> list[float]:
    """Round numbers for a logarithmic axis; few enough for a phone."""
    first, last = (math.floor(math.log10(one)) for one in domain)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [
            digit * 10.0**power
            for power in range(first, last + 1)
            for digit in digits
            if domain[0] <= digit * 10.0**power <= domain[1]
        ]
        if len(found) <= 7:
            break
    return found if len(found) > 1 else [float(f"{one:.2g}") for one in (domain[0] * 1.1, domain[1] / 1.1)]

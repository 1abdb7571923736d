"""What `experiments.batch_size` found, a row for each batch size of each way to train."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from distill.studies import ACCURACY, StudyResult, statistics


@dataclasses.dataclass(frozen=True)
class Row:
    """One batch size of one way to train.

    Attributes:
        kind: "alone" or "distilled".
        rule: of the learning rate, "constant" or "scaled".
        size: examples a step.
        examples: those of an epoch.
        epochs: trained.
        accuracy: on test after the last epoch, in percent, by seed.
        to_target: epochs until dev accuracy reached the target, by seed; inf where it never did.
        noise: the scale tr(Σ) / |G|² in examples, by epoch; nan where |G|² is lost in noise.
        examples_per_second: of training steps; nan where the size did not fit.
        peak_bytes: of the process in such steps; `None` where unknown.
    """

    kind: str
    rule: str
    size: int
    examples: int
    epochs: int
    accuracy: tuple[float, ...]
    to_target: tuple[float, ...]
    noise: dict[int, float]
    examples_per_second: float
    peak_bytes: int | None

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return math.ceil(self.examples / self.size)

    @property
    def epochs_to_target(self) -> float:
        """Median over the seeds; inf if half of them or more never came so far."""
        return float(np.median(self.to_target))

    @property
    def seconds_to_target(self) -> float:
        """What those epochs take at the measured speed."""
        return self.epochs_to_target * self.examples / self.examples_per_second

    @property
    def interval(self) -> tuple[float, float]:
        """Mean accuracy over the seeds and half the width of its 95 % t interval, nan for one seed."""
        spread = statistics.spread(self.accuracy)
        if spread.n == 1:
            return spread.mean, math.nan
        return spread.mean, float(stats.t.ppf(0.975, spread.n - 1)) * spread.deviation / math.sqrt(spread.n)


def epochs_to(target: float, accuracies: Sequence[float]) -> float:
    """How many epochs it took until an accuracy was reached.

    Args:
        target: the accuracy.
        accuracies: on dev, after each epoch.

    Returns:
        Epochs, from 1; inf if it was never reached.
    """
    return next((float(epoch) for epoch, reached in enumerate(accuracies, 1) if reached >= target), math.inf)


def rows(study: StudyResult) -> list[Row]:
    """What the study found, in the order of its table."""
    found = []
    for line in study.extra["lines"]:
        arm = study.arm(line["arm"])
        speed = next((s for s in study.extra["speeds"][line["kind"]] if s["batch_size"] == line["size"]), {})
        found.append(
            Row(
                kind=line["kind"],
                rule=line["rule"],
                size=line["size"],
                examples=arm.cells[0].extra["examples"],
                epochs=arm.cells[0].epochs,
                accuracy=tuple(arm.values(ACCURACY) or ()),
                to_target=tuple(
                    epochs_to(study.extra["target"], [epoch["val_accuracy"] for epoch in cell.history])
                    for cell in arm.cells
                ),
                noise=_noise([cell.extra["noise"] for cell in arm.cells]),
                examples_per_second=speed.get("examples_per_second", math.nan),
                peak_bytes=speed.get("peak_bytes"),
            )
        )
    return found


def _noise(found: Sequence[Sequence[dict[str, float]]]) -> dict[int, float]:
    """The scale by epoch, from means over the seeds: a ratio of two noisy estimates would be biased."""
    scales = {}
    for points in zip(*found, strict=True):
        squared = sum(point["squared_gradient"] for point in points)
        variance = sum(point["variance"] for point in points)
        scales[int(points[0]["epoch"])] = variance / squared if squared > 0 else math.nan
    return scales


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Those of one way to train and one rule together, in the order in which they come."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.rule), []).append(row)
    return list(groups.values())

"""The findings of the batch-size study, one row for each batch size and way to train."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.studies import ACCURACY, StudyResult, statistics


@dataclasses.dataclass(frozen=True)
class Row:
    """One batch size of one way to train.

    Attributes:
        kind: "alone" or "distilled".
        rule: rule of the learning rate, "constant" or "scaled".
        size: examples per step.
        examples: examples in an epoch.
        epochs: number of epochs trained.
        accuracy: test accuracy after the last epoch, in percent, by seed.
        to_target: epochs until dev accuracy reached the target, by seed; infinite if it never did.
        noise: noise scale tr(Σ) / |G|² in examples, by epoch; NaN where |G|² is lost in noise.
        examples_per_second: speed of training steps; NaN if the size did not fit into memory.
        peak_bytes: peak memory of the process in such steps; `None` if unknown.
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
        """Number of updates in an epoch."""
        return math.ceil(self.examples / self.size)

    @property
    def epochs_to_target(self) -> float:
        """Median over the seeds; infinite if at least half of them never reached the target."""
        return float(np.median(self.to_target))

    @property
    def seconds_to_target(self) -> float:
        """Time that those epochs take at the measured speed."""
        return self.epochs_to_target * self.examples / self.examples_per_second

    @property
    def interval(self) -> tuple[float, float]:
        """Mean accuracy over the seeds, and half the width of its 95% t interval, which is NaN for one seed."""
        spread = statistics.spread(self.accuracy)
        return spread.mean, spread.half_interval


def rows(study: StudyResult) -> list[Row]:
    """Collects the findings, in the order of the table."""
    found = []
    for line in study.extra["lines"]:
        arm = study.arm(line["arm"])
        speeds = {one["batch_size"]: one for one in study.extra["speeds"][line["kind"]]}
        speed = speeds.get(line["size"], {})
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
                noise=noise_scales([cell.extra["noise"] for cell in arm.cells]),
                examples_per_second=speed.get("examples_per_second", math.nan),
                peak_bytes=speed.get("peak_bytes"),
            )
        )
    return found


def epochs_to(target: float, accuracies: Sequence[float]) -> float:
    """Counts the epochs until an accuracy was reached.

    Args:
        target: accuracy to reach.
        accuracies: dev accuracy after each epoch.

    Returns:
        The number of epochs; infinite if the target was never reached.
    """
    return next((float(epoch) for epoch, reached in enumerate(accuracies, 1) if reached >= target), math.inf)


def noise_scales(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[int, float]:
    """Noise scales by epoch, from means over the seeds: a ratio of two noisy estimates would be biased.

    Args:
        seeds: for each seed, the fields of its `Noise` estimates.
    """
    scales = {}
    for points in zip(*seeds, strict=True):
        squared = sum(point["squared_gradient"] for point in points)
        variance = sum(point["variance"] for point in points)
        scales[int(points[0]["epoch"])] = variance / squared if squared > 0 else math.nan
    return scales


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups rows with the same kind and rule, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.rule), []).append(row)
    return list(groups.values())

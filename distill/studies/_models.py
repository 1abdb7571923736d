"""Compares finished models on the same examples: scores and differences with their intervals."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich.console
import rich.text
from numpy.typing import NDArray

from distill import cost
from distill.files import load_model
from distill.files._stored import files_of
from distill.studies import _page as page
from distill.studies._grids import NOTHING, Grid, for_markdown, for_terminal
from distill.studies._measures import CLASSIFICATION, Measure
from distill.studies._run import Split, answers_of, examples_of, finite_answers
from distill.studies._statistics import LEVEL
from distill.studies._tables import count

MEANING = (
    "Intervals (95%) are over examples: how far the scores of these very models would move on other examples of the "
    "same kind. They say nothing about training again: to tell whether one way to train is better than another, "
    "train each with several seeds, as in a Study."
)
BIASED = (
    "A number has no interval if resampling itself shifts it, as it does a calibration error, or if some resamples "
    "leave it undefined."
)
_BIAS = 0.25  # of a standard error


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with the ends of its bootstrap interval, in the unit of the measure's scores.

    Attributes:
        value: the number on all examples.
        low: 2.5 % quantile over resamples; `None` if they give no interval, see `compare_models`.
        high: 97.5 % quantile, or `None`.

    Example:
        >>> from distill import studies
        >>> studies.Interval(0.95, 0.93, 0.97).low
        0.93
    """

    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class ComparedModels:
    """Models compared on the same examples; `print` and notebooks show tables.

    Attributes:
        measures: ways in which they were scored.
        scores: model -> `Measure.key` -> its score; the first model has none for a measure of agreement.
        differences: model -> `Measure.key` -> its score minus the first model's, for all models except the first; the
            two are resampled together.
        costs: model -> "parameters", "macs" and "file_bytes"; `None` where unknown.
        examples: number of examples.

    Example:
        ```python
        from distill import studies

        found = studies.compare_models({"teacher": teacher, "student": student}, (x, y))
        print(found)
        print(found.differences["student"]["accuracy"].low)
        ```
    """

    measures: tuple[Measure, ...]
    scores: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]
    costs: Mapping[str, Mapping[str, int | None]]
    examples: int

    @property
    def _grids(self) -> list[Grid]:
        baseline, *others = self.scores
        scored = [
            (
                name,
                *(_shown(own.get(measure.key), measure) for measure in self.measures),
                *self._costs_of(name),
            )
            for name, own in self.scores.items()
        ]
        headings = ("model", *(measure.heading for measure in self.measures), "parameters", "MACs", "file")
        compared = [one for one in self.measures if not one.of_teacher]
        rows = [
            (
                f"{name} − {baseline}",
                *(_shown(self.differences[name][one.key], one, signed=True) for one in compared),
            )
            for name in others
        ]
        titles = f"Scores on {self.examples:,} examples", f"Differences from {baseline}, on the same examples"
        return [
            Grid(titles[0], headings, tuple(scored)),
            *([Grid(titles[1], ("models", *(one.heading for one in compared)), tuple(rows))] if rows else []),
        ]

    def _costs_of(self, name: str) -> list[str]:
        own = self.costs[name]
        return [
            NOTHING if own[key] is None else count(own[key] or 0)
            for key in ("parameters", "macs", "file_bytes")
        ]

    @property
    def _meaning(self) -> str:
        shown = [one for own in (*self.scores.values(), *self.differences.values()) for one in own.values()]
        return f"{MEANING} {BIASED}" if any(one.low is None for one in shown) else MEANING

    def __rich__(self) -> rich.console.Group:
        return rich.console.Group(*map(for_terminal, self._grids), rich.text.Text(f"\n{self._meaning}"))

    def __str__(self) -> str:
        return "\n\n".join([*map(for_markdown, self._grids), self._meaning])

    def _repr_html_(self) -> str:
        return "".join([*map(page.grid, self._grids), page.small(self._meaning)])


def compare_models(
    models: Mapping[str, keras.Model | str | os.PathLike[str]],
    test: Split,
    *,
    metrics: Sequence[Measure] = CLASSIFICATION,
    resamples: int = 1000,
    seed: int = 0,
) -> ComparedModels:
    """Compares finished models on the same examples, with bootstrap intervals over the examples.

    Each resample draws as many examples as there are, with replacement, and scores all models on them. An interval
    spans the middle 95 % of the resampled scores or differences [1]. If the interval of a difference excludes 0, the
    difference is more than the luck of these examples. It is a difference between these models, not between the ways in
    which they were trained.

    If the mean of the resampled numbers is off by more than a quarter of their standard deviation, there is no
    interval, because it would be shifted like them [2]. This happens to calibration errors, which rise with each
    resample's own noise; it does not happen to means over examples. Nor is there one if some resamples have no score,
    as average precision has none where no example has a label.

    Args:
        models: name -> a model, or a `.keras`, `.tflite` or `.onnx` file. The others are compared with the first, and
            measures of agreement use the first as the teacher.
        test: (x, y) arrays, or a `tf.data` data set of single examples, preferably ones that no choice was based on.
        metrics: ways to score, such as `CLASSIFICATION` or `REGRESSION`.
        resamples: number of resamples, >= 100.
        seed: seed of the resamples.

    Returns:
        Scores, differences and costs.

    Raises:
        ValueError: there is no model or metric, or too few resamples; the outputs are not finite or do not fit the
            labels; or a file is damaged, or holds code.

    References:
        [1] Efron, Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile intervals).
        [2] The same, section 10.3 (which bias can be ignored).

    Example:
        ```python
        from distill import studies

        print(studies.compare_models({"teacher": teacher, "student": student}, (x, y)))
        ```
    """
    if not isinstance(models, Mapping):
        raise ValueError(
            "models must be a dictionary that names each model or file. Received: "
            f'a {type(models).__name__}. Pass {{"teacher": teacher, "student": "student.keras"}}.'
        )
    if not models or not metrics or resamples < 100:
        raise ValueError(
            "A comparison needs a model, a metric and at least 100 resamples. "
            f"Received: {len(models)} models, {len(metrics)} metrics and resamples={resamples}."
        )
    x, y = examples_of(test)
    y = np.asarray(y)
    opened = {name: _model(one) for name, one in models.items()}
    answered = {
        name: finite_answers(answers_of(one), None, (x, y), name).outputs for name, one in opened.items()
    }
    first = next(iter(answered.values()))
    rng = np.random.default_rng(seed)
    # All examples first, then each resample.
    drawn: list[Any] = [slice(None), *(rng.integers(len(y), size=len(y)) for _ in range(resamples))]
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, found in answered.items():
        values[name] = {
            measure.key: np.array(
                [
                    _score(measure, (first if measure.of_teacher else y)[rows], found[rows], is_draw=i > 0)
                    for i, rows in enumerate(drawn)
                ]
            )
            for measure in metrics
            if not (measure.of_teacher and found is first)
        }
    base = next(iter(values.values()))
    return ComparedModels(
        measures=tuple(metrics),
        scores={name: {key: _interval(one) for key, one in own.items()} for name, own in values.items()},
        differences={
            name: {key: _interval(one - base[key]) for key, one in own.items() if key in base}
            for name, own in list(values.items())[1:]
        },
        costs={name: _costs(models[name], one) for name, one in opened.items()},
        examples=len(y),
    )


def _score(measure: Measure, truth: Any, outputs: Any, *, is_draw: bool) -> float:
    """A score; NaN for a resample that has none, as one without the only example of a class."""
    try:
        return float(measure.score(truth, outputs))  # type: ignore[misc]
    except ValueError:
        if is_draw:
            return math.nan
        raise


def _interval(values: NDArray[np.float64]) -> Interval:
    """The interval of a number; `values` holds the number first, then its value on each resample."""
    value, resampled = float(values[0]), values[1:]
    if not np.isfinite(resampled).all():
        return Interval(value, None, None)
    rounding = 1e-12 * abs(value)
    if abs(resampled.mean() - value) > _BIAS * resampled.std(ddof=1) + rounding:
        return Interval(value, None, None)
    low, high = np.quantile(resampled, (LEVEL / 2, 1 - LEVEL / 2))
    return Interval(value, float(low), float(high))


def _model(given: keras.Model | str | os.PathLike[str]) -> keras.Model | Path:
    """The model, loaded from a `.keras` file without running its code; or the path of an exported file."""
    if isinstance(given, keras.Model):
        return given
    path = Path(given)
    return load_model(path) if path.suffix == ".keras" else path


def _costs(given: keras.Model | str | os.PathLike[str], model: keras.Model | Path) -> dict[str, int | None]:
    size = None
    if not isinstance(given, keras.Model):
        size = sum(file.stat().st_size for file in files_of(Path(given)))
    costs: dict[str, int | None] = {"parameters": None, "macs": None, "file_bytes": size}
    if isinstance(model, keras.Model):
        costs["parameters"] = cost.parameters(model)
        try:
            costs["macs"] = cost.macs(model)
        except ValueError:  # a model whose multiply-adds the library cannot count
            costs["macs"] = None
    return costs


def _shown(found: Interval | None, measure: Measure, *, signed: bool = False) -> str:
    if found is None:
        return NOTHING
    form = f"{'+' * signed}.{measure.digits}f"
    if found.low is None or found.high is None:
        return f"{measure.scale * found.value:{form}}"
    value, low, high = (f"{measure.scale * one:{form}}" for one in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"

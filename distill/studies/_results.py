"""A finished study: its arms, their cells, and how they are compared."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from distill.studies._details import Confusion, LayerSize, Reliability
from distill.studies._measures import Measure


class BrokenStudyError(ValueError):
    """A file of a study is missing or broken. The message names the file.

    Example:
        ```python
        from distill import studies

        try:
            studies.read("runs/nothing")
        except studies.BrokenStudyError as error:
            print(error)
        ```
    """


@dataclasses.dataclass(frozen=True)
class CellResult:
    """A trained model: one arm with one seed.

    Attributes:
        arm: name of the arm.
        seed: seed of initial weights and data order.
        epochs: number of epochs trained.
        seconds: training time.
        test: scores on test, by `Measure.key`; `None` for a measure that needs a teacher if there is none.
        dev: the same scores on dev.
        cost: "parameters", "macs", "file_bytes", "nonzero" and "gzip_bytes"; `None` for unknown values, such as the
            last two in results from before they were measured.
        history: what was logged after each epoch, in order.
        config: what the cell depends on besides its seed, as config.json holds it; empty if it is not known.
        reliability: how sure a classifier is, and how often it is right when it is that sure; `None` if it was not
            recorded.
        confusion: a classifier's classes against its teacher's; `None` without a teacher, or if it was not recorded.
        layers: the layers that have weights; empty if they were not recorded.
        extra: further content of `result.json`, by key.

    Example:
        >>> from distill import studies
        >>> cell = studies.read("runs/compare").arm("distilled").cells[0]
        >>> cell.seed, cell.epochs
        (0, 4)
    """

    arm: str
    seed: int
    epochs: int
    seconds: float
    test: dict[str, float | None]
    dev: dict[str, float | None]
    cost: dict[str, int | None]
    history: tuple[dict[str, float], ...]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    reliability: Reliability | None = None
    confusion: Confusion | None = None
    layers: tuple[LayerSize, ...] = ()
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One way to train, with its trained models.

    Attributes:
        name: name of the arm.
        label: short text for readers, with the arm's settings.
        description: one sentence for readers.
        group: heading under which tables and plots show the arm.
        cells: trained models, in the order of their seeds.

    Example:
        >>> from distill import studies
        >>> arm = studies.read("runs/compare").arm("distilled")
        >>> len(arm.values(studies.ACCURACY)) == len(arm.cells)
        True
    """

    name: str
    label: str
    description: str
    group: str
    cells: tuple[CellResult, ...]

    def values(self, measure: Measure) -> list[float] | None:
        """Returns the test scores by seed, in printed units; `None` if a cell lacks the measure.

        Args:
            measure: measure to return.
        """
        found = self.by_seed(measure)
        return None if found is None else list(found.values())

    def by_seed(self, measure: Measure) -> dict[int, float] | None:
        """Returns the same scores as `values`, each under its seed.

        Args:
            measure: measure to return.
        """
        scores = {cell.seed: cell.test.get(measure.key) for cell in self.cells}
        known = {seed: measure.scale * score for seed, score in scores.items() if score is not None}
        return known if len(known) == len(scores) else None

    @property
    def seeds(self) -> list[int]:
        """Its seeds, ascending."""
        return [cell.seed for cell in self.cells]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The search on dev for the settings of one arm.

    Attributes:
        arm: name of the arm.
        choices: settings that were tried, each with its mean score on dev, by the study's first measure.
        chosen: settings that were chosen.

    Example:
        >>> from distill import studies
        >>> studies.read("runs/compare").tuning[0].chosen
        {'temperature': 4.0}
    """

    arm: str
    choices: tuple[tuple[dict[str, Any], float], ...]
    chosen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """A finished study, as `study.json` holds it.

    Attributes:
        name: name of the study, such as "compare".
        title: title of its report, one line.
        question: question that the study answers.
        command: command that ran it.
        created: time of its end, in ISO format.
        versions: version of each package.
        git_commit: commit of the code; `None` outside a repository.
        smoke: whether the run only checked that the code works.
        notes: what a reader must know.
        arms: arms, in the order of the tables.
        measures: ways in which the models were scored; arms are judged by the first.
        comparisons: pairs of baseline and arm, by name.
        primary: the comparisons that answer the study's question; the others are exploratory.
        tuning: searches on dev, one per tuned arm.
        latency_ms: "median", "low" and "high" by arm; not every arm need be timed.
        litert_bytes: size of the LiteRT file by arm; empty if none was written.
        extra: further content of `study.json`, by key.

    A notebook displays it.
    """

    # Makes the HTML that a notebook shows. `_notebook` sets it, since this module cannot import what builds on it.
    _shown: ClassVar[Callable[["StudyResult"], str]]

    name: str
    title: str
    question: str
    command: str
    created: str
    versions: dict[str, str]
    git_commit: str | None
    smoke: bool
    notes: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    measures: tuple[Measure, ...]
    comparisons: tuple[tuple[str, str], ...]
    primary: tuple[tuple[str, str], ...]
    tuning: tuple[Tuning, ...]
    latency_ms: dict[str, dict[str, float]]
    litert_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def _repr_html_(self) -> str:
        return StudyResult._shown(self)

    def arm(self, name: str) -> ArmResult:
        """Returns the arm of that name.

        Raises:
            ValueError: the study has no such arm.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        known = ", ".join(arm.name for arm in self.arms)
        raise ValueError(
            f"The name must be that of an arm that was run. Received: {name!r}; there are {known}."
        )

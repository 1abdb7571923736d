"""The report of a finished study, one HTML page: the answer first, then how it was found.

python -c "from distill.studies import report; print(report.write('runs/compare'))"
"""

import collections
import os
from collections.abc import Sequence
from pathlib import Path

from distill.studies._beside import write_beside
from distill.studies._charts import confusion, curves, forest, layers, pareto, reliability
from distill.studies._grids import Grid
from distill.studies._insides import disagreements
from distill.studies._judging import Judged, judge
from distill.studies._page import (
    capitalized,
    chart,
    charts,
    contents,
    escaped,
    grid,
    listed,
    opening,
    repeating,
    small,
    terms,
)
from distill.studies._page import html as page
from distill.studies._plots import VERDICTS
from distill.studies._reading import read
from distill.studies._records import write_text
from distill.studies._results import ArmResult, StudyResult
from distill.studies._summary import EXPLORATORY, TEST, cautions, power, protocol, verdict
from distill.studies._tables import (
    comparisons,
    costs,
    number_of_seeds,
    other_measures,
    scores,
    settings,
    shipped,
    training,
    tuning,
)

# File in the study's directory that holds what its own sections show.
SECTIONS = "sections.html"
OWN = "Findings"


def write(
    study_dir: str | os.PathLike[str],
    *others: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes `report.html`, and beside it the folder `report` with tables as CSV, charts as SVG and PNG, and JSON.

    Each of the two is written whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.
        *others: directories of further runs of the same study, with other seeds or other arms, which are merged.
        out: directory to write to; by default `study_dir`, if there are no others.

    Returns:
        The path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. In that case an older report is left as it is.
        ValueError: the directories are not of one study, or there are several directories, or a condensed file, and no
            `out`.

    Example:
        ```python
        from distill import studies

        print(studies.report.write("machine-a/compare", "machine-b/compare", out="runs/merged"))
        ```
    """
    if out is None and others:
        raise ValueError(
            "A report of several directories needs a directory of its own, so that it does not take the place of "
            f"theirs. Received: {1 + len(others)} directories and no out. Name one, such as out='runs/merged'."
        )
    if out is None and Path(study_dir).is_file():
        raise ValueError(
            "A report of a file needs a directory, for the page and what lies beside it. Received: "
            f"{os.fspath(study_dir)!r} and no out. Name one, such as out='runs/report'."
        )
    study = read(study_dir, *others)
    folder = Path(study_dir if out is None else out)
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(study_dir) / SECTIONS
    sections = own.read_text(encoding="utf-8") if own.is_file() and not others else ""
    written = html(study, sections=sections)
    write_beside(study, folder / "report")
    write_text(folder / "report.html", written)
    return folder / "report.html"


def html(study: StudyResult, *, sections: str = "") -> str:
    """Makes the report as one HTML page that loads nothing from elsewhere.

    Args:
        study: a finished study.
        sections: HTML of the study's own sections.

    Returns:
        The page.
    """
    measure = study.measures[0]
    parts = {
        f"{capitalized(measure.name)} against cost": _trade(study),
        "Scores and sizes": [
            *_grids(scores(study)),
            small(protocol(study)),
            *_grids(costs(study), shipped(study)),
        ],
        "Paired comparisons": _compared(study),
        OWN: [sections] if sections else [],
        "Learning curves": [charts(found, study, choose="Curve")] if (found := curves(study)) else [],
        "Calibration": [chart(picture, study) for picture in reliability(study)],
        "Against the teacher": [
            *([charts(found, study, choose="Arm")] if (found := confusion(study)) else []),
            *_grids(disagreements(study)),
        ],
        "Layers": [charts(found, study, choose="Arms")] if (found := layers(study)) else [],
        "Arms": [terms([(_named(arm), arm.description) for arm in study.arms]), *_grids(settings(study))],
        "Chosen on dev": [grid(tuning(study))] if study.tuning else [],
        "How to repeat it": [
            *repeating(study),
            grid(training(study)),
            small(
                "The tables as CSV, the charts as SVG and PNG, and all numbers as JSON are in the folder report beside "
                "this page. The command distill report (in a checkout, scripts/report) rebuilds it, and merges runs of "
                "several machines."
            ),
        ],
    }
    return page(
        study.title,
        [
            *opening(study, cautions(study)),
            *answer(judge(study)),
            *map(small, power(study)),
            _facts(study),
            *([listed(study.notes, kind="notes")] if study.notes else []),
            *contents(parts),
        ],
    )


def _trade(study: StudyResult) -> list[str]:
    """Scores against costs."""
    pictures = pareto(study)
    return [charts(pictures, study, choose="Cost")] if pictures else []


def _compared(study: StudyResult) -> list[str]:
    if not study.comparisons:
        return []
    drawn = forest(study)
    return [
        *(
            f"<h3>{escaped(picture.title)}</h3>\n" * (len(drawn) > 1) + chart(picture, study)
            for picture in drawn
        ),
        grid(comparisons(study)),
        small(TEST),
        *_grids(other_measures(study)),
        small("Holm's adjustment is made within each measure."),
    ]


def _grids(*found: Grid | None) -> list[str]:
    return [grid(one) for one in found if one is not None and one.rows]


def _named(arm: ArmResult) -> str:
    """An arm's name, and its label if that says more."""
    return arm.name if arm.label == arm.name else f"{arm.name}: {arm.label}"


def _facts(study: StudyResult) -> str:
    counts = sorted({len(arm.cells) for arm in study.arms})
    seeds = number_of_seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    facts = [f"{len(study.arms)} arms, {seeds} each", f"finished {study.created[:10]}"]
    return f'<p class="facts">{escaped("; ".join(facts))}</p>'


def answer(judged: Sequence[Judged]) -> list[str]:
    """Verdicts: those that answer the question, then the exploratory ones, which a reader opens."""
    primary = [one for one in judged if one.primary]
    exploratory = [one for one in judged if not one.primary]
    parts = [_verdicts(primary, "answer primary")] if primary else []
    if exploratory:
        counts = collections.Counter(one.adjusted.verdict for one in exploratory)
        counted = ", ".join(f"{counts[kind]} {kind}" for kind in VERDICTS if counts[kind])
        number = f"{len(exploratory)} exploratory comparison{'s' * (len(exploratory) > 1)}"
        parts.append(
            f'<details class="exploratory"{"" if primary else " open"}>\n<summary>{number}: {counted}</summary>\n'
            + _verdicts(exploratory, "answer")
            + "\n</details>"
        )
    return parts


def _verdicts(judged: Sequence[Judged], kind: str) -> str:
    items = []
    for one in judged:
        words, numbers = map(escaped, verdict(one))
        prefix = "" if one.primary else EXPLORATORY
        color = VERDICTS[one.adjusted.verdict]
        items.append(f'<li style="--verdict: {color}">{prefix}<b>{words}</b> <span>{numbers}</span></li>')
    return f'<ul class="{kind}">\n' + "\n".join(items) + "\n</ul>"

"""The report about a finished study, one HTML page: the answer first, then how it was found.

python -c "from distill.studies import report; print(report.write('runs/compare'))"
"""

import os
from collections.abc import Sequence
from pathlib import Path

from distill.studies._judging import Judged, judge
from distill.studies._page import closing, escaped, figure, grid, opening, small, terms, titled_grid
from distill.studies._page import html as page
from distill.studies._plots import VERDICTS, capitalized, curves, forest, size
from distill.studies._records import write_text
from distill.studies._results import ArmResult, StudyResult, read
from distill.studies._summary import EXPLORATORY, TEST, protocol, remarks, verdict
from distill.studies._tables import comparisons, costs, other_measures, scores, shipped, tuning

# What the study's own sections show, in its directory.
SECTIONS = "sections.html"


def write(study_dir: str | os.PathLike[str], *, first: Sequence[str] = ()) -> Path:
    """Writes `report.html` into a study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.
        first: HTML to show before everything else, for a study with results of its own kind.

    Returns:
        The path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    path, own = Path(study_dir) / "report.html", Path(study_dir) / SECTIONS
    sections = own.read_text(encoding="utf-8") if own.is_file() else ""
    write_text(path, html(read(study_dir), first=first, sections=sections))
    return path


def html(study: StudyResult, *, first: Sequence[str] = (), sections: str = "") -> str:
    """Makes the report as one HTML page that needs nothing from elsewhere.

    Args:
        study: a finished study.
        first: HTML to show before everything else.
        sections: HTML of the study's own sections.

    Returns:
        The page.
    """
    judged = judge(study)
    files = shipped(study)
    parts = [
        *opening(study, remarks(study)),
        *first,
        _answer(judged),
        titled_grid(scores(study)),
        small(protocol(study)),
        titled_grid(costs(study)),
        *([titled_grid(files)] if files else []),
    ]
    if judged:
        caption = "Diamond: mean difference. Line: its interval. Dots: single seeds."
        parts += [
            "<h2>Paired comparisons</h2>",
            figure(forest(study), caption),
            grid(comparisons(study)),
            small(TEST),
            titled_grid(other_measures(study)),
            small("Holm's adjustment is made within each measure."),
        ]
    parts += [
        sections,
        f"<h2>{escaped(capitalized(study.measures[0].name))} against size</h2>",
        figure(size(study), "On test: mean and standard deviation over seeds."),
        "<h2>Learning curves</h2>",
        figure(
            curves(study),
            "Mean over seeds; the bands are one standard deviation. The vertical axes show the range of the last "
            "three quarters of training.",
        ),
        "<h2>Arms</h2>",
        terms([(_named(arm), arm.description) for arm in study.arms]),
    ]
    if study.tuning:
        parts += ["<h2>Chosen on dev</h2>", grid(tuning(study))]
    return page(study.title, [*parts, *closing(study)])


def _named(arm: ArmResult) -> str:
    """An arm's name, and its label if that says more."""
    return arm.name if arm.label == arm.name else f"{arm.name}: {arm.label}"


def _answer(judged: Sequence[Judged]) -> str:
    items = []
    for comparison in judged:
        words, numbers = map(escaped, verdict(comparison))
        kind = "" if comparison.primary else EXPLORATORY
        color = VERDICTS[comparison.adjusted.verdict]
        items.append(f'<li style="--verdict: {color}">{kind}<b>{words}</b> <span>{numbers}</span></li>')
    return '<ul class="answer">\n' + "\n".join(items) + "\n</ul>"

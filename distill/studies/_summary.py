"""A study in words and tables, for a terminal and for Markdown."""

import rich.console
import rich.text

from distill.studies._judging import Judged, judge
from distill.studies._results import StudyResult
from distill.studies._statistics import seeds_needed
from distill.studies._tables import (
    Grid,
    comparisons,
    costs,
    for_markdown,
    for_terminal,
    interval,
    markdown_text,
    scores,
    shipped,
)

SMOKE = "Smoke run: it only checks that the code runs. Its numbers mean nothing."
PROTOCOL = (
    "Scores are on the test split, which was read once, at the end. "
    "Last epoch: the model as training left it. Dev-selected: the model after the epoch with the best dev accuracy. "
    "NLL (nats), ECE (15 bins, percent) and agreement with the teacher's predicted class are those of the last epoch."
)
TEST = (
    "Differences in test accuracy are in percentage points, paired by seed, with a 95% t interval. "
    "p values are from an exact sign-flip test. Verdicts are for the last epoch, at the 5% level after Holm's "
    'adjustment for the number of comparisons; "selected" is the difference at the dev-selected epochs.'
)


def verdict(judged: Judged) -> tuple[str, str]:
    """What one comparison shows, in words, and the numbers behind it."""
    result = judged.adjusted
    words = {
        "better": f"{judged.arm} is better than {judged.baseline}",
        "worse": f"{judged.arm} is worse than {judged.baseline}",
        "not shown": f"no difference shown between {judged.arm} and {judged.baseline}",
    }[result.verdict]
    return words, f"{result.difference:+.2f} {result.unit}, 95% interval {interval(result)}"


def remarks(study: StudyResult) -> list[str]:
    """What a reader must know before the numbers: that they mean nothing, or that there are too few seeds."""
    return [remark for remark in (SMOKE if study.smoke else None, _too_few_seeds(study)) if remark]


def terminal(study: StudyResult) -> rich.console.Group:
    """The study for a terminal of at least 80 columns: `rich.print(terminal(study))`."""
    answers = [": ".join(verdict(judged)) for judged in judge(study)]
    lines = [study.title, study.question, "", *remarks(study), *answers]
    grids = map(for_terminal, _grids(study))
    # Text, not str: a bracket that comes from a file is not markup.
    return rich.console.Group(*map(rich.text.Text, lines), *grids, *map(rich.text.Text, ("", PROTOCOL, TEST)))


def markdown(study: StudyResult) -> str:
    """The study as Markdown without headings, for a README; it ends with a newline."""
    answers = [
        f"- **{markdown_text(words)}**: {numbers}"
        for words, numbers in (verdict(judged) for judged in judge(study))
    ]
    blocks = [
        f"**{markdown_text(study.title)}** {markdown_text(study.question)}",
        *(f"**{markdown_text(remark)}**" for remark in remarks(study)),
        "\n".join(answers),
        *map(for_markdown, _grids(study)),
        f"{PROTOCOL} {TEST}",
        # An indented block needs no escaping.
        "\n".join(f"    {line}" for line in study.command.splitlines()),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _grids(study: StudyResult) -> list[Grid]:
    grids = (
        scores(study),
        costs(study),
        shipped(study),
        comparisons(study),
    )
    return [grid for grid in grids if grid is not None]


def _too_few_seeds(study: StudyResult) -> str | None:
    judged = judge(study)
    needed = seeds_needed(max(1, len(judged)))
    if all(comparison.raw.n >= needed for comparison in judged):
        return None
    return (
        f"Too few seeds: at least {needed} are needed to show {len(judged)} comparisons that are adjusted together. "
        '"Not shown" says little here.'
    )

"""A study in words and tables, for a terminal and for Markdown."""

import rich.console
import rich.text

from distill.studies._grids import Grid
from distill.studies._judging import Judged, judge
from distill.studies._results import StudyResult, Tuning
from distill.studies._statistics import CHANCE, detectable
from distill.studies._tables import (
    comparisons,
    costs,
    for_markdown,
    for_terminal,
    interval,
    markdown_text,
    scores,
    shipped,
)

EXPLORATORY = "exploratory: "
SMOKE = "Smoke run: it only checks that the code runs. Its numbers mean nothing."
TEST = (
    "Differences in test scores are judged by a t test that is paired by seed. "
    "Primary comparisons answer the study's question; they are adjusted among themselves by Holm's method, and so are "
    "the exploratory ones. An interval excludes 0 exactly when the verdict at the 5% level, after this adjustment, "
    "says that there is a difference. p by sign flips is an exact check that assumes no normal distribution. "
    '"Shown from" is the smallest true difference that so many seeds show with 95% probability.'
)


def protocol(study: StudyResult) -> str:
    """How the models were scored."""
    about = "; ".join(f"{one.name}: {one.about}" for one in study.measures if one.about)
    return (
        f"Scores are on the test split, which was read once, at the end. {about}{'.' * bool(about)}"
    ).rstrip()


def verdict(judged: Judged) -> tuple[str, str]:
    """What one comparison shows, in words, and the numbers behind it."""
    result = judged.adjusted
    words = {
        "better": f"{judged.arm} is better than {judged.baseline}",
        "worse": f"{judged.arm} is worse than {judged.baseline}",
        "not shown": f"no difference shown between {judged.arm} and {judged.baseline}",
    }[result.verdict]
    unit = f" {result.unit}" * bool(result.unit)
    difference = f"{result.difference:+.{judged.digits}f}{unit}"
    level = f"{100 * (1 - result.level):.3g}% interval"
    return words, f"{difference}, {level} {interval(result, digits=judged.digits)}"


def remarks(study: StudyResult) -> list[str]:
    """What a reader must know before the numbers: that they mean nothing, or how little they can show."""
    return [*cautions(study), *power(study)]


def cautions(study: StudyResult) -> list[str]:
    """Why the numbers may mean less than they seem to mean."""
    return [*([SMOKE] if study.smoke else []), *_missing(study)]


def chosen(tuning: Tuning) -> str:
    """The settings that were chosen for an arm."""
    settings = ", ".join(f"{name} = {value}" for name, value in tuning.chosen.items())
    return f"{tuning.arm}: {settings}, chosen on dev from {len(tuning.choices)} settings"


def terminal(study: StudyResult) -> rich.console.Group:
    """The study for a terminal of at least 80 columns: `rich.print(terminal(study))`."""
    answers = [
        ("" if judged.primary else EXPLORATORY) + ": ".join(verdict(judged)) for judged in judge(study)
    ]
    measure = study.measures[0]
    if answers:
        better = "lower" if measure.lower_is_better else "higher"
        answers.insert(0, f"Compared by {measure.name} on test; {better} is better:")
    about = [line for line in (study.title, study.question) if line]
    lines = [*about, "", *remarks(study), *answers, *map(chosen, study.tuning)]
    grids = map(for_terminal, _grids(study))
    # Text, not str: a bracket that comes from a file is not markup.
    return rich.console.Group(
        *map(rich.text.Text, lines), *grids, *map(rich.text.Text, ("", protocol(study), TEST))
    )


def markdown(study: StudyResult) -> str:
    """The study as Markdown without headings, for a README; it ends with a newline."""
    answers = [
        f"- {'' if judged.primary else EXPLORATORY}**{markdown_text(words)}**: {numbers}"
        for judged in judge(study)
        for words, numbers in [verdict(judged)]
    ]
    blocks = [
        f"**{markdown_text(study.title)}** {markdown_text(study.question)}",
        *(f"**{markdown_text(remark)}**" for remark in remarks(study)),
        "\n".join(answers),
        *map(for_markdown, _grids(study)),
        f"{protocol(study)} {TEST}",
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


def _missing(study: StudyResult) -> list[str]:
    """Seeds that some arms have and others lack."""
    seeds = sorted({seed for arm in study.arms for seed in arm.seeds})
    lacking = {arm.name: [seed for seed in seeds if seed not in arm.seeds] for arm in study.arms}
    missing = "; ".join(f"{name} lacks {', '.join(map(str, gone))}" for name, gone in lacking.items() if gone)
    return [
        f"Not every arm has all {len(seeds)} seeds: {missing}. Arms are compared by the seeds that both have; if what "
        "is missing failed, such as by diverging, what is left looks better than the arm is."
    ] * bool(missing)


def power(study: StudyResult) -> list[str]:
    """What the seeds of the primary comparisons could have shown, for those that show nothing."""
    return [
        f"{judged.raw.n} seeds are too few to tell {judged.arm} from {judged.baseline} unless they differ by "
        f"{float(f'{found:.2g}'):g}{f' {judged.raw.unit}' * bool(judged.raw.unit)} or more, which is shown with "
        f"{100 * CHANCE:.0f}% probability."
        for judged in judge(study)
        if judged.primary and judged.adjusted.verdict == "not shown" and judged.raw.deviation > 0
        for found in [detectable(judged.raw.deviation, judged.raw.n, comparisons=judged.together)]
    ]

"""A study in words and tables, for the terminal and for Markdown."""

import dataclasses
import math
import re
from collections.abc import Callable

import rich.box
import rich.console
import rich.table
import rich.text

from distill.studies._results import (
    ACCURACY,
    AGREEMENT,
    ECE,
    NLL,
    ArmResult,
    Judged,
    Measure,
    StudyResult,
    judge,
)
from distill.studies._statistics import Comparison, seeds_needed, spread

NOTHING = "–"
PROTOCOL = (
    "Scores are on the test split, which was read once, at the end. "
    "Last epoch: the model as training left it. Dev-selected: the epoch with the best score on dev. "
    "NLL (nats), ECE (15 bins, percent) and agreement with the teacher's class are of the last epoch."
)
TEST = (
    "Differences are of test accuracy in points, paired by seed, with a 95 % t interval. "
    "p is of an exact sign-flip test. Verdicts hold at 5 % after Holm's adjustment for the number of "
    'comparisons and are of the last epoch; "selected" is the difference at the dev-selected epochs.'
)
SMOKE = "Smoke run: it shows that the code runs. Its numbers mean nothing."


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table in plain text. A row of a single text is the heading of the rows below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def verdict(judged: Judged) -> tuple[str, str]:
    """What one comparison shows, in plain words, and the numbers behind it."""
    result = judged.adjusted
    words = {
        "better": f"{judged.arm} is better than {judged.baseline}",
        "worse": f"{judged.arm} is worse than {judged.baseline}",
        "not shown": f"no difference shown between {judged.arm} and {judged.baseline}",
    }[result.verdict]
    return words, f"{result.difference:+.2f} {result.unit}, 95 % interval {interval(result)}"


def power_note(study: StudyResult) -> str | None:
    """Says so where the study has too few seeds for its number of comparisons, else `None`."""
    judged = judge(study)
    needed = seeds_needed(max(1, len(judged)))
    if all(comparison.raw.n >= needed for comparison in judged):
        return None
    return (
        f"Too few seeds: {len(judged)} comparisons, adjusted together, need {needed} seeds to show them all. "
        '"Not shown" says little here.'
    )


def scores(study: StudyResult) -> Grid:
    """How good each arm is."""
    counts = sorted({len(arm.cells) for arm in study.arms})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return _grid(study, f"Test scores, mean ± standard deviation over {seeds}", _SCORES)


def costs(study: StudyResult) -> Grid:
    """What each arm's model costs."""
    return _grid(study, "Cost of one example", _COSTS)


def shipped(study: StudyResult) -> list[Grid]:
    """What a phone gets of each arm whose LiteRT file was written, against the first one; nothing if none was."""
    names = [arm.name for arm in study.arms if arm.name in study.litert_bytes]
    if not names:
        return []
    size, time = study.litert_bytes[names[0]], study.latency_ms[names[0]]["median"]
    rows = [
        (
            name,
            _score(ACCURACY)(study, study.arm(name)),
            f"{_three(study.litert_bytes[name] / 1000)} kB",
            f"{size / study.litert_bytes[name]:.1f}",
            _latency(study, study.arm(name)),
            f"{time / study.latency_ms[name]['median']:.1f}",
        )
        for name in names
    ]
    headings = ("arm", "accuracy %", "file", "times\nsmaller", "one example (quartiles)", "times\nfaster")
    return [Grid("What a phone gets: LiteRT files, one thread", headings, tuple(rows))]


def comparisons(study: StudyResult) -> Grid:
    """The paired comparisons on test accuracy, with what the dev-selected epochs say beside them."""
    rows = [
        (
            f"{last.arm} − {last.baseline}",
            f"{last.raw.difference:+.2f}",
            interval(last.raw),
            f"{last.raw.p:.3f}",
            f"{last.adjusted.p:.3f}",
            last.adjusted.verdict,
            f"{selected.raw.difference:+.2f}",
        )
        for last, selected in zip(judge(study), judge(study, epoch="selected"), strict=True)
    ]
    headings = ("comparison", "points", "95 %", "p", "p,\nHolm", "verdict", "selected")
    return Grid("Differences in test accuracy", headings, tuple(rows))


def other_measures(study: StudyResult) -> Grid:
    """The same comparisons on what accuracy does not see; Holm's adjustment is within each measure."""
    rows = [
        (
            f"{judged.arm} − {judged.baseline}",
            f"{measure.name} ({measure.unit})",
            f"{judged.raw.difference:+.{measure.digits}f}",
            interval(judged.raw, measure.digits),
            f"{judged.adjusted.p:.3f}",
            judged.adjusted.verdict,
        )
        for measure in (NLL, ECE)
        for judged in judge(study, measure)
    ]
    headings = ("comparison", "measure", "difference", "95 %", "p, Holm", "verdict")
    return Grid("Differences in likelihood and calibration", headings, tuple(rows))


def tuning(study: StudyResult) -> Grid:
    """Every setting that was tried on dev; the one taken is marked."""
    rows = [
        (t.arm, settings_text(settings), f"{100 * accuracy:.2f}", "chosen" if settings == t.chosen else "")
        for t in study.tuning
        for settings, accuracy in t.choices
    ]
    return Grid("Settings tried on dev", ("arm", "settings", "dev accuracy %", ""), tuple(rows))


def settings_text(settings: dict[str, object]) -> str:
    """Settings on one line."""
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def interval(comparison: Comparison, digits: int = 2) -> str:
    """The 95 % interval, or a dash where there is none."""
    if math.isnan(comparison.low):
        return NOTHING
    return f"{comparison.low:+.{digits}f} to {comparison.high:+.{digits}f}"


def count(number: float) -> str:
    """`7.40k`, `216k`, `1.23M`, `4.10G`; whole numbers below a thousand."""
    for power, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return _three(number / 10**power) + suffix
    return f"{number:.0f}"


def table(study: StudyResult) -> rich.console.Group:
    """The study for a terminal at least 80 columns wide: `rich.print(table(study))`.

    Args:
        study: what `read` returned.

    Returns:
        A rich renderable.
    """
    lines = [study.title, study.question, "", *remarks(study), *map(": ".join, map(verdict, judge(study)))]
    grids = (scores(study), costs(study), *shipped(study), comparisons(study))
    notes = ("", PROTOCOL, TEST)
    # Text, not str: a bracket from a file is no markup.
    return rich.console.Group(*map(rich.text.Text, lines), *map(terminal, grids), *map(rich.text.Text, notes))


def markdown(study: StudyResult) -> str:
    """The study as Markdown without headings, for a README.

    Args:
        study: what `read` returned.

    Returns:
        Markdown that ends with a newline.
    """
    blocks = [
        f"**{_escaped(study.title)}** {_escaped(study.question)}",
        *(f"**{_escaped(remark)}**" for remark in remarks(study)),
        "\n".join(f"- **{_escaped(words)}**: {numbers}" for words, numbers in map(verdict, judge(study))),
        _markdown(scores(study)),
        _markdown(costs(study)),
        *map(_markdown, shipped(study)),
        _markdown(comparisons(study)),
        f"{PROTOCOL} {TEST}",
        # An indented block needs no escaping.
        "\n".join(f"    {line}" for line in study.command.splitlines()),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def remarks(study: StudyResult) -> list[str]:
    """What a reader must know before the numbers."""
    return [remark for remark in (SMOKE if study.smoke else None, power_note(study)) if remark]


def _score(measure: Measure, epoch: str = "last") -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        values = arm.values(measure, epoch)
        if values is None:
            return NOTHING
        over = spread(values)
        mean = f"{over.mean:.{measure.digits}f}"
        return mean if over.n == 1 else f"{mean} ± {over.deviation:.{measure.digits}f}"

    return cell


def _cost(key: str, shown: Callable[[float], str]) -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        values = [value for cell in arm.cells if (value := cell.cost[key]) is not None]
        return shown(sum(values) / len(values)) if len(values) == len(arm.cells) else NOTHING

    return cell


def _latency(study: StudyResult, arm: ArmResult) -> str:
    times = study.latency_ms.get(arm.name)
    if times is None:
        return NOTHING
    unit, scale = ("µs", 1000) if times["median"] < 1 else ("ms", 1)
    median, low, high = (f"{_three(scale * times[key])}" for key in ("median", "low", "high"))
    return f"{median} {unit} ({low}–{high})"


def _three(value: float) -> str:
    """At least three significant digits, never an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


_Columns = tuple[tuple[str, Callable[[StudyResult, ArmResult], str]], ...]
_SCORES: _Columns = (
    ("accuracy %,\nlast epoch", _score(ACCURACY)),
    ("accuracy %,\ndev-selected", _score(ACCURACY, "selected")),
    ("NLL", _score(NLL)),
    ("ECE %", _score(ECE)),
    ("agreement %", _score(AGREEMENT)),
)
_COSTS: _Columns = (
    ("parameters", _cost("parameters", count)),
    ("not zero", _cost("nonzero", count)),
    ("MACs", _cost("macs", count)),
    ("file", _cost("file_bytes", lambda number: f"{_three(number / 1000)} kB")),
    ("gzip", _cost("gzip_bytes", lambda number: f"{_three(number / 1000)} kB")),
    ("latency (quartiles)", _latency),
)


def _grid(study: StudyResult, title: str, columns: _Columns) -> Grid:
    groups = list(dict.fromkeys(arm.group for arm in study.arms))
    rows: list[tuple[str, ...]] = []
    for group in groups:
        if len(groups) > 1:
            rows.append((group,))
        arms = [arm for arm in study.arms if arm.group == group]
        rows += [(arm.name, *(cell(study, arm) for _, cell in columns)) for arm in arms]
    return Grid(title, ("arm", *(heading for heading, _ in columns)), tuple(rows))


def terminal(grid: Grid) -> rich.table.Table:
    """A grid for a terminal."""
    # The narrowest gaps: six columns have to fit 80.
    result = rich.table.Table(
        title=f"\n{grid.title}",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
    )
    for index, heading in enumerate(grid.headings):
        # A name that is too long goes on in a line below: cut short, two arms could look alike.
        result.add_column(heading, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in grid.rows:
        if len(row) == 1:
            result.add_section()
        result.add_row(*map(rich.text.Text, row), style="italic" if len(row) == 1 else None)
    return result


def _markdown(grid: Grid) -> str:
    rows = [tuple(map(_escaped, grid.headings)), ("---", *("--:" for _ in grid.headings[1:]))]
    for row in grid.rows:
        cells = [_escaped(text) for text in row]
        rows.append((f"*{cells[0]}*", *("" for _ in grid.headings[1:])) if len(row) == 1 else tuple(cells))
    return f"{_escaped(grid.title)}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    """Text as Markdown shows it: no markup, no line break that would end a table row."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(text.split()))

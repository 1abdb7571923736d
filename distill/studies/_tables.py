"""The tables of a study, and how a table looks in a terminal and in Markdown."""

import dataclasses
import html
import math
import re
from collections.abc import Callable, Mapping, Sequence

import rich.box
import rich.table
import rich.text

from distill.studies._judging import Judged, judge
from distill.studies._measures import Measure
from distill.studies._results import ArmResult, StudyResult
from distill.studies._statistics import Comparison, detectable, spread

NOTHING = "–"


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table in plain text.

    Attributes:
        title: title above the table.
        headings: heading of each column.
        rows: the rows. A row of a single text is a heading for the rows below it.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def scores(study: StudyResult) -> Grid:
    """The test scores of each arm."""
    counts = sorted({len(arm.cells) for arm in study.arms})
    seeds = number_of_seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    first, *others = study.measures
    columns = [(first.heading, _score(first)), *((one.heading, _score(one)) for one in others)]
    if any("selected" in cell.test for arm in study.arms for cell in arm.cells):
        last, selected = f"{first.heading},\nlast epoch", f"{first.heading},\ndev-selected"
        columns[:1] = [(last, _score(first)), (selected, _score(first, "selected"))]
    return _grid(study, f"Test scores, mean ± standard deviation over {seeds}", columns)


def costs(study: StudyResult) -> Grid:
    """The size and the cost of each arm's model."""
    return _grid(study, "Size and cost of one example", _COSTS)


def shipped(study: StudyResult) -> Grid | None:
    """The LiteRT files of the arms that have one, compared with the first; `None` if no file was written."""
    names = [arm.name for arm in study.arms if arm.name in study.litert_bytes]
    if not names:
        return None
    size, time = study.litert_bytes[names[0]], study.latency_ms[names[0]]["median"]
    rows = [
        (
            name,
            _score(study.measures[0])(study, study.arm(name)),
            _kilobytes(study.litert_bytes[name]),
            f"{size / study.litert_bytes[name]:.1f}",
            _latency(study, study.arm(name)),
            f"{time / study.latency_ms[name]['median']:.1f}",
        )
        for name in names
    ]
    headings = (
        "arm",
        study.measures[0].heading,
        "file",
        "times\nsmaller",
        "one example (quartiles)",
        "times\nfaster",
    )
    return Grid("LiteRT files, timed on one thread", headings, tuple(rows))


def comparisons(study: StudyResult) -> Grid:
    """The paired comparisons on test, with the differences at the dev-selected epochs, if there are any, at the end."""
    first = study.measures[0]
    selected = [f"{one.raw.difference:+.{first.digits}f}" for one in judge(study, epoch="selected")]
    rows = [
        (
            f"{last.arm} − {last.baseline}",
            f"{last.raw.difference:+.{first.digits}f}",
            interval(last.adjusted, digits=first.digits),
            _p(last.adjusted.p),
            _p(last.raw.sign_flip_p),
            last.adjusted.verdict,
            _shown_from(last, first),
            *selected[i : i + 1],
        )
        for i, last in enumerate(judge(study))
    ]
    headings = (
        *("comparison", first.unit or "difference", "interval", "p,\nHolm", "p, sign\nflips", "verdict"),
        *("shown\nfrom", *(["selected"] if selected else [])),
    )
    return Grid(f"Differences in test {first.name}", headings, tuple(rows))


def _p(p: float) -> str:
    """A p value with three decimals, or that it is too small for them."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _shown_from(judged: Judged, measure: Measure) -> str:
    """The true difference that as many seeds show with 95% probability."""
    if not judged.raw.deviation > 0:
        return NOTHING
    found = detectable(judged.raw.deviation, judged.raw.n, comparisons=judged.together)
    return f"{found:.{measure.digits}f}"


def other_measures(study: StudyResult) -> Grid:
    """The same comparisons by the study's other measures; Holm's adjustment is made within each measure."""
    rows = [
        (
            f"{judged.arm} − {judged.baseline}",
            f"{measure.name} ({measure.unit})" if measure.unit else measure.name,
            f"{judged.raw.difference:+.{measure.digits}f}",
            interval(judged.adjusted, digits=measure.digits),
            _p(judged.adjusted.p),
            judged.adjusted.verdict,
        )
        for measure in study.measures[1:]
        if not measure.of_teacher
        for judged in judge(study, measure=measure)
    ]
    headings = ("comparison", "measure", "difference", "interval", "p, Holm", "verdict")
    return Grid("Differences by other measures", headings, tuple(rows))


def tuning(study: StudyResult) -> Grid:
    """The settings that were tried on dev; those that were chosen are marked."""
    first = study.measures[0]
    rows = [
        (
            one.arm,
            _settings(settings),
            f"{first.scale * score:.{first.digits}f}",
            "chosen" if settings == one.chosen else "",
        )
        for one in study.tuning
        for settings, score in one.choices
    ]
    return Grid("Settings tried on dev", ("arm", "settings", f"dev {first.heading}", ""), tuple(rows))


def interval(comparison: Comparison, *, digits: int = 2) -> str:
    """The interval in words, or a dash if there is none."""
    if math.isnan(comparison.low):
        return NOTHING
    return f"{comparison.low:+.{digits}f} to {comparison.high:+.{digits}f}"


def count(number: float) -> str:
    """A number such as `7.40k`, `216k`, `1.23M` or `4.10G`; below a thousand it is rounded to a whole one."""
    for power, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return _three(number / 10**power) + suffix
    return f"{number:.0f}"


def number_of_seeds(number: int) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{number} seed{'s' * (number != 1)}"


def for_terminal(grid: Grid) -> rich.table.Table:
    """A table for a terminal: `rich.print(for_terminal(grid))`."""
    # The narrowest gaps, so that six columns fit into 80 characters.
    result = rich.table.Table(
        title=f"\n{grid.title}",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
    )
    for index, heading in enumerate(grid.headings):
        # A name that is too long continues on the next line: two shortened names could look alike.
        result.add_column(heading, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in grid.rows:
        if len(row) == 1:
            result.add_section()
        result.add_row(*map(rich.text.Text, row), style="italic" if len(row) == 1 else None)
    return result


def for_markdown(grid: Grid) -> str:
    """A table in Markdown, with its title above it."""
    rows = [tuple(map(markdown_text, grid.headings)), ("---", *("--:" for _ in grid.headings[1:]))]
    for row in grid.rows:
        cells = [markdown_text(text) for text in row]
        rows.append((f"*{cells[0]}*", *("" for _ in grid.headings[1:])) if len(row) == 1 else tuple(cells))
    return f"{markdown_text(grid.title)}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: without markup, and without an end to a table's row."""
    # Not every Markdown takes a backslash before "<".
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", plain)


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _score(measure: Measure, epoch: str = "last") -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        values = arm.values(measure, epoch=epoch)
        if values is None:
            return NOTHING
        over_seeds = spread(values)
        mean = f"{over_seeds.mean:.{measure.digits}f}"
        return mean if over_seeds.n == 1 else f"{mean} ± {over_seeds.deviation:.{measure.digits}f}"

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


def _kilobytes(number: float) -> str:
    return f"{_three(number / 1000)} kB"


def _three(value: float) -> str:
    """A number with at least three significant digits and without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


_Columns = Sequence[tuple[str, Callable[[StudyResult, ArmResult], str]]]
_COSTS: _Columns = (
    ("parameters", _cost("parameters", count)),
    ("nonzero", _cost("nonzero", count)),
    ("MACs", _cost("macs", count)),
    ("file", _cost("file_bytes", _kilobytes)),
    ("gzip", _cost("gzip_bytes", _kilobytes)),
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

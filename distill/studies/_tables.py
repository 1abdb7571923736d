"""The tables of a study."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.studies._grids import (
    NOTHING,
    Grid,
    Number,
    for_csv,
    for_html,
    for_markdown,
    for_terminal,
    markdown_text,
)
from distill.studies._judging import Judged, interval, judge
from distill.studies._measures import Measure
from distill.studies._results import ArmResult, CellResult, StudyResult
from distill.studies._statistics import detectable, spread

__all__ = [
    "NOTHING",
    "Grid",
    "Number",
    "comparisons",
    "costs",
    "count",
    "for_csv",
    "for_html",
    "for_markdown",
    "for_terminal",
    "interval",
    "kilobytes",
    "markdown_text",
    "milliseconds",
    "number_of_seeds",
    "other_measures",
    "scores",
    "settings",
    "shipped",
    "training",
    "tuning",
]


def scores(study: StudyResult) -> Grid:
    """The test scores of each arm."""
    counts = sorted({len(arm.cells) for arm in study.arms})
    seeds = number_of_seeds(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    columns = [(one.heading, _score(one)) for one in study.measures]
    return _grid(study, f"Test scores, mean ± standard deviation over {seeds}", columns)


def costs(study: StudyResult) -> Grid:
    """The size and the cost of each arm's model."""
    return _grid(study, "Size and cost of one example", _COSTS)


def shipped(study: StudyResult) -> Grid | None:
    """The LiteRT files of the arms that have one, compared with the first; `None` if no file was written."""
    names = [
        arm.name for arm in study.arms if arm.name in study.litert_bytes and arm.name in study.latency_ms
    ]
    if not names:
        return None
    size, time = study.litert_bytes[names[0]], study.latency_ms[names[0]]["median"]
    rows = [
        (
            name,
            _score(study.measures[0])(study, study.arm(name)),
            Number(kilobytes(study.litert_bytes[name]), study.litert_bytes[name]),
            _number(size / study.litert_bytes[name], ".1f"),
            _latency(study, study.arm(name)),
            _number(time / study.latency_ms[name]["median"], ".1f"),
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
    """The paired comparisons on test."""
    first = study.measures[0]
    judged = judge(study)
    vary = len({one.raw.n for one in judged}) > 1
    rows = [
        (
            f"{one.arm} − {one.baseline}",
            *([_number(one.raw.n, "d")] if vary else []),
            _number(one.raw.difference, f"+.{first.digits}f"),
            interval(one.adjusted, digits=first.digits),
            _p(one.adjusted.p),
            _p(one.raw.sign_flip_p),
            one.adjusted.verdict,
            _shown_from(one, first),
        )
        for one in judged
    ]
    headings = (
        *("comparison", *(["seeds"] if vary else [])),
        *(first.unit or "difference", "interval", "p,\nHolm", "p, sign\nflips", "verdict"),
        "shown\nfrom",
    )
    return Grid(f"Differences in test {first.name}", headings, tuple(rows))


def _p(p: float) -> str:
    """A p value with three decimals, or that it is too small for them."""
    return Number("<0.001" if p < 0.001 else f"{p:.3f}", p)


def _shown_from(judged: Judged, measure: Measure) -> str:
    """The true difference that as many seeds show with 95% probability."""
    if not judged.raw.deviation > 0:
        return NOTHING
    found = detectable(judged.raw.deviation, judged.raw.n, comparisons=judged.together)
    return _number(found, f".{measure.digits}f")


def other_measures(study: StudyResult) -> Grid:
    """The same comparisons by the study's other measures; Holm's adjustment is made within each measure."""
    rows = [
        (
            f"{judged.arm} − {judged.baseline}",
            f"{measure.name} ({measure.unit})" if measure.unit else measure.name,
            _number(judged.raw.difference, f"+.{measure.digits}f"),
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
            _number(first.scale * score, f".{first.digits}f"),
            "chosen" if settings == one.chosen else "",
        )
        for one in study.tuning
        for settings, score in one.choices
    ]
    return Grid("Settings tried on dev", ("arm", "settings", f"dev {first.heading}", ""), tuple(rows))


def training(study: StudyResult) -> Grid:
    """What it took to train each arm."""
    return _grid(
        study,
        "What training took",
        (
            ("seeds", lambda _, arm: _number(len(arm.cells), "d")),
            ("epochs", _trained(lambda cell: cell.epochs, count)),
            ("seconds per seed", _trained(lambda cell: cell.seconds, lambda mean: f"{mean:,.0f}")),
            ("minutes in all", lambda _, arm: _number(sum(cell.seconds for cell in arm.cells) / 60, ",.1f")),
        ),
    )


def settings(study: StudyResult) -> Grid | None:
    """What the cells of each arm depend on besides their seed; `None` if it was not recorded."""
    known = [(arm.name, plain) for arm in study.arms if (plain := _plain(arm.cells[0].config))]
    names = list(dict.fromkeys(key for _, plain in known for key in plain))
    rows = tuple((arm, *(_setting(plain, key) for key in names)) for arm, plain in known)
    return Grid("Settings", ("arm", *names), rows) if names else None


def _plain(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings in a config: those of an arm's function, or all of a config of another kind."""
    found = config.get("settings", config)
    return found if isinstance(found, Mapping) else {}


def _setting(plain: Mapping[str, Any], key: str) -> str:
    if key not in plain:
        return NOTHING
    value = plain[key]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number(value, "g")
    return value if isinstance(value, str) else json.dumps(value)


def count(number: float) -> str:
    """A number such as `7.40k`, `216k`, `1.23M` or `4.10G`; below a thousand it is rounded to a whole one."""
    for power, suffix in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return _three(number / 10**power) + suffix
    return f"{number:.0f}"


def kilobytes(number: float) -> str:
    """A number of bytes such as `30.1 kB`."""
    return f"{_three(number / 1000)} kB"


def milliseconds(number: float) -> str:
    """A time such as `12.4 µs` or `1.23 ms`."""
    return f"{_three(1000 * number)} µs" if number < 1 else f"{_three(number)} ms"


def number_of_seeds(number: int) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{number} seed{'s' * (number != 1)}"


def _settings(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def _score(measure: Measure) -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        values = arm.values(measure)
        if values is None:
            return NOTHING
        over_seeds = spread(values)
        mean = f"{over_seeds.mean:.{measure.digits}f}"
        deviation = f" ± {over_seeds.deviation:.{measure.digits}f}" if over_seeds.n > 1 else ""
        return Number(mean + deviation, over_seeds.mean)

    return cell


def _cost(key: str, shown: Callable[[float], str]) -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        values = [value for cell in arm.cells if (value := cell.cost[key]) is not None]
        if len(values) < len(arm.cells):
            return NOTHING
        mean = sum(values) / len(values)
        return Number(shown(mean), mean)

    return cell


def _trained(
    value_of: Callable[[CellResult], float], shown: Callable[[float], str]
) -> Callable[[StudyResult, ArmResult], str]:
    def cell(study: StudyResult, arm: ArmResult) -> str:
        mean = sum(map(value_of, arm.cells)) / len(arm.cells)
        return Number(shown(mean), mean)

    return cell


def _latency(study: StudyResult, arm: ArmResult) -> str:
    times = study.latency_ms.get(arm.name)
    if times is None:
        return NOTHING
    unit, scale = ("µs", 1000) if times["median"] < 1 else ("ms", 1)
    median, low, high = (f"{_three(scale * times[key])}" for key in ("median", "low", "high"))
    return Number(f"{median} {unit} ({low}–{high})", times["median"])


def _number(value: float, form: str) -> Number:
    return Number(f"{value:{form}}", value)


def _three(value: float) -> str:
    """A number with at least three significant digits and without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


_Columns = Sequence[tuple[str, Callable[[StudyResult, ArmResult], str]]]
_COSTS: _Columns = (
    ("parameters", _cost("parameters", count)),
    ("nonzero", _cost("nonzero", count)),
    ("MACs", _cost("macs", count)),
    ("file", _cost("file_bytes", kilobytes)),
    ("gzip", _cost("gzip_bytes", kilobytes)),
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

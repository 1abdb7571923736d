"""Makes one study out of the parts that several machines ran."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from distill.studies._results import ArmResult, StudyResult

One = TypeVar("One")


def merge(studies: Sequence[StudyResult]) -> StudyResult:
    """Joins runs of one study that have different seeds or different arms into one.

    If two runs have the same arm with the same seed, the first one's cell is taken. Latencies are those of the first
    run that has any, since times from different machines do not compare.

    Args:
        studies: at least one run; the first gives the title and the order.

    Returns:
        The study, with a note on whatever was left out.

    Raises:
        ValueError: they are not runs of one study, or the settings or code of an arm differ between them.
    """
    first = studies[0]
    if len(studies) == 1:
        return first
    for other in studies[1:]:
        _require_same("name", first, other, lambda study: study.name)
        _require_same("measures", first, other, lambda study: [measure.key for measure in study.measures])
        _require_same("value of smoke", first, other, lambda study: study.smoke)
        if None not in (_data(first), _data(other)):
            _require_same("setting of the data", first, other, _data)
    notes = list(_unique(note for study in studies for note in study.notes))
    arms: dict[str, ArmResult] = {}
    for study in studies:
        for arm in study.arms:
            arms[arm.name] = _joined(arms[arm.name], arm, notes) if arm.name in arms else arm
    pairs, primary = _comparisons(studies, arms)
    # What one run lacked, another may have.
    notes = [
        note for note in notes if note not in {*map(left_out, arms), *(not_compared(*pair) for pair in pairs)}
    ]
    machines = list(_unique(str(one.extra["machine"]) for one in studies if one.extra.get("machine")))
    timed = next((study for study in studies if study.latency_ms), first)
    if untimed := sorted({name for study in studies for name in study.latency_ms} - set(timed.latency_ms)):
        notes.append(
            f"No latency is shown of {', '.join(untimed)}: another run timed them, and times of several machines do "
            "not compare."
        )
    if len(commits := list(_unique(study.git_commit or "none" for study in studies))) > 1:
        notes.append(f"The runs are of different commits: {', '.join(commits)}.")
    return dataclasses.replace(
        first,
        command="\n".join(_unique(study.command for study in studies)),
        created=max(study.created for study in studies),
        versions={
            package: ", ".join(_unique(one.versions[package] for one in studies if package in one.versions))
            for package in _unique(package for study in studies for package in study.versions)
        },
        git_commit=", ".join(commits),
        notes=tuple(notes),
        arms=tuple(arms.values()),
        comparisons=pairs,
        primary=primary,
        tuning=tuple({one.arm: one for study in reversed(studies) for one in study.tuning}.values()),
        latency_ms=timed.latency_ms,
        litert_bytes={name: size for study in reversed(studies) for name, size in study.litert_bytes.items()},
        extra={
            **first.extra,
            **({"machine": "; ".join(machines)} if machines else {}),
            "failed": list(_unique(name for study in studies for name in study.extra.get("failed", ()))),
        },
    )


def left_out(arm: str) -> str:
    """The note on an arm without a finished cell."""
    return f"The arm {arm} was never finished, and is left out."


def not_compared(baseline: str, arm: str) -> str:
    """The note on two arms that share no seed."""
    return f"{arm} and {baseline} finished no seed that both have, and are not compared."


def _data(study: StudyResult) -> Any:
    """The settings of a run's data, which all its arms share; `None` if no cell recorded them."""
    return next((arm.cells[0].config["data"] for arm in study.arms if "data" in arm.cells[0].config), None)


def _require_same(
    what: str, first: StudyResult, other: StudyResult, value_of: Callable[[StudyResult], object]
) -> None:
    if value_of(first) != value_of(other):
        raise ValueError(
            f"Runs are merged if they are of one study, with one {what}. "
            f"Received: {value_of(first)!r} and {value_of(other)!r}."
        )


def _joined(one: ArmResult, other: ArmResult, notes: list[str]) -> ArmResult:
    """An arm with the seeds of both runs."""
    is_known = bool(one.cells[0].config) and bool(other.cells[0].config)
    if not is_known:
        notes.append(f"Not all runs record the settings and code of {one.name}, so these were not compared.")
    if _identity(one, is_known=is_known) != _identity(other, is_known=is_known):
        raise ValueError(
            "Runs are merged if each of their arms has the same settings and code in all of them. Received: arm "
            f"{one.name!r} as {_identity(one)} and as {_identity(other)}. Run it again in one of them, or leave it out "
            "there with --arms."
        )
    cells = {cell.seed: cell for cell in other.cells} | {cell.seed: cell for cell in one.cells}
    differing = [
        str(cell.seed)
        for cell in other.cells
        if cells[cell.seed].test != cell.test or cells[cell.seed].dev != cell.dev
    ]
    if differing:
        notes.append(
            f"Several runs trained {one.name} with seed {', '.join(differing)}, to other scores, as machines of other "
            "kinds do. Those of the first are shown; arms that need it learned from that of their own run."
        )
    return dataclasses.replace(one, cells=tuple(cells[seed] for seed in sorted(cells)))


def _identity(arm: ArmResult, *, is_known: bool = True) -> dict[str, Any]:
    """What identifies an arm, whatever the seed: its group, settings and code, if they are known."""
    config = {key: value for key, value in arm.cells[0].config.items() if is_known and key != "needs"}
    return {"label": arm.label, "group": arm.group, **config}


def _comparisons(
    studies: Sequence[StudyResult], arms: dict[str, ArmResult]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """The comparisons that any run made or declared whose arms are there and share a seed."""

    def known(kind: str) -> tuple[tuple[str, str], ...]:
        declared = [
            (baseline, arm)
            for study in studies
            for baseline, arm in [*study.extra.get("declared", {}).get(kind, ()), *getattr(study, kind)]
        ]
        return tuple(
            (baseline, arm)
            for baseline, arm in _unique(declared)
            if baseline in arms and arm in arms and set(arms[baseline].seeds) & set(arms[arm].seeds)
        )

    return known("comparisons"), known("primary")


def _unique(values: Iterable[One]) -> Iterable[One]:
    """Values without repetitions, in their order."""
    return dict.fromkeys(values)

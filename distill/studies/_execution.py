"""Runs a study: chooses settings, trains seed by seed and arm by arm, and writes study.json and the report."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import BrokenExecutor, Executor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from distill.studies import _report as report
from distill.studies import _sections as sections
from distill.studies._cell_work import Chosen, Make, files_of, folder_of, maker, work_of
from distill.studies._conclusion import Trials, choose, conclude
from distill.studies._declarations import Arm, Cell, Surroundings
from distill.studies._declared import Design, about
from distill.studies._early import early_verdicts, stages
from distill.studies._merging import left_out, not_compared
from distill.studies._pools import pool_of
from distill.studies._publishing import publish
from distill.studies._ray import Ray
from distill.studies._reading import model_file, read, scores_of
from distill.studies._recording import is_named, record_again, unnamed
from distill.studies._records import write_text
from distill.studies._results import StudyResult
from distill.studies._runner import CellError, Runner, Work, locked
from distill.studies._shipping import ship

TUNING_SEEDS = (1000, 1001, 1002)  # never those of a comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a study is run; `Study.run` has the same arguments."""

    study_dir: Path
    seeds: range
    jobs: int
    engine: Ray | None
    tune: bool
    smoke: bool
    budget: float | None
    surroundings: Surroundings
    command: str

    def pool(self, design: Design) -> AbstractContextManager[Executor]:
        """The executor that runs the cells."""
        return pool_of(design, self.study_dir, jobs=self.jobs, engine=self.engine)


@dataclasses.dataclass(frozen=True)
class _Running:
    """A study that runs: what it declares, how it is run, and what runs its cells."""

    design: Design
    plan: Plan
    runner: Runner
    work: Work
    make: Make

    @classmethod
    def of(cls, design: Design, plan: Plan, pool: Executor) -> "_Running":
        runner = Runner(plan.study_dir, pool=pool, console=Console())
        work = work_of(design, plan.surroundings, may_be_edited=plan.engine is None)
        return cls(design, plan, runner, work, maker(design, smoke=plan.smoke))

    def run(
        self, cells: Sequence[Cell], label: str, gone: Set[str] = frozenset()
    ) -> tuple[list[Cell], list[Cell]]:
        """Runs cells after those that they need; returns the finished ones and the lost, which failed or lack a need.

        Of cells that they need and that are not among them, those in `gone` are lost and the others finished.
        """
        finished: list[Cell] = []
        lost: list[Cell] = []
        for depth in range(1 + max(self.design.arms[cell.arm].depth for cell in cells)):
            gone = gone | {cell.name for cell in lost}
            mine = [cell for cell in cells if self.design.arms[cell.arm].depth == depth]
            ready = [cell for cell in mine if not gone & set(cell.config.needs.values())]
            lost += [cell for cell in mine if cell not in ready]
            if not ready:
                continue
            failed: tuple[Cell, ...] = ()
            try:
                self.runner.run(ready, self.work, label=f"{label}, {_listed([cell.arm for cell in ready])}")
            except CellError as error:
                if not error.failed:
                    raise
                failed = error.failed
            lost += failed
            finished += [cell for cell in ready if cell not in failed]
        return finished, lost

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell has been trained and scored."""
        return (self.plan.study_dir / cell.folder / "result.json").exists()


def execute(design: Design, plan: Plan) -> StudyResult:
    """Runs what is not finished, writes the report, and reads the study."""
    began = time.monotonic()
    plan.study_dir.mkdir(parents=True, exist_ok=True)
    with plan.pool(design) as pool:
        running = _Running.of(design, plan, pool)
        _require_scores(running)
        chosen: dict[str, dict[str, Any]] = {}
        tuning, refused = _tune(running, chosen) if plan.tune else ([], [])
        finished, lost, notes = _all_seeds(running, chosen, began)
        notes += refused
        arms = [name for name in design.arms if finished[name]]
        if not arms:
            raise CellError(
                f"No arm finished a seed, so there is nothing to compare. What went wrong is in "
                f"{plan.study_dir / 'workers.log'}. Finished cells are kept: fix the cause and run the study again."
            )
        notes += [left_out(name) for name in design.arms if not finished[name]]
        cells = {name: [finished[name][seed] for seed in sorted(finished[name])] for name in arms}
        shared = [
            (baseline, arm)
            for baseline, arm in design.comparisons
            if finished.get(baseline, {}).keys() & finished.get(arm, {}).keys()
        ]
        notes += [
            not_compared(baseline, arm)
            for baseline, arm in design.comparisons
            if baseline in arms and arm in arms and (baseline, arm) not in shared
        ]
        files = {name: model_file(plan.study_dir / own[0].folder) for name, own in cells.items()}
        running.runner.console.print("writing and timing LiteRT files, then the report")
        with locked(plan.study_dir):
            latency_ms, litert_bytes, unshipped = _shipped(
                pool, design, files, plan.study_dir / "litert", plan.seeds.start
            )
            conclude(
                plan.study_dir,
                [(_shown(design, name, chosen), own) for name, own in cells.items()],
                study=design.name,
                title=design.title,
                question=design.question,
                command=plan.command,
                smoke=plan.smoke,
                notes=[*notes, *unshipped],
                measures=design.metrics,
                comparisons=shared,
                primary=[pair for pair in design.primary if pair in shared],
                # With the arms of another run, more of these comparisons can be made.
                declared={"comparisons": design.comparisons, "primary": design.primary},
                failed=[cell.name for cell in lost],
                tuning=tuning,
                latency_ms=latency_ms,
                litert_bytes=litert_bytes,
                code=folder_of(design),
            )
            found = read(plan.study_dir)
            write_text(plan.study_dir / report.SECTIONS, sections.html(found, design.sections))
            report.write(plan.study_dir)
            publish(plan.study_dir, wandb=plan.surroundings.wandb, code=folder_of(design))
            return found


def _shipped(
    pool: Executor, design: Design, files: Mapping[str, Path], folder: Path, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """As `ship`, in a worker; whatever it dies of must not cost the study its report."""
    none = "No arm has a LiteRT file, size and latency"
    try:
        return pool.submit(ship, design, files, folder, seed).result()
    except BrokenExecutor:
        return {}, {}, [f"{none}: the process that writes and times them died."]
    except Exception as error:  # of the data
        return {}, {}, [f"{none} ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]})."]


def _require_scores(running: _Running) -> None:
    """Raises ValueError if cells that are finished lack a measure, which a study has got since."""
    design, plan = running.design, running.plan
    wanted = {one.key for one in design.metrics}
    cells = [running.make(name, seed, {}) for name in design.arms for seed in plan.seeds]
    if plan.tune:
        cells += [
            running.make(name, seed, {name: settings})
            for name, arm in design.arms.items()
            for settings in arm.trials
            for seed in TUNING_SEEDS
        ]
    for cell in filter(running.is_finished, cells):
        if missing := sorted(wanted - scores_of(plan.study_dir / cell.folder)):
            raise ValueError(
                "Finished cells of a study must have all its metrics. Received: "
                f"{cell.name} in {plan.study_dir}, without {', '.join(missing)}. Run the study in another folder, "
                "or delete the folders of its cells to train them again."
            )


def execute_trial(design: Design, plan: Plan, arm: str, settings: Mapping[str, Any], seed: int) -> Cell:
    """Runs one cell of an arm after the cells that it needs; a sweep's agent may have named its W&B run."""
    plan.study_dir.mkdir(parents=True, exist_ok=True)
    # Each step has its own processes, which get the environment variables of this one when they start.
    with unnamed(), plan.pool(design) as pool:
        running = _Running.of(design, plan, pool)
        cell = running.make(arm, seed, {arm: settings})
        was_finished = running.is_finished(cell)
        needed = [running.make(one, seed, {}) for one in design.needed_by(arm)]
        lost = running.run(needed, f"needed by {arm}")[1] if needed else []
    if lost:
        raise CellError(f"The trial of {arm} lacks what it needs: {lost[0].name} failed.", lost)
    with plan.pool(design) as pool:
        running = _Running.of(design, plan, pool)
        running.runner.run([cell], running.work, label=f"trial of {arm}")
    if was_finished and is_named():
        record_again(
            cell,
            plan.study_dir,
            plan.study_dir / "sweeps" / os.environ["WANDB_RUN_ID"] / cell.name,
            surroundings=plan.surroundings,
            measures=design.metrics,
            needs=files_of(cell, plan.study_dir / "cells"),
            code=folder_of(design),
        )
    return cell


def _listed(arms: Sequence[str]) -> str:
    """Names of arms in one line, or how many they are."""
    names = list(dict.fromkeys(arms))
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} arms"


def _tune(running: _Running, chosen: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Chooses settings arm by arm, in the order of their declaration, so that those of teachers are chosen first.

    Returns what `choose` does, and a note for each setting that failed, such as a rate at which a loss becomes NaN.
    """
    design, make, study_dir = running.design, running.make, running.plan.study_dir
    tuning, notes = [], []
    for name, arm in design.arms.items():
        if not arm.tune:
            continue
        tried: list[tuple[dict[str, Any], list[Cell]]] = []
        for settings in arm.trials:
            trial = {**chosen, name: settings}
            tried.append((settings, [make(name, seed, trial) for seed in TUNING_SEEDS]))
        wanted: dict[str, Cell] = {}
        for seed in TUNING_SEEDS:
            for one in design.needed_by(name):
                cell = make(one, seed, chosen)
                wanted[cell.name] = cell
        wanted |= {cell.name: cell for _, cells in tried for cell in cells}
        _, lost = running.run(list(wanted.values()), f"choosing settings of {name}")
        gone = {cell.name for cell in lost}
        trials: Trials = [(one, cells) for one, cells in tried if not gone & {cell.name for cell in cells}]
        if not trials:
            raise CellError(
                f"The settings of {name} cannot be chosen: {len(lost)} trials failed, the first as {lost[0].name}.",
                lost,
            )
        notes += [
            f"{name} with {', '.join(f'{key} = {value}' for key, value in settings.items())} failed on dev and was not "
            "chosen."
            for settings, cells in tried
            if gone & {cell.name for cell in cells}
        ]
        tuning += choose({name: trials}, study_dir, measures=design.metrics)
        chosen[name] = tuning[-1]["chosen"]
    return tuning, notes


def _all_seeds(
    running: _Running, chosen: Chosen, began: float
) -> tuple[dict[str, dict[int, Cell]], list[Cell], list[str]]:
    """Runs all arms; returns the finished cells by arm and seed, those that failed, and notes for readers."""
    design, plan = running.design, running.plan
    finished: dict[str, dict[int, Cell]] = {name: {} for name in design.arms}
    notes = [f"The data's {key} is {design.data_settings[key]}." for key in design.changed]
    notes += (
        []
        if plan.tune or not any(arm.tune for arm in design.arms.values())
        else ["Settings are the defaults of the arms' functions; they were not tuned in this run."]
    )
    blocks = (
        [plan.seeds]
        if plan.budget is None
        else [plan.seeds[done : done + 1] for done in range(len(plan.seeds))]
    )
    every_lost: list[Cell] = []
    said: set[str] = set()
    took: list[float] = []  # minutes of the seeds that were trained in this run
    for done, block in enumerate(blocks):
        minutes = (time.monotonic() - began) / 60
        each = sum(took) / len(took) if took else 0.0
        if plan.budget is not None and done >= 2 and minutes + each > plan.budget:
            notes.append(
                f"The budget of {plan.budget:g} minutes allowed {done} of {len(plan.seeds)} seeds; intervals are "
                "wider than they would be with all."
            )
            break
        cells = [running.make(name, seed, chosen) for seed in block for name in design.arms]
        is_new = not all(map(running.is_finished, cells))
        lost: list[Cell] = []
        for stage in stages(design) if plan.budget is None else [list(design.arms)]:
            mine = [cell for cell in cells if cell.arm in stage]
            label = "cells" if plan.budget is None else f"seed {block.start}"
            ran, failed = running.run(mine, label, {cell.name for cell in lost})
            lost += failed
            for cell in ran:
                finished[cell.arm][cell.seed] = cell
            if plan.budget is None and not plan.smoke and not all(finished.values()):
                for line in early_verdicts(design, finished, plan.study_dir):
                    if line not in said:
                        running.runner.console.print(f"so far: {escape(line)}", soft_wrap=True)
                    said.add(line)
        if is_new:
            took.append((time.monotonic() - began) / 60 - minutes)
        if lost:
            notes.append(
                f"These cells failed, or lack a cell that they need: {', '.join(cell.name for cell in lost)}."
            )
        every_lost += lost
    return finished, every_lost, notes


def _shown(design: Design, name: str, chosen: Chosen) -> Arm:
    """An arm for readers."""
    arm = design.arms[name]
    settings = {**arm.settings, **chosen.get(name, {})}
    label = ", ".join([name, *(f"{key} = {value}" for key, value in settings.items())])
    return Arm(
        name,
        group=arm.group,
        label=label,
        description=about(arm.function),
    )

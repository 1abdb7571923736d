"""The command line of a study."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from distill.studies import _summary as summary
from distill.studies._declarations import Surroundings
from distill.studies._declared import Design, about
from distill.studies._execution import Plan
from distill.studies._publishing import sync_line
from distill.studies._ray import Ray
from distill.studies._results import StudyResult
from distill.studies._sweeps import run_trial, write_sweep


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `Study.main`.

    Attributes:
        out: folder for the study's directory.
        arms: arms to run, along with those that they need; "all" for every arm. By default all except those that run
            only on request.
        seeds: number of seeds; by default the study's.
        first_seed: first seed; change it to repeat a study with other seeds.
        data: settings of the data to change, each as NAME=VALUE.
        jobs: number of cells to run at a time; by default one for each core.
        engine: "ray" runs cells on a Ray cluster, which decides how many run at a time.
        cpus: cores for each cell on a Ray cluster, by default 1.
        gpus: GPUs for each cell on a Ray cluster, by default 0; below 1, cells share one.
        memory: GiB of memory for each cell on a Ray cluster; by default, memory is not considered.
        tune: choose the settings on dev for the arms that have some to try.
        smoke: only check that everything runs; the scores mean nothing.
        budget: time in which to run as many of the seeds as fit, and at least two, such as 90s, 20m or 2h.
        wandb: mode of Weights & Biases; by default the value of WANDB_MODE, or offline if it is not set.
        tensorboard: write TensorBoard files as well.
        sweep: an arm: writes the file from which `wandb sweep` makes a sweep over the settings that the arm has to try.
            If settings and a seed follow as JSON, as the sweep's agent passes them, only this trial runs.
    """

    out: Path = Path("runs")
    arms: tuple[str, ...] | None = None
    seeds: int | None = None
    first_seed: int = 0
    data: tuple[str, ...] = ()
    jobs: int | None = None
    engine: Literal["local", "ray"] = "local"
    cpus: int | None = None
    gpus: float | None = None
    memory: float | None = None
    tune: bool = False
    smoke: bool = False
    budget: str | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    tensorboard: bool = False
    sweep: tuple[str, ...] | None = None


def minutes(text: str) -> float:
    """Turns "90s", "20m" or "2h" into minutes.

    Raises:
        ValueError: the text is something else.
    """
    number, unit = text[:-1], text[-1:]
    try:
        return float(number) * {"s": 1 / 60, "m": 1.0, "h": 60.0}[unit]
    except (KeyError, ValueError):
        raise ValueError(f"A budget is a number with s, m or h. Received: --budget {text}.") from None


def setting(text: str) -> tuple[str, Any]:
    """Turns "NAME=VALUE" into a name and a value, which is a string if it is not JSON.

    Raises:
        ValueError: there is no "=".
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"A setting of the data is given as NAME=VALUE. Received: --data {text}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(design: Design, run: Callable[..., StudyResult], arguments: Sequence[str]) -> int:
    """Runs a study from the command line, and prints its tables.

    Args:
        design: the study.
        run: its `Study.run`.
        arguments: what was typed after the command.

    Returns:
        The exit status: 0, 1 after an error or if a cell failed, 130 after Ctrl-C.
    """
    options = tyro.cli(Options, args=arguments, description=described(design), prog=shlex.join(program()))
    console = Console()
    surroundings = Surroundings(wandb=options.wandb, tensorboard=options.tensorboard)
    try:
        if options.sweep is not None:
            console.print(_sweep(design, options, arguments, surroundings), soft_wrap=True, markup=False)
            return 0
        found = run(
            out=options.out,
            arms="all" if options.arms == ("all",) else options.arms,
            seeds=options.seeds,
            first_seed=options.first_seed,
            data=dict(map(setting, options.data)),
            jobs=options.jobs,
            engine=_engine(options),
            tune=options.tune,
            smoke=options.smoke,
            budget=None if options.budget is None else minutes(options.budget),
            surroundings=surroundings,
            command=shlex.join([*program(), *arguments]),
        )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. Finished cells are kept: run the same command again to continue.")
        return 130
    console.print(summary.terminal(found))
    for note in found.notes:
        console.print(f"Note: {escape(note)}", soft_wrap=True)
    study_dir = options.out / _changed(design, options).folder(smoke=options.smoke)
    console.print(f"Report: {escape(str(study_dir / 'report.html'))}", soft_wrap=True)
    if line := sync_line(study_dir):
        console.print(f"To upload the runs to W&B: {escape(line)}", soft_wrap=True)
    if found.extra["failed"]:
        console.print(
            f"[bold red]error:[/] some cells failed; see {escape(str(study_dir / 'workers.log'))}",
            soft_wrap=True,
        )
        return 1
    return 0


def _changed(design: Design, options: Options) -> Design:
    return design.on(dict(map(setting, options.data)))


def _engine(options: Options) -> Ray | None:
    """The cluster that the options describe, if they describe one.

    Raises:
        ValueError: an option belongs to the other engine.
    """
    asked = {
        name: value
        for name in ("jobs", "cpus", "gpus", "memory")
        if (value := getattr(options, name)) is not None
    }
    is_ray = options.engine == "ray"
    others = {name: value for name, value in asked.items() if (name == "jobs") == is_ray}
    if others:
        raise ValueError(
            "--jobs is for processes on this machine, and --cpus, --gpus and --memory for --engine ray. Received: "
            f"{', '.join(f'--{name} {value:g}' for name, value in others.items())} with --engine {options.engine}."
        )
    return Ray(**asked) if is_ray else None


def _sweep(design: Design, options: Options, arguments: Sequence[str], surroundings: Surroundings) -> str:
    """Writes a sweep's file, or runs one trial; returns what to print."""
    changed = _changed(design, options)
    study_dir = options.out / changed.folder(smoke=options.smoke)
    arm, *settings = options.sweep or ("",)
    if settings:
        plan = Plan(
            study_dir=study_dir,
            seeds=range(0),
            jobs=options.jobs or 1,
            engine=_engine(options),
            tune=True,
            smoke=options.smoke,
            budget=None,
            surroundings=surroundings,
            command=shlex.join([*program(), *arguments]),
        )
        return run_trial(changed, plan, arm, " ".join(settings))
    words = [
        part for word in arguments for part in (word.split("=", 1) if word.startswith("--sweep=") else [word])
    ]
    place = words.index("--sweep") + 2
    typed = [*words[:place], "${args_json}", *words[place:]]
    mode = [] if options.wandb else ["--wandb", "online"]
    file = write_sweep(changed, arm, study_dir, [*program()[1:], *typed, *mode])
    return f"{file} is the sweep. To make it: wandb sweep {file}"


def program() -> list[str]:
    """The command of this process as it was typed, without its arguments: a file, or a module after -m."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", *(sys.argv[:1] if spec is None else ["-m", spec.name.removesuffix(".__main__")])]


def described(design: Design) -> str:
    """What a study asks, and its arms."""
    arms = [
        f"{name}{' (on request)' * arm.on_request}: {about(arm.function)}"
        for name, arm in design.arms.items()
    ]
    settings = ", ".join(f"{name}={json.dumps(value)}" for name, value in design.data_settings.items())
    data = [f"Settings of the data: {settings}"] if settings else []
    return "\n\n".join((f"{design.title}. {design.question}".strip(), *data, "Arms:", *arms))

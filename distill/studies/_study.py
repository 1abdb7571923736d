"""What all studies share: their command line, choices made on dev, and the file that concludes them."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import rich.console
import tyro
from rich.console import Console
from rich.markup import escape

from distill.studies._declarations import Arm, Cell
from distill.studies._records import environment, write_json
from distill.studies._results import ACCURACY, read_cell
from distill.studies._runner import Runner, locked, workers


class Options(Protocol):
    """What every study's options have; the rest is its own.

    Attributes:
        out: where the study's directory goes.
        smoke: whether it is only to be seen that everything runs.
        jobs: cells at once.
    """

    out: Path
    smoke: bool
    jobs: int


Chosen = TypeVar("Chosen", bound=Options)


def command(
    name: str,
    arguments: Sequence[str],
    *,
    default: Chosen,
    smoke: Chosen,
    prog: str,
    description: str | None,
    check: Callable[[Chosen], None],
    work: Callable[[Chosen, Runner, str], Sequence[rich.console.RenderableType]],
) -> int:
    """A study's command line: reads options, holds the directory, does the work and prints what came of it.

    Args:
        name: of the study; its directory is OUT/NAME, or OUT/NAME-smoke.
        arguments: what was typed after the command.
        default: the options, a frozen dataclass.
        smoke: the options that `--smoke` starts from.
        prog: the command, for `--help`.
        description: of the study, for `--help`.
        check: raises ValueError for options that cannot work.
        work: is given the options, what runs cells, and the whole command, and returns what to print at the end.

    Returns:
        The exit status.
    """
    chosen = smoke if "--smoke" in arguments else default
    options = tyro.cli(type(default), args=arguments, default=chosen, prog=prog, description=description)
    console = Console()
    began = time.monotonic()
    study_dir = options.out / (f"{name}-smoke" if options.smoke else name)
    try:
        check(options)
        with locked(study_dir), workers(options.jobs, study_dir) as pool:
            shown = work(options, Runner(study_dir, pool, console), shlex.join([*prog.split(), *arguments]))
    except (OSError, RuntimeError, ValueError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. Finished cells are kept: the same command goes on from there.")
        return 130
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))
    console.print(f"{(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


def require_training(study: Any, *rates: str) -> None:
    """Raises ValueError where a study of intervals cannot train with its options.

    Args:
        study: options with fields `seeds`, `epochs` and `batch_size`.
        rates: the fields that are learning rates.
    """
    if study.seeds < 2:
        raise ValueError(f"Intervals are over two seeds or more. Received: --seeds {study.seeds}.")
    if study.epochs < 1:
        raise ValueError(f"A study needs an epoch or more. Received: --epochs {study.epochs}.")
    if study.batch_size < 1 or not all(getattr(study, rate) > 0 for rate in rates):
        given = ("batch_size", *rates)
        shown = ", ".join(f"--{name.replace('_', '-')} {getattr(study, name):g}" for name in given)
        raise ValueError(f"A step needs an example or more and a rate above 0. Received: {shown}.")


def require_datasets(datasets: Sequence[str]) -> None:
    """Raises ValueError where none is named, or one twice."""
    if not datasets or len(set(datasets)) < len(datasets):
        raise ValueError(f"Each data set is named once. Received: --datasets {datasets}.")


def choose(
    trials: Mapping[str, Sequence[tuple[Mapping[str, Any], Sequence[Cell]]]], study_dir: Path
) -> list[dict[str, Any]]:
    """The settings of each arm that were best on dev, by mean accuracy after the last epoch.

    Args:
        trials: for each arm the settings that were tried, with the cells of each; the first of equals is taken.
        study_dir: the study's directory.

    Returns:
        For each arm a dictionary: "arm", "choices" (all settings with their accuracy) and "chosen".
    """
    tuning = []
    for arm, tried in trials.items():
        choices: list[dict[str, Any]] = []
        for settings, cells in tried:
            read = [read_cell(study_dir / cell.folder) for cell in cells]
            accuracy = sum(result.dev["last"][ACCURACY.key] or 0.0 for result in read) / len(read)
            choices.append({"settings": dict(settings), "dev_accuracy": accuracy})
        chosen = max(choices, key=lambda choice: choice["dev_accuracy"])["settings"]
        tuning.append({"arm": arm, "choices": choices, "chosen": chosen})
    return tuning


def conclude(study_dir: Path, arms: Sequence[tuple[Arm, Sequence[Cell]]], **fields: Any) -> None:
    """Writes study.json, which `read` reads.

    Args:
        study_dir: the study's directory.
        arms: each arm with its cells, in the order of the tables.
        **fields: the others of `StudyResult`, by the names that study.json has.
    """
    write_json(
        study_dir / "study.json",
        {
            **fields,
            "arms": [
                {
                    "name": arm.name,
                    "group": arm.group,
                    "label": arm.label,
                    "description": arm.description,
                    "cells": [str(cell.folder) for cell in cells],
                }
                for arm, cells in arms
            ],
            **environment(),
        },
    )

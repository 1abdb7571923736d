"""The command line that studies share: it reads options, reserves the directory, runs the study and reports errors."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import tyro
from rich.console import Console, RenderableType
from rich.markup import escape

from distill.studies._runner import Runner, locked, workers


class Options(Protocol):
    """The options that every study has.

    Attributes:
        out: folder for the study's directory.
        smoke: whether the run only checks that everything works.
        jobs: number of cells to run at a time.
    """

    @property
    def out(self) -> Path: ...
    @property
    def smoke(self) -> bool: ...
    @property
    def jobs(self) -> int: ...


class Training(Protocol):
    """The options of a study that trains and computes intervals."""

    @property
    def seeds(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...


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
    run: Callable[[Chosen, Runner, str], Sequence[RenderableType]],
) -> int:
    """Runs a study from the command line.

    Args:
        name: name of the study; its directory is OUT/NAME, or OUT/NAME-smoke for a smoke run.
        arguments: what was typed after the command.
        default: default options, a frozen dataclass. Its docstring and fields become the options of the command.
        smoke: default options of a smoke run, which `--smoke` asks for.
        prog: the command, as `--help` shows it.
        description: text of `--help`.
        check: raises ValueError for options that cannot work.
        run: runs the study; it is given the options, a runner and the whole command, and returns what to print.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.

    Example:
        A whole study, in a file of its own. `python mine.py --smoke` runs it in seconds.

        ```python
        import dataclasses
        import sys
        from pathlib import Path

        import keras

        from distill import data, studies


        @dataclasses.dataclass(frozen=True)
        class Training:
            label_smoothing: float = 0.0


        @dataclasses.dataclass(frozen=True)
        class Options:
            out: Path = Path("runs")
            smoke: bool = False
            jobs: int = 2
            seeds: int = 8


        def train(cell, directory):
            digits = data.load("digits")
            keras.utils.set_random_seed(cell.seed)
            model = keras.Sequential(
                [keras.Input(digits.input_shape), keras.layers.Flatten(), keras.layers.Dense(digits.num_classes)]
            )
            smoothing = cell.config.label_smoothing
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
            model.compile("adam", loss=loss, metrics=["accuracy"])

            def one_hot(x, y):
                return x, keras.ops.one_hot(y, digits.num_classes)

            return studies.fit_and_measure(
                model,
                model,
                data.batches(digits.train, 64, seed=cell.seed).map(one_hot),
                cell=cell,
                directory=directory,
                surroundings=studies.Surroundings(wandb="disabled"),
                epochs=3,
                dev_batches=data.batches(digits.dev, 500).map(one_hot),
                dev=data.arrays(digits.dev),
                test=data.arrays(digits.test),
                teacher=None,
            )


        def check(options):
            studies.require((options.seeds >= 1, "--seeds must be at least 1", f"--seeds {options.seeds}"))


        def cells_of(arm, seeds, smoothing):
            config = Training(label_smoothing=smoothing)
            return [studies.Cell(study="mine", arm=arm, seed=seed, config=config) for seed in seeds]


        def run(options, runner, typed):
            # The smoothing is chosen on dev, with a seed that the comparison does not use.
            trials = [({"smoothing": one}, cells_of("smoothed", [1000], one)) for one in (0.1, 0.2)]
            runner.run([cell for _, cells in trials for cell in cells], train, label="trials")
            tuning = studies.choose({"smoothed": trials}, runner.study_dir)
            smoothing = tuning[0]["chosen"]["smoothing"]
            plain = studies.Arm("plain", group="all", label="plain", description="On plain labels.")
            label = f"smoothing {smoothing:g}"
            smoothed = studies.Arm("smoothed", group="all", label=label, description="On smoothed labels.")
            arms = [
                (plain, cells_of("plain", range(options.seeds), 0.0)),
                (smoothed, cells_of("smoothed", range(options.seeds), smoothing)),
            ]
            runner.run([cell for _, cells in arms for cell in cells], train, label="cells")
            studies.conclude(
                runner.study_dir,
                arms,
                study="mine",
                title="Smoothed labels",
                question="Does label smoothing help a linear model?",
                command=typed,
                smoke=options.smoke,
                comparisons=[("plain", "smoothed")],
                tuning=tuning,
            )
            shown = studies.summary.terminal(studies.read(runner.study_dir))
            return [shown, f"Report: {studies.report.write(runner.study_dir)}"]


        if __name__ == "__main__":
            sys.exit(
                studies.command(
                    "mine",
                    sys.argv[1:],
                    default=Options(),
                    smoke=Options(smoke=True, seeds=2),
                    prog="python mine.py",
                    description="Compares smoothed labels with plain ones.",
                    check=check,
                    run=run,
                )
            )
        ```
    """
    chosen = smoke if "--smoke" in arguments else default
    options = tyro.cli(type(default), args=arguments, default=chosen, prog=prog, description=description)
    console = Console()
    began = time.monotonic()
    study_dir = options.out / (f"{name}-smoke" if options.smoke else name)
    try:
        require((options.jobs >= 1, "--jobs must be at least 1", f"--jobs {options.jobs}"))
        check(options)
        with locked(study_dir), workers(study_dir, jobs=options.jobs) as pool:
            runner = Runner(study_dir, pool=pool, console=console)
            shown = run(options, runner, shlex.join([*prog.split(), *arguments]))
    except (OSError, RuntimeError, ValueError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. Finished cells are kept: run the same command again to continue.")
        return 130
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))
    console.print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


def require(*rules: tuple[bool, str, str]) -> None:
    """Raises ValueError for the first rule that does not hold.

    Args:
        *rules: whether each holds, the rule itself, and what was received.

    Example:
        >>> from distill import studies
        >>> studies.require((0 < 4.0, "--temperature must be above 0", "--temperature 4"))
    """
    for holds, rule, received in rules:
        if not holds:
            raise ValueError(f"{rule}. Received: {received}.")


def require_training(options: Training, *rates: str) -> None:
    """Raises ValueError if a study that computes intervals cannot train with its options.

    Args:
        options: options with the fields `seeds`, `epochs` and `batch_size`.
        *rates: names of the fields that are learning rates.

    Example:
        ```python
        import dataclasses

        from distill import studies


        @dataclasses.dataclass(frozen=True)
        class Options:
            seeds: int = 8
            epochs: int = 30
            batch_size: int = 64
            learning_rate: float = 1e-3


        studies.require_training(Options(), "learning_rate")
        ```
    """
    require(
        (options.seeds >= 2, "--seeds must be at least 2 for an interval", f"--seeds {options.seeds}"),
        (options.epochs >= 1, "--epochs must be at least 1", f"--epochs {options.epochs}"),
        (options.batch_size >= 1, "--batch-size must be at least 1", f"--batch-size {options.batch_size}"),
    )
    for rate in rates:
        flag, value = f"--{rate.replace('_', '-')}", getattr(options, rate)
        require((value > 0, f"{flag} must be above 0", f"{flag} {value:g}"))


def require_datasets(datasets: Sequence[str]) -> None:
    """Raises ValueError if no data set is named, or one is named twice.

    Example:
        >>> from distill import studies
        >>> studies.require_datasets(["mnist1d", "mnist5k"])
    """
    rule = "--datasets must name at least one data set, and none twice"
    require((0 < len(datasets) == len(set(datasets)), rule, f"--datasets {' '.join(datasets)}"))

"""Runs the cells of a study in parallel processes, and resumes where an earlier run stopped.

A cell is finished when its directory holds `result.json`, which is written last and in one piece. A finished cell is
never run again. An unfinished cell starts over in an empty directory. A directory's name contains a digest of the
config, so a cell with another config is another cell.

The process that runs a cell holds a lock on its directory. The system releases the lock when the process ends, however
it ends. So several processes can run one study, and so can several machines on one file system if its locks hold across
machines.
"""

import contextlib
import dataclasses
import fcntl
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import keras
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from distill._keras import in_safe_mode
from distill.studies._declarations import Cell
from distill.studies._records import environment, write_json

_LOCK = ".lock"

# Does the work of a cell, leaves its files in the directory, and returns what result.json is to hold.
Work = Callable[[Cell, Path], Mapping[str, Any]]


class CellError(RuntimeError):
    """Cells failed. The message names the first one and says what is kept.

    Attributes:
        failed: the cells that failed.

    Example:
        ```python
        from distill import studies


        def results(study):
            try:
                return study.run()
            except studies.CellError as error:
                print(len(error.failed), "cells failed.", error)
        ```
    """

    def __init__(self, message: str, failed: Sequence[Cell] = ()) -> None:
        super().__init__(message)
        self.failed = tuple(failed)


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs the cells of one study.

    Attributes:
        study_dir: directory of the study; its cells are written to the folder `cells` in it.
        pool: processes that run the cells, made by `workers`.
        console: console that shows progress.
    """

    study_dir: Path
    _: dataclasses.KW_ONLY
    pool: Executor
    console: Console
    # Failure -> the first cell that had it.
    _printed: dict[str, str] = dataclasses.field(default_factory=dict, init=False)

    def run(self, cells: Sequence[Cell], work: Work, *, label: str) -> None:
        """Runs the cells that are not finished yet.

        Args:
            cells: cells, in the order in which to start them.
            work: function that does the work of one cell, or a `functools.partial` of one. Other processes import it,
                so it must be defined at the top of a module.
            label: name of this group of cells, shown with its progress.

        Raises:
            CellError: cells failed; the others were run. If a worker was killed, those that were still running are
                stopped. Finished cells are kept.
        """
        waiting = [cell for cell in cells if not (self.study_dir / cell.folder / "result.json").exists()]
        if len(waiting) < len(cells):
            finished = len(cells) - len(waiting)
            self.console.print(f"{escape(label)}: {finished} of {len(cells)} cells already finished")
        if waiting:
            self._run_all(waiting, work, label)

    def _run_all(self, cells: Sequence[Cell], work: Work, label: str) -> None:
        given = work, self.study_dir, keras.dtype_policies.serialize(keras.config.dtype_policy())
        futures = {self.pool.submit(_run_cell, cell, *given): cell for cell in cells}
        failed: list[tuple[Cell, Exception]] = []
        started = time.monotonic()
        with _progress(self.console) as progress:
            task = progress.add_task(escape(label), total=len(cells), left="")
            unfinished: set[Future[bool]] = set(futures)
            while unfinished:
                done, unfinished = wait(unfinished, return_when=FIRST_COMPLETED)
                for future in list(done):
                    if future.exception() is None and not future.result():
                        # Another process is running it: submit it again after the others, and wait then.
                        done.remove(future)
                        again = self.pool.submit(_run_cell, futures[future], *given, wait=True)
                        futures[again] = futures[future]
                        unfinished.add(again)
                if not done:
                    continue
                failed += [
                    (futures[future], error)
                    for future in done
                    if (error := self._error_of(future, futures[future])) is not None
                ]
                finished = len(cells) - len(unfinished)
                seconds = (time.monotonic() - started) / finished * len(unfinished)
                left = f"about {_duration(seconds)} left" if unfinished else "done"
                progress.update(task, completed=finished, left=left)
                if not self.console.is_terminal:
                    names = ", ".join(f"{futures[one].arm} seed {futures[one].seed}" for one in done)
                    self.console.print(escape(f"{label}: {finished} of {len(cells)} cells ({names}), {left}"))
        if failed:
            (cell, error), others = failed[0], len(failed) - 1
            raise CellError(
                f"Cell {cell.name} failed: {error!r}{f', and so did {others} more' * bool(others)}. Its output is in "
                f"{self.study_dir / 'workers.log'}. Finished cells are kept: fix the cause and run the same command "
                "again.",
                [one for one, _ in failed],
            )

    def _error_of(self, future: Future[bool], cell: Cell) -> Exception | None:
        """Returns and prints what went wrong in a cell; the other cells go on."""
        try:
            future.result()
        except BrokenProcessPool as error:
            raise CellError(
                f"A worker process was killed, perhaps because memory ran out, and {cell.name} is unfinished. What it "
                f"printed is in {self.study_dir / 'workers.log'}. Finished cells are kept: run the same command again, "
                "with a smaller --jobs if memory is short. A file that calls run() needs it below "
                'if __name__ == "__main__":, since workers import the file.'
            ) from error
        except Exception as error:
            text = _where(error)
            first = self._printed.setdefault(text, cell.name)
            if first == cell.name:
                said = f"[bold red]Cell {escape(cell.name)} failed:[/]\n{escape(text)}"
            else:
                same = escape(traceback.format_exception_only(error)[-1].strip())
                said = f"[bold red]Cell {escape(cell.name)} failed[/] where {escape(first)} did: {same}"
            self.console.print(said, soft_wrap=True)
            return error
        return None


def _where(error: Exception) -> str:
    """The traceback of an error, from the process that raised it: `concurrent.futures` sends it as a quoted cause."""
    if type(error.__cause__).__name__ == "_RemoteTraceback":
        return str(error.__cause__).strip('"\n')
    is_of_ray = type(error).__module__.startswith("ray.")
    return "".join(traceback.format_exception((error.__cause__ if is_of_ray else None) or error))


@contextlib.contextmanager
def locked(study_dir: Path) -> Iterator[None]:
    """Reserves the tables and the report of a study, and waits for another process that writes them."""
    study_dir.mkdir(parents=True, exist_ok=True)
    with _held(study_dir / _LOCK, wait=True):
        yield


@contextlib.contextmanager
def _held(path: Path, *, wait: bool) -> Iterator[bool]:
    """Tries to hold a lock and yields whether it does; without `wait`, another process may have it."""
    with path.open("w") as file:
        try:
            # The system releases the lock when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("cell {task.completed} of {task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _run_cell(cell: Cell, work: Work, study_dir: Path, policy: dict[str, Any], *, wait: bool = False) -> bool:
    """Runs a cell unless it is finished; returns whether it is now, since another process may be running it."""
    directory = study_dir / cell.folder
    directory.mkdir(parents=True, exist_ok=True)
    with _held(directory / _LOCK, wait=wait) as mine:
        if mine and not (directory / "result.json").exists():
            _run_here(cell, work, directory, policy)
        return mine


def _set_policy(policy: dict[str, Any]) -> None:
    keras.config.set_dtype_policy(keras.dtype_policies.deserialize(policy))


def _run_here(cell: Cell, work: Work, directory: Path, policy: dict[str, Any]) -> None:
    for path in directory.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    identity = {"study": cell.study, "arm": cell.arm, "seed": cell.seed}
    config = dataclasses.asdict(cell.config)
    write_json(directory / "config.json", {**identity, "config": config, **environment()})
    began = time.monotonic()
    # What a worker did before must affect neither the random numbers of a loaded model nor the names of layers.
    # The study's file may have called enable_unsafe_deserialization, which clearing the session forgets.
    is_unsafe = in_safe_mode() is False
    keras.backend.clear_session()
    if is_unsafe:
        keras.config.enable_unsafe_deserialization()
    keras.utils.set_random_seed(cell.seed)
    try:
        _set_policy(policy)  # which the study's file may have set; clearing the session forgets it
        result = work(cell, directory)
    except SystemExit as error:
        raise RuntimeError(
            f"An arm must return a model and not end its process. Received: {cell.name}, which called "
            f"sys.exit({error.code!r})."
        ) from None
    finally:
        _set_policy(policy)  # an arm's own is none of the next one's business
    seconds = round(time.monotonic() - began, 2)
    write_json(directory / "result.json", {**identity, "seconds": seconds, **result})

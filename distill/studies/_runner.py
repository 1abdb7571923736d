"""Runs a study's cells: one frozen config and one seed become one run directory.

A run directory is finished when it holds `result.json`, which is written last and in one piece. A
finished cell is never run again; what an interrupted one left is removed and it starts again, but for
what it put into `stages`: there, work of several networks leaves each that is done. The directory's name holds
a digest of the config: another config is another cell.
"""

import contextlib
import dataclasses
import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from distill.studies._declarations import Cell
from distill.studies._records import environment, write_json

STAGES = "stages"


# Does a cell's work in a directory, leaves its files there and returns what result.json is to hold.
Work = Callable[[Cell, Path], Mapping[str, Any]]


class CellError(RuntimeError):
    """A cell failed; the message names it and says what is kept."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs the cells of one study.

    Attributes:
        study_dir: the cells are written below its `cells`.
        pool: the processes that they run in, see `workers`.
        console: where progress is shown.
    """

    study_dir: Path
    pool: ProcessPoolExecutor
    console: Console

    def run(self, cells: Sequence[Cell], work: Work, label: str) -> None:
        """Runs the cells that are not finished yet.

        Args:
            cells: the cells, in the order to start them.
            work: a module-level function; other processes import it.
            label: what this batch of cells is called where progress is shown.

        Raises:
            CellError: a cell failed. Those that were running are stopped; finished ones are kept.
        """
        waiting = [cell for cell in cells if not (self.study_dir / cell.folder / "result.json").exists()]
        if len(waiting) < len(cells):
            finished = len(cells) - len(waiting)
            self.console.print(f"{label}: {finished} of {len(cells)} cells are finished already")
        if waiting:
            _run_all(self.pool, waiting, work, self.study_dir, self.console, label)


@contextlib.contextmanager
def workers(jobs: int, study_dir: Path) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the cores and start when they are needed.

    Args:
        jobs: how many at once, >= 1.
        study_dir: what they print goes to its `workers.log`.

    Raises:
        ValueError: `jobs` is less than 1.
    """
    if jobs < 1:
        raise ValueError(f"Cells are run by one process or more. Received: jobs={jobs}.")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    begin = (threads, study_dir / "workers.log")
    # Not `fork`: TensorFlow's threads do not survive it.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_worker, begin)
    try:
        yield pool
    except BaseException:
        # A failure or Ctrl-C: what still runs would only be thrown away.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_all(
    pool: ProcessPoolExecutor,
    cells: Sequence[Cell],
    work: Work,
    study_dir: Path,
    console: Console,
    label: str,
) -> None:
    futures = {pool.submit(_run_cell, cell, work, study_dir): cell for cell in cells}
    started = time.monotonic()
    with _progress(console) as progress:
        task = progress.add_task(label, total=len(cells), left="")
        open_futures: set[Future[None]] = set(futures)
        while open_futures:
            done, open_futures = wait(open_futures, return_when=FIRST_COMPLETED)
            for future in done:
                cell = futures[future]
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise CellError(
                        f"A process that ran cells was killed, perhaps for memory, while {cell.name} was open. "
                        "Finished cells are kept: run the same command again, with fewer --jobs if memory is short."
                    ) from error
                except Exception as error:
                    raise CellError(
                        f"Cell {cell.name} failed: {error!r}. What it printed is in {study_dir / 'workers.log'}. "
                        "Finished cells are kept: run the same command again once the cause is gone."
                    ) from error
            finished = len(cells) - len(open_futures)
            left = (time.monotonic() - started) / finished * len(open_futures)
            shown = f"about {_minutes(left)} left" if open_futures else "done"
            progress.update(task, completed=finished, left=shown)
            if not console.is_terminal:
                names = ", ".join(f"{futures[f].arm} seed {futures[f].seed}" for f in done)
                console.print(f"{label}: {finished} of {len(cells)} cells ({names}), {shown}")


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


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _begin_worker(threads: int, log: Path) -> None:
    """Sets a worker up: its share of the cores, and an end together with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # TensorFlow's C++ writes to the descriptors themselves, across the progress that a person follows.
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import tensorflow as tf  # only workers need it; the command line answers at once

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for more work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_cell(cell: Cell, work: Work, study_dir: Path) -> None:
    directory = study_dir / cell.folder
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.name == STAGES:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    identity = {"study": cell.study, "arm": cell.arm, "seed": cell.seed}
    write_json(
        directory / "config.json", {**identity, "config": dataclasses.asdict(cell.config), **environment()}
    )
    began = time.monotonic()
    result = work(cell, directory)
    seconds = round(time.monotonic() - began, 2)
    write_json(directory / "result.json", {**identity, "seconds": seconds, **result})


@contextlib.contextmanager
def locked(study_dir: Path) -> Iterator[None]:
    """Holds a study's directory for this process alone.

    Raises:
        RuntimeError: another process holds it.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    with (study_dir / ".lock").open("w") as file:
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"One study at a time may use a directory. Received: {study_dir}, which another process is using. "
                "Wait for it, or choose another with --out."
            ) from None
        yield

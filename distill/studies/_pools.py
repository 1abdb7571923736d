"""Where the cells of a study run: in processes that share the cores, on a Ray cluster, or in this process."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import tensorflow as tf

from distill.studies._declared import Design
from distill.studies._ray import Ray


@contextlib.contextmanager
def pool_of(design: Design, study_dir: Path, *, jobs: int, engine: Ray | None) -> Iterator[Executor]:
    """Yields what runs the cells: a cluster, processes, or this process if others cannot import the functions.

    Other processes cannot import functions that were typed at a prompt or in a notebook.
    """
    if engine is not None:
        with engine.workers(study_dir) as cluster:
            yield cluster
        return
    functions: list[Any] = [design.data, *(arm.function for arm in design.arms.values())]
    functions += [*(one.score for one in design.metrics), *design.sections]
    typed = not hasattr(sys.modules["__main__"], "__file__")
    if typed and any(getattr(one, "__module__", None) == "__main__" for one in functions):
        yield InThisProcess()
        return
    try:
        pickle.dumps(design)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "Other processes run the arms of a study, so the functions of its data, arms, metrics and sections must "
            f"be defined at the top of a file, under their own names. Received: study {design.name!r}: {error}."
        ) from error
    with workers(study_dir, jobs=jobs) as pool:
        yield pool


@contextlib.contextmanager
def workers(study_dir: Path, *, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Starts processes that share the cores, and ends them afterwards.

    Args:
        study_dir: directory of the study; what the processes print goes to its `workers.log`.
        jobs: number of processes, >= 1. Each starts when there is work for it.

    Yields:
        The pool of processes.

    Raises:
        ValueError: `jobs` is less than 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1. Received: jobs={jobs}.")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Not `fork`: TensorFlow's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    pool = _LoggingPool(jobs, context, _begin_worker, (threads,), log=study_dir / "workers.log")
    try:
        yield pool
    except BaseException:
        # A failure or Ctrl-C: the work that is still running would only be thrown away.
        pool.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _LoggingPool(ProcessPoolExecutor):
    """A pool whose processes print to a file from the start, and so not across the progress bar.

    A process could not redirect itself in time: TensorFlow prints while it is imported, which is before the first line
    of a worker runs.
    """

    def __init__(self, *args: Any, log: Path) -> None:
        super().__init__(*args)
        self._log = log

    def terminate(self) -> None:
        """Ends its processes, and no others that the caller may have."""
        for process in list((self._processes or {}).values()):  # Python 3.14 has terminate_workers for it
            process.terminate()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submits a call; a process that is started for it inherits the file as its stdout and stderr."""
        kept = os.dup(1), os.dup(2)
        try:
            with self._log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            return super().submit(fn, *args, **kwargs)
        finally:
            for descriptor, own in enumerate(kept, 1):
                os.dup2(own, descriptor)
                os.close(own)


class InThisProcess(Executor):
    """Does everything in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _begin_worker(threads: int) -> None:
    """Gives a worker its share of the cores, and lets it end together with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

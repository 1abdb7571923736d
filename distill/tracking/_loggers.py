"""Numbers of a run: JSON lines always, Weights & Biases and TensorBoard beside them.

JSON lines are the record: what cannot be written there is an error. The other sinks never stop a run and
never slow it beyond a stated time-out; one that fails is reported once and left out.
"""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Self

import keras
import numpy as np

_LOG = logging.getLogger(__name__)
_WANDB_MODES = ("offline", "online", "disabled")
_WANDB_PROGRAM = Path(__file__).with_name("_wandb_process.py")


class Tracker:
    """Records one run in `directory`; a context manager.

    `metrics.jsonl` takes one line an epoch: {"step": 3, "loss": 0.21, …}. JSON has no NaN: values that are
    not finite are the strings "NaN", "Infinity" and "-Infinity", which `float` reads back. A file that is
    already there is continued. A line survives kill -9, not a power cut.

    W&B runs in a process of its own that follows `metrics.jsonl` and writes below `directory`/wandb.
    `WANDB_*` variables are honoured: they beat the defaults here and are beaten by arguments. `study` and
    `arm` always name the group and the job type; `tags` are added to WANDB_TAGS. Nothing asks for a key; a
    run that cannot go online is kept offline. The run counts as failed when the block is left by an
    exception or the program is killed. If W&B's process is killed with it, the last second may be missing.

    Args:
        directory: the run's directory; created if missing.
        study: W&B group.
        arm: W&B job type.
        config: nested dict of plain values, sent to W&B.
        tags: W&B tags, up to 64 characters each.
        wandb: "offline", "online" or "disabled"; None takes WANDB_MODE, or "offline" where that is not set.
        tensorboard: also write event files to `directory`/tensorboard.
        project: W&B project; None takes WANDB_PROJECT, or "distill" where that is not set.
        timeout: seconds that W&B may add to the whole run, > 0; all of them fall into `finish`, and half of
            them are for uploads: a large student on a slow line needs more.

    Raises:
        ValueError: an unknown `wandb` mode, or a time-out that is not positive.
        TypeError: `config` holds a value that is not plain.
        OSError: `metrics.jsonl` cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        study: str,
        arm: str,
        config: Mapping[str, Any],
        tags: Sequence[str] = (),
        wandb: str | None = None,
        tensorboard: bool = False,
        project: str | None = None,
        timeout: float = 30.0,
    ):
        if wandb is not None and wandb not in _WANDB_MODES:
            raise ValueError(
                f"wandb must be one of {', '.join(_WANDB_MODES)}. Received {wandb!r}. "
                "Leave it out to follow WANDB_MODE."
            )
        if not timeout > 0:
            raise ValueError(
                f"timeout is a number of seconds > 0. Received {timeout!r}. "
                "Use wandb='disabled' to do without W&B."
            )
        directory = Path(directory).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        self._lines = _JsonLines(directory / "metrics.jsonl")
        self._last_step = -1
        self._closed = False
        self._sinks: dict[str, _Wandb | _TensorBoard] = {}
        mode = wandb or os.environ.get("WANDB_MODE") or "offline"
        start = _dumps(
            {
                "mode": mode,
                "project": project,
                "study": study,
                "arm": arm,
                "tags": list(tags),
                "config": config,
                "timeout": timeout,
                "directory": directory,
                "program": sys.argv[0],
                "metrics": self._lines.path,
                # A continued file makes a new W&B run: W&B cannot resume offline.
                "offset": self._lines.path.stat().st_size,
            }
        )
        if mode != "disabled":
            self._open("W&B", lambda: _Wandb(directory / "wandb", start, timeout))
        if tensorboard:
            self._open("TensorBoard", lambda: _TensorBoard(directory / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records one epoch; never waits for W&B.

        Args:
            metrics: name -> number: Python's, numpy's or a tensor without dimensions.
            step: the epoch, >= 0, above every earlier one.

        Raises:
            RuntimeError: the run is finished.
            ValueError: the step does not increase, or a metric is called "step".
            TypeError: a value is not one number.
            OSError: `metrics.jsonl` cannot be written.
        """
        self._require_open("log")
        if step <= self._last_step:
            raise ValueError(
                "Tracker.log needs steps >= 0 that increase; W&B drops others without a word. Received step "
                f"{step} after {self._last_step}. A second fit counts on with fit(initial_epoch=…)."
            )
        if "step" in metrics:
            raise ValueError(
                "Each line already has its step under the name 'step'. "
                f"Received metrics {sorted(metrics)}. Rename that metric."
            )
        row = {name: _number(name, value) for name, value in metrics.items()}
        self._lines.write(row, step)
        self._last_step = step
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.log, row, step)

    def finish(
        self,
        summary: Mapping[str, Any],
        *,
        table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
        model_file: str | os.PathLike[str] | None = None,
    ) -> None:
        """Ends the run; waits for W&B, `timeout` seconds at most.

        What it takes goes to W&B alone: keep it elsewhere too.

        Args:
            summary: final values, plain.
            table: column names and rows, logged as "table".
            model_file: the student, logged as an artifact of type "model". It is not copied: an offline run
                needs it in its place when it is uploaded.

        Raises:
            RuntimeError: the run is finished.
            TypeError: `summary` or `table` holds a value that is not plain.
        """
        self._require_open("finish")
        file = None if model_file is None else Path(model_file).resolve()
        self._close(_dumps({"exit_code": 0, "summary": summary, "table": table, "model_file": file}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if not self._closed:
            exit_code = 0 if exc_type is None else 1
            self._close(_dumps({"exit_code": exit_code, "summary": {}, "table": None, "model_file": None}))

    def _require_open(self, call: str) -> None:
        if self._closed:
            raise RuntimeError(
                f"A run that is finished takes nothing more. Received {call}(). "
                "Open another Tracker, which continues its metrics.jsonl."
            )

    def _open(self, name: str, sink: Callable[[], "_Wandb | _TensorBoard"]) -> None:
        self._guard(name, lambda: self._sinks.update({name: sink()}))

    def _close(self, final: bytes) -> None:
        self._closed = True
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.close, final)

    def _guard(self, name: str, call: Callable[..., None], *args: Any) -> None:
        """Calls the sink `name`; one that raises is reported and left out."""
        try:
            call(*args)
        except Exception as error:
            self._sinks.pop(name, None)
            # Not warnings.warn: where warnings are errors it would stop the run.
            _LOG.warning(
                "%s is left out from here: %s. The run goes on; its numbers are in %s.",
                name,
                error,
                self._lines.path,
            )


class EpochLogger(keras.callbacks.Callback):
    """Sends the logs of every epoch of `fit` to a tracker, numbered as Keras numbers epochs, from 0.

    Args:
        tracker: an open `Tracker`.
    """

    def __init__(self, tracker: Tracker):
        super().__init__()
        self._tracker = tracker

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Logs one epoch."""
        self._tracker.log(logs or {}, epoch)


class _JsonLines:
    """A file of JSON lines; each is with the operating system when `write` returns."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "a+b") as file:
            file.seek(0)
            # A disk that was full leaves half a line, which would spoil the next one.
            file.truncate(file.read().rfind(b"\n") + 1)

    def write(self, row: Mapping[str, float], step: int) -> None:
        finite = {name: value if math.isfinite(value) else json.dumps(value) for name, value in row.items()}
        with open(self.path, "ab") as file:
            file.write(_dumps({"step": step, **finite}) + b"\n")


class _Wandb:
    """The process that feeds W&B: started here, killed when its end takes too long.

    Args:
        folder: for what passes between the two processes.
        start: the request that `wandb_process.py` reads.
        timeout: seconds that `close` may take.
    """

    def __init__(self, folder: Path, start: bytes, timeout: float):
        self._timeout = timeout
        folder.mkdir(exist_ok=True)
        # Files: a pipe blocks its writer when the other side stops reading.
        request = folder / "start.json"
        request.write_bytes(start)
        reports = folder / "process.log"
        with open(reports, "wb") as output:
            self._process = subprocess.Popen(
                # -P: the modules beside the program are not top-level ones. -W: PYTHONWARNINGS=error is not
                # meant for W&B.
                [sys.executable, "-P", "-W", "ignore", _WANDB_PROGRAM, request],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # No terminal to ask on, and no Ctrl-C: this process closes the run when training ends.
                start_new_session=True,
            )
        self._reports = open(reports)  # noqa: SIM115 (closed by `close`)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Passes reports on; the process reads the row from metrics.jsonl."""
        exit_code = self._process.poll()
        self._pass_reports()
        if exit_code is not None:
            self._process.communicate()
            self._reports.close()
            raise RuntimeError(f"its process ended with exit code {exit_code}")

    def close(self, final: bytes) -> None:
        try:
            self._process.communicate(final, timeout=self._timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise TimeoutError(f"its process did not end within {self._timeout} s and was killed") from None
        finally:
            self._pass_reports()
            self._reports.close()
        if self._process.returncode:
            raise RuntimeError(f"its process ended with exit code {self._process.returncode}")

    def _pass_reports(self) -> None:
        for line in self._reports:
            _LOG.warning("W&B: %s", line.rstrip())


class _TensorBoard:
    """Event files with the epochs' scalars."""

    def __init__(self, folder: Path):
        # Only on request: the JAX and torch backends run without TensorFlow.
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def log(self, row: Mapping[str, float], step: int) -> None:
        with self._writer.as_default(step):
            for name, value in row.items():
                self._summary.scalar(name, value)
        self._writer.flush()

    def close(self, final: bytes) -> None:
        self._writer.close()


def _number(name: str, value: Any) -> float:
    try:
        if np.ndim(value) == 0 and not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"A metric is one number an epoch. Received {name!r} = {value!r}. "
        "Log its mean, or each entry by name."
    )


def _dumps(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        "config, summary and table hold plain values: numbers, strings, lists, dicts. "
        f"Received {value!r}. Put its name or settings there."
    )

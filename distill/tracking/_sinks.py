"""Where the numbers of a run go: a file of JSON lines, a process that feeds W&B, TensorBoard's event files."""

import json
import logging
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from distill.tracking._values import dumps

LOG = logging.getLogger("distill.tracking")
_WANDB_PROGRAM = Path(__file__).with_name("_wandb_process.py")


class Sink(Protocol):
    """Destination of a run's numbers besides the JSON lines. Whatever it raises, the run continues without it."""

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Take the numbers of one epoch."""

    def close(self, final: bytes) -> None:
        """Take the end of the run, as JSON."""


class JsonLines:
    """A file of JSON lines. A line has been handed to the operating system when `write` returns.

    Args:
        path: path to the file; an existing one is continued.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "a+b") as file:
            file.seek(0)
            # A full disk may have left half a line, which would spoil the next one.
            file.truncate(file.read().rfind(b"\n") + 1)

    def write(self, row: Mapping[str, float], step: int) -> None:
        """Append the numbers of one epoch."""
        finite = {name: value if math.isfinite(value) else json.dumps(value) for name, value in row.items()}
        with open(self.path, "ab") as file:
            file.write(dumps({"step": step, **finite}) + b"\n")


class WandbProcess:
    """The process that feeds W&B. It is started here, and killed if it takes too long to end.

    Args:
        folder: folder for the files that pass between the two processes.
        start: request that `_wandb_process.py` reads, as JSON.
        timeout: seconds that `close` may take.
    """

    def __init__(self, folder: Path, start: bytes, timeout: float):
        self._timeout = timeout
        folder.mkdir(exist_ok=True)
        # Files are used because a pipe blocks its writer when the other side stops reading.
        request = folder / "start.json"
        request.write_bytes(start)
        reports = folder / "process.log"
        with open(reports, "wb") as output:
            self._process = subprocess.Popen(
                # -P: modules beside the program must not become top-level ones. -W: PYTHONWARNINGS=error is not meant
                # for W&B.
                [sys.executable, "-P", "-W", "ignore", _WANDB_PROGRAM, request],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # No terminal to ask on, and no Ctrl-C: this process closes the run when training ends.
                start_new_session=True,
            )
        self._reports = open(reports)  # noqa: SIM115 (closed by `close`)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Pass on what the process reports. It reads the numbers from metrics.jsonl itself."""
        exit_code = self._process.poll()
        self._pass_reports()
        if exit_code is not None:
            self._process.communicate()
            self._reports.close()
            raise RuntimeError(f"its process ended with exit code {exit_code}")

    def close(self, final: bytes) -> None:
        """Send the end of the run and wait for the process to end."""
        try:
            self._process.communicate(final + b"\n", timeout=self._timeout)
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
            LOG.warning("W&B: %s", line.rstrip())


class TensorBoard:
    """Event files with the settings of the run, which the HParams tab shows, and the numbers of each epoch.

    Args:
        folder: folder for the event files.
        settings: settings by name, plain values.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        # Imported here because the JAX and torch backends run without TensorFlow.
        import tensorflow as tf
        from tensorboard.plugins.hparams import api

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))
        self._last_step = 0
        with self._writer.as_default(0):
            api.hparams(
                {
                    name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
                    for name, value in settings.items()
                }
            )

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Write the numbers of one epoch."""
        with self._writer.as_default(step):
            for name, value in row.items():
                self._summary.scalar(name, value)
        self._writer.flush()
        self._last_step = step

    def close(self, final: bytes) -> None:
        """Write the final numbers, by which HParams compares runs, and close the event file."""
        summary = json.loads(final)["summary"]
        numbers = {name: value for name, value in summary.items() if isinstance(value, (int, float))}
        self.log(numbers, self._last_step)
        self._writer.close()

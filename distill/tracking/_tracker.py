"""Record the numbers of a run.

The JSON lines are the record: anything that cannot be written there raises an error. The other sinks never stop a run
and never slow it beyond a stated time-out. If one fails, that is reported once and the sink is left out.
"""

import itertools
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self
from weakref import WeakValueDictionary

from distill._types import PathLike
from distill.tracking._sinks import LOG, JsonLines, Sink, TensorBoard, WandbProcess
from distill.tracking._values import dumps, flat, numbers_of

_WANDB_MODES = ("offline", "online", "disabled")


class Tracker:
    """Records one run in a directory; use it as a context manager.

    `metrics.jsonl` gets one line per epoch: {"step": 3, "loss": 0.21, …}. JSON has no NaN, so values that are not
    finite become the strings "NaN", "Infinity" and "-Infinity", which `float` reads back. An existing file is
    continued. A line survives kill -9, but not a power failure.

    A copy in the same process is the tracker itself. Unpickling it in another process opens a new run with the same
    options in a directory next to it: "name-2", "name-3" and so on.

    W&B runs in its own process, which follows `metrics.jsonl` and writes below `directory`/wandb. `WANDB_*` variables
    take precedence over the defaults here, and arguments over variables. `tags` are added to those in WANDB_TAGS.
    Nothing asks for a key, and a run that cannot go online is kept offline. The run counts as failed if an exception
    leaves the block or the program is killed. If W&B's process is killed with it, the last second may be missing.

    Args:
        directory: directory of the run; created if it does not exist.
        study: group of the run in W&B; `None` for no group.
        arm: job type of the run in W&B; `None` for no type.
        config: nested dictionary of plain values, for W&B.
        tags: tags for W&B, of up to 64 characters each.
        wandb: "offline", "online" or "disabled"; `None` for the value of WANDB_MODE, or "offline" without it.
        tensorboard: also write event files to `directory`/tensorboard. They hold what is logged and, for the HParams
            tab, the arm, the config and the final numbers.
        project: project in W&B; `None` for the value of WANDB_PROJECT, or "distill" without it.
        code: folder of the code, whose git commit W&B records; `None` for the folder of the program.
        timeout: seconds > 0 that W&B may add to the whole run. `finish` may use all of them. Half of them are for
            uploads, so a large student on a slow line needs more.

    Raises:
        ValueError: `wandb` has another value, or `timeout` is not positive.
        TypeError: `config` holds a value that is not plain.
        OSError: `metrics.jsonl` cannot be written.

    Example:
        ```python
        from distill.tracking import Tracker

        with Tracker("runs/mine", study="widths", arm="alone", config={"seed": 0}, wandb="disabled") as tracker:
            for epoch in range(3):
                tracker.log({"loss": 1 / (epoch + 1)}, epoch)
            tracker.finish({"accuracy": 0.9})
        ```
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        study: str | None = None,
        arm: str | None = None,
        config: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        wandb: Literal["offline", "online", "disabled"] | None = None,
        tensorboard: bool = False,
        project: str | None = None,
        code: PathLike | None = None,
        timeout: float = 30.0,
    ):
        if wandb is not None and wandb not in _WANDB_MODES:
            raise ValueError(
                f"wandb must be one of {', '.join(_WANDB_MODES)}. Received: {wandb!r}. "
                "Leave it out to follow WANDB_MODE."
            )
        if not timeout > 0:
            raise ValueError(
                f"timeout must be a number of seconds > 0. Received: {timeout!r}. "
                "Use wandb='disabled' to do without W&B."
            )
        directory = Path(directory).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        options = {
            "study": study,
            "arm": arm,
            "config": config,
            "tags": tuple(tags),
            "wandb": wandb,
            "tensorboard": tensorboard,
            "project": project,
            "code": code,
            "timeout": timeout,
        }
        self.reference = Reference(uuid.uuid4().hex, directory, options)
        self.process = os.getpid()
        _OPENED[self.reference.token] = self
        self._lines = JsonLines(directory / "metrics.jsonl")
        self._last_step = -1
        self._artifacts: list[dict[str, Any]] = []
        self._closed = False
        self._sinks: dict[str, Sink] = {}
        mode = wandb or os.environ.get("WANDB_MODE") or "offline"
        start = dumps(
            {
                "mode": mode,
                "project": project,
                "study": study,
                "arm": arm,
                "tags": list(tags),
                "config": config or {},
                "timeout": timeout,
                "directory": directory,
                "program": sys.argv[0],
                "code": Path(sys.argv[0]).resolve().parent if code is None else Path(code).resolve(),
                "metrics": self._lines.path,
                # A continued file makes a new W&B run, because W&B cannot resume offline.
                "offset": self._lines.path.stat().st_size,
            }
        )
        if mode != "disabled":
            self._open("W&B", lambda: WandbProcess(directory / "wandb", start, timeout))
        if tensorboard:
            settings = flat({"arm": arm, **json.loads(start)["config"]})
            self._open("TensorBoard", lambda: TensorBoard(directory / "tensorboard", settings))

    def __reduce__(self) -> tuple[Any, ...]:
        # A run has one recorder in a process, so a copy is the tracker itself.
        return _resolve, (self.reference,)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record one epoch. This never waits for W&B.

        Args:
            metrics: numbers by name, from Python, numpy or tensors. Each entry of an array, such as a metric with a
                number for each class, gets a name with its position: "f1_score/0", "confusion/0/2".
            step: number of the epoch, >= 0 and above every earlier one.

        Raises:
            RuntimeError: the run is finished.
            ValueError: the step does not increase, or a metric has the name "step" or that of another metric's entry.
            TypeError: a value is not a number or an array of numbers.
            OSError: `metrics.jsonl` cannot be written.
        """
        self.require_step(step)
        row: dict[str, float] = {}
        for name, value in metrics.items():
            numbers = numbers_of(name, value)
            if "step" in numbers or row.keys() & numbers.keys():
                raise ValueError(
                    "A metric must not be called 'step', the name of each line's own step, nor like an entry of "
                    f"another metric. Received: metrics {sorted(metrics)}. Rename {name!r}."
                )
            row |= numbers
        self._lines.write(row, step)
        self._last_step = step
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.log, row, step)

    def require_step(self, step: int) -> None:
        """Raises what `log` would raise if it does not accept this step."""
        self._require_open("log")
        if step <= self._last_step:
            after = f" after {self._last_step}" if self._last_step >= 0 else ""
            raise ValueError(
                "Steps must be >= 0 and increase, because W&B silently drops all others. Received: step "
                f"{step}{after}. A second fit of a model continues the count with "
                "fit(initial_epoch=…). The training of another model needs a Tracker of its own, or none; in an arm "
                "of a study, run.callbacks are for one fit."
            )

    def takes(self, step: int) -> bool:
        """Whether `log` accepts this step."""
        return not self._closed and step > self._last_step

    def log_artifact(self, path: PathLike, *, name: str, type: str = "model") -> None:
        """Register something that this run made, such as its student, as a W&B artifact.

        A file is uploaded. It is not copied, so the file of an offline run must still be in its place when you upload
        the run. For a folder, such as a cache of a teacher's answers, W&B records the files' names, sizes and digests,
        and where they are.

        Args:
            path: path to the file or folder, which must not change afterwards.
            name: name of the artifact, the same for all runs that make a version of it. W&B accepts letters, digits,
                ".", "-" and "_"; other characters become "_". The version also has the name of the run's directory.
            type: kind of the artifact: "model", "cache" or another word.

        Raises:
            RuntimeError: the run is finished.
            FileNotFoundError: there is nothing at this path.
        """
        self._add_artifact("log_artifact", path, name, type, used=False)

    def use_artifact(self, path: PathLike, *, name: str, type: str = "model") -> None:
        """Register something that this run learns from, such as its teacher; W&B links it to the run that made it.

        W&B recognizes it by its content, so this works offline too.

        Args:
            path: path to the file or folder.
            name: name of the artifact that the run that made it passed to `log_artifact`.
            type: kind of the artifact that it passed.

        Raises:
            RuntimeError: the run is finished.
            FileNotFoundError: there is nothing at this path.
        """
        self._add_artifact("use_artifact", path, name, type, used=True)

    def finish(
        self,
        summary: Mapping[str, Any],
        *,
        tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] | None = None,
        media: Mapping[str, PathLike] | None = None,
    ) -> None:
        """End the run. This waits for W&B, for at most `timeout` seconds.

        The arguments go to W&B, and the summary's numbers also to TensorBoard. Store them elsewhere too.

        Args:
            summary: plain final values. Values in nested dictionaries are named by their path, such as "test/accuracy".
            tables: name -> column names, and rows.
            media: name -> path to a picture (`.png`, `.jpg`) or a page (`.html`, `.svg`).

        Raises:
            RuntimeError: the run is finished already.
            TypeError: `summary` or `tables` holds a value that is not plain.
        """
        self._require_open("finish")
        pictures = {name: Path(path).resolve() for name, path in (media or {}).items()}
        self._close(self._final(0, summary=flat(summary), tables=tables or {}, media=pictures))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if not self._closed:
            self._close(self._final(0 if exc_type is None else 1))

    def _require_open(self, call: str) -> None:
        if self._closed:
            raise RuntimeError(
                f"A finished run takes nothing more. Received: {call}(). "
                "Open another Tracker, which continues metrics.jsonl."
            )

    def _add_artifact(self, call: str, path: PathLike, name: str, type: str, *, used: bool) -> None:
        self._require_open(call)
        place = Path(path).resolve()
        if not place.exists():
            raise FileNotFoundError(f"{call} takes a file or a folder that exists. Received: {place}.")
        self._artifacts.append({"path": str(place), "name": name, "type": type, "used": used})

    def _final(
        self,
        exit_code: int,
        *,
        summary: Mapping[str, Any] = MappingProxyType({}),
        tables: Mapping[str, Any] = MappingProxyType({}),
        media: Mapping[str, Path] = MappingProxyType({}),
    ) -> bytes:
        """The end of the run, as JSON for the sinks."""
        return dumps(
            {
                "exit_code": exit_code,
                "summary": dict(summary),
                "tables": dict(tables),
                "media": dict(media),
                "artifacts": self._artifacts,
            }
        )

    def _open(self, name: str, sink: Callable[[], Sink]) -> None:
        self._guard(name, lambda: self._sinks.update({name: sink()}))

    def _close(self, final: bytes) -> None:
        self._closed = True
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.close, final)

    def _guard(self, name: str, call: Callable[..., None], *args: Any) -> None:
        """Call a sink. If it raises, report that and leave the sink out from then on."""
        try:
            call(*args)
        except Exception as error:
            self._sinks.pop(name, None)
            # warnings.warn would stop the run where warnings are errors.
            LOG.warning(
                "%s is left out from now on: %s. The run continues; its numbers are in %s.",
                name,
                error,
                self._lines.path,
            )


class Reference(NamedTuple):
    """Identifies a tracker in this process, and knows how to open a run like it elsewhere.

    Attributes:
        token: name of the tracker in this process.
        directory: directory of its run.
        options: its other arguments.
    """

    token: str
    directory: Path
    options: dict[str, Any]

    def find(self) -> Tracker | None:
        """Returns the tracker, or `None` if it is gone or in another process, such as that which forked this one."""
        found = _OPENED.get(self.token)
        return found if found is not None and found.process == os.getpid() else None

    def open_beside(self) -> Tracker:
        """Opens a run with the same options in the first free directory next to it: name-2, name-3 and so on."""
        for number in itertools.count(2):
            directory = self.directory.with_name(f"{self.directory.name}-{number}")
            try:
                directory.mkdir(parents=True)  # so that no other process takes it
            except FileExistsError:
                continue
            return Tracker(directory, **self.options)
        raise AssertionError


_OPENED: WeakValueDictionary[str, Tracker] = WeakValueDictionary()


def _resolve(reference: Reference) -> Tracker:
    return reference.find() or reference.open_beside()

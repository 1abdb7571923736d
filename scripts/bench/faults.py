"""Does a study survive whatever ends it: is no cell lost, none run twice, and the result the same to the bit?

A study that takes seconds (faults_study.py) runs once without interruption. Then the same command is killed (SIGKILL to
all its processes), again and again, at random moments of each of its phases: before its first cell, while settings are
chosen, while cells run, while LiteRT files are written and timed, and between study.json and the report. After some
kills it is left to finish. Two runs get Ctrl-C (SIGINT), and for one the disk is full in the middle.

Each time, the finished run must have the cells of the uninterrupted one, with the same scores, curves and weights;
finished cells must not have been touched again; and no process may be left.

Command: scripts/bench/faults. About 35 minutes on two cores; --kills makes it shorter.
Expected: no run differs. Exit status 1 otherwise.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import tyro
from rich.console import Console

STUDY = Path(__file__).with_name("faults_study.py")
# Phase -> whether it has begun, by what is in the study's directory.
PHASES: dict[str, Callable[[Path], bool]] = {
    "start": lambda folder: True,
    "tuning": lambda folder: any(folder.glob("cells/alone-seed100?-*")),
    "cells": lambda folder: any(folder.glob("cells/*-seed0-*")),
    "shipping": lambda folder: (folder / "litert").is_dir(),
    "report": lambda folder: (folder / "study.json").is_file(),
}
KILLS_A_RUN = 5


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills a study again and again, and compares its final result with that of an uninterrupted run.

    Attributes:
        kills: number of SIGKILLs, spread evenly over the phases.
        seed: seed of the random moments.
    """

    kills: int = 50
    seed: int = 0


def begin(out: Path, *arguments: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    """Starts the study in a process group of its own."""
    arguments = arguments or ("--tune", "--jobs", "2")
    command = [sys.executable, str(STUDY), *arguments, "--wandb", "disabled", "--out", str(out)]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **kwargs)


def finish(out: Path, *arguments: str) -> None:
    """Runs the study to its end."""
    if begin(out, *arguments).wait(timeout=600) != 0:
        raise SystemExit(f"The study failed:\n{(out.parent / f'{out.name}.log').read_text()[-3000:]}")


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be the same: the study without times and versions, and each cell's scores, curve and weights."""
    study = json.loads((folder / "study.json").read_text())
    for key in ("command", "created", "latency_ms", "git_commit"):
        del study[key]
    cells = {}
    for path in sorted(folder.glob("cells/*")):
        result = json.loads((path / "result.json").read_text())
        # The archive holds the time, so that its compressed size is a few bytes more or less.
        del result["seconds"]
        result["cost"].pop("gzip_bytes", None)  # none of a .tflite file
        model = path / result["file"]
        epochs = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        curve = [{key: value for key, value in one.items() if "second" not in key} for one in epochs]
        cells[path.name] = [result, curve, weights(model) if model.suffix == ".keras" else digest(model)]
    return {"study": study, "cells": cells, "report": (folder / "report.html").is_file()}


def digest(file: Path) -> str:
    """A digest of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(file: Path) -> str:
    """A digest of all weights in a .keras file, whose archive also holds the time."""
    found = hashlib.sha256()
    with zipfile.ZipFile(file) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as held:
        held.visititems(
            lambda name, one: (
                found.update(name.encode() + one[()].tobytes()) if isinstance(one, h5py.Dataset) else None
            )
        )
    return found.hexdigest()


def wait_for(phase: str, folder: Path, process: subprocess.Popen[bytes]) -> bool:
    """Waits until a phase begins; whether it did before the process ended."""
    while not PHASES[phase](folder):
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def finished_cells(folder: Path) -> dict[str, int]:
    """When each finished cell was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to the group of a process, and waits until none of its processes is left."""
    os.killpg(process.pid, number)
    process.wait(timeout=60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise SystemExit("A process of the study is left 30 seconds after its end.")


def full_disk() -> None:
    """No file may become larger than 10 kB: the models of this study are."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


def main(options: Options) -> int:
    """Runs everything; returns the exit status."""
    console, rng = Console(), random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as parent:
        reference = Path(parent) / "uninterrupted"
        finish(reference)
        expected = outcome(reference / "faults")
        console.print(f"uninterrupted: {len(expected['cells'])} cells in {time.monotonic() - began:.0f} s")
        length = (time.monotonic() - began) / len(PHASES)
        plan = [phase for phase in PHASES for _ in range(-(-options.kills // len(PHASES)))][: options.kills]
        # The kills of a run come in the order of the phases; then it is left to finish.
        count = -(-len(plan) // KILLS_A_RUN)
        runs = [plan[i::count] for i in range(count)]
        killed: collections.Counter[str] = collections.Counter()
        wrong = 0
        for number, phases in enumerate(runs):
            out = Path(parent) / f"run{number}"
            for phase in phases:
                before = finished_cells(out / "faults")
                process = begin(out)
                if not wait_for(phase, out / "faults", process):
                    continue
                time.sleep(rng.uniform(0, length if phase in ("start", "tuning", "cells") else 0.3))
                if process.poll() is None:
                    killed[phase] += 1
                    end(process, signal.SIGKILL)
                wrong += touched(before, out / "faults")
            before = finished_cells(out / "faults")
            finish(out)
            wrong += touched(before, out / "faults")
            same = outcome(out / "faults") == expected
            wrong += not same
            console.print(f"run {number}: killed {', '.join(phases)}; {'the same' if same else 'DIFFERENT'}")
        wrong += interrupted(Path(parent) / "interrupted", expected, console)
        wrong += without_space(Path(parent) / "full", expected, console)
    console.print(f"{sum(killed.values())} kills: {dict(killed)}; {wrong} wrong")
    console.print(f"Took {(time.monotonic() - began) / 60:.1f} minutes.")
    return int(wrong > 0 or any(not killed[phase] for phase in PHASES))


def touched(before: dict[str, int], folder: Path) -> bool:
    """Whether a finished cell was run again or lost."""
    now = finished_cells(folder)
    return any(now.get(name) != at for name, at in before.items())


def interrupted(out: Path, expected: dict[str, Any], console: Console) -> int:
    """Ctrl-C while settings are chosen and while cells run: status 130, and one line that says how to go on."""
    wrong = 0
    for phase in ("tuning", "cells"):
        process = begin(out)
        wait_for(phase, out / "faults", process)
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        wrong += process.wait(timeout=60) != 130
    said = (out.parent / f"{out.name}.log").read_text()
    wrong += said.count("run the same command again to continue") != 2 or "Traceback" in said
    finish(out)
    wrong += outcome(out / "faults") != expected
    console.print(f"Ctrl-C twice: {'the same' if not wrong else 'WRONG'}")
    return wrong


def without_space(out: Path, expected: dict[str, Any], console: Console) -> int:
    """No space for models: the run fails, says why, and goes on once there is space."""
    failed = begin(out, preexec_fn=full_disk).wait(timeout=600) == 1
    said = "File too large" in (out.parent / f"{out.name}.log").read_text()
    finish(out)
    same = outcome(out / "faults") == expected
    console.print(
        f"No space: {'fails, says why, and ends the same' if failed and said and same else 'WRONG'}"
    )
    return int(not (failed and said and same))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))

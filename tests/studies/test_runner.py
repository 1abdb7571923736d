"""Cells run once, start over cleanly, and have directories that are named after what they depend on."""

import dataclasses
import fcntl
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

from distill.studies import Cell, CellError, _records
from distill.studies import _pools as pools
from distill.studies import _runner as runner


@dataclasses.dataclass(frozen=True)
class Config:
    value: float = 1.0
    do: str = "work"


def cell(seed=0, **changes):
    return Cell(study="study", arm="arm", seed=seed, config=Config(**changes))


def work(made, directory):
    """The work of a cell: leaves a file, then does what its config says."""
    with (directory / "started").open("a") as file:
        file.write("once\n")
    if made.config.do == "fail":
        raise ZeroDivisionError("as told")
    if made.config.do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if made.config.do == "draw":
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)])
        dropped = network(np.ones((4, 3)), training=True)
        drawn = [random.random(), float(np.random.rand()), *np.ravel(dropped).tolist()]
        return {"drawn": drawn, "names": [layer.name for layer in network.layers]}
    if made.config.do == "policy":
        before = keras.config.dtype_policy().name
        keras.config.set_dtype_policy("mixed_bfloat16")
        return {"policy": before}
    print("printed by a worker")
    return {"answer": made.config.value + made.seed}


def run(cells, folder, jobs=1):
    console = Console(file=io.StringIO(), width=200)
    with pools.workers(folder, jobs=jobs) as pool:
        runner.Runner(folder, pool=pool, console=console).run(cells, work, label="cells")
    return [cell.folder for cell in cells], console.file.getvalue()


def test_a_cells_name_tells_what_it_depends_on():
    assert cell().name == cell().name == Cell(study="other study", arm="arm", seed=0, config=Config()).name
    assert cell().name.startswith("arm-seed0-")
    assert len({cell().name, cell(seed=1).name, cell(value=2.0).name}) == 3


def test_runs_once_and_starts_again_cleanly_after_an_interruption(tmp_path, capfd):
    cells = [cell(seed) for seed in range(3)]
    stale = tmp_path / "cells" / cells[1].name
    stale.mkdir(parents=True)
    (stale / "metrics.jsonl").write_text("from a run that was cut off")
    (stale / "wandb").mkdir()

    folders, shown = run(cells, tmp_path)
    assert [json.loads((tmp_path / folder / "result.json").read_text())["answer"] for folder in folders] == [
        1,
        2,
        3,
    ]
    assert not (stale / "metrics.jsonl").exists()
    assert not (stale / "wandb").exists()
    assert "cells: 3 of 3 cells (arm seed 2), done" in shown
    assert "printed by a worker" in (tmp_path / "workers.log").read_text()
    assert capfd.readouterr() == (
        "",
        "",
    )  # nothing, not even what TensorFlow prints while a worker imports it
    config = json.loads((tmp_path / folders[2] / "config.json").read_text())
    assert (config["arm"], config["seed"], config["config"]) == ("arm", 2, {"value": 1.0, "do": "work"})
    assert {"python", "keras", "tensorflow"} <= set(config["versions"])

    again, shown = run(cells, tmp_path)
    assert again == folders
    assert shown == "cells: 3 of 3 cells already finished\n"
    assert all((tmp_path / folder / "started").read_text() == "once\n" for folder in folders)


@pytest.mark.slow
def test_what_a_worker_did_before_does_not_show(tmp_path):
    """A cell that draws from every generator, in a worker of its own and after others."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "after").mkdir()
    (alone,), _ = run([cell(2, do="draw")], tmp_path / "alone")
    folders, _ = run([cell(seed, do="draw") for seed in range(3)], tmp_path / "after")
    found = [
        json.loads((tmp_path / folder / "result.json").read_text())
        for folder in (Path("alone", alone), *(Path("after", one) for one in folders))
    ]
    for one in found:
        del one["seconds"]
    assert found[0] == found[3]
    assert found[1]["drawn"] != found[2]["drawn"] != found[3]["drawn"]


def test_a_failure_names_the_cell_and_keeps_the_finished(tmp_path):
    good, bad = cell(), cell(1, do="fail")
    console = Console(file=io.StringIO(), width=200)
    message = rf"Cell {bad.name} failed: ZeroDivisionError\('as told'\).*workers\.log"
    with pools.workers(tmp_path, jobs=1) as pool, pytest.raises(CellError, match=message):
        runner.Runner(tmp_path, pool=pool, console=console).run([good, bad], work, label="cells")
    shown = console.file.getvalue()
    assert 'raise ZeroDivisionError("as told")' in shown  # the line of the study
    assert "_RemoteTraceback" not in shown  # not how it came here
    assert (tmp_path / "cells" / good.name / "result.json").exists()
    assert not (tmp_path / "cells" / bad.name / "result.json").exists()


def test_a_killed_worker_is_reported(tmp_path):
    with pytest.raises(CellError, match=r"was killed, perhaps because memory ran out.*--jobs"):
        run([cell(do="die")], tmp_path)


def test_jobs_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="Received: jobs=0"):
        run([cell()], tmp_path, jobs=0)


@pytest.mark.slow
def test_a_cell_that_another_process_runs_is_waited_for_after_the_others(tmp_path):
    held, free = cell(), cell(1)
    folder = tmp_path / "cells" / held.name
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def finish():
            while not (tmp_path / "cells" / free.name / "result.json").exists():
                time.sleep(0.05)
            (folder / "result.json").write_text('{"by": "another"}')
            fcntl.flock(file, fcntl.LOCK_UN)

        other = threading.Thread(target=finish)
        other.start()
        run([held, free], tmp_path)
        other.join()
    assert json.loads((folder / "result.json").read_text()) == {"by": "another"}


@pytest.mark.slow
def test_a_cell_that_another_process_left_unfinished_is_run(tmp_path):
    held = cell()
    folder = tmp_path / "cells" / held.name
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, (file, fcntl.LOCK_UN)).start()
        run([held], tmp_path)
    assert json.loads((folder / "result.json").read_text())["seed"] == held.seed


def test_json_files_are_whole_or_as_they_were(tmp_path):
    path = tmp_path / "result.json"
    _records.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        _records.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_commit_is_recorded():
    commit = _records.environment()["git_commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) >= 12


def test_the_commit_of_a_study_is_that_of_its_own_code(tmp_path):
    def git(*arguments):
        own = ["-c", "user.name=me", "-c", "user.email=me@here"]
        command = ["git", "-C", str(tmp_path), *own, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "mine.py").write_text("")
    git("add", ".")
    git("commit", "-m", "mine")
    assert _records.environment(tmp_path)["git_commit"] == git("rev-parse", "HEAD")[:12]
    (tmp_path / "mine.py").write_text("changed")
    assert _records.environment(tmp_path)["git_commit"] == git("rev-parse", "HEAD")[:12] + "-dirty"


def test_the_dtype_policy_of_the_studys_file_holds_in_every_cell(tmp_path):
    """Clearing Keras' state forgets it, and an arm's own must not reach the next."""
    cells, console = [cell(seed, do="policy") for seed in (0, 1)], Console(file=io.StringIO())
    keras.config.set_dtype_policy("mixed_float16")
    try:
        runner.Runner(tmp_path, pool=pools.InThisProcess(), console=console).run(cells, work, label="cells")
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")
    for one in cells:
        assert json.loads((tmp_path / one.folder / "result.json").read_text())["policy"] == "mixed_float16"


def fail_beside(work, folder):
    with pools.workers(folder, jobs=1) as pool:
        pool.submit(*work)
        raise ZeroDivisionError


def test_only_the_processes_of_a_pool_end_with_it(tmp_path):
    mine = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    mine.start()
    try:
        with pytest.raises(ZeroDivisionError):
            fail_beside((time.sleep, 600), tmp_path)
        assert mine.is_alive()
    finally:
        mine.kill()
        mine.join()

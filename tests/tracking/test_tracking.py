"""Recorded runs: JSON lines, W&B offline, online and failing, TensorBoard, Keras and several processes."""

import base64
import contextlib
import copy
import json
import logging
import math
import multiprocessing
import os
import pickle
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from wandb_reader import read_runs
from wandb_server import WandbServer

from distill.tracking import EpochLogger, Tracker, _tracker, _wandb_process

# Python 3.12 and later warn of this. The forked processes below do not use TensorFlow.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CONFIG = {"optimizer": {"name": "adam", "rate": 1e-3}, "seed": np.int64(3), "widths": (4, 8)}
TABLE = (["arm", "accuracy"], [["alone", 0.9], ["distilled", 0.5], ["broken", math.nan]])
PNG = base64.b64decode(  # one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PATIENCE = 60.0  # seconds that a busy machine may take; no test waits as long when all is well


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path, monkeypatch):
    """No W&B variables, and a new home and working directory, in which W&B must leave nothing."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield
    # Keras and other packages may write there; W&B must not.
    assert not list((tmp_path / "home").rglob("*wandb*"))
    assert not list((tmp_path / "work").iterdir())


def track(directory, **options):
    return Tracker(directory, **{"study": "widths", "arm": "distilled", "config": CONFIG, **options})


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def wait_for(condition, seconds=PATIENCE):
    """Poll until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# JSON lines


def test_json_lines_hold_what_was_logged(tmp_path):
    with track(tmp_path / "run", wandb="disabled") as tracker:
        tracker.log({"loss": 0.5, "accuracy": np.float32(0.25)}, 0)
        assert lines(tmp_path / "run") == [{"step": 0, "loss": 0.5, "accuracy": 0.25}]
        tracker.log({"loss": keras.ops.convert_to_tensor(2.0), "count": np.array(3)}, 4)
    assert lines(tmp_path / "run")[1:] == [{"step": 4, "loss": 2.0, "count": 3.0}]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    with track(tmp_path, wandb="disabled") as tracker:
        tracker.log({"a": math.nan, "b": np.float32("inf"), "c": -math.inf}, 0)
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 0, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert math.isnan(float(row["a"]))
    assert [float(row["b"]), float(row["c"])] == [math.inf, -math.inf]


def test_a_file_that_is_there_is_continued_without_its_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    with track(tmp_path, wandb="disabled") as tracker:
        tracker.log({"loss": 0.5}, 1)
    assert lines(tmp_path) == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]


def test_a_full_disk_is_an_error(tmp_path):
    tracker = track(tmp_path, wandb="disabled")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"), tracker:
            tracker.log({"loss": 0.5}, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"wandb": "on"}, ValueError, "one of offline, online, disabled. Received: 'on'. Leave it out"),
        ({"timeout": 0}, ValueError, "seconds > 0. Received: 0. Use wandb='disabled'"),
        ({"timeout": math.nan}, ValueError, "seconds > 0. Received: nan"),
        ({"config": {"layer": object}}, TypeError, "plain values.*Received: <class 'object'>"),
    ],
)
def test_arguments_that_are_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        track(tmp_path, **options)


@pytest.mark.parametrize(
    ("metrics", "step", "error", "message"),
    [
        ({"loss": 0.1}, 5, ValueError, "Steps must be >= 0 and increase.*Received: step 5 after 5"),
        ({"loss": 0.1}, 4, ValueError, "Received: step 4 after 5"),
        ({"loss": 0.1}, -1, ValueError, "Received: step -1 after 5"),
        ({"step": 0.1}, 6, ValueError, r"Received: metrics \['step'\]. Rename"),
        ({"loss": np.array(["a"])}, 6, TypeError, r"array of numbers. Received: 'loss' = array\(\['a'\]"),
        (
            {"loss": np.ones(2), "loss/1": 0.1},
            6,
            ValueError,
            r"like an entry of another metric.*Rename 'loss/1'",
        ),
        ({"loss": 1j}, 6, TypeError, "Received: 'loss' = 1j"),
        ({"loss": "0.1"}, 6, TypeError, "Received: 'loss' = '0.1'"),
        ({"loss": None}, 6, TypeError, "Received: 'loss' = None"),
        ({"loss": [1.0, [2.0]]}, 6, TypeError, "Received: 'loss'"),
    ],
)
def test_points_that_are_refused_leave_no_trace(tmp_path, metrics, step, error, message):
    with track(tmp_path, wandb="disabled") as tracker:
        tracker.log({"loss": 0.5}, 5)
        with pytest.raises(error, match=message):
            tracker.log(metrics, step)
        tracker.log({"loss": 0.25}, 6)
    assert lines(tmp_path) == [{"step": 5, "loss": 0.5}, {"step": 6, "loss": 0.25}]


def test_negative_steps_are_refused(tmp_path):
    with track(tmp_path, wandb="disabled") as tracker, pytest.raises(ValueError, match="Received: step -1"):
        tracker.log({"loss": 0.5}, -1)


def test_a_finished_run_takes_nothing_more(tmp_path):
    tracker = track(tmp_path, wandb="disabled")
    tracker.finish({})
    with pytest.raises(RuntimeError, match=r"Received: log\(\)"):
        tracker.log({"loss": 0.5}, 0)
    with pytest.raises(RuntimeError, match=r"Received: finish\(\)"):
        tracker.finish({})


def test_a_summary_must_be_plain(tmp_path):
    with (
        track(tmp_path, wandb="disabled") as tracker,
        pytest.raises(TypeError, match="Received: <class 'int'>"),
    ):
        tracker.finish({"type": int})


@pytest.mark.parametrize("call", ["log_artifact", "use_artifact"])
def test_an_artifact_must_exist(tmp_path, call):
    with (
        track(tmp_path, wandb="disabled") as tracker,
        pytest.raises(
            FileNotFoundError, match=f"{call} takes a file or a folder that exists. Received: .*none"
        ),
    ):
        getattr(tracker, call)(tmp_path / "none", name="nothing")


def test_the_directory_alone_suffices(tmp_path):
    with Tracker(tmp_path / "run") as tracker:
        tracker.log({"loss": 0.5}, 0)
    (offline,) = read_runs(tmp_path / "run")
    assert (offline.run.run_group, offline.run.job_type) == ("", "")
    assert offline.run.display_name == "run"
    assert offline.column("loss") == [(0, 0.5)]


# W&B offline


def test_an_offline_run_holds_everything(tmp_path, caplog):
    environment = dict(os.environ)
    student = tmp_path / "run" / "student.keras"
    with track(tmp_path / "run", tags=["small", "paper"]) as tracker:
        student.write_bytes(b"weights")
        for epoch in range(3):
            tracker.log({"loss": 1 / (epoch + 1), "odd": math.inf if epoch == 1 else math.nan}, epoch)
        tracker.log_artifact(student, name="widths-distilled")
        scores = {"accuracy": np.float32(0.5), "agreement": None}
        tracker.finish({"test": {"last": scores}, "seconds": 3}, tables={"table": TABLE})
    (offline,) = read_runs(tmp_path / "run")
    assert (offline.run.run_group, offline.run.job_type) == ("widths", "distilled")
    assert offline.run.project == "distill"
    assert offline.run.display_name == "run"
    assert list(offline.run.tags) == ["small", "paper"]
    config = {name: value for name, value in offline.config.items() if name != "_wandb"}
    assert config == {"optimizer": {"name": "adam", "rate": 1e-3}, "seed": 3, "widths": [4, 8]}
    assert offline.column("loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert [str(value) for _, value in offline.column("odd")] == ["nan", "inf", "nan"]
    assert (offline.summary["test/last/accuracy"], offline.summary["seconds"]) == (0.5, 3)
    assert "test/last/agreement" not in offline.summary
    assert offline.column("epoch") == [(0, 0), (1, 1), (2, 2)]
    table = offline.table("table")
    assert (table["columns"], str(table["data"])) == (TABLE[0], str(TABLE[1]))
    (artifact,) = [artifact for artifact in offline.artifacts if artifact.type == "model"]
    (entry,) = artifact.manifest.contents
    assert (entry.path, entry.local_path, entry.size) == ("student.keras", str(student), 7)
    assert offline.exit_code == 0
    assert not caplog.records
    assert dict(os.environ) == environment


@pytest.mark.slow
def test_variables_beat_defaults_and_arguments_beat_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "from-variable")
    monkeypatch.setenv("WANDB_TAGS", "from-variable,too")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    trackers = [track(tmp_path / "first", tags=["ours"]), track(tmp_path / "second", project="from-argument")]
    for tracker in trackers:
        tracker.finish({})
    runs = {offline.run.display_name: offline.run for offline in read_runs(tmp_path / "elsewhere")}
    assert runs["first"].project == "from-variable"
    assert list(runs["first"].tags) == ["from-variable", "too", "ours"]
    assert runs["second"].project == "from-argument"
    assert not read_runs(tmp_path / "first")


def test_the_mode_follows_the_variable_unless_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    track(tmp_path / "variable").finish({})
    track(tmp_path / "argument", wandb="offline").finish({})
    assert not (tmp_path / "variable" / "wandb").exists()
    assert len(read_runs(tmp_path / "argument")) == 1


def test_an_exception_marks_the_run_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), track(tmp_path) as tracker:  # noqa: PT012 (the block is the subject)
        tracker.log({"loss": 0.5}, 0)
        raise KeyboardInterrupt
    (offline,) = read_runs(tmp_path)
    assert offline.exit_code == 1
    assert offline.column("loss") == [(0, 0.5)]
    assert lines(tmp_path) == [{"step": 0, "loss": 0.5}]


@contextlib.contextmanager
def killed_in_the_end(directory):
    """Track a run in a forked process, which lives inside the block and is killed with -9 after it."""
    pid = os.fork()
    if pid == 0:
        try:
            tracker = track(directory)
            tracker.log({"loss": 0.5}, 0)
            tracker.log({"loss": 0.25}, 1)
            signal.pause()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def descendants(pid):
    """Ids of a process's children, their children and so on."""
    children = [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if int(stat.read_text().rpartition(")")[2].split()[1]) == pid
    ]
    return children + [below for child in children for below in descendants(child)]


def rows_on_disk(directory):
    return [offline.column("loss") for offline in read_runs(directory)]


def test_killing_training_loses_nothing_and_marks_the_run_failed(tmp_path):
    with killed_in_the_end(tmp_path):
        wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(lines(tmp_path)) == 2)
    wait_for(lambda: [offline.exit_code for offline in read_runs(tmp_path)] == [1])
    assert rows_on_disk(tmp_path) == [[(0, 0.5), (1, 0.25)]]


def test_killing_everything_keeps_what_was_flushed(tmp_path):
    with killed_in_the_end(tmp_path) as pid:
        # W&B's own interval is 15 s.
        wait_for(lambda: rows_on_disk(tmp_path) == [[(0, 0.5), (1, 0.25)]], seconds=12)
        family = descendants(pid)
        assert len(family) == 2
        for member in [pid, *family]:
            os.kill(member, signal.SIGKILL)
    assert rows_on_disk(tmp_path) == [[(0, 0.5), (1, 0.25)]]
    assert [offline.exit_code for offline in read_runs(tmp_path)] == [None]


# W&B that fails


def fake_wandb(tmp_path, monkeypatch, code):
    """Make every process started from here import a module `wandb` that runs `code` instead of the real one."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))


def test_a_missing_package_is_reported_once(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch, "raise ModuleNotFoundError('No module named wandb')")
    with track(tmp_path) as tracker:
        tracker.log({"loss": 0.5}, 0)
        tracker.finish({})
    reason, lost = [record.getMessage() for record in caplog.records]
    assert reason == "W&B: ModuleNotFoundError: No module named wandb"
    assert lost == (
        "W&B is left out from now on: its process ended with exit code 1. "
        f"The run continues; its numbers are in {tmp_path / 'metrics.jsonl'}."
    )


def test_a_process_that_crashes_is_left_out_at_once(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch, "import os; os._exit(3)")
    with track(tmp_path) as tracker:
        steps = iter(range(1_000_000))

        def reported():
            tracker.log({"loss": 0.5}, next(steps))
            return caplog.records

        wait_for(reported)
        tracker.log({"loss": 0.5}, next(steps))
        tracker.finish({})
    assert [record.getMessage().split(".")[0] for record in caplog.records] == [
        "W&B is left out from now on: its process ended with exit code 3"
    ]
    assert len(lines(tmp_path)) == next(steps)


def test_wandb_that_takes_nothing_blocks_nothing(tmp_path, monkeypatch, caplog):
    fake_wandb(tmp_path, monkeypatch, "import threading; threading.Event().wait()")
    tracker = track(tmp_path, timeout=0.5)
    metrics = {f"metric_{index}": index / 7 for index in range(100)}
    for epoch in range(500):  # 1 MB, far more than a pipe holds
        tracker.log(metrics, epoch)
    start = time.monotonic()
    tracker.finish({"table": "x" * 1_000_000})
    assert time.monotonic() - start < 0.5 + 2
    assert [record.getMessage().split(". ")[0] for record in caplog.records] == [
        "W&B is left out from now on: its process did not end within 0.5 s and was killed"
    ]
    assert len(lines(tmp_path)) == 500


# W&B online


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)


def track_online(directory, url, monkeypatch, timeout):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    return track(directory, wandb="online", timeout=timeout, tags=["small"])


def test_an_online_run_reaches_the_server(tmp_path, monkeypatch, caplog, key):
    student = tmp_path / "student.keras"
    student.write_bytes(b"weights")
    with WandbServer() as server, track_online(tmp_path, server.url, monkeypatch, PATIENCE) as tracker:
        tracker.log({"loss": 0.5, "odd": math.nan}, 0)
        tracker.log({"loss": 0.25}, 7)
        tracker.log_artifact(student, name="widths/distilled", type="student")
        tracker.finish({"accuracy": 0.75}, tables={"table": TABLE})
    ((name, run),) = server.runs.items()
    assert (run["project"], run["groupName"], run["jobType"]) == ("distill", "widths", "distilled")
    assert run["tags"] == ["small"]
    config = json.loads(run["config"])
    assert config["optimizer"]["value"] == {"name": "adam", "rate": 1e-3}
    assert config["widths"]["value"] == [4, 8]
    assert [(row["_step"], row["loss"]) for row in server.history if "loss" in row] == [(0, 0.5), (7, 0.25)]
    assert math.isnan(server.history[0]["odd"])
    assert server.summary["accuracy"] == 0.75
    assert server.exit_code == 0
    assert server.artifacts["widths_distilled"] == {
        "type": "student",
        "state": "COMMITTED",
        "files": ["student.keras"],
    }
    ((version, found),) = [
        (version, one) for version, one in server.versions.items() if one["collection"] == "widths_distilled"
    ]
    assert (found["made_by"], found["aliases"]) == (name, {"latest", tmp_path.name})
    assert server.files[f"{version}/student.keras"] == b"weights"
    assert json.loads(server.files[server.summary["table"]["path"]])["data"][0] == ["alone", 0.9]
    assert server.unknown == []
    assert not caplog.records


def test_without_a_key_nothing_is_asked_on_a_terminal(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        logging.disable()
        try:
            with track(tmp_path, wandb="online", timeout=PATIENCE) as tracker:
                tracker.log({"loss": 0.5}, 0)
        finally:
            os._exit(0)
    shown = b""
    while select.select([terminal], [], [], PATIENCE)[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how Linux signals the end of a terminal
            break
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    assert shown == b""
    (offline,) = [offline for offline in read_runs(tmp_path) if "offline" in str(offline.path)]
    assert offline.column("loss") == [(0, 0.5)]
    assert "no online run could be opened (UsageError" in (tmp_path / "wandb" / "process.log").read_text()


@pytest.mark.parametrize("server", ["refuses", "never answers"])
@pytest.mark.sweep(1)
def test_a_server_that_is_not_there_leaves_an_offline_run(tmp_path, monkeypatch, caplog, key, server):
    timeout = 15  # of which the process may need half to start, on a machine with other work
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if server == "refuses":
            listener.close()
        with track_online(tmp_path, url, monkeypatch, timeout) as tracker:
            tracker.log({"loss": 0.5}, 0)
            start = time.monotonic()
            tracker.finish({"accuracy": 0.75}, tables={"table": TABLE})
    assert time.monotonic() - start < timeout + 2
    (offline,) = [offline for offline in read_runs(tmp_path) if "offline" in str(offline.path)]
    assert offline.column("loss") == [(0, 0.5)]
    assert offline.summary["accuracy"] == 0.75
    assert offline.exit_code == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("W&B: no online run could be opened (")
    assert message.endswith(f"to upload it: wandb sync {offline.path.parent}")


@pytest.mark.slow
def test_a_server_that_dies_half_way_costs_no_more_than_the_time_out(tmp_path, monkeypatch, caplog, key):
    timeout = 15
    with WandbServer() as server, track_online(tmp_path, server.url, monkeypatch, timeout) as tracker:
        tracker.log({"loss": 0.5}, 0)
        tracker.log({"loss": 0.25}, 1)
        assert server.streaming.wait(PATIENCE)
        server.die()
        tracker.log({"loss": 0.125}, 2)
        start = time.monotonic()
        tracker.finish({"accuracy": 0.75}, tables={"table": TABLE})
        assert time.monotonic() - start < timeout + 2
    (kept,) = read_runs(tmp_path)
    assert kept.column("loss") == [(0, 0.5), (1, 0.25), (2, 0.125)]
    assert kept.summary["accuracy"] == 0.75
    assert len(lines(tmp_path)) == 3
    reasons = [record.getMessage() for record in caplog.records]
    assert reasons[0].startswith("W&B: a final table, picture or artifact could not be logged")
    assert reasons[1].endswith(f"wandb sync {kept.path.parent}")


# W&B offline, and uploaded later


def repository(folder):
    """Make a repository with one commit; returns that."""
    git = ["git", "-C", folder, "-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    return subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_offline_runs_arrive_with_media_commit_and_lineage(tmp_path):
    commit = repository(tmp_path / "code")
    teacher, student, picture = (
        tmp_path / "teacher.keras",
        tmp_path / "student.keras",
        tmp_path / "picture.png",
    )
    answers = tmp_path / "answers"
    answers.mkdir()
    for file, content in (
        (teacher, b"knows"),
        (student, b"learns"),
        (answers / "shard-0", b"answers"),
        (tmp_path / "picture.svg", b"<svg></svg>"),
        (picture, PNG),
    ):
        file.write_bytes(content)
    made, used = tmp_path / "teacher", tmp_path / "student"
    with track(made, arm="teacher", code=tmp_path / "code") as tracker:
        tracker.log_artifact(teacher, name="widths-teacher")
        tracker.log_artifact(answers, name="widths-answers", type="cache")
        tracker.finish({})
    with track(used) as tracker:
        tracker.use_artifact(teacher, name="widths-teacher")
        tracker.use_artifact(answers, name="widths-answers", type="cache")
        tracker.log_artifact(student, name="widths-distilled")
        tracker.log({"loss": 0.5}, 0)
        tracker.log({"loss": 0.25}, 1)
        media = {"picture": picture, "chart": tmp_path / "picture.svg"}
        tracker.finish({"accuracy": 0.75}, tables={"scores": TABLE}, media=media)
    with WandbServer() as server:
        for folder in (used, made):  # the one that uses first
            server.command(f"sync {folder / 'wandb'}", home=tmp_path / "uploading")
    runs = {run["jobType"]: name for name, run in server.runs.items()}
    teaching, learning = runs["teacher"], runs["distilled"]
    assert server.runs[teaching]["commit"] == commit
    assert [row["loss"] for row in server.histories[learning] if "loss" in row] == [0.5, 0.25]
    assert server.config(learning) == {
        "optimizer": {"name": "adam", "rate": 1e-3},
        "seed": 3,
        "widths": [4, 8],
    }
    assert server.exit_codes == {teaching: 0, learning: 0}
    summary = server.summaries[learning]
    assert summary["accuracy"] == 0.75
    kinds = {name: summary[name]["_type"] for name in ("scores", "picture", "chart")}
    assert kinds == {"scores": "table-file", "picture": "image-file", "chart": "html-file"}
    assert server.files[summary["picture"]["path"]] == PNG
    assert {one["collection"]: (one["made_by"], one["used_by"]) for one in server.versions.values()} == {
        "widths-teacher": (teaching, {learning}),
        "widths-answers": (teaching, {learning}),
        "widths-distilled": (learning, set()),
        # W&B keeps a table as an artifact too.
        f"run-{learning}-scores": (learning, set()),
    }
    assert server.artifacts["widths-answers"]["files"] == []  # it stays where it is
    assert server.artifacts["widths-teacher"]["files"] == ["teacher.keras"]
    assert server.unknown == []


# TensorBoard


def test_tensorboard_gets_the_epochs(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with track(tmp_path, wandb="disabled", tensorboard=True) as tracker:
        tracker.log({"loss": 0.5, "val/loss": 0.75}, 0)
        tracker.log({"loss": 0.25}, 3)
        tracker.finish({"test": {"accuracy": np.float32(0.75), "agreement": None}, "file": "student.keras"})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    read = {
        name: [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(name)]
        for name in events.Tags()["tensors"]
        if not name.startswith("_hparams_")
    }
    assert read == {"loss": [(0, 0.5), (3, 0.25)], "val/loss": [(0, 0.75)], "test/accuracy": [(3, 0.75)]}


def test_tensorboard_gets_the_settings_for_its_hparams_tab(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    with track(tmp_path, wandb="disabled", tensorboard=True):
        pass
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    summary = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    started = metadata.parse_session_start_info_plugin_data(summary.plugin_data.content)
    found = {name: value.string_value or value.number_value for name, value in started.hparams.items()}
    assert found == {
        "arm": "distilled",
        "optimizer/name": "adam",
        "optimizer/rate": 1e-3,
        "seed": 3.0,
        "widths": "[4, 8]",
    }


def test_tensorboard_that_cannot_write_is_left_out(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the directory should be")
    with track(tmp_path, wandb="disabled", tensorboard=True) as tracker:
        tracker.log({"loss": 0.5}, 0)
        tracker.log({"loss": 0.25}, 1)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("TensorBoard is left out from now on: ")
    assert len(lines(tmp_path)) == 2


# Keras, and other processes


def test_fit_is_logged_epoch_by_epoch(tmp_path, student, batch):
    x, y = batch
    student.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with track(tmp_path, wandb="disabled") as tracker:
        logger = EpochLogger(tracker)
        history = student.fit(x, y, epochs=2, validation_split=0.2, callbacks=[logger], verbose=0).history
        student.fit(x, y, epochs=3, initial_epoch=2, callbacks=[logger], verbose=0)
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["val_accuracy"] for row in rows[:2]] == history["val_accuracy"]
    assert rows[1]["loss"] == history["loss"][1]
    assert set(rows[2]) == {"step", "loss", "accuracy"}


def per_class(student, batch, **options):
    x, y = batch
    student.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score(average=None)])
    return student.fit(x, np.eye(3)[y], epochs=2, verbose=0, **options).history


def test_each_entry_of_an_array_has_a_name(tmp_path, student, batch):
    with track(tmp_path, wandb="disabled", tensorboard=True) as tracker:
        history = per_class(student, batch, callbacks=[EpochLogger(tracker)])
        tracker.log({"a": [[1, 2], [3, 4]], "b": keras.ops.ones((1,)), "c": np.zeros((0,)), "d": [True]}, 7)
    rows = lines(tmp_path)
    found = [[row[f"f1_score/{i}"] for i in range(3)] for row in rows[:2]]
    np.testing.assert_array_equal(found, history["f1_score"])
    assert "f1_score" not in rows[0]
    entries = {"a/0/0": 1.0, "a/0/1": 2.0, "a/1/0": 3.0, "a/1/1": 4.0, "b/0": 1.0, "d/0": 1.0}
    assert rows[2] == {"step": 7, **entries}


def test_wandb_gets_each_entry_of_an_array(tmp_path):
    with track(tmp_path) as tracker:
        tracker.log({"f1": [0.5, 0.25]}, 0)
        tracker.finish({})
    (run,) = read_runs(tmp_path)
    assert [run.column(f"f1/{i}") for i in range(2)] == [[(0, 0.5)], [(0, 0.25)]]


class Counting(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1


def test_a_second_training_is_refused_before_its_first_epoch(tmp_path, student, batch):
    counting = Counting()
    with track(tmp_path, wandb="disabled") as tracker:
        logger = EpochLogger(tracker)
        per_class(student, batch, callbacks=[logger])
        for again in (logger, EpochLogger(tracker)):
            with pytest.raises(ValueError, match="step 0 after 1.*another model needs a Tracker of its own"):
                per_class(student, batch, callbacks=[again, counting])
            assert counting.batches == 0
    with pytest.raises(RuntimeError, match="A finished run"):
        per_class(student, batch, callbacks=[logger, counting], initial_epoch=1)
    assert counting.batches == 0


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))]
)
@pytest.mark.sweep(1)
def test_a_copy_logs_to_the_same_run_and_a_tuners_next_trial_to_one_beside(tmp_path, student, batch, copied):
    with track(tmp_path / "run", wandb="disabled") as tracker:
        logger = EpochLogger(tracker)
        trials = [copied(logger) for _ in range(3)]
        assert not list(tmp_path.glob("run-*"))  # a copy that is not used writes nothing
        history = [per_class(student, batch, callbacks=[one]) for one in trials]
        again = copied(trials[1])
        per_class(student, batch, callbacks=[again])
        assert tracker.takes(2)
    runs = ["run", "run-2", "run-3", "run-4"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("run")) == runs
    for name, found in zip(runs, history, strict=False):
        assert [row["loss"] for row in lines(tmp_path / name)] == found["loss"]


@pytest.mark.parametrize("forked", [False, True])
def test_a_copy_in_another_process_has_a_run_of_its_own(forked, tmp_path, monkeypatch):
    with track(tmp_path / "run", wandb="disabled") as tracker:
        pickled = pickle.dumps(EpochLogger(tracker))
        assert pickle.loads(pickle.dumps(tracker)) is tracker is copy.deepcopy(tracker)
        if forked:  # which inherits what this process has opened
            own = os.getpid()
            monkeypatch.setattr(_tracker.os, "getpid", lambda: own + 1)
        else:
            monkeypatch.setattr(_tracker, "_OPENED", {})
        logger = pickle.loads(pickled)
        logger.on_train_begin()
        logger.on_epoch_end(0, {"loss": 0.5})
        logger.on_train_end()
        assert lines(tmp_path / "run") == []
        assert lines(tmp_path / "run-2") == [{"step": 0, "loss": 0.5}]


def two_runs(directory):
    """Track two runs one after the other; returns whether this process imported W&B."""
    for name in ("first", "second"):
        with track(directory / name) as tracker:
            tracker.log({"loss": 0.5}, 0)
            tracker.finish({"name": name})
    return "wandb" in sys.modules


@pytest.mark.slow
def test_processes_track_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply_async(two_runs, [tmp_path / "there"])
        two_runs(tmp_path / "here")
        assert there.get(PATIENCE) is False
    for run in ("here/first", "here/second", "there/first", "there/second"):
        (offline,) = read_runs(tmp_path / run)
        assert (offline.summary["name"], offline.exit_code) == (run.split("/")[1], 0)
        assert offline.column("loss") == [(0, 0.5)]


def test_the_end_of_a_run_is_a_line_though_another_process_holds_the_pipe():
    reading, writing = os.pipe()
    try:
        os.write(writing, b'{"exit_code": 0}\n')  # and the pipe stays open
        with open(reading, "rb", buffering=0) as pipe:
            assert _wandb_process.last_line(pipe) == b'{"exit_code": 0}\n'
    finally:
        os.close(writing)

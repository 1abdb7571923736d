"""The launcher starts workers that know of each other, and starts them again when one dies."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from launching import ROOT, launch

from distill.training import launch as launcher


def test_launcher_tells_each_worker_where_all_are():
    show = "import os, sys; print(os.environ['TF_CONFIG']); print('to stderr', file=sys.stderr)"
    done = launch("--workers", 3, "--", "python", "-c", show)
    assert (done.returncode, done.stderr) == (0, "")
    lines = sorted(done.stdout.splitlines())
    assert [line for line in lines if "stderr" in line] == [f"[{number}] to stderr" for number in range(3)]
    configs = [json.loads(line[4:]) for line in lines if "{" in line]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": n} for n in range(3)]
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", address) for address in addresses)
    assert configs[0]["cluster"] == configs[1]["cluster"] == configs[2]["cluster"]


# Worker 0 creates a file and waits to be stopped; worker 1 waits for the file and then ends as told.
UNEQUAL = """
import json, os, signal, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"]:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    os.remove(sys.argv[1])
    {death}
{ears}
open(sys.argv[1], "x").close()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("death", "ears", "status", "how"),
    [
        ("sys.exit(3)", "", 3, "ended with status 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "", 137, "was killed by SIGKILL"),
        ("sys.exit(3)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", 3, "ended with status 3"),
    ],
    ids=["status", "signal", "the other is deaf to SIGTERM"],
)
def test_launcher_stops_the_others_and_starts_again(tmp_path, monkeypatch, capfd, death, ears, status, how):
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    program = UNEQUAL.format(death=death, ears=ears)
    command = [sys.executable, "-c", program, str(tmp_path / "there")]
    assert launcher.launch(command, workers=2, restarts=1) == status
    assert capfd.readouterr().err.splitlines() == [
        f"launch: worker 1 {how}: starting all again, 1 of 1",
        f"launch: worker 1 {how}: stopped all",
    ]


ONCE = """
import pathlib, sys
try:
    pathlib.Path(sys.argv[1]).mkdir()
except FileExistsError:
    print("again")
else:
    sys.exit(1)
"""


def test_launcher_ends_well_after_a_restart(tmp_path):
    program = ("python", "-c", ONCE, tmp_path / "made")
    done = launch("--workers", 1, "--restarts", 1, "--", *program)
    assert (done.returncode, done.stdout) == (0, "[0] again\n")
    assert done.stderr == "launch: worker 0 ended with status 1: starting all again, 1 of 1\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.slow
def test_launcher_leaves_no_worker_behind(number, status):
    program = "import os, time; print(os.getpid()); time.sleep(60)"
    command = [sys.executable, "-m", "distill.training.launch", "--", sys.executable, "-c", program]

    def heard():
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # a shell's background jobs ignore it, and all that they start

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=heard) as process:
        started = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        process.send_signal(number)
        assert process.wait(timeout=20) == status
    for worker in started:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--workers", "2"], "the command to run must follow --"),
        (["--workers", "2", "train.py"], "unrecognized arguments: train.py"),
        (["--workers", "0", "--", "true"], "must be a whole number >= 1. Received: '0'"),
        (["--restarts", "-1", "--", "true"], "must be a whole number >= 0. Received: '-1'"),
        (["--", "./no-such-program"], "the command cannot be run: [Errno 2]"),
    ],
)
def test_launcher_says_what_is_wrong(arguments, error):
    done = launch(*arguments)
    assert done.returncode == 2
    assert error in done.stderr

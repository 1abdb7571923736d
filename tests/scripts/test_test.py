"""A run of the tests ends, and names the test at fault, whatever that test does to its process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DIES = """
import os, signal, subprocess

def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)

def test_never_runs():
    pass
"""
WAITS = """
import subprocess

def test_waits():
    subprocess.run(["sleep", "100"])
"""
# As code that waits in C++ does: no Python runs, so no handler of a signal.
HEARS_NOTHING = """
import signal, time

def test_hears_nothing():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(100)
"""
FINE = """
def test_fine():
    pass
"""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DIES, "crashed while running '.*test_dies'"),
        pytest.param(WAITS, "(?s)Timeout.*FAILED .*::test_waits", marks=pytest.mark.slow),
        (HEARS_NOTHING, "(?s)Timeout .*in test_hears_nothing.*crashed while running '.*test_hears_nothing'"),
    ],
    ids=["dies", "waits", "hears_nothing"],
)
@pytest.mark.sweep(1)
def test_a_run_ends_and_names_the_test_at_fault(source, message, tmp_path):
    for name, text in {"at_fault": source, "first": FINE, "second": FINE, "third": FINE}.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    # The settings of pyproject.toml and scripts/test, with shorter limits.
    settings = [f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={tmp_path}", "-p", "no:cacheprovider"]
    limits = ["--timeout=1", "--override-ini=faulthandler_timeout=3"]
    processes = re.search(r"--numprocesses 2 --dist \w+", (ROOT / "scripts/test").read_text())[0].split()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *limits, *processes, str(tmp_path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert re.search(message, done.stdout), done.stdout
    assert re.search(r"1 failed, [23] passed", done.stdout), done.stdout

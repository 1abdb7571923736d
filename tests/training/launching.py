"""Runs the launcher of several workers; it imports neither Keras nor the other helpers, as its workers do not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(*arguments, timeout=20):
    """Runs the launcher as scripts/launch does; `python` stands for this interpreter."""
    command = [sys.executable if argument == "python" else str(argument) for argument in arguments]
    return subprocess.run(
        [sys.executable, "-P", ROOT / "distill" / "training" / "launch.py", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout,
        check=False,
    )

"""The command as it is installed: what TensorFlow says when it starts is not shown, and everything else is."""

import os
import subprocess
import sys
from pathlib import Path

QUIET = str(Path(__file__).parents[2] / "distill" / "_quiet.py")
PROGRAM = """
import os, runpy, sys, warnings

with runpy.run_path(sys.argv[1])["unheard"]():
    os.write(2, b"from below\\n")
    import logging
    logging.getLogger("kept").addHandler(logging.StreamHandler())
    warnings.warn("of a library")
    print("printed", file=sys.stderr)
os.write(2, b"afterwards\\n")
logging.getLogger("kept").error("logged")
print("last", file=sys.stderr)
"""


def run(*arguments, **variables):
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *arguments], env={**kept, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_the_command_prints_what_it_was_asked_for_and_nothing_else():
    out, err = run("-m", "distill", "--version")
    assert out.startswith("distill ")
    assert err == ""


def test_only_what_is_not_python_s_is_dropped_and_only_meanwhile():
    heard = [line for line in run("-c", PROGRAM, QUIET)[1].splitlines() if "warnings.warn(" not in line]
    assert heard == ["<string>:8: UserWarning: of a library", "printed", "afterwards", "logged", "last"]
    assert "from below" in run("-c", PROGRAM, QUIET, TF_CPP_MIN_LOG_LEVEL="0")[1]

"""Runs a module as `python -m` does, without TensorFlow's messages at its start: quietly.py MODULE ARGUMENT..."""

import runpy
import sys
from pathlib import Path

# Run as a file, because importing anything of distill imports TensorFlow.
quiet = runpy.run_path(str(Path(__file__).parents[1] / "distill" / "_quiet.py"))
with quiet["unheard"]():
    import distill  # noqa: F401  # and with it Keras and its backend

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

"""Runs studies as `python -m` does until their first cells should be trained, and lets a worker look at one of them.

python -m tests.experiments.seen_by_a_worker OUT STUDY… prints what the worker of each study saw.
"""

import importlib
import runpy
import sys

from distill.studies import Runner


class Seen(Exception):
    """Ends a study before anything is trained."""


def look(cell, module):
    """Says whether the config has the class that the training module imports, and where that class is defined."""
    known = getattr(importlib.import_module(module), type(cell.config).__name__)
    return type(cell.config) is known, known.__module__


def show(runner, cells, work, *, label):
    raise Seen(*runner.pool.submit(look, cells[0], work.func.__module__).result())


def main(out, studies):
    Runner.run = show
    for study in studies:
        sys.argv = [study, "--smoke", "--jobs", "1", "--out", out]
        try:
            runpy.run_module(f"experiments.{study}", run_name="__main__", alter_sys=True)
        except Seen as seen:
            print(study, *seen.args)


if __name__ == "__main__":
    # Imported again, because a study becomes the main module.
    importlib.import_module("tests.experiments.seen_by_a_worker").main(sys.argv[1], sys.argv[2:])

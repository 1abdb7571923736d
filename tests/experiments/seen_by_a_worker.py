"""Runs studies as `python -m` does, until their first cells are to be trained; then a worker looks at one of them.

python -m tests.experiments.seen_by_a_worker OUT STUDY… prints for each study what the worker saw.
"""

import importlib
import runpy
import sys

from distill.studies import Runner


class Seen(Exception):
    """Ends a study: nothing is trained."""


def look(cell, module):
    """Whether the cell's config is of the class that the module that trains it knows, and where that is defined."""
    known = getattr(importlib.import_module(module), type(cell.config).__name__)
    return type(cell.config) is known, known.__module__


def show(runner, cells, work, label):
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
    # Not this module as the main one: a study is.
    importlib.import_module("tests.experiments.seen_by_a_worker").main(sys.argv[1], sys.argv[2:])

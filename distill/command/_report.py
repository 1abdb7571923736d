"""Rebuilds the report of a finished study, or makes one report of the runs of several machines."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

_EPILOG = """examples:
  distill report runs/compare
  distill report machine-a/compare machine-b/compare --out runs/merged"""


def add_to(commands: Any) -> None:
    """Adds `report` to the commands of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="rebuild the report of a study, or merge runs of it (needs the extra 'experiments')",
        description=f"{__doc__} Runs that are merged have different seeds or different arms.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directory that holds study.json")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="directory for the report; needed for several runs"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the report, and prints its tables.

    Raises:
        ImportError: the extra `experiments` is not installed.
        OSError: the report cannot be written.
        ValueError: a directory is broken, or the directories do not fit together.
    """
    from distill import studies  # takes the extra, which `distill inspect` does without

    path = studies.report.write(*options.directories, out=options.out)
    study = studies.read(*options.directories)
    console = Console()
    console.print(studies.summary.terminal(study))
    for note in study.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)
    console.print(f"Report: {path}", soft_wrap=True, markup=False)

"""Rebuilds the report of a finished study, or makes one of the runs of several machines.

python -m distill.studies._rebuilding runs/compare
python -m distill.studies._rebuilding machine-a/compare machine-b/compare --out runs/merged
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from distill.studies import _report as report
from distill.studies import _summary as summary
from distill.studies._reading import read


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/report", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="directory that holds study.json")
    parser.add_argument(
        "--out",
        type=Path,
        help="directory for the report; needed for several runs, which have other seeds or arms",
    )
    options = parser.parse_args(arguments)
    console = Console()
    try:
        path = report.write(*options.directories, out=options.out)
        study = read(*options.directories)
    except (OSError, ValueError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    console.print(summary.terminal(study))
    console.print(f"Report: {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

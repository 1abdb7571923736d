"""The `distill` command: inspects model files, compares their answers, and makes reports of studies.

    distill inspect student.keras --files --latency
    distill compare teacher.keras student.tflite --test test.npz
    distill report runs/compare

`distill --help` lists the commands, and `distill compare --help` explains one of them. `main` runs the command from
Python and returns its exit status.

```python
from distill import command

teacher.save("teacher.keras")
student.save("student.keras")
np.savez("test.npz", x=x, y=y)
assert command.main(["compare", "teacher.keras", "student.keras", "--test", "test.npz"]) == 0
```
"""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

import distill
from distill.command import _compare, _inspect, _report

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the command line names.

    Args:
        arguments: the arguments after `distill`; if `None`, those of the command line.

    Returns:
        The exit status: 0, or 1 after an error, which is printed.

    Example:
        ```python
        from distill import command

        student.save("student.keras")
        assert command.main(["inspect", "student.keras"]) == 0
        ```
    """
    parser = argparse.ArgumentParser(
        prog="distill",
        description="Looks into model files, compares what they answer, and makes reports of studies.",
    )
    parser.add_argument("--version", action="version", version=f"distill {distill.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (_inspect, _compare, _report):
        module.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    return 0

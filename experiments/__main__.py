"""Lists the studies: what each asks, and how it is run."""

import ast
import textwrap
from pathlib import Path


def listed() -> str:
    """The question of each study, which begins its docstring, and its paragraph on the command and its cost."""
    lines = []
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        question, *others = docstring.split("\n\n")
        command = next(other for other in others if other.startswith("Command:"))
        lines += [
            path.stem,
            *(textwrap.indent(textwrap.fill(part, 100), "    ") for part in (question, command)),
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(listed())

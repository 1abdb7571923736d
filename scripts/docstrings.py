"""How the site reads docstrings: `Example:` is a section of code, and a comment above a constant is its docstring."""

import itertools
import re
from typing import Any

import griffe


class Read(griffe.Extension):
    """Turns docstrings and comments into what the docstring parser knows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object after its members."""
        if obj.docstring:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for each attribute; an attribute without a docstring would not be shown."""
        if attr.docstring or attr.lineno is None or not (attr.parent and attr.parent.is_module):
            return
        above = attr.filepath.read_text(encoding="utf-8").splitlines()[: attr.lineno - 1]  # type: ignore[union-attr]
        comment = [*itertools.takewhile(lambda line: line.startswith("# "), reversed(above))]
        text = " ".join(line[2:] for line in reversed(comment)) or "Defined as shown."
        attr.docstring = griffe.Docstring(text, parent=attr)

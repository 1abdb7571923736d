"""How the site reads docstrings: `Example:` is a section of code, as `Examples:` is."""

import re
from typing import Any

import griffe


class Example(griffe.Extension):
    """Names the sections as the parser of docstrings knows them."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object after its members."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )

"""Compares the reference of a built site with what the packages export: it must list every such name, and no other.

scripts/docs runs it after the build. It reads the sources and imports nothing.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BY_LINKS = {
    "distill",
    "distill.pruning",
}  # their names are in tables that lead to their rooms; a test reads these
MADE_WHEN_USED = {
    "ConstantSparsity",
    "PolynomialDecay",
}  # tfmot's classes, which are imported when they are used


def exported() -> set[str]:
    """The names in `__all__` of every public module, with their module; modules are pages of their own."""
    found = set()
    for path in (ROOT / "distill").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts) or ".".join(parts) in BY_LINKS:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                found |= {".".join((*parts, name)) for name in ast.literal_eval(node.value)}
    return {name for name in found if name.rpartition(".")[2] not in MADE_WHEN_USED}


def shown(site: Path) -> tuple[set[str], set[str]]:
    """What the pages have a place for, and what they have a heading for."""
    pages = [page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")]
    places = {one for page in pages for one in re.findall(r'id="(distill[\w.]*)"', page)}
    return places, {one for page in pages for one in re.findall(r'<h\d id="(distill[\w.]*)"', page)}


def main() -> None:
    """Ends with status 1 if anything is missing or should not be there."""
    places, headings = shown(ROOT / "build" / "site")
    missing = sorted(exported() - places)
    private = sorted(one for one in headings if re.search(r"\._(?!_)", one))
    print(f"{len(headings)} names in the reference; missing: {missing}; private: {private}")
    sys.exit(bool(missing or private))


if __name__ == "__main__":
    main()

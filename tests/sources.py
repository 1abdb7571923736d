"""The project's modules as their source says: who imports whom, wherever in a file the import stands."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def modules(package):
    """The modules of a package by their dotted names."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


def imported(path):
    """What a file imports: pairs of a dotted module or package and the name taken from it, `None` for the whole."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def edges(package):
    """For each module of a package, the modules of the same package that it imports."""
    known = modules(package)
    return {
        module: {
            target
            for source, name in imported(path)
            if (target := f"{source}.{name}" if f"{source}.{name}" in known else source) in known
        }
        for module, path in known.items()
    }


def circles(graph):
    """Groups of nodes that all lead to each other; a node that leads to itself is one too."""
    reached = {node: set(targets) for node, targets in graph.items()}
    grew = True
    while grew:
        grew = False
        for targets in reached.values():
            further = targets.union(*(reached.get(target, ()) for target in targets))
            grew |= further != targets
            targets |= further
    return {
        tuple(sorted(other for other in targets if node in reached.get(other, ())))
        for node, targets in reached.items()
        if node in targets
    }

"""Mutants of the library, made of its own source."""

import inspect
import textwrap


def mutate(monkeypatch, module, name, old, new):
    """Replaces a piece of a function that a module uses, such as "_pearson", or of a method, such as "DIST.call"."""
    *owners, function = name.split(".")
    owner = module
    for one in owners:
        owner = getattr(owner, one)
    original = inspect.unwrap(getattr(owner, function))
    source = textwrap.dedent(inspect.getsource(original))
    assert old in source, f"{old!r} is no longer part of {name}"
    space = original.__globals__.copy()  # of the module that defines it, from which others may import it
    exec(source.replace(old, new), space)
    monkeypatch.setattr(owner, function, space[function])

"""Mutants of the library, made of its own source."""

import inspect
import textwrap


def mutate(monkeypatch, module, name, old, new):
    """Replaces a piece of a function of a module, such as "_pearson", or of a method in it, such as "DIST.call"."""
    *owners, function = name.split(".")
    owner = module
    for one in owners:
        owner = getattr(owner, one)
    source = textwrap.dedent(inspect.getsource(getattr(owner, function)))
    assert old in source, f"{old!r} is no part of {name} any more"
    space = vars(module).copy()
    exec(source.replace(old, new), space)
    monkeypatch.setattr(owner, function, space[function])

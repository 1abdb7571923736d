"""Tells one arm's code from another's: a digest of what functions do, with what they use of the study's own code."""

import ast
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np


def code_of(*functions: Callable[..., Any]) -> str:
    """Returns a digest of what functions do.

    The digest covers their code, without comments, docstrings, layout and their own defaults, which are settings. It
    also covers the functions, classes and constants that they use, if these are in the same module or below its folder,
    so that a changed learning rate at the top of a file is not missed. It does not cover what other libraries do.
    """
    parts = {text for function in functions for text in _parts(function)}
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]


def file_of(function: Callable[..., Any]) -> str | None:
    """The file that defines a function, also that of a partial; `None` if there is none."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return inspect.getsourcefile(function)
    except TypeError:  # built in, typed at a prompt, or an object that can be called
        return None


def _parts(root: Callable[..., Any]) -> Iterator[str]:
    """The code of a function, and of everything of its project that it uses, however deep."""
    yield f"root {_source(root, is_root=True)}"
    waiting, seen = [root], {id(root)}
    while waiting:
        one = waiting.pop()
        for name, value in _used(one, root):
            if not isinstance(value, (FunctionType, type, functools.partial)):
                if (constant := _constant(value)) is not None:
                    yield f"{getattr(one, '__qualname__', 'partial')}: {name} = {constant}"
            elif id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
                yield f"{name} {_source(value)}"


def _used(one: Any, root: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """The names that a function or a class uses, and what they stand for: of the root's project, or a constant."""
    found: list[tuple[str, Any]] = []
    if isinstance(one, functools.partial):
        found = [("func", one.func), ("args", one.args), ("keywords", one.keywords)]
    elif isinstance(one, type):
        found = [(base.__name__, base) for base in one.__bases__]
        for value in vars(one).values():
            if isinstance(value, FunctionType):
                found += _used(value, root)
    elif isinstance(one, FunctionType):
        names = set(_names(one.__code__))
        found = [(name, one.__globals__[name]) for name in names if name in one.__globals__]
        cells = zip(one.__code__.co_freevars, one.__closure__ or (), strict=True)
        found += [(name, cell.cell_contents) for name, cell in cells]
        if one is not root:  # whose defaults are settings
            found += [(f"default {i}", value) for i, value in enumerate(one.__defaults__ or ())]
            found += list((one.__kwdefaults__ or {}).items())
        for _, module in list(found):
            if isinstance(module, ModuleType) and _is_of_project(module, root):
                found += [(name, vars(module)[name]) for name in names if name in vars(module)]
    for name, value in found:
        for inner, part in _unpacked(name, value):
            if not isinstance(part, (FunctionType, type)) or _is_of_project(part, root):
                yield inner, part


def _unpacked(name: str, value: Any, within: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """A value; in place of a wrapper, as `functools.cache` makes, its function; of a container, its functions."""
    if isinstance(value, (dict, list, tuple)) and _constant(value) is None:
        if id(value) not in within:
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                if callable(part) or isinstance(part, (dict, list, tuple)):
                    yield from _unpacked(f"{name}[{_constant(key)}]", part, (*within, id(value)))
    elif callable(value) and not isinstance(value, type):
        yield name, inspect.unwrap(value)
    else:
        yield name, value


def _is_of_project(one: Any, root: Callable[..., Any]) -> bool:
    """Whether a function, class or module is in the root's module, or below its folder."""
    while isinstance(root, functools.partial):
        root = root.func
    if getattr(one, "__globals__", {}) is getattr(root, "__globals__", None):
        return True
    try:
        file, home = (Path(inspect.getsourcefile(each) or "").resolve() for each in (one, root))
    except TypeError:  # built in, or typed at a prompt
        return getattr(one, "__module__", "") == getattr(root, "__module__", None)
    return file.is_relative_to(home.parent) and "site-packages" not in file.parts


def _names(code: CodeType) -> Iterator[str]:
    """All names in compiled code, and in that of the functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _constant(value: Any) -> str | None:
    """A constant as text; `None` for anything else."""
    if dataclasses.is_dataclass(value):
        text = repr(value)
        return None if " at 0x" in text else text  # an address differs from run to run
    if isinstance(value, PurePath):
        return f"path {value.as_posix()}"
    if isinstance(value, (bytes, complex, range, enum.Enum)):
        return repr(value)
    if isinstance(value, (set, frozenset)):
        members = [_constant(one) for one in value]
        return None if None in members else f"set {sorted(map(str, members))}"
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        return f"{value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def _source(one: Callable[..., Any], *, is_root: bool = False) -> str:
    """What the source of a function or a class says; without a source, what its compiled code does."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, a partial, or within an expression
        parts = vars(one).values() if isinstance(one, type) else [one]
        codes = [_compiled(part.__code__) for part in parts if isinstance(part, FunctionType)]
        return repr(codes) if codes else type(one).__qualname__
    if is_root and isinstance(tree.body[0], ast.FunctionDef):
        # Settings to try do not change what was tried; the settings of a cell are in its config.
        tree.body[0].decorator_list = []
        tree.body[0].args.defaults, tree.body[0].args.kw_defaults = [], []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    # As Python 3.11 has it, so that a study goes on under another version.
    whole: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **whole).replace(", type_params=[]", "")


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What compiled code does: its instructions, names and constants, and those of the functions in it."""
    constants = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, code.co_names, constants

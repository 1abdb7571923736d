"""Tells one arm's code from another's: a digest of what functions do, with what they use of the study's own code."""

import ast
import contextlib
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np

# Python's own, and this library, which may both lie below a project's folder.
_LIBRARIES = Path(os.__file__).resolve().parent, Path(__file__).resolve().parents[1]


def code_of(*functions: Callable[..., Any]) -> str:
    """Returns a digest of what functions do.

    The digest covers their code, without comments, docstrings, layout and their own defaults, which are settings. It
    also covers what they use, if that is in the same module or below its folder: functions, classes, constants, and the
    state of objects, so that a changed learning rate at the top of a file is not missed. Of other libraries it covers
    the names, and the settings of Keras' objects that are not layers, but not what they do. Paths below the folder
    count from there, so that a project may be moved.
    """
    texts = sorted("\n".join(_Reader(function).lines()) for function in functions)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def file_of(function: Callable[..., Any]) -> str | None:
    """The file that defines a function, also that of a partial; `None` if there is none, as in a notebook."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        file = inspect.getsourcefile(function)
    except (OSError, TypeError):  # typed at a prompt, built in, or an object that can be called
        return None
    return file if file and Path(file).exists() else None  # a notebook names files that do not exist


class _Reader:
    """Reads a function and what it uses, object by object, each numbered in the order in which it is met."""

    def __init__(self, root: Callable[..., Any]) -> None:
        self._root = root
        self._plain = root.__func__ if isinstance(root, MethodType) else root
        while isinstance(root, functools.partial):
            root = root.func
        written: Any = getattr(root, "__func__", root)
        if not isinstance(written, (FunctionType, type)):  # an object that can be called
            written = type(written)
        self._globals = getattr(written, "__globals__", None)
        self._module = written.__module__
        file = file_of(written)
        home = Path.cwd() if file is None else Path(file).parent
        self._home = home.resolve()
        homes = {f"{os.path.normpath(home)}{os.sep}", f"{self._home}{os.sep}"}
        self._homes = sorted(homes, key=len, reverse=True)
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []  # kept, so that no other gets the identity of one

    def lines(self) -> Iterator[str]:
        """What each object is and uses."""
        self._number(self._root)
        for number, one in enumerate(self._objects):  # which grows
            if isinstance(one, (FunctionType, type)):
                yield f"{number} {_source(one, is_root=one is self._plain)}"
            else:
                yield f"{number} {type(one).__qualname__}"
            for name, value in self._used(one):
                if (text := self._text(value)) is not None:
                    yield f"{number}.{name} = {text}"

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _text(self, value: Any) -> str | None:
        """A constant, the number of an object that is read too, or a name; `None` for what nothing is known of."""
        if callable(value) and not isinstance(value, type):
            value = inspect.unwrap(value)  # of a wrapper, as functools.cache makes, its function
        if (constant := self._constant(value)) is not None:
            return constant
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, (FunctionType, type)):
            return f"#{self._number(value)}" if self._is_of_project(value) else f"named {value.__qualname__}"
        if isinstance(value, (Mapping, list, tuple, functools.partial, MethodType)) or self._is_read(value):
            return f"#{self._number(value)}"
        name = getattr(value, "__qualname__", getattr(value, "__name__", None))
        return f"named {name}" if callable(value) and isinstance(name, str) else None

    def _is_read(self, value: Any) -> bool:
        """Whether an object's state is known: of the project's classes, dataclasses, and Keras' but for layers."""
        return not isinstance(value, keras.Layer) and (
            isinstance(value, SimpleNamespace)
            or dataclasses.is_dataclass(value)
            or self._is_of_project(type(value))
            or callable(getattr(value, "get_config", None))
        )

    def _used(self, one: Any) -> Iterator[tuple[str, Any]]:
        """The names that an object uses, in an order that does not depend on the process, and what they stand for."""
        if isinstance(one, functools.partial):
            yield from (("func", one.func), ("args", one.args), ("keywords", one.keywords))
        elif isinstance(one, MethodType):
            yield from (("func", one.__func__), ("self", one.__self__))
        elif isinstance(one, type):
            yield from ((f"base {i}", base) for i, base in enumerate(one.__bases__))
            for name, value in sorted(vars(one).items()):
                written = isinstance(value, FunctionType) and value.__code__.co_filename != "<string>"
                if written or not (_is_dunder(name) or isinstance(value, FunctionType)):
                    yield from _plainly(name, value)
        elif isinstance(one, FunctionType):
            yield from sorted(self._names_of(one).items())
            if one is not self._plain:  # whose defaults are settings
                yield from ((f"default {i}", value) for i, value in enumerate(one.__defaults__ or ()))
                yield from sorted((one.__kwdefaults__ or {}).items())
        elif isinstance(one, Mapping):
            named = ((self._constant(key) or str(key), value) for key, value in one.items())
            yield from sorted(_without_arrays(named), key=lambda item: item[0])
        elif isinstance(one, (list, tuple)):
            yield from _without_arrays((str(i), value) for i, value in enumerate(one))
        else:
            yield "class", type(one)
            if dataclasses.is_dataclass(one):
                yield from ((field.name, getattr(one, field.name)) for field in dataclasses.fields(one))
            elif self._is_of_project(type(one)) or isinstance(one, SimpleNamespace):
                yield from sorted(_without_arrays(vars(one).items() if hasattr(one, "__dict__") else ()))
            elif (config := _config(one)) is not None:
                yield "config", config

    def _names_of(self, function: FunctionType) -> dict[str, Any]:
        """The variables of modules and of functions around it that a function reads, and what it imports."""
        names = {name for name in _names(function.__code__) if not _is_dunder(name)}
        found = {name: function.__globals__[name] for name in names if name in function.__globals__}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # of a variable that has no value yet
                found[name] = cell.cell_contents
        waiting = [value for value in found.values() if isinstance(value, ModuleType)]
        waiting += self._imported(function)
        read: list[ModuleType] = []
        while waiting:
            module = waiting.pop()
            if module in read or not self._is_of_project(module):
                continue
            read.append(module)
            for name in sorted(names & vars(module).keys()):
                value = vars(module)[name]
                found[f"{module.__name__}.{name}"] = value
                waiting += [value] if isinstance(value, ModuleType) else []
        return found

    def _imported(self, function: FunctionType) -> Iterator[ModuleType]:
        """The modules of the project that a function imports itself."""
        package = function.__globals__.get("__package__") or ""
        for name, level in _imports(function.__code__):
            try:
                full = importlib.util.resolve_name("." * level + name, package) if level else name
                spec = importlib.util.find_spec(full.partition(".")[0])
                places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
                if any(place and self._is_below(place) for place in places):
                    importlib.import_module(full)
                    # `import a.b` makes the name a.
                    yield sys.modules[full]
                    yield sys.modules[full.partition(".")[0]]
            except Exception:  # whatever the import raises, it will raise in the arm
                continue

    def _is_of_project(self, one: Any) -> bool:
        """Whether a function, class or module is in the root's module, or below its folder."""
        if self._globals is not None and getattr(one, "__globals__", None) is self._globals:
            return True
        if isinstance(one, ModuleType):
            return any(
                place and self._is_below(place)
                for place in (getattr(one, "__file__", None), *getattr(one, "__path__", ()))
            )
        try:
            file = inspect.getsourcefile(one)
        except (OSError, TypeError):  # built in, or typed at a prompt
            file = None
        if not file or not Path(file).exists():
            return getattr(one, "__module__", "") == self._module
        return self._is_below(file)

    def _is_below(self, file: str) -> bool:
        path = Path(file).resolve()
        elsewhere = "site-packages" in path.parts or any(path.is_relative_to(one) for one in _LIBRARIES)
        return path.is_relative_to(self._home) and not elsewhere

    def _constant(self, value: Any) -> str | None:
        """A constant as text; `None` for anything else."""
        if isinstance(value, str):
            return json.dumps(self._placed(value))
        if isinstance(value, PurePath):
            return f"path {self._placed(str(value))}"
        if isinstance(value, (bytes, complex, range, enum.Enum)):
            return repr(value)
        if isinstance(value, (set, frozenset)):
            members = [self._constant(one) for one in value]
            return None if None in members else f"set {sorted(map(str, members))}"
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
            return f"{value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        try:
            return self._placed(json.dumps(value, sort_keys=True))
        except (RecursionError, TypeError, ValueError):
            return None

    def _placed(self, text: str) -> str:
        """A text in which paths below the project's folder count from there."""
        if os.path.isabs(text):
            text = os.path.normpath(text)
        for home in self._homes:
            text = text.replace(home, "").replace(json.dumps(home)[1:-1], "")
        return text


def _is_dunder(name: str) -> bool:
    """Whether Python gives a name its meaning, as `__name__`, which differs from process to process."""
    return name.startswith("__") and name.endswith("__")


def _plainly(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An attribute of a class, with the functions of what describes it in place of that."""
    if isinstance(value, (classmethod, staticmethod)):
        yield name, value.__func__
    elif isinstance(value, property):
        yield from ((f"{name} {what}", getattr(value, what)) for what in ("fget", "fset", "fdel"))
    elif isinstance(value, functools.cached_property):
        yield name, value.func
    else:
        yield name, value


def _without_arrays(named: Any) -> Iterator[tuple[str, Any]]:
    """What is in a container or an object that may fill up with results."""
    return ((str(name), value) for name, value in named if not isinstance(value, np.ndarray))


def _config(value: Any) -> Any:
    """The settings of one of Keras' objects; names, which count the objects of a process, are left out."""

    def unnamed(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: unnamed(one) for key, one in part.items() if key != "name"}
        return [unnamed(one) for one in part] if isinstance(part, (list, tuple)) else part

    try:
        return unnamed(value.get_config())
    except Exception:  # of an object that has no settings after all
        return None


def _names(code: CodeType) -> Iterator[str]:
    """All names in compiled code, and in that of the functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _imports(code: CodeType) -> Iterator[tuple[str, int]]:
    """The modules that compiled code imports, by name and level."""
    levels: list[Any] = []
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level = next((one for one in levels[-2:] if isinstance(one, int)), 0)
            yield step.argval, level
        levels.append(step.argval if step.opname.startswith("LOAD_") else None)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)


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

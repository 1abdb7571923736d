"""A study as it was declared: its arms and comparisons."""

import dataclasses
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from distill.studies._measures import Measure
from distill.studies._run import Made, Split
from distill.studies._sections import Section

Function = TypeVar("Function", bound=Callable[..., Made])
# seed and settings -> train, dev and test.
Data = Callable[..., tuple[Split, Split, Split]]
PLAIN = (
    "Parameters after the first are settings: each needs a default, and defaults and values to try must be numbers, "
    "strings, booleans, None, or lists of these."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """An arm as it was declared.

    Attributes:
        function: function that trains it.
        needs: arms whose models it uses.
        settings: settings and their defaults.
        tune: settings to try, and their values.
        group: heading in tables.
        depth: 0 for an arm that needs no other; otherwise one more than the deepest arm that it needs.
        on_request: whether it runs only if it is asked for or needed.
    """

    function: Callable[..., Made]
    needs: tuple[str, ...]
    settings: dict[str, Any]
    tune: dict[str, tuple[Any, ...]]
    group: str
    depth: int
    on_request: bool

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All combinations of the settings to try."""
        return [
            dict(zip(self.tune, values, strict=True)) for values in itertools.product(*self.tune.values())
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """What a study declares.

    Attributes:
        name: name of the study.
        title: title of the report.
        question: question that it answers.
        data: function that takes a seed and returns the splits.
        data_settings: settings of the data.
        changed: names of the settings whose values are not the study's own.
        seeds: number of seeds.
        metrics: ways to score.
        arms: arms by name, in the order of their declaration.
        comparisons: pairs of baseline and arm.
        primary: the comparisons that answer the question.
        sections: functions of the finished study that add to its report.
    """

    name: str
    title: str
    question: str
    data: Data
    data_settings: dict[str, Any]
    changed: tuple[str, ...] = ()
    seeds: int
    metrics: tuple[Measure, ...]
    arms: dict[str, Declared] = dataclasses.field(default_factory=dict)
    comparisons: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    primary: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    sections: list[Section] = dataclasses.field(default_factory=list)

    def only(self, names: Sequence[str] | Literal["all"] | None) -> "Design":
        """The study with some of its arms, and the arms that they need.

        Args:
            names: names of arms; "all"; or `None` for all except those that run only on request.

        Raises:
            ValueError: there is no arm of such a name.
        """
        if names is None:
            names = [name for name, arm in self.arms.items() if not arm.on_request]
        elif isinstance(names, str):
            names = list(self.arms) if names == "all" else [names]
        unknown = [name for name in names if name not in self.arms]
        if unknown or not names:
            raise ValueError(
                "arms must be 'all' or the names of arms. "
                f"Received: {', '.join(map(repr, unknown)) or 'none'}; there are {', '.join(self.arms) or 'none'}."
            )
        wanted = set(names)
        for name, arm in reversed(self.arms.items()):  # what an arm needs is declared before it
            wanted.update(arm.needs if name in wanted else ())
        return dataclasses.replace(
            self,
            arms={name: arm for name, arm in self.arms.items() if name in wanted},
        )

    def needed_by(self, name: str) -> set[str]:
        """All arms that an arm needs, and those that these need."""
        return {one for need in self.arms[name].needs for one in {need, *self.needed_by(need)}}

    def on(self, settings: Mapping[str, Any]) -> "Design":
        """The study with other settings of its data.

        Raises:
            ValueError: there is no such setting, or a value is not plain.
        """
        if strangers := [name for name in settings if name not in self.data_settings]:
            raise ValueError(
                "data must name settings of the study's data. "
                f"Received: {', '.join(strangers)}; there are {', '.join(self.data_settings) or 'none'}."
            )
        if not is_plain(dict(settings)):
            raise ValueError(f"{PLAIN} Received: data={dict(settings)}.")
        changed = tuple(name for name, value in settings.items() if value != self.data_settings[name])
        return dataclasses.replace(self, data_settings={**self.data_settings, **settings}, changed=changed)

    def folder(self, *, smoke: bool) -> str:
        """Name of the directory; it differs for other data and smoke runs, so that none overwrites another's tables."""
        several = len(self.data_settings) > 1
        parts = [
            f"{name}={self.data_settings[name]}" if several else str(self.data_settings[name])
            for name in self.changed
        ]
        values = [_file_name(part) for part in parts]
        return "-".join([self.name, *values, *["smoke"] * smoke])

    def splits(self, seed: int) -> tuple[Split, Split, Split]:
        """Returns what the data function returns for a seed: train, dev and test.

        Raises:
            ValueError: it does not return three splits.
        """
        found = self.data(seed, **self.data_settings)
        if not isinstance(found, (tuple, list)) or len(found) != 3:
            count = f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
            raise ValueError(
                "The data function of a study returns three splits: train, dev and test. "
                f"Received: {type(found).__name__}{count}."
            )
        return found[0], found[1], found[2]


def _file_name(text: str) -> str:
    """A text as part of a file's name; what is changed or long gets a digest, so that no two texts are one."""
    plain = re.sub(r"[^\w.+=-]+", "_", text)
    if plain == text and len(text) <= 64:
        return text
    return f"{plain[:64]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def about(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring."""
    described = (function.__doc__ or "").strip().partition("\n")[0]
    return described or "No description: the function has no docstring."


def settings_of(function: Callable[..., Any], whose: str) -> dict[str, Any]:
    """The parameters of a function after the first, and their defaults.

    Raises:
        ValueError: one has no plain default, or there is no first parameter.
    """
    parameters = list(inspect.signature(function).parameters.values())
    settings = {one.name: one.default for one in parameters[1:]}
    if not parameters:
        raise ValueError(
            "The function of an arm takes a run, and that of the data a seed. "
            f"Received: {whose}, whose function takes nothing."
        )
    if not is_plain(settings):
        raise ValueError(f"{PLAIN} Received: {whose} with {settings}.")
    return settings


def is_plain(values: Any) -> bool:
    """Whether JSON can hold all values."""
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True

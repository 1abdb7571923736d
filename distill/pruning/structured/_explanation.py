"""Tells which channels of a model can be removed, and why the others stay."""

import collections
import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from distill._extras import needed
from distill._tables import aligned
from distill.pruning.structured._call import Rule
from distill.pruning.structured._groups import Group, find_groups
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of a model that can be removed; `print` shows a table, `plot` draws a picture.

    Attributes:
        model: name of the model.
        groups: groups of channels that the same layers make, in the order of the graph.
        unknown: path -> type of each layer or operation without a known rule. All channels that it touches stay.
    """

    model: str
    groups: tuple[Group, ...]
    unknown: dict[str, str]

    def __str__(self) -> str:
        rows = [("made by", "channels", "removable", "why the others stay")]
        for group in self.groups:
            free = group.atoms.size * group.multiple
            rows.append((_named(group), str(group.width), str(free), group.locked))
        lines = aligned(rows, "<>><")
        if self.unknown:
            lines.append(without_rules(self.unknown).strip())
        return "\n".join([f"Channels of {self.model!r}", *lines])

    def plot(self) -> Any:
        """Draws a bar for each group of channels: how many can be removed, how many stay, and why.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("channels.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        with needed("A plot", "experiments"):
            from matplotlib.figure import Figure

        widths = np.array([group.width for group in self.groups])
        free = np.array([group.atoms.size * group.multiple for group in self.groups])
        places = np.arange(len(self.groups))
        figure = Figure(figsize=(9, 1.2 + 0.22 * len(self.groups)), layout="constrained")
        axes = figure.subplots()
        axes.barh(places, free, color="#0072B2", label="removable")
        axes.barh(places, widths - free, left=free, color="#B0B0B0", label="stay")
        for place, group in zip(places, self.groups, strict=True):
            axes.annotate(
                textwrap.shorten(group.locked.partition(": ")[2] or group.locked, 60, placeholder=" …"),
                (group.width, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        names = [_named(group) for group in self.groups]
        axes.set_yticks(places, [f"…{name[-45:]}" if len(name) > 46 else name for name in names], fontsize=7)
        axes.set(xlabel="channels", title=f"Channels of {self.model}", ylim=(max(len(places), 1) - 0.5, -0.5))
        room = [
            w * 1.05 + (0.55 * widths.max() if g.locked else 0)
            for w, g in zip(widths, self.groups, strict=True)
        ]
        axes.set_xlim(0, max(room, default=1))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
        return figure


def explain(model: keras.Model, *, exact: bool = True, rules: Mapping[type, Rule] | None = None) -> Channels:
    """Tells which channels of a model can be removed, which go together, and why the others stay.

    Args:
        model: model, as for `prune_channels`.
        exact: whether normalizations keep the channels that they average over, as for `prune_channels`.
        rules: rules of your own, as for `prune_channels`.

    Returns:
        The groups of channels; `print` shows a table.

    Raises:
        ValueError: the model has no graph.

    Example:
        >>> from distill import pruning
        >>> hidden, head = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(3, name="head")
        >>> net = keras.Sequential([keras.Input((8,)), hidden, head], name="net")
        >>> print(pruning.explain(net))
        Channels of 'net'
        made by  channels  removable  why the others stay
        hidden         16         16
        head            3          0  it is an output of the model
    """
    structure = read(model, rules_with(rules), exact=exact)
    return Channels(model.name, tuple(find_groups(structure)), structure.unknown)


def without_rules(unknown: Mapping[str, str]) -> str:
    """A sentence that names every layer without a rule, by its type; "" if there are none."""
    if not unknown:
        return ""
    paths = collections.defaultdict(list)
    for path, kind in unknown.items():
        paths[kind].append(path)
    named = "; ".join(f"{kind} ({', '.join(found)})" for kind, found in paths.items())
    return (
        f" No rule is known for {named}, so all channels that reach it stay. Add a rule with "
        "rules={type: function of the call}."
    )


def _named(group: Group) -> str:
    more = len(group.layers) - 1
    return f"{group.name} and {more} more" if more else group.name

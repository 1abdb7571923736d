"""All costs of a model at once, as an object, a table and a picture; of several models side by side."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from distill._tables import aligned
from distill.cost._calls import calls_of, total
from distill.cost._layers import LayerCost, layer_costs
from distill.cost._memory import Activations, activations_of
from distill.cost._storage import Sizes, keras_sizes, litert_sizes, parameters
from distill.cost._timing import Latency, Runtime, in_turns


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a model costs; `print` shows it as a table, `plot` as a picture.

    Attributes:
        model: the model's name.
        parameters: see `distill.cost.parameters`.
        trainable: how many of them training changes.
        nonzero: how many of them are not zero.
        macs: see `distill.cost.macs`; `None` where those of a layer are not known.
        activations: memory between the layers; `None` where a size is not known.
        layers: each once, in the order of the graph; those without weights too, if the model has a graph.
        unknown: what is not known -> why: path of a layer, or the model's name, for multiply-adds; "LiteRT" for bytes;
            what was to run the model for its time.
        sizes: bytes as files, if they were asked for.
        latencies: times of a batch by what runs it, if they were asked for; `None` where it cannot run the model.
    """

    model: str
    parameters: int
    trainable: int
    nonzero: int
    macs: int | None
    activations: Activations | None
    layers: tuple[LayerCost, ...]
    unknown: dict[str, str]
    sizes: Sizes | None
    latencies: dict[str, Latency | None]

    @property
    def sparsity(self) -> float:
        """Share of zeros among all parameters, 0 to 1; `distill.pruning.measure_sparsity` looks at kernels alone."""
        return 1 - self.nonzero / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        summary = [(quantity, text) for quantity, (_, text) in _quantities(self).items()]
        header = ("layer", "type", "output", "parameters", "zeros", "MACs", "share", "activations")
        rows = [header, *(self._row(layer) for layer in self._shown)]
        table = [f"Cost of {self.model!r}", *aligned(summary, "<<"), "", *aligned(rows, "<<>>>>>>")]
        return "\n".join([*table, *_reasons([self])])

    @property
    def _shown(self) -> list[LayerCost]:
        return [layer for layer in self.layers if layer.parameters or layer.macs != 0]

    def _row(self, layer: LayerCost) -> tuple[str, ...]:
        return (
            layer.name,
            layer.kind,
            "" if layer.output_shape is None else " × ".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{1 - layer.nonzero / layer.parameters:.0%}" if layer.parameters else "",
            _count(layer.macs),
            f"{layer.macs / self.macs:.1%}" if layer.macs and self.macs else "",
            _bytes(layer.activation_bytes),
        )

    def plot(self) -> Any:
        """A bar for each layer that has weights or multiply-adds: those, and the memory of its outputs.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("cost.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

        shown = self._shown
        places = np.arange(len(shown))
        figure = Figure(figsize=(10, 1.6 + 0.2 * len(shown)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        columns = {
            "multiply-adds": [layer.macs or 0 for layer in shown],
            "parameters": [layer.parameters for layer in shown],
            "bytes of activations": [layer.activation_bytes or 0 for layer in shown],
        }
        for axes, (label, column) in zip(panels, columns.items(), strict=True):
            axes.barh(places, column, color=_COLORS[0])
            axes.set(xlabel=label)
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.spines[["top", "right"]].set_visible(False)
        if zeros := self.parameters - self.nonzero:
            column = [layer.parameters - layer.nonzero for layer in shown]
            panels[1].barh(places, column, color="#B0B0B0", label=f"{zeros:,} of them zero")
            panels[1].legend(frameon=False, fontsize=8)
        for place, layer in zip(places, shown, strict=True):
            if layer.macs is None:
                panels[0].text(0, place, " unknown", va="center", fontsize=7)
        names = [layer.name if len(layer.name) < 47 else f"…{layer.name[-45:]}" for layer in shown]
        panels[0].set_yticks(places, names, fontsize=7)
        panels[0].set_ylim(len(places) - 0.5, -0.5)
        figure.suptitle(f"Cost of {self.model}")
        return figure


@dataclasses.dataclass(frozen=True)
class Profiles:
    """What several models cost, side by side; `print` shows them as a table, `plot` as a picture.

    Attributes:
        profiles: by name; the first is what the others are compared with.
    """

    profiles: Mapping[str, Profile]

    def __str__(self) -> str:
        found = [_quantities(profile) for profile in self.profiles.values()]
        rows = [("", *self.profiles)]
        for quantity in dict.fromkeys(itertools.chain(*found)):
            cells = [quantities.get(quantity, _MISSING) for quantities in found]
            rows.append((quantity, cells[0][1], *(_compared(cell, cells[0]) for cell in cells[1:])))
        return "\n".join([*aligned(rows, "<" + ">" * len(found)), *_reasons(self.profiles.values())])

    def plot(self) -> Any:
        """A group of bars for each quantity: what each model has of it, in percent of the first one's.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("costs.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        found = [_quantities(profile) for profile in self.profiles.values()]
        common = [name for name in found[0] if all(quantities.get(name, _MISSING)[0] for quantities in found)]
        places, height = np.arange(len(common)), 0.8 / len(found)
        figure = Figure(figsize=(9, 1.2 + 0.25 * len(common) * len(found)), layout="constrained")
        axes = figure.subplots()
        for i, (name, quantities) in enumerate(zip(self.profiles, found, strict=True)):
            values = [[one[quantity][0] or 0 for quantity in common] for one in (quantities, found[0])]
            shares = 100 * np.divide(*np.array(values))
            color = _COLORS[i % len(_COLORS)]
            bars = axes.barh(places + (i + 0.5) * height - 0.4, shares, height, color=color, label=name)
            axes.bar_label(bars, [quantities[quantity][1] for quantity in common], padding=3, fontsize=7)
        axes.set_yticks(places, common, fontsize=8)
        axes.set(xlabel=f"% of {next(iter(self.profiles))}", ylim=(len(places) - 0.5, -0.5))
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=len(found), frameon=False, fontsize=8)
        return figure


def profile(
    model: keras.Model, *, files: bool = False, latency: Sequence[Runtime] = (), runs: int = 200
) -> Profile:
    """What a model costs; see `profiles`."""
    return profiles({model.name: model}, files=files, latency=latency, runs=runs).profiles[model.name]


def profiles(
    models: Mapping[str, keras.Model],
    *,
    files: bool = False,
    latency: Sequence[Runtime] = (),
    runs: int = 200,
) -> Profiles:
    """What models cost: parameters, multiply-adds and memory by layer, zeros, bytes and time.

    What is not known is left out and says why, never guessed: of a model without a graph, the multiply-adds and the
    memory; of one that LiteRT cannot hold, its bytes and times there.

    Args:
        models: name to built model.
        files: whether the models are written to say their sizes, see `sizes`; takes seconds.
        latency: what to time them with, such as `[LiteRT(threads=2), TFFunction(batch_size=32)]`, see `latencies`;
            takes seconds. By default nothing is timed.
        runs: timed runs of each.

    Returns:
        The costs.

    Raises:
        ValueError: a model is not built.

    Example:
        >>> model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3)])
        >>> profile(model).macs
        48672
    """
    read = {name: _read(model) for name, model in models.items()}
    for name, model in models.items() if files else ():
        read[name] = _with_sizes(read[name], model)
    for runtime in latency:
        read = _timed(read, models, runtime, runs)
    return Profiles(read)


def _with_sizes(profile: Profile, model: keras.Model) -> Profile:
    of_keras = keras_sizes(model)
    try:
        found = Sizes(*of_keras, *litert_sizes(model))
    except ValueError as error:
        unknown = profile.unknown | {"LiteRT": str(error)}
        return dataclasses.replace(profile, sizes=Sizes(*of_keras, None, None, None), unknown=unknown)
    return dataclasses.replace(profile, sizes=found)


def _timed(
    profiles: Mapping[str, Profile], models: Mapping[str, keras.Model], runtime: Runtime, runs: int
) -> dict[str, Profile]:
    prepared, reasons = {}, {}
    for name, model in models.items():
        try:
            prepared[name] = runtime.prepare(model)
        except ValueError as error:
            reasons[name] = {str(runtime): str(error)}
    times = in_turns(prepared, runs=runs)
    return {
        name: dataclasses.replace(
            profile,
            latencies=profile.latencies | {str(runtime): times.get(name)},
            unknown=profile.unknown | reasons.get(name, {}),
        )
        for name, profile in profiles.items()
    }


def _read(model: keras.Model) -> Profile:
    """All that is neither written nor timed."""
    count = parameters(model)
    unknown: dict[str, str] = {}
    calls = activations = macs = None
    try:
        calls = calls_of(model)
    except ValueError as error:
        unknown[model.name] = str(error)
    else:
        unknown = {call.path: call.unknown for call in calls.calls if call.products is None}
        macs = None if unknown else total(calls.calls).total
        with contextlib.suppress(ValueError):  # a size that is unknown
            activations = activations_of(calls)
    layers = layer_costs(model, None if calls is None else calls.calls)
    return Profile(
        model.name,
        count,
        sum(math.prod(weight.shape) for weight in model.trainable_weights),
        sum(layer.nonzero for layer in layers),
        macs,
        activations,
        layers,
        unknown,
        None,
        {},
    )


_Quantity = tuple[float | None, str]  # its value, and how it is shown
_MISSING: _Quantity = (None, "–")
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def _reasons(profiles: Iterable[Profile]) -> list[str]:
    """Why numbers are not known, each once."""
    found = itertools.chain(*(profile.unknown.values() for profile in profiles))
    return [f"unknown: {reason}" for reason in dict.fromkeys(found)]


def _quantities(profile: Profile) -> dict[str, _Quantity]:
    """By name."""
    zeros = f"{profile.nonzero:,} ({profile.sparsity:.1%} zeros)"
    memory = profile.activations
    found: dict[str, _Quantity] = {
        "parameters": (profile.parameters, f"{profile.parameters:,}"),
        "trainable": (profile.trainable, f"{profile.trainable:,}"),
        "not zero": (profile.nonzero, zeros),
        "multiply-adds": (profile.macs, _count(profile.macs)),
    }
    in_bytes = {
        "activations, all": None if memory is None else memory.all_bytes,
        "activations, peak": None if memory is None else memory.peak_bytes,
    }
    if profile.sizes is not None:
        names = {"keras": ".keras", "keras_gzip": ".keras, gzipped", "litert": "LiteRT"}
        names |= {"litert_gzip": "LiteRT, gzipped", "litert_sparse": "LiteRT, sparse"}
        in_bytes |= {names[field]: size for field, size in dataclasses.asdict(profile.sizes).items()}
    found |= {name: (value, _bytes(value)) for name, value in in_bytes.items()}
    for runtime, times in profile.latencies.items():
        if times is None:
            found[runtime] = (None, "unknown")
            continue
        spread = f"{times.median_ms:.3g} ms ({times.low_ms:.3g}–{times.high_ms:.3g})"
        found[runtime] = (times.median_ms, spread)
    return found


def _compared(one: _Quantity, other: _Quantity) -> str:
    (value, text), (base, _) = one, other
    return f"{text}  {value / base:>6.1%}" if value is not None and base else f"{text}{'':>8}"


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    if value is None:
        return "unknown"
    power = min(3, max(0, len(str(value)) - 1) // 3)
    return f"{value / 1000**power:.{min(power, 1)}f} {('B', 'kB', 'MB', 'GB')[power]}"

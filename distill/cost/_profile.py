"""The costs of one model, and of several side by side, with their tables."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from distill._tables import aligned
from distill.cost._layers import LayerCost
from distill.cost._memory import Activations
from distill.cost._plots import plot_layers, plot_shares
from distill.cost._storage import Sizes
from distill.cost._timing import Latency
from distill.cost._units import Quantity, bytes_text, compared, count_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISSING = Quantity(None, "–")
_FILES = {
    "keras": ".keras",
    "keras_gzip": ".keras, gzipped",
    "litert": "LiteRT",
    "litert_gzip": "LiteRT, gzipped",
    "litert_sparse": "LiteRT, sparse",
}


@dataclasses.dataclass(frozen=True)
class Profile:
    """Costs of a model; `print` shows a table, `plot` draws a figure.

    Attributes:
        model: name of the model.
        parameters: number of scalars in its weights, as `distill.cost.parameters` counts them.
        trainable: number of scalars that training changes.
        nonzero: number of scalars that are not zero.
        macs: multiply-adds of one example, as `distill.cost.macs` counts them; `None` if those of a layer are unknown.
        activations: memory of the tensors between layers; `None` if a size is unknown.
        layers: costs of each layer and operation, in the order of the graph; for a model without a graph, only of
            the layers with weights.
        unknown: what is unknown -> why. The keys are the path of a layer or the model's name for multiply-adds,
            "LiteRT" for bytes, and the runtime for latency.
        sizes: bytes of its files, or `None` if they were not asked for.
        latencies: runtime -> latency of a batch; `None` where the runtime cannot run the model.
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
        summary = [(name, quantity.text) for name, quantity in _quantities(self).items()]
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
            count_text(layer.macs),
            f"{layer.macs / self.macs:.1%}" if layer.macs and self.macs else "",
            bytes_text(layer.activation_bytes),
        )

    def plot(self) -> "Figure":
        """Draws one bar per layer: multiply-adds, parameters, and bytes of activations.

        Only layers with weights or multiply-adds are drawn.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("cost.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plot_layers(self._shown, title=f"Cost of {self.model}", zeros=self.parameters - self.nonzero)


@dataclasses.dataclass(frozen=True)
class Profiles:
    """Costs of several models side by side; `print` shows a table, `plot` draws a figure.

    Attributes:
        profiles: name -> costs; the others are compared with the first.
    """

    profiles: Mapping[str, Profile]

    def __str__(self) -> str:
        found = [_quantities(profile) for profile in self.profiles.values()]
        rows = [("", *self.profiles)]
        for name in dict.fromkeys(itertools.chain(*found)):
            first, *others = (quantities.get(name, _MISSING) for quantities in found)
            rows.append((name, first.text, *(compared(other, first) for other in others)))
        return "\n".join([*aligned(rows, "<" + ">" * len(found)), *_reasons(self.profiles.values())])

    def plot(self) -> "Figure":
        """Draws, for each quantity, one bar per model in percent of the first model.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("costs.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return plot_shares({name: _quantities(profile) for name, profile in self.profiles.items()})


def _reasons(profiles: Iterable[Profile]) -> list[str]:
    """A line for each reason why a number is unknown."""
    found = itertools.chain(*(profile.unknown.values() for profile in profiles))
    return [f"unknown: {reason}" for reason in dict.fromkeys(found)]


def _quantities(profile: Profile) -> dict[str, Quantity]:
    """The rows of a table, by name."""
    memory, sizes = profile.activations, profile.sizes
    found = {
        "parameters": Quantity(profile.parameters, f"{profile.parameters:,}"),
        "trainable": Quantity(profile.trainable, f"{profile.trainable:,}"),
        "not zero": Quantity(profile.nonzero, f"{profile.nonzero:,} ({profile.sparsity:.1%} zeros)"),
        "multiply-adds": Quantity(profile.macs, count_text(profile.macs)),
    }
    in_bytes: dict[str, int | None] = {
        "activations, all": None if memory is None else memory.all_bytes,
        "activations, peak": None if memory is None else memory.peak_bytes,
    }
    if sizes is not None:
        in_bytes |= {name: getattr(sizes, field) for field, name in _FILES.items()}
    found |= {name: Quantity(value, bytes_text(value)) for name, value in in_bytes.items()}
    for runtime, latency in profile.latencies.items():
        found[runtime] = Quantity(None, "unknown")
        if latency is not None:
            spread = f"{latency.low_ms:.3g}–{latency.high_ms:.3g}"
            found[runtime] = Quantity(latency.median_ms, f"{latency.median_ms:.3g} ms ({spread})")
    return found

"""Draws costs: bars for the layers of a model, and bars for several models."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill._extras import needed
from distill.cost._layers import LayerCost
from distill.cost._units import Quantity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def plot_layers(layers: Sequence[LayerCost], *, title: str, zeros: int) -> "Figure":
    """Draws one bar per layer for its multiply-adds, its parameters and the bytes of its outputs.

    Args:
        layers: layers to draw, from top to bottom.
        title: title of the figure.
        zeros: number of parameters of the whole model that are zero; those of each layer are drawn over its bar.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with needed("A plot", "experiments"):
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter

    places = np.arange(len(layers))
    figure = Figure(figsize=(10, 1.6 + 0.2 * len(layers)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    columns = {
        "multiply-adds": [layer.macs or 0 for layer in layers],
        "parameters": [layer.parameters for layer in layers],
        "bytes of activations": [layer.activation_bytes or 0 for layer in layers],
    }
    for axes, (label, column) in zip(panels, columns.items(), strict=True):
        axes.barh(places, column, color=_COLORS[0])
        axes.set(xlabel=label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    if zeros:
        column = [layer.parameters - layer.nonzero for layer in layers]
        panels[1].barh(places, column, color="#B0B0B0", label=f"{zeros:,} of them zero")
        panels[1].legend(loc="lower right", frameon=False, fontsize=8)
    for place, layer in zip(places, layers, strict=True):
        if layer.macs is None:
            panels[0].text(0, place, " unknown", va="center", fontsize=7)
    names = [layer.name if len(layer.name) < 47 else f"…{layer.name[-45:]}" for layer in layers]
    panels[0].set_yticks(places, names, fontsize=7)
    panels[0].set_ylim(len(places) - 0.5, -0.5)
    figure.suptitle(title)
    return figure


def plot_shares(models: Mapping[str, Mapping[str, Quantity]]) -> "Figure":
    """Draws, for every quantity that all models have, one bar per model in percent of the first one's.

    Args:
        models: name of a model -> name of a quantity -> the quantity.

    Raises:
        ImportError: matplotlib is not installed.
    """
    with needed("A plot", "experiments"):
        from matplotlib.figure import Figure

    found = list(models.values())
    common = [name for name in found[0] if all(name in one and one[name].value for one in found)]
    base = np.array([found[0][name].value for name in common])
    places, height = np.arange(len(common)), 0.8 / len(found)
    figure = Figure(figsize=(9, 1.2 + 0.25 * len(common) * len(found)), layout="constrained")
    axes = figure.subplots()
    for i, (model, quantities) in enumerate(models.items()):
        shares = 100 * np.array([quantities[name].value for name in common]) / base
        color = _COLORS[i % len(_COLORS)]
        bars = axes.barh(places + (i + 0.5) * height - 0.4, shares, height, color=color, label=model)
        axes.bar_label(bars, [quantities[name].text for name in common], padding=3, fontsize=7)
    axes.set_yticks(places, common, fontsize=8)
    axes.set(xlabel=f"% of {next(iter(models))}", ylim=(len(places) - 0.5, -0.5))
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=len(found), frameon=False, fontsize=8)
    return figure

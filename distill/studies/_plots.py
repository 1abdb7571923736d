"""Parts of a study's own figures, drawn with matplotlib: inline SVG in the page's text colour, light or dark."""

import html
import io
import re
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

# After Okabe and Ito's colours; each has a contrast of 3 or more on white and on dark pages.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A97A00", "#8A6FD8")
VERDICTS = {"better": "#0072B2", "worse": "#D55E00", "not shown": "#85858c"}
# Stands for the page's text colour until the SVG is written.
TEXT = "#010203"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": TEXT,
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": TEXT,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "distill",
    "text.color": TEXT,
    "text.parse_math": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def apart(values: Iterable[float], *, ratio: float) -> list[float]:
    """Chooses ticks for a logarithmic axis so that their labels do not overlap.

    Args:
        values: values that may have a tick.
        ratio: factor by which each tick must exceed the one before it.

    Returns:
        The ticks, ascending.
    """
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value > ratio * kept[-1]:
            kept.append(value)
    return kept


def svg(figure: Figure, *, name: str, description: str) -> str:
    """Turns a figure into an `<svg>` element whose text takes the page's colour.

    Args:
        figure: figure drawn with `STYLE`.
        name: prefix that keeps the ids of several figures on one page apart.
        description: the figure in words, for screen readers.

    Returns:
        The element.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Creator": None, "Date": None, "Format": None, "Type": None},
    )
    # matplotlib repeats every text in a comment.
    drawn = re.sub("<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    drawn = drawn[drawn.index("<svg") :].replace(TEXT, "currentColor")
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", drawn)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)

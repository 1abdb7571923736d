"""A chart of a study in Vega-Lite, which browsers draw, and as SVG and PNG, which need no browser."""

import dataclasses
import functools
import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import vl_convert

from distill._atomic import replacing
from distill.studies._plots import PALETTE
from distill.studies._results import StudyResult

Json: TypeAlias = dict[str, Any]

TEXT = "currentColor"  # of the page; in files INK
PAGE = "var(--page, transparent)"  # around text that lines cross; in files PAPER
INK, PAPER = "#1b1b1f", "#ffffff"
ACCENT, FAINT = PALETTE[0], "#85858c"
WIDTH = 640  # pixels, where the width is not that of the page
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
_VERSION = "6.4"  # of Vega-Lite
_CONFIG: Json = {
    "background": "transparent",
    "font": "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": TEXT,
        "titleColor": TEXT,
        "domainColor": TEXT,
        "domainOpacity": 0.4,
        "tickColor": TEXT,
        "tickOpacity": 0.4,
        "gridColor": TEXT,
        "gridOpacity": 0.1,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": TEXT,
        "labelFontSize": 12,
        "labelLimit": 240,
        "orient": "bottom",
        "columns": 4,
        "title": None,
        "symbolStrokeColor": TEXT,
    },
    "text": {"color": TEXT, "fontSize": 12},
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One chart with its title and caption; a notebook displays it.

    Attributes:
        name: its name in file names.
        title: what it shows, to tell it from other charts of its kind.
        caption: how to read it.
        spec: the chart in Vega-Lite, in the colours of the page around it; `altair.Chart.from_dict` reads it.
        arms: the arms that a reader may switch on and off; empty if the arms are not its series.

    Example:
        ```python
        from distill import studies

        for picture in studies.charts.pareto(studies.read("runs/compare")):
            picture.save(f"{picture.name}.png")
        ```
    """

    name: str
    title: str
    caption: str
    spec: Json
    arms: tuple[str, ...] = ()

    @functools.cached_property
    def svg(self) -> str:
        """An `<svg>` element in the colours of the page around it."""
        drawn = str(vl_convert.vegalite_to_svg(self.spec, vl_version=_VERSION))
        # Several on one page must not have ids in common, and Vega counts on from one chart to the next.
        for index, own in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]*)"', drawn))):
            drawn = re.sub(rf'(\bid="|href="#|url\(#){re.escape(own)}\b', rf"\1{self.name}-{index}", drawn)
        return drawn

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the chart, dark on white, whole or not at all.

        Args:
            path: path that ends in `.svg` or `.png`; a PNG has twice as many pixels in each direction.

        Raises:
            ValueError: the path ends in something else.
        """
        suffix = Path(path).suffix
        if suffix not in (".svg", ".png"):
            raise ValueError(f"A chart is saved as .svg or .png. Received: {path}.")
        drawn = self._dark_on_white
        content = drawn.encode() if suffix == ".svg" else vl_convert.svg_to_png(drawn, scale=2)
        with replacing(path) as draft:
            draft.write_bytes(content)

    @functools.cached_property
    def _dark_on_white(self) -> str:
        drawn = self.svg.replace(TEXT, INK).replace(PAGE, PAPER)
        return re.sub(
            r"(<svg\b[^>]*>)", rf'\1<rect width="100%" height="100%" fill="{PAPER}"/>', drawn, count=1
        )

    def _repr_html_(self) -> str:
        return f"<figure>{self.svg}<figcaption>{html.escape(self.caption)}</figcaption></figure>"


@functools.cache
def script() -> str:
    """The script that draws charts in a browser: Vega, Vega-Lite and Vega-Embed, 0.9 MB."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VERSION))


def spec(layers: Sequence[Json], *, width: int, height: int, about: str, arms: Sequence[str] = ()) -> Json:
    """A chart of layers.

    Args:
        layers: what `layer` returns.
        width: width of the plot in pixels.
        height: height of the plot in pixels.
        about: the chart in words, for screen readers.
        arms: the arms to show, if `IS_SHOWN` filters them.
    """
    return {
        "$schema": f"https://vega.github.io/schema/vega-lite/v{_VERSION}.json",
        "description": about,
        "width": width,
        "height": height,
        **({"params": [{"name": "shown", "value": list(arms)}]} if arms else {}),
        "layer": list(layers),
        "config": _CONFIG,
    }


def layer(
    rows: Iterable[Json], mark: str, encoding: Json, *, only: str | None = None, **options: Any
) -> Json:
    """One layer of a chart.

    Args:
        rows: its data.
        mark: kind of its marks.
        encoding: channel -> what it shows.
        only: expression that the rows to show fulfil.
        **options: properties of the marks. Screen readers skip the marks unless `encoding` has a "description".
    """
    speaks = "description" in encoding
    return {
        "data": {"values": list(rows)},
        **({"transform": [{"filter": only}]} if only else {}),
        "mark": {"type": mark, "aria": speaks, **options},
        "encoding": encoding,
    }


def number(name: str, **options: Any) -> Json:
    """A field of numbers, for an encoding."""
    return {"field": name, "type": "quantitative", **options}


def text(name: str, **options: Any) -> Json:
    """A field of texts, for an encoding."""
    return {"field": name, "type": "nominal", **options}


def scaled(domain: Sequence[float], **options: Any) -> Json:
    """A scale that ends where its domain does."""
    zero = {} if options.get("type") == "log" else {"zero": False}
    return {"domain": list(domain), "nice": False, **zero, **options}


def either(test: str, yes: Any, no: Any) -> Json:
    """A value that depends on an expression."""
    return {"condition": {"test": test, "value": yes}, "value": no}


def look(study: StudyResult, arm: str) -> tuple[str, list[int]]:
    """The colour and the dashes of an arm, which are the same in all charts."""
    index = [one.name for one in study.arms].index(arm)
    return PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)]


def looks(study: StudyResult, arms: Sequence[str]) -> tuple[Json, Json]:
    """The field `arm` by colour and by dashes."""
    colors, dashes = zip(*(look(study, arm) for arm in arms), strict=True)
    return (
        text("arm", scale={"domain": list(arms), "range": list(colors)}),
        text("arm", scale={"domain": list(arms), "range": list(dashes)}),
    )


IS_SHOWN = "indexof(shown, datum.arm) >= 0"

"""Says what is in a model file: its layers, its weights with their statistics, its zeros and what it costs.

Of a SavedModel, which can only be run, it shows the weights and what is called; of a file of weights, the weights.

Command: scripts/inspect FILE, seconds. --files adds the bytes that it takes as a file of other formats, --latency the
    time of one example through LiteRT, --plot FILE.png a picture of the cost by layer.
"""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape

import distill
from distill import cost, pruning
from distill._tables import aligned
from distill.files import InferenceOnly
from distill.files._hdf5 import SIGNATURE
from distill.files._stored import opened

DESCRIPTION = (
    "Says what is in a model file: its layers, its weights with statistics, its zeros and what it costs."
)


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Says what is in a model file.

    Attributes:
        file: the model, a file or a folder, or a file of weights.
        weights: a file with the weights of an architecture in JSON.
        endpoint: which function of a SavedModel is called; by default that for inference.
        trust: whether code in the file may run; a SavedModel is code.
        files: say how many bytes it takes as a `.keras` and a LiteRT file, plain and compressed.
        latency: time one example through LiteRT.
        threads: CPU threads for that.
        plot: where to draw the cost by layer, such as cost.png.
    """

    file: tyro.conf.Positional[Path]
    weights: Path | None = None
    endpoint: str | None = None
    trust: bool = False
    files: bool = False
    latency: bool = False
    threads: int = 1
    plot: Path | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what was found; returns the exit status."""
    options = tyro.cli(Inspect, args=arguments, prog="scripts/inspect", description=DESCRIPTION)
    console = Console()
    model = None
    try:
        parts = of_weights(options)
        if parts is None:
            model = distill.load_model(
                options.file, weights=options.weights, endpoint=options.endpoint, trust=options.trust
            )
            parts = (
                of_model(model, options) if isinstance(model, keras.Model) else of_saved_model(model, options)
            )
    except (ImportError, OSError, TypeError, ValueError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    files = options.file.rglob("*") if options.file.is_dir() else [options.file]
    size = sum(file.stat().st_size for file in files if file.is_file())
    kind = "weights alone" if model is None else type(model).__name__
    console.print(f"[bold]{escape(str(options.file))}[/], {size:,} bytes, {kind}", soft_wrap=True)
    if isinstance(model, keras.Model):
        model.summary(expand_nested=True)
    for title, text in parts.items():
        console.print(f"\n[bold]{title}[/]" if title else "")
        print(text)
    return 0


def of_model(model: keras.Model, options: Inspect) -> dict[str, str]:
    """What is said of a model, by heading; the cost has its own."""
    runtimes = [cost.LiteRT(threads=options.threads)] if options.latency else []
    profile = cost.profile(model, files=options.files, latency=runtimes)
    if options.plot is not None:
        profile.plot().savefig(options.plot)
    return {"Weights": weights(_variables(model)), "Zeros": zeros(model), "": str(profile)}


def of_saved_model(model: InferenceOnly, options: Inspect) -> dict[str, str]:
    """What is said of a SavedModel, by heading.

    Raises:
        ValueError: more is asked for than can be known.
    """
    if options.files or options.latency or options.plot is not None:
        raise ValueError(
            "What a model costs follows from its layers. Received: "
            f"{options.file}, a SavedModel, which has none to look at, with --files, --latency or --plot. "
            "Inspect the model that it was exported from."
        )
    called = f"{model.call_endpoint!r}; layers, zeros of kernels and cost are not known of a SavedModel"
    return {"Function": called, "Weights": weights(_variables(model))}


def of_weights(options: Inspect) -> dict[str, str] | None:
    """What is said of a file of weights alone, by heading; `None` of a file that is more than that.

    Raises:
        ValueError: it is damaged, or more is asked for than can be known.
    """
    if options.file.is_dir() or not _begins(options.file, SIGNATURE):
        return None
    with opened(options.file) as stored:
        if stored.config is not None:
            return None
        if options.files or options.latency or options.plot is not None or options.weights is not None:
            raise ValueError(
                "What a model costs follows from its layers. Received: "
                f"{options.file}, a file of weights, with --files, --latency, --plot or --weights. Inspect the JSON of "
                "the architecture, with this file as --weights."
            )
        found = [
            (f"{part.name or place}/{weight.label}", weight.read())
            for place, part in (stored.parts or {}).items()
            for weight in part.weights.values()
        ]
        return {"Weights": weights(found)}


def _begins(path: Path, signature: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(signature)) == signature


def _variables(model: keras.Layer) -> Iterable[tuple[str, Any]]:
    return ((weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights)


def weights(named: Iterable[tuple[str, Any]]) -> str:
    """A table: shape, type and statistics of each weight.

    Args:
        named: each one's name and value, an array.
    """
    rows = [("weight", "shape", "type", "mean", "sd", "min", "max", "zeros")]
    for name, stored in named:
        value = stored.astype(np.float64)
        numbers = (value.mean(), value.std(), value.min(), value.max()) if value.size else ()
        rows.append(
            (
                name,
                " × ".join(map(str, value.shape)) or "scalar",
                str(stored.dtype),
                *(f"{number:.3g}" for number in numbers or [np.nan] * 4),
                f"{np.mean(value == 0):.1%}" if value.size else "",
            )
        )
    return "\n".join(aligned(rows, "<><>>>>>"))


def zeros(model: keras.Model) -> str:
    """How sparse the kernels are; a model that has none has no zeros to speak of."""
    try:
        found = pruning.measure_sparsity(model)
    except ValueError as error:
        return str(error)
    return f"{found.zeros:,} of {found.weights:,} weights of kernels are zero: {found.sparsity:.2%}"


if __name__ == "__main__":
    sys.exit(main())

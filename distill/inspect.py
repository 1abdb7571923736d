"""Describes a model file: its layers, its weights with their statistics, its zeros and its cost.

    python -m distill.inspect model.keras --files --latency

The layers of a SavedModel are unknown, so only its weights and the function that is called are shown; of a file that
holds weights alone, the weights.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.markup import escape

from distill import cost, pruning
from distill._tables import aligned
from distill.files import InferenceOnly, load_model
from distill.files._hdf5 import SIGNATURE
from distill.files._stored import opened


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what is in the file that the command line names; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    model = None
    try:
        if not options.file.exists():
            raise FileNotFoundError(f"No such file: {options.file}")
        parts = describe_weights_file(options)
        if parts is None:
            model = load_model(
                options.file, weights=options.weights, endpoint=options.endpoint, trust=options.trust
            )
            is_keras = isinstance(model, keras.Model)
            parts = describe_model(model, options) if is_keras else describe_saved_model(model, options)
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


def describe_model(model: keras.Model, options: argparse.Namespace) -> dict[str, str]:
    """Describes a Keras model; returns texts by heading. The cost has a heading of its own."""
    runtimes = [cost.LiteRT(threads=options.threads)] if options.latency else []
    profile = cost.profile(model, files=options.files, latency=runtimes)
    if options.plot is not None:
        profile.plot().savefig(options.plot)
    return {"Weights": weights_table(_variables(model)), "Zeros": zeros(model), "": str(profile)}


def describe_saved_model(model: InferenceOnly, options: argparse.Namespace) -> dict[str, str]:
    """Describes a SavedModel; returns texts by heading.

    Raises:
        ValueError: the options ask for more than can be known.
    """
    if options.files or options.latency or options.plot is not None:
        raise ValueError(
            "--files, --latency and --plot need the layers of a model. Received: "
            f"{options.file}, a SavedModel, whose layers are unknown. Inspect the model that it was exported from."
        )
    called = f"{model.call_endpoint!r}; layers, zeros of kernels and cost of a SavedModel are unknown"
    return {"Function": called, "Weights": weights_table(_variables(model))}


def describe_weights_file(options: argparse.Namespace) -> dict[str, str] | None:
    """Describes a file of weights alone; returns texts by heading, or `None` for any other file.

    Raises:
        ValueError: the file is damaged, or the options ask for more than can be known.
    """
    if options.file.is_dir() or not _begins(options.file, SIGNATURE):
        return None
    with opened(options.file) as stored:
        if stored.config is not None:
            return None
        if options.files or options.latency or options.plot is not None or options.weights is not None:
            raise ValueError(
                "--files, --latency, --plot and --weights need the layers of a model. Received: "
                f"{options.file}, a file of weights alone. Inspect the architecture's JSON file, and pass this file as "
                "--weights."
            )
        found = [
            (f"{part.name or place}/{weight.label}", weight.read())
            for place, part in (stored.parts or {}).items()
            for weight in part.weights.values()
        ]
        return {"Weights": weights_table(found)}


def weights_table(named: Iterable[tuple[str, np.ndarray]]) -> str:
    """Makes a table with shape, type and statistics of each weight.

    Args:
        named: name and value of each weight.
    """
    rows: list[tuple[str, ...]] = [("weight", "shape", "type", "mean", "sd", "min", "max", "zeros")]
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
    """Says how sparse the kernels of a model are, or that it has none."""
    try:
        found = pruning.measure_sparsity(model)
    except ValueError as error:
        return str(error)
    return f"{found.zeros:,} of {found.weights:,} kernel weights are zero: {found.sparsity:.2%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m distill.inspect",
        description="Describes a model file: its layers, its weights with their statistics, its zeros and its cost.",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="model, a file or a folder, or a file of weights"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="file with the weights of an architecture in JSON"
    )
    parser.add_argument(
        "--endpoint", metavar="NAME", help="function of a SavedModel; by default the one for inference"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let code in the file run; a SavedModel is code, so it needs this",
    )
    parser.add_argument(
        "--files", action="store_true", help="show its size as .keras and LiteRT files, plain and compressed"
    )
    parser.add_argument("--latency", action="store_true", help="time one example in LiteRT")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads for --latency (default: 1)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the cost by layer into this image file"
    )
    return parser


def _begins(path: Path, signature: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(signature)) == signature


def _variables(model: keras.Layer) -> Iterable[tuple[str, np.ndarray]]:
    return ((weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights)


if __name__ == "__main__":
    sys.exit(main())

"""Describes a model file: its layers, its weights with their statistics, its zeros and its cost.

Exported files (LiteRT, ONNX, SavedModels) have no layers. For these, it shows the functions with their inputs and
outputs, the operators and the weights, and runs nothing in them except for `--latency`. For files that hold only
weights, including TensorFlow checkpoints, it shows the weights. For a cache of a teacher's answers, it shows what was
recorded and how it is stored, and compares the checksums.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.markup import escape

from distill import cache, cost, exports, pruning
from distill._tables import aligned
from distill.files import load_model
from distill.files._exported import Contents, Tensor, contents
from distill.files._stored import files_of, may_be_weights_alone, opened

# Name, type in the file, and values if there are any.
Values = tuple[str, Sequence[int | None], str, np.ndarray | None]


def add_to(commands: Any) -> None:
    """Adds `inspect` to the commands of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect", help="describe a model file", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="model, a file or a folder, exported or not, a file of weights, or a cache of answers",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="file with the weights of an architecture in JSON"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let code in the file run, such as lambdas",
    )
    parser.add_argument(
        "--files",
        action="store_true",
        help="show its size as .keras and LiteRT files, plain and compressed (needs the extra 'litert')",
    )
    parser.add_argument(
        "--latency",
        action="store_true",
        help="time one example in LiteRT, or in the runtime of an exported file (needs the extra 'litert' or 'onnx')",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads for --latency (default: 1)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the cost by layer into this image file (needs the extra 'experiments')",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints what is in the file that the options name.

    Raises:
        ImportError: an extra is missing.
        OSError: there is no such file.
        TypeError: the file holds no Keras model.
        ValueError: the file is damaged or not trusted, or the options ask for more than can be known.
    """
    model = None
    exported = contents(options.file)
    if (options.file / cache.MANIFEST).is_file():
        kind, parts = "answers of a teacher", describe_cache(options)
    elif exported is not None:
        kind, parts = exported.kind, describe_exported(exported, options)
    elif (found := describe_weights_file(options)) is not None:
        kind, parts = "weights alone", found
    elif not options.file.exists():
        raise FileNotFoundError(f"No such file: {options.file}")
    else:
        model = load_model(options.file, weights=options.weights, trust=options.trust)
        kind, parts = type(model).__name__, describe_model(model, options)
    console = Console()
    size = sum(file.stat().st_size for file in files_of(options.file))
    console.print(f"[bold]{escape(str(options.file))}[/], {size:,} bytes, {kind}", soft_wrap=True)
    if isinstance(model, keras.Model):
        model.summary(expand_nested=True)
    for title, text in parts.items():
        console.print(f"\n[bold]{title}[/]" if title else "")
        print(text)


def describe_model(model: keras.Model, options: argparse.Namespace) -> dict[str, str]:
    """Describes a Keras model; returns texts by heading. The cost has a heading of its own."""
    runtimes = [cost.LiteRT(threads=options.threads)] if options.latency else []
    profile = cost.profile(model, files=options.files, latency=runtimes)
    if options.plot is not None:
        profile.plot().savefig(options.plot)
    values = ((weight.path, keras.ops.convert_to_numpy(weight)) for weight in model.weights)
    return {"Weights": weights_table(_typed(values)), "Zeros": zeros(model), "": str(profile)}


def describe_cache(options: argparse.Namespace) -> dict[str, str]:
    """Describes a cache of a teacher's answers; returns a text by heading.

    Raises:
        ValueError: the options ask for more than a cache has, or its description cannot be read.
    """
    if options.files or options.latency or options.plot is not None or options.weights is not None:
        raise ValueError(
            "--files, --latency, --plot and --weights need the layers of a model. Received: "
            f"{options.file}, a cache of a teacher's answers. Inspect the teacher."
        )
    return {"Cache": str(cache.inspect(options.file))}


def describe_exported(found: Contents, options: argparse.Namespace) -> dict[str, str]:
    """Describes a LiteRT or ONNX file or a SavedModel; returns texts by heading.

    Raises:
        ValueError: the options ask for more than can be known.
    """
    if options.files or options.plot is not None or options.weights is not None:
        raise ValueError(
            "--files, --plot and --weights need the layers of a model. Received: "
            f"{options.file}, {found.kind}, whose layers are unknown. Inspect the model that it was exported from."
        )
    rows: list[tuple[str, ...]] = [("function", "", "name", "shape", "type")]
    for function in found.functions:
        sides = ("input", function.inputs), ("output", function.outputs)
        rows += [(function.name, side, *_described(one)) for side, tensors in sides for one in tensors]
    texts = {"Functions": "\n".join(aligned(rows, "<<<<<"))}
    if found.operators:
        counts = [("operator", "uses"), *((name, f"{uses:,}") for name, uses in found.operators.items())]
        texts["Operators"] = "\n".join(aligned(counts, "<>"))
    values = ((one.name, one.shape, one.dtype, one.values() if one.values else None) for one in found.weights)
    texts["Weights"] = weights_table(values) if found.weights else "It has no weights."
    if options.latency:
        texts["Latency"] = latency(found, options)
    return texts


def latency(found: Contents, options: argparse.Namespace) -> str:
    """Times one example in the runtime of an exported file.

    Raises:
        ValueError: the options ask for several threads; the file is a SavedModel, which is code, and is not trusted; or
            an input is text.
    """
    if options.threads != 1:
        raise ValueError(
            f"An exported file is timed on one thread. Received: --threads {options.threads} with {options.file}. "
            "Leave it out."
        )
    if found.kind == "SavedModel" and not options.trust:
        raise ValueError(
            "A SavedModel is a TensorFlow program, which --latency would run. Received: "
            f"{options.file}. Pass --trust if you trust its writer."
        )
    file = exports.Exported(options.file)
    called = {function.name: function for function in found.functions}
    inputs = {}
    for one in called.get("serving_default", found.functions[0]).inputs:
        if one.dtype == "string":
            raise ValueError(
                "Only numbers can be made up for --latency. Received: "
                f"{options.file}, whose input {one.name!r} is text."
            )
        inputs[one.name] = np.zeros(
            [size or 1 for size in one.shape], "float32"
        )  # cast to what the file takes
    timed = cost.in_turns({"one": file.prepare(inputs)})["one"]
    return f"{timed.median_ms:.3g} ms per example, {timed.low_ms:.3g} to {timed.high_ms:.3g}, on one thread"


def describe_weights_file(options: argparse.Namespace) -> dict[str, str] | None:
    """Describes a file of weights alone; returns texts by heading, or `None` for any other file.

    Raises:
        ValueError: the file is damaged, or the options ask for more than can be known.
    """
    if not may_be_weights_alone(options.file):
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
        found = (
            (f"{part.name or place}/{weight.label}", weight.read())
            for place, part in (stored.parts or {}).items()
            for weight in part.weights.values()
        )
        return {"Weights": weights_table(_typed(found))}


def weights_table(weights: Iterable[Values]) -> str:
    """Makes a table of the shape, type and statistics of each weight; some weights have no known values."""
    rows: list[tuple[str, ...]] = [("weight", "shape", "type", "mean", "sd", "min", "max", "zeros")]
    for name, shape, kind, stored in weights:
        if stored is None:
            rows.append((name, _sizes(shape), kind, "", "", "", "", ""))
            continue
        value = stored.astype(np.float64)
        numbers = (value.mean(), value.std(), value.min(), value.max()) if value.size else ()
        rows.append(
            (
                name,
                _sizes(shape),
                kind,
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


def _typed(named: Iterable[tuple[str, np.ndarray]]) -> Iterator[Values]:
    for name, value in named:
        yield name, value.shape, str(value.dtype), value


def _described(one: Tensor) -> tuple[str, str, str]:
    return one.name, _sizes(one.shape), one.dtype


def _sizes(shape: Sequence[int | None]) -> str:
    return " × ".join("any" if size is None else str(size) for size in shape) or "scalar"

"""Compares finished models on the same examples: scores and differences with their intervals, and costs."""

import argparse
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from distill._types import Arrays

_SUFFIXES = (".keras", ".tflite", ".onnx")
_METRICS = ("classification", "regression", "multi-label", "tokens")
_EPILOG = """examples:
  distill compare teacher.keras student.keras --test test.npz
  distill compare before=a.tflite after=b.tflite --test test.npz --metrics regression

test.npz is written by numpy.savez("test.npz", x=x, y=y). Ideally, it holds examples that no choice was based on.
Intervals are over examples. They do not say what would change if the models were trained again: for that, train
each with several seeds, in a distill.studies.Study."""


def add_to(commands: Any) -> None:
    """Adds `compare` to the commands of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="compare models on the same examples (needs the extra 'experiments')",
        description=f"{__doc__} The others are compared with the first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]FILE",
        help=f"{', '.join(_SUFFIXES)} files; a model goes by its file's name unless NAME= is given",
    )
    parser.add_argument(
        "--test",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npz with the inputs as x, or as arrays by the names of the inputs, and the labels as y",
    )
    parser.add_argument(
        "--metrics", choices=_METRICS, default=_METRICS[0], help="how to score (default: %(default)s)"
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="number of bootstrap resamples (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the resamples (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prints how the models that the options name compare.

    Raises:
        ImportError: the extra `experiments` is not installed.
        OSError: a file is missing.
        ValueError: the options, the models and the examples do not fit together.
    """
    import tensorflow as tf

    from distill import studies  # takes the extra, which `distill inspect` does without

    metrics = {
        "classification": studies.CLASSIFICATION,
        "regression": studies.REGRESSION,
        "multi-label": studies.MULTI_LABEL,
        "tokens": studies.TOKENS,
    }
    models, test = named_models(options.models), examples(options.test)
    names = ", ".join(models)
    try:
        with Console(stderr=True).status(
            f"{escape(names)}: {len(test[1]):,} examples, {options.resamples:,} resamples"
        ):
            found = studies.compare_models(
                models,
                test,
                metrics=metrics[options.metrics],
                resamples=options.resamples,
                seed=options.seed,
            )
    except tf.errors.OpError as error:  # as of a word that an embedding does not have
        raise ValueError(
            f"The models must be able to take the examples. Received: {options.test}: {error.message}"
        ) from error
    console = Console()
    if console.is_terminal:
        console.print(found)
    else:
        print(found)  # Markdown, of any width


def named_models(given: list[str]) -> dict[str, Path]:
    """Files by name.

    Args:
        given: paths, or names with paths as in `teacher=teacher.keras`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: two models have the same name, or a file is of another kind.
    """
    models: dict[str, Path] = {}
    for one in given:
        name, has_name, path = one.partition("=")
        if not has_name or Path(one).exists():  # a path may have equals signs
            name, path = one, one
        file = Path(path)
        if file.suffix not in _SUFFIXES:
            raise ValueError(
                f"Models are compared as {', '.join(_SUFFIXES)} files. Received: {file}. "
                "Export others, or compare them with distill.studies.compare_models."
            )
        if not file.is_file():
            raise FileNotFoundError(f"No such file: {file}")
        if name in models:
            raise ValueError(f"Each model needs a name of its own. Received: {name} twice. Use NAME=FILE.")
        models[name] = file
    return models


def examples(file: Path) -> tuple[Arrays, np.ndarray]:
    """Reads inputs and labels from an .npz file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an .npz file, holds objects, lacks x or y, or the arrays have different lengths.
    """
    rule = 'An .npz file of examples holds arrays of one length, as numpy.savez("test.npz", x=x, y=y) writes them.'
    if not file.is_file():
        raise FileNotFoundError(f"No such file: {file}")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{rule} Received: {file}, which is not an .npz file.")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (
        EOFError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:  # of damage and of objects
        raise ValueError(f"{rule} Received: {file}, which cannot be read: {error}") from error
    if "y" not in arrays or len(arrays) < 2:
        raise ValueError(f"{rule} Received: {file}, which holds {', '.join(arrays) or 'nothing'}.")
    if len({array.shape[:1] for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{rule} Received: {file}, which holds {shapes}.")
    y = arrays.pop("y")
    return (arrays["x"] if list(arrays) == ["x"] else arrays), y

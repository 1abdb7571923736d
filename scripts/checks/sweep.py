"""What formats.py and surgery.py share: examples and answers of tiny models, and a page with a row for each of them."""

import concurrent.futures
import dataclasses
import importlib.metadata
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from layer_models import MODELS

COUNT = 60  # of examples
DOCS = Path(__file__).parents[2] / "docs"
_AT_ONCE = 20  # models in a process: TensorFlow never frees what it has traced


@dataclasses.dataclass(frozen=True)
class Cell:
    """What came of one model in one column.

    Attributes:
        text: what the table shows.
        done: whether it was done.
        wrong: whether the result is wrong, or something broke.
    """

    text: str
    done: bool = False
    wrong: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of the documentation with a table of models.

    Attributes:
        path: where it is written.
        head: Markdown above the table, with {versions} and {counts}.
        columns: name of each column -> what the count of its cells that are done says, such as "written to ONNX"; ""
            for columns that are not counted.
        packages: packages whose versions {versions} tells.
    """

    path: Path
    head: str
    columns: dict[str, str]
    packages: tuple[str, ...]

    def text(self, lines: Sequence[str], found: Sequence[Sequence[Cell]]) -> str:
        """The whole page."""
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)
        return self.head.format(versions=versions, counts=self.counts(found)) + "\n".join(lines) + "\n"

    def counts(self, found: Sequence[Sequence[Cell]]) -> str:
        """A sentence that counts the cells that are done."""
        done = [sum(cells[i].done for cells in found) for i in range(len(self.columns))]
        counted = [
            f"{count} are {what}" for count, what in zip(done, self.columns.values(), strict=True) if what
        ]
        return f"Of {len(found)} models, {', '.join(counted)}."


def examples_of(model: keras.Model) -> Any:
    """Random examples in the structure that the model takes: ids below 5, words, or normal numbers."""
    rng = np.random.default_rng(0)

    def array(tensor: Any) -> np.ndarray:
        shape = [COUNT, *(size or 12 for size in tensor.shape[1:])]
        if "int" in tensor.dtype:
            return rng.integers(0, 5, shape).astype(tensor.dtype)
        if tensor.dtype == "string":
            return rng.choice(np.array(["a", "b", "c"], object), shape)
        return rng.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(array, model.input)


def answers(model: keras.Model, x: Any) -> list[np.ndarray]:
    """The model's outputs in inference, in batches of its own size if it has one."""
    batch = keras.tree.flatten(model.input)[0].shape[0] or COUNT
    parts = []
    with keras.StatelessScope():
        for start in range(0, COUNT, batch):
            outputs = keras.tree.flatten(model(part_of(x, start, batch), training=False))
            parts.append([keras.ops.convert_to_numpy(output) for output in outputs])
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def part_of(x: Any, start: int, size: int) -> Any:
    """Some of the examples as tensors."""
    return keras.tree.map_structure(lambda array: keras.ops.convert_to_tensor(array[start : start + size]), x)


def number(value: float) -> str:
    """A difference as the tables show it."""
    return f"{value:.0e}" if value else "0"


def short(text: str, width: int = 160) -> str:
    """A text that fits a cell of a Markdown table: one line, cut at a word."""
    text = " ".join(re.sub(r"\x1b\[\d+m", "", text).split()).replace("|", "/")  # without colours
    return text if len(text) <= width else f"{text[:width].rpartition(' ')[0]} …"


def run(row: Callable[[str], list[Cell]], names: Sequence[str], page: Page) -> int:
    """Prints the table as it grows, and writes the page if all models are in it; returns the exit status.

    Args:
        row: makes the cells of a model from its name; called in other processes.
        names: models of layer_models.py.
        page: the page.
    """
    if unknown := sorted(set(names) - set(MODELS)):
        raise SystemExit(f"names must be of layer_models.py. Received: {', '.join(unknown)}.")
    lines = [f"| layer or operation | {' | '.join(page.columns)} |", f"|---|{'---|' * len(page.columns)}"]
    print("\n".join(lines))
    found = []
    for name, cells in _rows(row, names, len(page.columns)):
        found.append(cells)
        lines.append(f"| {name} | {' | '.join(one.text for one in cells)} |")
        print(lines[-1], flush=True)
    wrong = sum(one.wrong for cells in found for one in cells)
    print(f"\n{page.counts(found)} {wrong} cells are wrong.")
    if set(names) == set(MODELS):
        page.path.parent.mkdir(exist_ok=True)
        page.path.write_text(page.text(lines, found))
    return int(wrong > 0)


def _rows(
    row: Callable[[str], list[Cell]], names: Sequence[str], width: int
) -> Iterator[tuple[str, list[Cell]]]:
    """All rows, from processes that are replaced now and then, and if they end."""
    for start in range(0, len(names), _AT_ONCE):
        waiting = list(names[start : start + _AT_ONCE])
        while waiting:
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                try:
                    while waiting:
                        yield waiting[0], pool.submit(row, waiting[0]).result()
                        waiting.pop(0)
                except concurrent.futures.process.BrokenProcessPool:
                    yield waiting.pop(0), [Cell("BROKEN: the process ended", wrong=True)] * width

"""Makes a teacher that answers faster, and as the original does within a tolerance; measured, not believed."""

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np

from distill._folding import find_foldable, folded_weights
from distill._graphs import functional_of, node_of
from distill._keras import Functional, twin
from distill._rewriting import in_dtype, rewrite
from distill._tables import aligned
from distill._types import Arrays
from distill._untouched import same_randomness
from distill.training._answering import Answering
from distill.training._preprocessing import preprocessing_of

_NOISE = 0.03  # of two forms that are as close as this, the first is taken


@dataclasses.dataclass(frozen=True)
class TeacherForm:
    """How one form of a teacher answered.

    Attributes:
        name: "as it is", "folded", "folded, bfloat16", or "bfloat16" if there is nothing to fold.
        batch_ms: median time of the batch, in milliseconds; `None` if the form could not be made or run.
        difference: largest difference between an example's answer and the original's (see `faster_teacher`).
        failed: why the form could not be made or run, or `None`.

    Example:
    ```python
    from distill import training

    for row in training.faster_teacher(teacher, x[:32], runs=1).rows:
        print(row.name, row.batch_ms, row.difference)  # of a `TeacherForm`
    ```
    """

    name: str
    batch_ms: float | None
    difference: float
    failed: str | None = None


@dataclasses.dataclass(frozen=True)
class FasterTeacher:
    """What `faster_teacher` found; `print` shows it as a table.

    Attributes:
        teacher: the fastest form within the tolerance, or the original itself if none is faster.
        rows: a row for each form that was tried; the first is the original's.
        chosen: the row of `teacher`.
        tolerance: largest difference that was allowed.
        staying: maps the path of each batch normalization that cannot be folded to the reason.
    """

    teacher: Any
    rows: tuple[TeacherForm, ...]
    chosen: TeacherForm
    tolerance: float
    staying: dict[str, str]

    def __str__(self) -> str:
        cells = [["teacher", "ms per batch", "speed", "differs by"]]
        base = self.rows[0].batch_ms
        for row in self.rows:
            if row.batch_ms is None or base is None:
                cells.append([row.name, "–", "–", f"failed: {row.failed}"])
                continue
            apart = f"{row.difference:.2g}"
            if row.difference > self.tolerance:
                apart += f", more than {self.tolerance:g}"
            cells.append([row.name, f"{row.batch_ms:.2f}", f"{base / row.batch_ms:.2f}", apart])
        lines = [*aligned(cells, "<>><"), f"chosen: {self.chosen.name}"]
        lines += [f"{path} is not folded: {why}" for path, why in self.staying.items()]
        return "\n".join(lines)


def faster_teacher(
    teacher: keras.Model,
    x: Arrays,
    *,
    layers: Sequence[str] = (),
    tolerance: float = 0.05,
    runs: int = 10,
) -> FasterTeacher:
    """Tries forms of a trained teacher that may run faster, and returns the fastest that answers alike.

    A teacher is run but never trained, so it can take forms that a network in training cannot:

    - **folded**: each batch normalization becomes part of the convolution or dense layer before it. Answers are the
      same up to float32 rounding.
    - **bfloat16**: weights and computation are in bfloat16, except in the head, which stays as it is so that
      logits keep their digits. This halves the memory. It is much faster where the processor has instructions
      for it (AMX on a CPU, tensor cores on a GPU), and slower elsewhere. A teacher with normalizations is
      folded first, because those compute in float32.

    Each form runs as a Distiller would run it, compiled, on the same batch. Forms take turns, in random
    order, so that a slow moment of the machine affects all of them. Of the forms within 3 % of the fastest,
    the first is chosen. The choice depends on measured times, so use one `found.teacher` for all runs that
    you want to compare.

    It compares what a loss can read: the outputs, as logits where a softmax or sigmoid head is recognized,
    and `layers`. The difference of an example is the root mean square of the difference between its two
    answers, divided by the root mean square of the original's answers to the batch. The largest one over
    examples, outputs and layers counts.

    Args:
        teacher: trained, built model. It is not changed. The graph of a subclassed model cannot be read, so
            such a teacher stays as it is.
        x: a batch of its inputs, as large as in training.
        layers: names of layers that losses read. They stay readable and are compared too. For layers that you
            do not name here, a folded normalization's name still gives what it gave before, but the name of
            the layer that it was folded into is gone.
        tolerance: largest allowed difference, >= 0. For most networks, 0.05 allows bfloat16, and 1e-4 allows
            only folding.
        runs: timed repetitions of each form, >= 1.

    Returns:
        The forms that were tried, and the teacher to use in place of the original. Its name ends in its form,
        as in "resnet_folded".

    Raises:
        ValueError: the teacher is not built, lacks one of the layers, or has a keras_hub preprocessor; a
            number is out of range; an answer is NaN.

    Example:
        ```python
        import distill
        from distill import training

        found = training.faster_teacher(teacher, x[:32], runs=2)
        print(found)
        distiller = distill.Distiller(found.teacher, student, distill.SoftTargets(4.0))
        ```
    """
    if not 0 <= tolerance < math.inf or isinstance(runs, bool) or not isinstance(runs, Integral) or runs < 1:
        raise ValueError(
            "tolerance must be a number >= 0, and runs an integer >= 1. "
            f"Received: tolerance={tolerance!r}, runs={runs!r}. Leave them out for 0.05 and 10."
        )
    if preprocessing_of(teacher, "teacher") is not None:
        raise ValueError(
            "A teacher's forms take what its call takes. Received: "
            f"{teacher.name!r}, which has a preprocessor. Set teacher.preprocessor to None, pass preprocessed inputs, "
            "and give the preprocessor to the Distiller as teacher_preprocessing."
        )
    layers = [layers] if isinstance(layers, str) else layers
    original = Answering(teacher, layers=layers)
    expected = [array for _, array in original(x)]
    made: dict[str, tuple[keras.Model, Answering, float]] = {"as it is": (teacher, original, 0.0)}
    failed: dict[str, str] = {}
    graph = functional_of(teacher)
    foldable, staying = ({}, {}) if graph is None else find_foldable(graph, kept=layers)
    with same_randomness():
        for name in () if graph is None else _names(foldable):
            try:
                model = _form(teacher, name, foldable)
                form = Answering(model, layers=layers)
                made[name] = model, form, _difference(expected, [array for _, array in form(x)])
            except Exception as error:  # a layer's code may raise anything
                failed[name] = (str(error).splitlines() or [type(error).__name__])[0][:100]
    times = _times({name: form for name, (_, form, _) in made.items()}, x, runs)
    rows = [TeacherForm(name, times[name], difference) for name, (_, _, difference) in made.items()]
    usable = [row for row in rows if row.difference <= tolerance]
    best = min(times[row.name] for row in usable)
    chosen = next(row for row in usable if times[row.name] * (1 - _NOISE) <= best)
    rows += [TeacherForm(name, None, math.inf, why) for name, why in failed.items()]
    return FasterTeacher(made[chosen.name][0], tuple(rows), chosen, tolerance, staying)


def _names(foldable: Mapping[int, Any]) -> tuple[str, ...]:
    return ("folded", "folded, bfloat16") if foldable else ("bfloat16",)


def _form(teacher: keras.Model, name: str, foldable: Mapping[int, Any]) -> keras.Model:
    """A copy of a teacher in a form."""
    graph: Any = functional_of(teacher)
    before = foldable if "folded" in name else {}
    after = {id(normalization) for normalization in before.values()}
    heads = set(_heads(graph)) if "bfloat16" in name else set()

    def replace(old: Any, own: str) -> Any:
        if id(old) in after:
            return None
        if not isinstance(old, keras.Layer):
            return twin(old)
        config = {**old.get_config(), "name": own}
        if id(old) in before:  # its output is what the normalization's was, and no longer its own
            config.update(name=before[id(old)].name, use_bias=True)
        if "bfloat16" in name and id(old) not in heads:
            config = in_dtype(config, "bfloat16")
        return type(old).from_config(config)

    def weights(old: Any) -> list[np.ndarray]:
        return folded_weights(old, before[id(old)]) if id(old) in before else old.get_weights()

    suffix = name.replace(", ", "_")
    return rewrite(teacher, replace, weights=weights, merge=False, name=f"{teacher.name}_{suffix}")


def _heads(graph: Functional) -> Iterator[int]:
    """The ids of the layers that make the outputs: the last with weights of each, and what follows it."""
    for tensor in graph.outputs:
        node = node_of(tensor)
        while not node.is_input:
            if (nested := functional_of(node.operation)) is not None:
                yield from _heads(nested)
                break
            yield id(node.operation)
            if getattr(node.operation, "weights", ()) or len(node.input_tensors) != 1:
                break
            node = node_of(node.input_tensors[0])


def _difference(expected: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> float:
    """The largest root mean square of an example's difference, over that of all that was expected."""
    largest = 0.0
    for right, one in zip(expected, answers, strict=True):
        wanted, given = (part.astype("float64").reshape(len(part), -1) for part in (right, one))
        apart = float(np.sqrt(np.mean(np.square(given - wanted), axis=1).max()))
        size = float(np.sqrt(np.mean(np.square(wanted))))
        largest = max(largest, apart / size if size else math.inf if apart else 0.0)
    return largest


def _times(forms: Mapping[str, Answering], x: Arrays, runs: int) -> dict[str, float]:
    """The median milliseconds in which each form answers a batch."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    orders = random.Random(0)
    for _ in range(runs):
        for name in orders.sample(list(forms), len(forms)):
            start = time.perf_counter()
            for value in keras.tree.flatten(forms[name].ask(x)):
                keras.ops.convert_to_numpy(value)  # waits for the GPU
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}

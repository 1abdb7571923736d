"""A look at a Distiller before it trains: scores, sizes, terms of the loss and their gradients, and what to change."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np

from distill._graphs import functional_of
from distill._keras import compile_settings, flatten_layers
from distill._tables import aligned
from distill._types import Tensors
from distill.losses import BernoulliSoftTargets, SoftTargets
from distill.losses._base import DistillationLoss
from distill.losses._sparse import SparseLogits
from distill.training import _advice as advice
from distill.training._advice import Advice
from distill.training._advice_on_answers import advice_on_answers, advice_on_progress, advice_on_ranking
from distill.training._checked import CheckedModel, CheckedTerm
from distill.training._gradients import gradients
from distill.training._identified import split
from distill.training._objective import Part
from distill.training._scoring import Scorer, form_of, form_of_head, in_form
from distill.training._taps import Tapped
from distill.training._teacher import Peer


@dataclasses.dataclass(frozen=True)
class Checkup:
    """What `Distiller.check` found; `print` shows it as two short tables with advice.

    Attributes:
        examples: number of examples that the check looked at.
        models: the teachers and the student.
        terms: the terms of the loss.
        advice: what to change, the most serious first; empty if nothing is wrong.

    Example:
    ```python
    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    print(distiller.check(x, y))
    ```
    """

    examples: int
    models: tuple[CheckedModel, ...]
    terms: tuple[CheckedTerm, ...]
    advice: tuple[Advice, ...]

    def __str__(self) -> str:
        scores = list(self.models[-1].scores)
        models: list[tuple[str, ...]] = [(f"on {self.examples} examples", "model", "parameters", *scores)]
        for model in self.models:
            size = "-" if model.parameters is None else f"{model.parameters:,}"
            models.append((model.role, model.name, size, *(_shown(model.scores.get(key)) for key in scores)))
        terms: list[tuple[str, ...]] = [("loss", "weight", "value", "weighted", "gradient", "cosine")]
        for term in self.terms:
            weighted = term.weight * term.value
            numbers = (term.weight, term.value, weighted, term.gradient, term.cosine)
            terms.append((term.loss, *map(_shown, numbers)))
        advice = [f"{'!' if one.grave else '-'} {one.text}" for one in self.advice]
        return "\n".join(
            [
                *aligned(models, "<<" + ">" * (1 + len(scores))),
                "",
                *aligned(terms, "<>>>>>"),
                "",
                *(advice or ["Nothing stands in the way of training."]),
            ]
        )

    __repr__ = __str__  # a notebook shows the tables


def checkup(
    distiller: keras.Model,
    teachers: Sequence[Any],
    losses: Sequence[DistillationLoss],
    batches: Sequence[tuple[Tensors, Tensors, Tensors]],
    taught: Callable[[Tensors, Tensors], Sequence[Tapped]],
    parts: Callable[[Tensors, Tensors, Tensors, Any], Sequence[tuple[str, Part]]],
) -> Checkup:
    """Looks at a Distiller's models and losses on examples; see `Distiller.check`.

    Args:
        distiller: the Distiller.
        teachers: its teachers.
        losses: its distillation losses.
        batches: batches of inputs, labels and sample weights, as a training step gets them.
        taught: function of a batch of inputs and the student's outputs for it; returns what each teacher answers.
        parts: function of inputs, labels, sample weights and the student's own loss; returns the terms of the loss in
            training, with their names.
    """
    if not batches:
        raise ValueError("A check needs examples. Received: none.")
    student = distiller.student
    inputs, labels, weights = (list(column) for column in zip(*batches, strict=True))
    with keras.StatelessScope():  # what a model would assign in a call is dropped
        learned = [distiller(batch, training=False) for batch in inputs]
        answered = [taught(batch, outputs) for batch, outputs in zip(inputs, learned, strict=True)]
    scorer = Scorer(distiller, labels[0], learned[0])

    names: list[str] = []
    factors: list[float] = []

    def values() -> list[Any]:
        terms = parts(inputs[0], labels[0], weights[0], None if labels[0] is None else scorer.loss)
        names[:] = [name for name, _ in terms]
        factors[:] = [float(keras.ops.convert_to_numpy(part.weight)) for _, part in terms]
        return [part.loss for _, part in terms]

    measured, vectors = gradients(values, student.trainable_variables)
    terms = _terms(measured, vectors, names, factors)
    pull = _pull(vectors, names, factors) if _takes_gradients_as_they_are(distiller.optimizer) else None

    found: list[Advice] = []
    own = _joined(learned)
    models = []
    # With several teachers or weights of examples, a loss is of no single teacher's answers.
    has_trained = len(teachers) == 1 and weights[0] is None and _steps(distiller.optimizer) > 0
    for teacher, answers in zip(teachers, zip(*answered, strict=True), strict=True):
        outputs = [answer.outputs for answer in answers]
        joined = _joined(outputs)
        if own is not None and joined is not None and joined.shape[1:] == own.shape[1:]:
            forms = form_of(teacher.model, joined), form_of(student, own)
            outputs = [in_form(each, *forms) for each in outputs]
        for i, loss in enumerate(losses):
            logits = None if loss.head is None else _joined([answer.values[i] for answer in answers])
            if own is None or logits is None or logits.ndim != 2:
                continue
            if loss.head == "softmax":
                found += advice_on_answers(teacher.name, logits, _classes(labels), loss, pull)
            elif (known := _rows(labels, logits.shape)) is not None:
                found += advice_on_ranking(teacher.name, logits, known)
            if has_trained and isinstance(loss, SoftTargets | BernoulliSoftTargets):
                term = terms[i - len(losses)]
                first = logits[: _count(inputs[0])]
                found += advice_on_progress(teacher.name, first, loss, term.loss, term.value)
        scores = {} if labels[0] is None else _scores_if_possible(scorer, labels, outputs, weights)
        models.append(CheckedModel("teacher", teacher.name, *_size_of(teacher.model), scores))
    scores = {} if labels[0] is None else scorer.scores(labels, learned, weights)
    models.append(CheckedModel("student", student.name, *_size_of(student), scores))

    found += advice.advice_on_terms(terms)
    if own is not None and labels[0] is not None:
        for stated in keras.tree.flatten(compile_settings(distiller)["loss"]):
            form = form_of(student, own)
            found += advice.advice_on_head(student.name, form, stated)
            found += advice.advice_on_labels(student.name, form, stated, *_ends(labels))
    found += advice.advice_on_sizes(models[:-1], models[-1])
    found += advice.advice_on_inputs(models[:-1], models[-1], _largest(inputs))
    found += advice.advice_on_scores(models[:-1], models[-1])
    seen = sum(_count(batch) for batch in inputs)
    once = dict.fromkeys(found)  # two losses on one teacher's logits find the same
    return Checkup(seen, tuple(models), terms, tuple(sorted(once, key=lambda one: not one.grave)))


def warn_of_heads(student: keras.Model, loss: Any) -> None:
    """Warns if an output of the student is not what its loss takes, as far as the student's graph tells.

    Args:
        student: the student.
        loss: its own loss, as `compile` took it.
    """
    graph = functional_of(student)
    if graph is None or loss is None:
        return
    for i, name in enumerate(graph.output_names):
        stated: Any = loss
        if isinstance(loss, dict):
            stated = loss.get(name)
        elif isinstance(loss, (list, tuple)):
            stated = loss[i] if i < len(loss) else None
        form = form_of_head(student, i)
        for one in advice.advice_on_head(student.name, form, stated) if form and stated is not None else ():
            warnings.warn(f"{one.text} Distiller.check(x, y) looks for more of this kind.", stacklevel=3)


def require_ready(
    distiller: keras.Model, student: keras.Model, teachers: Sequence[Any], **numbers: int
) -> None:
    """Raises ValueError if there is nothing to check yet, or a number is not a positive integer."""
    if any(isinstance(teacher, Peer) for teacher in teachers):
        raise ValueError(
            "A check compares a student with its teachers. Received: networks that learn from each other, which have "
            "none."
        )
    if not distiller.compiled:
        raise ValueError(
            "A check needs the student's own loss. Received: a Distiller that is not compiled. Call compile first."
        )
    if not student.built:
        raise ValueError(
            f"A check needs a student with weights. Received: {student.name!r}, not built. Call it on a batch first."
        )
    if not student.trainable_variables:
        raise ValueError(
            f"A check needs a student that trains. Received: {student.name!r}, all of whose weights are frozen. Set "
            "trainable = True for what is to learn."
        )
    for name, number in numbers.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be an integer of at least 1. Received: {name}={number!r}.")


def _scores_if_possible(
    scorer: Scorer, labels: Sequence[Tensors], outputs: Sequence[Tensors], weights: Sequence[Tensors]
) -> dict[str, float]:
    """Returns the scores of a teacher, or none if its outputs are not what the student's loss takes."""
    try:
        return scorer.scores(labels, outputs, weights)
    except Exception:  # a loss may raise anything for outputs that it was not made for
        return {}


def _terms(
    values: Sequence[float], vectors: Sequence[np.ndarray], names: Sequence[str], weights: Sequence[float]
) -> tuple[CheckedTerm, ...]:
    """Rows of the terms; cosines are those with the gradient of the student's own loss, if there is one."""
    own = vectors[0] if names[0] == "student_loss" else None
    terms = []
    for name, weight, value, vector in zip(names, weights, values, vectors, strict=True):
        lengths = None if own is None or vector is own else np.linalg.norm(own) * np.linalg.norm(vector)
        cosine = float(own @ vector / lengths) if own is not None and lengths else None
        terms.append(CheckedTerm(name, weight, value, weight * float(np.linalg.norm(vector)), cosine))
    return tuple(terms)


def _pull(vectors: Sequence[np.ndarray], names: Sequence[str], weights: Sequence[float]) -> float | None:
    """The whole gradient along that of the student's own loss, over that loss's own; `None` if there is none."""
    if names[0] != "student_loss" or not (squared := float(vectors[0] @ vectors[0])):
        return None
    return (
        sum(weight * float(vector @ vectors[0]) for weight, vector in zip(weights, vectors, strict=True))
        / squared
    )


def _takes_gradients_as_they_are(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(getattr(optimizer, "inner_optimizer", optimizer), keras.optimizers.SGD)


def _steps(optimizer: keras.optimizers.Optimizer) -> int:
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _joined(batches: Sequence[Tensors]) -> np.ndarray | None:
    """Returns the only output of a model for all batches; `None` if it has several, or not one array of numbers."""
    if keras.tree.is_nested(batches[0]) or isinstance(batches[0], SparseLogits):
        return None
    arrays = [np.asarray(keras.ops.convert_to_numpy(batch), "float32") for batch in batches]
    if arrays[0].ndim < 2 or len({array.shape[1:] for array in arrays}) > 1:
        return None
    return np.concatenate(arrays)


def _classes(labels: Sequence[Tensors]) -> np.ndarray | None:
    """Returns the class of each example, from integers or one-hot rows; `None` if labels are neither."""
    if keras.tree.is_nested(labels[0]) or labels[0] is None:
        return None
    joined = np.concatenate([np.asarray(label) for label in labels])
    if joined.ndim == 2 and joined.shape[1] > 1:
        return joined.argmax(axis=-1)
    whole = joined.reshape(len(joined), -1)
    if whole.shape[1] != 1 or not np.issubdtype(whole.dtype, np.number) or (whole != np.round(whole)).any():
        return None
    return whole[:, 0].astype(int)


def _rows(labels: Sequence[Tensors], shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the labels of each example as a row of this many; `None` if they are of another form."""
    if keras.tree.is_nested(labels[0]) or labels[0] is None:
        return None
    joined = np.concatenate([np.asarray(keras.ops.convert_to_numpy(label)) for label in labels])
    return joined.reshape(shape) if joined.size == np.prod(shape) else None


def _ends(labels: Sequence[Tensors]) -> tuple[float, float]:
    """Returns the least and the largest of all labels; NaN if one is."""
    arrays = [np.asarray(keras.ops.convert_to_numpy(part)) for part in keras.tree.flatten(list(labels))]
    return float(min(array.min() for array in arrays)), float(max(array.max() for array in arrays))


def _largest(inputs: Sequence[Tensors]) -> float | None:
    """Returns the largest absolute value of inputs of one array of numbers; `None` for tokens and other inputs."""
    given = [split(batch)[0] for batch in inputs]
    if keras.tree.is_nested(given[0]):
        return None
    arrays = [np.asarray(keras.ops.convert_to_numpy(batch)) for batch in given]
    if arrays[0].dtype.kind not in "fu" and arrays[0].ndim < 4:
        return None
    return float(max(np.abs(array.astype("float64")).max() for array in arrays))


def _size_of(model: Any) -> tuple[int | None, bool]:
    """Returns a model's number of parameters, and whether it scales its inputs."""
    if not isinstance(model, keras.Layer):
        return None, False
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    return model.count_params(), any(isinstance(layer, scaling) for layer in flatten_layers(model))


def _count(batch: Tensors) -> int:
    return len(keras.tree.flatten(split(batch)[0])[0])


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"

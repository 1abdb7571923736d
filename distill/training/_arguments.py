"""What a Distiller is given, checked before any work: each function returns it in one form, or raises."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from distill.losses._base import BatchLoss, DistillationLoss
from distill.losses._settings import Setting
from distill.training._outputs import Output

FromLogits = bool | None


def as_losses(losses: Any) -> list[tuple[Output, DistillationLoss]]:
    """Each loss with the student's output that it is for; a `keras.distillation` loss is wrapped."""
    if isinstance(losses, dict):
        pairs = [
            (_as_output(output), loss)
            for output, given in losses.items()
            if given is not None
            for loss in _as_list(given)
        ]
    else:
        pairs = [(None, loss) for loss in _as_list(losses)]
    if not pairs or any(loss is None for _, loss in pairs):
        raise ValueError(
            "A Distiller needs at least one distillation loss. "
            f"Received: distillation_losses={losses!r}. Pass one, such as distill.SoftTargets(temperature=4.0)."
        )
    for _, loss in pairs:
        if isinstance(loss, type):
            raise ValueError(
                f"Distillation losses are objects. Received: the class {loss.__name__}. "
                f"Call it: {loss.__name__}()."
            )
        if not isinstance(loss, keras.distillation.DistillationLoss):
            raise ValueError(
                "Distillation losses compare a teacher with a student: one loss of distill.losses or "
                f"keras.distillation, a list of them, or a dictionary with either for each output. Received: {loss!r}. "
                "The student's own loss on the labels goes to compile(loss=...)."
            )
    pairs = [
        (output, loss if isinstance(loss, DistillationLoss) else BatchLoss(loss)) for output, loss in pairs
    ]
    heads: dict[Output, str] = {}
    for output, loss in pairs:
        if loss.head is not None and heads.setdefault(output, loss.head) != loss.head:
            raise ValueError(
                "A model's head is either softmax or sigmoid. Received: distillation losses for both, "
                f"{[type(loss).__name__ for other, loss in pairs if other == output]}. Keep the ones that fit the head."
            )
    return pairs


def as_weights(weights: Any, losses: Sequence[tuple[Output, DistillationLoss]]) -> list[Any]:
    """A weight for each loss, in their order; 1 for each that has none."""
    if weights is None:
        return [1.0] * len(losses)
    outputs = list(dict.fromkeys(output for output, _ in losses))
    given: dict[Output, Any]
    if outputs == [None]:
        given = {None: weights}
    elif isinstance(weights, dict):
        given = weights
    else:
        raise ValueError(
            "Weights of losses for several outputs go by output too. "
            f"Received: distillation_loss_weights={weights!r}, losses for {outputs}."
        )
    if unknown := [output for output in given if output not in outputs]:
        raise ValueError(
            f"Each weight is of a distillation loss. Received: weights for {unknown}, losses for {outputs}."
        )
    result: list[Any] = []
    for output in outputs:
        count = sum(other == output for other, _ in losses)
        listed = [1.0] * count if given.get(output) is None else _as_list(given[output])
        if len(listed) != count:
            raise ValueError(
                f"Each distillation loss has one weight. Received: distillation_loss_weights={weights!r} for "
                f"{count} distillation loss{'es' if count > 1 else ''}"
                f"{'' if output is None else f' of output {output!r}'}."
            )
        result += listed
    return result


def as_weight_settings(weights: Sequence[Any], names: Sequence[str]) -> list[Setting]:
    """The weight of each term as a number >= 0 or a schedule, in a variable."""
    return [Setting(f"{name}_weight", weight, 0.0) for name, weight in zip(names, weights, strict=True)]


def as_pair(from_logits: Any, output: Output, outputs: Sequence[Output]) -> tuple[FromLogits, FromLogits]:
    """What was said of the (teacher's, student's) output; a single answer is for both, and for all outputs."""
    if isinstance(from_logits, dict) and (unknown := [key for key in from_logits if key not in outputs]):
        raise ValueError(
            "from_logits speaks of outputs by the names under which they have distillation losses. "
            f"Received: from_logits for {unknown}, losses for {list(dict.fromkeys(outputs))}."
        )
    said = from_logits.get(output) if isinstance(from_logits, dict) else from_logits
    pair = said if isinstance(said, tuple) else (said, said)
    if len(pair) != 2 or any(side is not None and not isinstance(side, bool) for side in pair):
        raise ValueError(
            "from_logits is None, True or False, or a pair of them for (teacher, student), or a dictionary of these "
            f"by output. Received: from_logits={from_logits!r}."
        )
    return pair


def as_teachers(teacher: Any) -> list[Any]:
    """One teacher or several as a list."""
    teachers = _as_list(teacher)
    if not teachers:
        raise ValueError(f"A Distiller needs a teacher. Received: teacher={teacher!r}.")
    return teachers


def as_preprocessings(preprocessing: Any, count: int) -> list[Callable[[Any], Any] | None]:
    """One function of a batch, or `None`, for each teacher; a single one is for all."""
    if not isinstance(preprocessing, (list, tuple)):
        return [preprocessing] * count
    if len(preprocessing) != count:
        raise ValueError(
            "teacher_preprocessing is one function for all teachers, or a list with one, or None, for each. "
            f"Received: {len(preprocessing)} for {count} teacher{'s' if count > 1 else ''}."
        )
    return list(preprocessing)


def require_one_memory(
    losses: Sequence[tuple[Output, DistillationLoss]], teachers: int, replicas: int
) -> None:
    """Raises ValueError where a loss that remembers examples would have to do so several times over."""
    for _, loss in losses:
        if loss.needs_ids and (teachers > 1 or replicas > 1):
            raise ValueError(
                f"{type(loss).__name__} has one memory, of one teacher on one device. Received: {teachers} "
                f"teacher{'s' if teachers > 1 else ''}, {replicas} replica{'s' if replicas > 1 else ''}. "
                "Give each teacher a Distiller of its own, and train outside of a tf.distribute strategy."
            )


def as_teacher_weights(weights: Any, mean: Any, count: int) -> list[Setting]:
    """The weight of each teacher, equal ones that sum to 1 for `None`."""
    if mean not in (None, "logits", "probabilities"):
        raise ValueError(
            "teacher_mean is 'logits', 'probabilities', or None for the sum of the losses against each teacher. "
            f"Received: teacher_mean={mean!r}."
        )
    if count == 1 and (weights is not None or mean is not None):
        raise ValueError(
            "teacher_weights and teacher_mean are for several teachers. "
            f"Received: teacher_weights={weights!r}, teacher_mean={mean!r} and one teacher."
        )
    listed = [1.0 / count] * count if weights is None else _as_list(weights)
    if len(listed) != count:
        raise ValueError(
            f"Each teacher has one weight. Received: teacher_weights={weights!r} for {count} teachers."
        )
    settings = [Setting(f"teacher_{i}_weight", weight, 0.0) for i, weight in enumerate(listed)]
    if mean is not None:
        require_mean_weights([s.value for s in settings])
        if any(s.schedule is not None for s in settings):
            raise ValueError(
                f"The weights of a mean sum to 1 at every step. Received: schedules with teacher_mean={mean!r}. "
                "Give numbers, or leave teacher_mean out: the losses against each are then added up."
            )
    return settings


def require_mean_weights(weights: Sequence[float]) -> None:
    """Raises ValueError unless the weights sum to 1."""
    if abs(sum(weights) - 1.0) > 1e-5:
        raise ValueError(
            f"The weights of a mean sum to 1. Received: {list(weights)}, which sum to {sum(weights):g}."
        )


def require_mean_fits(mean: str | None, losses: Sequence[tuple[Output, DistillationLoss]]) -> None:
    """Refuses a mean of teachers for a loss that has none of that kind."""
    if mean is None:
        return
    for _, loss in losses:
        if isinstance(loss, BatchLoss) or loss.teacher_layer_name is not None or loss.head is None:
            raise ValueError(
                "Means are taken of teachers' logits. "
                f"Received: teacher_mean={mean!r} and {loss.name!r}, which compares something else. "
                "Leave teacher_mean out: the losses against each teacher are then added up."
            )
        if mean == "probabilities" and type(loss).average_predictions is DistillationLoss.average_predictions:
            raise ValueError(
                f"{type(loss).__name__} has no mean of probabilities. Received: teacher_mean='probabilities'. Use "
                "teacher_mean='logits', or leave it out."
            )


def term_names(losses: Sequence[tuple[Output, DistillationLoss]]) -> list[str]:
    """Each loss's name after its output's, followed by _1, _2, … from the second that has it."""
    names: list[str] = []
    for output, loss in losses:
        name = loss.name if output is None else f"{_word(output)}_{loss.name}"
        if {name, loss.name} & {"loss", "student_loss"} or name.startswith("val_"):
            raise ValueError(
                "'loss', 'student_loss' and names that start with 'val_' are taken in the logs. "
                f"Received: a distillation loss with name={loss.name!r}. Give it another name."
            )
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        names.append(name if name not in names else next(n for n in numbered if n not in names))
    return names


def require_student(student: Any) -> None:
    """Refuses a student that is no model, or whose own training step would be passed over."""
    if not isinstance(student, keras.Model):
        raise ValueError(
            f"A student must be a keras.Model. Received: {student!r} of type {type(student).__name__}."
        )
    for method in ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"):
        if getattr(type(student), method) is not getattr(keras.Model, method):
            raise ValueError(
                f"A Distiller runs the student in steps of its own. Received: {student.name!r}, a "
                f"{type(student).__name__} with its own {method}, which would not run. Distil a plain model: pass what "
                f"its {method} adds to compile(loss=..., metrics=...), or by add_loss."
            )


def require_two_models(teacher: Any, student: keras.Model) -> None:
    """Refuses a student that is the teacher or shares variables with it."""
    if teacher is student:
        raise ValueError(
            f"Teacher and student must be two models. Received: {student.name!r} as both. "
            "Use keras.models.clone_model to let a model teach a copy of itself."
        )
    if not isinstance(teacher, keras.Layer):
        return  # What other functions share cannot be known.
    ids = {id(variable) for variable in teacher.variables}
    shared = [variable.path for variable in student.variables if id(variable) in ids]
    if shared:
        raise ValueError(
            "Teacher and student must not share variables: training the student would change the teacher. "
            f"Received: {len(shared)} shared, among them {shared[:3]}. "
            "Copy the shared layers with keras.models.clone_model."
        )


def require_same_inputs(teacher: Any, student: keras.Model) -> None:
    """Refuses models with one input each of different sizes; what is not known is left to the first batch."""
    shapes = []
    for model in (teacher, student):
        if (
            not isinstance(model, keras.Model)
            or not model.built
            or len(getattr(model, "inputs", None) or ()) != 1
        ):
            return
        shape = tuple(model.inputs[0].shape)[1:]
        # Keras drops or adds a last axis of 1 itself.
        shapes.append(shape[:-1] if shape[-1:] == (1,) else shape)
    left, right = shapes
    agree = len(left) == len(right) and all(
        a is None or b is None or a == b for a, b in zip(left, right, strict=True)
    )
    if not agree:
        raise ValueError(
            "Teacher and student see the same batch. Received: "
            f"teacher {teacher.name!r} with inputs of shape {tuple(teacher.inputs[0].shape)} and student "
            f"{student.name!r} with {tuple(student.inputs[0].shape)}. Give a function that makes the teacher's "
            "inputs from the student's: teacher_preprocessing=..."
        )


def _as_list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, np.ndarray)) else [values]


def _as_output(output: Any) -> Output:
    if (
        isinstance(output, bool)
        or not isinstance(output, (str, int))
        or (isinstance(output, int) and output < 0)
    ):
        raise ValueError(
            "Distillation losses in a dictionary go by the student's outputs: their names, or their positions from 0. "
            f"Received: {output!r}."
        )
    return output


def _word(output: Output) -> str:
    """An output's key as it stands in a metric's name."""
    return f"output_{output}" if isinstance(output, int) else re.sub(r"\W+", "_", str(output))

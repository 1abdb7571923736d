"""Checks of the Distiller's arguments, before any work is done; each is returned in one form."""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from distill._keras import flatten_layers
from distill.losses._base import DistillationLoss
from distill.losses._batch_loss import BatchLoss
from distill.losses._settings import Schedule
from distill.training._features import is_named, shapes_of, takes_names
from distill.training._outputs import Output
from distill.training._preprocessing import ANSWERS, LEARNS, preprocessing_of, require_plain

FromLogits = bool | None
# A distillation loss, with the student's output that it is for.
OutputLoss = tuple[Output, DistillationLoss]
Preprocessing = Callable[[Any], Any]


def as_losses(losses: Any) -> list[OutputLoss]:
    """Returns each loss with the student's output that it is for; wraps those of `keras.distillation`."""
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
                f"Distillation losses must be objects. Received: the class {loss.__name__}. "
                f"Call it: {loss.__name__}()."
            )
        if not isinstance(loss, keras.distillation.DistillationLoss):
            raise ValueError(
                "distillation_losses must be a loss of distill.losses or keras.distillation, a list of them, or a "
                f"dictionary with either for each output. Received: {loss!r}. "
                "The student's own loss on the labels goes to compile(loss=...)."
            )
    pairs = [
        (output, loss if isinstance(loss, DistillationLoss) else BatchLoss(loss)) for output, loss in pairs
    ]
    for i, (_, loss) in enumerate(pairs):
        if loss.builds_layers and any(loss is other for _, other in pairs[:i]):
            raise ValueError(
                "A loss that trains layers of its own compares one pair of layers or outputs. Received: the same "
                f"{type(loss).__name__} {loss.name!r} twice. Make an object for each."
            )
    heads: dict[Output, str] = {}
    for output, loss in pairs:
        if loss.head is not None and heads.setdefault(output, loss.head) != loss.head:
            raise ValueError(
                "The losses of one output must be for one kind of head, either softmax or sigmoid. Received: both, "
                f"{[type(loss).__name__ for other, loss in pairs if other == output]}. Keep the losses that fit the "
                "head."
            )
    return pairs


def as_weights(weights: Any, losses: Sequence[OutputLoss]) -> list[float | Schedule]:
    """Returns a weight for each loss, in their order; 1 for each that was given none."""
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
            "If distillation_losses is a dictionary of outputs, distillation_loss_weights must be one too. "
            f"Received: distillation_loss_weights={weights!r}, losses for {outputs}."
        )
    if unknown := [output for output in given if output not in outputs]:
        raise ValueError(
            "distillation_loss_weights must name outputs that have a distillation loss. "
            f"Received: weights for {unknown}, losses for {outputs}."
        )
    result: list[float | Schedule] = []
    for output in outputs:
        count = sum(other == output for other, _ in losses)
        listed = [1.0] * count if given.get(output) is None else _as_list(given[output])
        if len(listed) != count:
            raise ValueError(
                "distillation_loss_weights must hold one weight per distillation loss. "
                f"Received: distillation_loss_weights={weights!r} for {count} distillation "
                f"loss{'es' if count > 1 else ''}{'' if output is None else f' of output {output!r}'}."
            )
        result += listed
    return result


def as_pair(from_logits: Any, output: Output, outputs: Sequence[Output]) -> tuple[FromLogits, FromLogits]:
    """Returns what `from_logits` states about an output of (teacher, student)."""
    if isinstance(from_logits, dict) and (unknown := [key for key in from_logits if key not in outputs]):
        raise ValueError(
            "from_logits must name outputs as distillation_losses does. "
            f"Received: from_logits for {unknown}, losses for {list(dict.fromkeys(outputs))}."
        )
    stated = from_logits.get(output) if isinstance(from_logits, dict) else from_logits
    pair = stated if isinstance(stated, tuple) else (stated, stated)
    if len(pair) != 2 or any(side is not None and not isinstance(side, bool) for side in pair):
        raise ValueError(
            "from_logits must be None, True or False, a pair of these for (teacher, student), or a dictionary of "
            f"either by output. Received: from_logits={from_logits!r}."
        )
    return pair


def as_teachers(teacher: Any) -> list[Any]:
    """Returns one teacher or several as a list."""
    teachers = _as_list(teacher)
    if not teachers:
        raise ValueError(f"A Distiller needs a teacher. Received: teacher={teacher!r}.")
    return teachers


def as_preprocessings(preprocessing: Any, count: int) -> list[Preprocessing | None]:
    """Returns a function or `None` for each teacher; one that was given alone is for all."""
    if not isinstance(preprocessing, (list, tuple)):
        return [preprocessing] * count
    if len(preprocessing) != count:
        raise ValueError(
            "teacher_preprocessing must be one function for all teachers, or a list with a function or None for each. "
            f"Received: {len(preprocessing)} for {count} teacher{'s' if count > 1 else ''}."
        )
    return list(preprocessing)


def term_names(losses: Sequence[OutputLoss]) -> list[str]:
    """Returns each loss's name in the logs: after its output's, with _1, _2, … if the name occurs again."""
    names: list[str] = []
    for output, loss in losses:
        name = loss.name if output is None else f"{_as_word(output)}_{loss.name}"
        if {name, loss.name} & {"loss", "student_loss"} or name.startswith("val_"):
            raise ValueError(
                "'loss', 'student_loss' and names that start with 'val_' are taken in the logs. "
                f"Received: a distillation loss with name={loss.name!r}. Give it another name."
            )
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        names.append(name if name not in names else next(n for n in numbered if n not in names))
    return names


def require_student(student: Any) -> None:
    """Raises ValueError unless the student is a model whose training step the Distiller may replace."""
    if not isinstance(student, keras.Model):
        raise ValueError(
            f"A student must be a keras.Model. Received: {student!r} of type {type(student).__name__}. Load a "
            "file with distill.load_model."
        )
    require_plain(
        student,
        (*LEARNS, *ANSWERS),
        "A Distiller trains the student in steps of its own, so the student must not define any.",
        "Distil a plain model: do what these add to the data in the data set or in layers, and pass what they add to "
        "the loss to compile(loss=..., metrics=...) or add_loss.",
    )


def require_fit(
    teacher: Any, student: keras.Model, losses: Sequence[OutputLoss], *, same_inputs: bool
) -> None:
    """Raises ValueError unless teacher, student and losses fit each other.

    Args:
        teacher: one teacher.
        student: the student.
        losses: the distillation losses.
        same_inputs: whether both models get the same inputs.
    """
    if teacher is student:
        raise ValueError(
            f"Teacher and student must be two models. Received: {student.name!r} as both. "
            "Use keras.models.clone_model to let a model teach a copy of itself."
        )
    if isinstance(teacher, keras.Layer):  # what other functions share cannot be known
        ids = {id(variable) for variable in teacher.variables} - _adapted(student)
        if shared := [variable.path for variable in student.variables if id(variable) in ids]:
            raise ValueError(
                "Teacher and student must not share variables: training the student would change the teacher. "
                f"Received: {len(shared)} shared variables, among them {shared[:3]}. Give the student layers of its "
                "own, with copy = type(layer).from_config(layer.get_config()); once they are built, "
                "copy.set_weights(layer.get_weights()) gives them the same weights."
            )
    # A preprocessor may make any shape.
    if same_inputs and not preprocessing_of(teacher, "teacher") and not preprocessing_of(student, "student"):
        _require_same_inputs(teacher, student)
    for _, loss in losses:
        loss.validate_model_compatibility(teacher, student)


def require_no_preprocessing(name: str, preprocessing: Preprocessing | None) -> None:
    """Raises ValueError if there is something to do to the inputs of a teacher that has answered before."""
    if preprocessing is not None:
        raise ValueError(
            "Recorded answers are not computed from the batch. Received: teacher_preprocessing with the answers of "
            f"{name!r}. Leave it out; for another preprocessing, record once more with preprocessing=..."
        )


def _adapted(model: keras.Model) -> set[int]:
    """Ids of the variables that `adapt` has set, such as the mean of a Normalization: training leaves them alone."""
    adapted = [layer for layer in flatten_layers(model) if hasattr(layer, "adapt")]
    return {id(variable) for layer in adapted for variable in layer.non_trainable_variables}


def require_validation(validate_teacher: Any, losses: Sequence[OutputLoss]) -> None:
    """Raises ValueError unless the Distiller's argument is a choice that its losses leave."""
    if validate_teacher is not None and not isinstance(validate_teacher, bool):
        raise ValueError(
            f"validate_teacher must be True, False or None. Received: validate_teacher={validate_teacher!r}."
        )
    if validate_teacher and all(loss.needs_ids for _, loss in losses):
        raise ValueError(
            "A loss that remembers the training examples has no value on validation data. Received: "
            f"validate_teacher=True and {[type(loss).__name__ for _, loss in losses]} alone. Leave it out, or add "
            "another loss."
        )


def require_one_memory(losses: Sequence[OutputLoss], teachers: int, replicas: int) -> None:
    """Raises ValueError if a loss that remembers examples has several teachers or replicas."""
    for _, loss in losses:
        if loss.needs_ids and (teachers > 1 or replicas > 1):
            raise ValueError(
                f"{type(loss).__name__} has one memory, for one teacher on one device. Received: {teachers} "
                f"teacher{'s' if teachers > 1 else ''}, {replicas} replica{'s' if replicas > 1 else ''}. "
                "Give each teacher a Distiller of its own, and train outside of a tf.distribute strategy."
            )


def _require_same_inputs(teacher: Any, student: keras.Model) -> None:
    """Compares the inputs that get one feature; sizes that are not known are left to the first batch."""
    taught, learned = shapes_of(teacher), shapes_of(student)
    by_name = takes_names(teacher) or takes_names(student)
    pairs = [(name, name) for name in taught if name in learned and is_named(name)]
    if not by_name and len(taught) == len(learned) == 1:
        ((one, _), (other, _)) = *taught.items(), *learned.items()
        # Two names may be two features of a dictionary.
        pairs = [] if one != other and is_named(one) and is_named(other) else [(one, other)]
    for one, other in pairs:
        # Keras itself drops or adds a last axis of 1.
        left, right = (
            shape[1:-1] if shape[-1] == 1 else shape[1:] for shape in (taught[one], learned[other])
        )
        agree = len(left) == len(right) and all(
            a is None or b is None or a == b for a, b in zip(left, right, strict=True)
        )
        if not agree:
            of = f" {one!r}" if by_name else ""
            raise ValueError(
                "Teacher and student get the same batch, so their inputs must have one shape. Received: "
                f"teacher {teacher.name!r} with inputs{of} of shape {taught[one]} and student {student.name!r} with "
                f"{learned[other]}. Pass a function that makes the teacher's inputs from the student's as "
                "teacher_preprocessing=..."
            )


def _as_list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, np.ndarray)) else [values]


def _as_output(output: Any) -> Output:
    is_position = isinstance(output, int) and not isinstance(output, bool) and output >= 0
    if not isinstance(output, str) and not is_position:
        raise ValueError(
            "The keys of distillation_losses must be the student's outputs: their names, or their positions from 0. "
            f"Received: {output!r}."
        )
    return output


def _as_word(output: Output) -> str:
    """An output's key as a part of a name in the logs."""
    return f"output_{output}" if isinstance(output, int) else re.sub(r"\W+", "_", str(output))

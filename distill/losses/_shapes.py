"""The shapes that losses compare: each class declares its own, and this module checks them."""

from collections.abc import Sequence
from typing import Any

# Sizes; `None` for one that is not known yet.
Shape = tuple[Any, ...]

# For `DistillationLoss.shapes`: what is compared, and its axes. "..." stands for any number of axes.
LOGITS = "logits (batch, ..., classes)"
ROWS_OF_LOGITS = "logits (batch, classes)"
VECTORS = "vectors (batch, channels)"
TOKENS = "tokens (batch, time, channels)"
MAPS = "maps (batch, height, width, channels)"

_REMEDIES = {
    ROWS_OF_LOGITS: "It relates the examples of a batch to each other. For maps and tokens use SoftTargets.",
    MAPS: "Read layers that return maps; keras.layers.Reshape turns tokens into a map.",
}


def require_shapes(
    loss: str,
    allowed: Sequence[str],
    teacher: Shape,
    student: Shape,
    *,
    same_shape: bool,
    several_classes: bool,
) -> None:
    """Raises ValueError unless `loss` can compare two sides of these shapes.

    Args:
        loss: class of the loss, for the error.
        allowed: kinds of tensors that the loss compares; both sides must be of one of them.
        teacher: shape of the teacher's side; `None` for a size that is not known yet.
        student: shape of the student's side.
        same_shape: whether both sides must have the same shape.
        several_classes: whether the last axis holds classes, of which there must be several.
    """
    if not agree(teacher[:1], student[:1]):
        raise shape_error(
            f"{loss} compares example by example, so teacher and student must have the same batch size",
            teacher,
            student,
            "Read outputs or layers that keep the batch axis.",
        )
    if same_shape and not _are_same(teacher, student):
        raise shape_error(
            f"{loss} compares element by element, so teacher and student must have the same shape",
            teacher,
            student,
            "Use models with the same outputs, such as the same set of labels. For layers of different shapes use a "
            "loss with a projector, such as Hint.",
        )
    if not any(_fits(kind, teacher) and _fits(kind, student) for kind in allowed):
        same_kind = ", the same kind on both sides" if len(allowed) > 1 else " on both sides"
        remedy = _REMEDIES.get(allowed[0], "Read outputs or layers of that kind.")
        if min(len(teacher), len(student)) < 2:
            remedy = "Give one value per example an axis of its own: (batch, 1)."
        raise shape_error(f"{loss} needs {' or '.join(allowed)}{same_kind}", teacher, student, remedy)
    if several_classes and any(len(shape) < 2 or shape[-1] == 1 for shape in (teacher, student)):
        raise shape_error(
            f"{loss} needs logits of two classes or more, because a softmax over one class is always 1",
            teacher,
            student,
            "Use BernoulliSoftTargets for a head with one logit per label.",
        )


def agree(left: Shape, right: Shape) -> bool:
    """Whether two shapes are equal, as far as their sizes are known."""
    return len(left) == len(right) and all(
        a == b or a is None or b is None for a, b in zip(left, right, strict=True)
    )


def shape_error(rule: str, teacher: Shape, student: Shape, remedy: str, what: str = "student") -> ValueError:
    """Returns the error for two shapes that break a rule; `remedy` is a sentence."""
    return ValueError(f"{rule}. Received: teacher {teacher} and {what} {student}. {remedy}")


def _are_same(teacher: Shape, student: Shape) -> bool:
    # Beside the batch axis, an unknown size must not stand against a 1, which would be broadcast.
    return agree(teacher, student) and all(
        a == b or 1 not in (a, b) for a, b in zip(teacher[1:], student[1:], strict=True)
    )


def _fits(kind: str, shape: Shape) -> bool:
    """Whether a shape has the axes that a kind, such as "logits (batch, ..., classes)", lists."""
    axes = kind[kind.index("(") + 1 : -1].split(", ")
    return len(shape) >= len(axes) - 1 if "..." in axes else len(shape) == len(axes)

"""What every distillation loss shares: one value per example, in float32, reduced once by Keras."""

import math
import re
from numbers import Real
from typing import Any, ClassVar, Literal

import keras
from keras import ops

Head = Literal["softmax", "sigmoid"]


class DistillationLoss(keras.losses.Loss, keras.distillation.DistillationLoss):
    """Base class: compares what a teacher and a student computed for the same examples.

    A subclass implements `call` and returns one value per example. Weights, masks and the mean over
    the batch are applied by `keras.losses.Loss`, the same code that reduces the student's own loss, so
    both agree on `sample_weight` and under `tf.distribute`. Inputs are cast to float32 first, and the
    teacher's side is cut from the gradient.

    It is also a `keras.distillation.DistillationLoss`: `keras.distillation.Distiller` accepts it.

    Args:
        name: the key of this term in the training logs.

    Attributes:
        head: the activation whose logits the loss compares, or `None` if it reads outputs or layers.
        teacher_layer_name: the teacher's layer to read instead of its outputs, or `None`.
        student_layer_name: likewise for the student.
        variables: the settings that training reads from variables, such as a temperature.
    """

    head: ClassVar[Head | None] = None
    teacher_layer_name: str | None = None
    student_layer_name: str | None = None

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(
                "A distillation loss is known in the logs by its name: a letter, then letters, digits, '_', '.' "
                f"or '-'. Received: name={name!r}."
            )
        # Not `floatx`: in half precision a softmax over many classes underflows.
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self.variables: list[keras.Variable] = []

    def __call__(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        """Mean over the batch of `call`, each row times its `sample_weight`; a float32 scalar."""
        teacher = keras.tree.map_structure(ops.stop_gradient, teacher)
        return super().__call__(teacher, student, sample_weight)

    def call(self, teacher: Any, student: Any) -> Any:
        """One loss per example, from tensors already in float32; a subclass implements it."""
        raise NotImplementedError(f"{type(self).__name__} must implement call(teacher, student).")

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        """The scalar that `keras.distillation.Distiller` asks for; `kwargs` are its own and unused."""
        return self(teacher_outputs, student_outputs)


class BatchLoss(DistillationLoss):
    """Lets a `keras.distillation` loss, which returns one number for a whole batch, stand beside ours.

    Args:
        loss: a `keras.distillation.DistillationLoss`; it reads the layers that its attributes
            `teacher_layer_name` and `student_layer_name` name, where it has them, else the outputs.
    """

    def __init__(self, loss: keras.distillation.DistillationLoss) -> None:
        super().__init__(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(loss).__name__).lower())
        self._loss = loss
        # Keras defines no attribute on the base class: its own Distiller asks the same way.
        self.teacher_layer_name = getattr(loss, "teacher_layer_name", None)
        self.student_layer_name = getattr(loss, "student_layer_name", None)

    def __call__(self, teacher: Any, student: Any, sample_weight: Any = None) -> Any:
        """The number of the batch; the wrapped loss knows nothing of weights or masks."""
        unmasked = keras.tree.map_structure(ops.copy, student)  # a copy has no Keras mask
        return super().__call__(teacher, unmasked, sample_weight)

    def call(self, teacher: Any, student: Any) -> Any:
        """The batch's number for each of its examples, so that their mean is the number again."""
        self.validate_outputs(teacher, student)
        value = self._loss.compute_loss(teacher, student)
        batch = ops.shape(keras.tree.flatten(student)[0])[0]
        return ops.broadcast_to(ops.cast(value, "float32"), (batch,))

    def validate_model_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        """Asks the wrapped loss."""
        self._loss.validate_model_compatibility(teacher, student)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Asks the wrapped loss."""
        self._loss.validate_outputs(teacher_outputs, student_outputs)


def require_same_shape(what: str, teacher: Any, student: Any) -> None:
    """Raises ValueError unless two logits tensors agree in every statically known size."""
    left, right = tuple(teacher.shape), tuple(student.shape)
    agree = len(left) == len(right) and all(
        a == b or a is None or b is None for a, b in zip(left, right, strict=True)
    )
    if not agree:
        raise ValueError(
            f"{what} compares class by class, so both logits need one shape. "
            f"Received teacher {left} and student {right}. "
            "Use the same label set on both sides."
        )


def require_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value` as a float, or ValueError unless it is a finite number in [low, high]."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        rule = f"a finite number >= {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {rule}. Received: {name}={value!r}.")
    return float(value)


def setting(name: str, value: float) -> keras.Variable:
    """A number that compiled training steps read anew each time, so that changing it takes effect."""
    return keras.Variable(value, dtype="float32", trainable=False, autocast=False, name=name)


def setting_value(variable: keras.Variable) -> float:
    """The number a `setting` holds now."""
    return float(ops.convert_to_numpy(ops.convert_to_tensor(variable)))

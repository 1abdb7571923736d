"""Teacher-free distillation: a control that distillation with a teacher has to beat."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._numbers import require_number
from distill.losses._shapes import agree


@keras.saving.register_keras_serializable(package="distill")
class VirtualTeacher(keras.losses.Loss):
    """Cross-entropy with a hand-made teacher alongside labels: teacher-free distillation, Tf-KD with regularization.

    This is a plain Keras loss for integer labels, used without a Distiller. The value of a row is

        (1 − weight) · CE(label, p) + weight · KL(u ‖ p),    u = softmax(d / temperature)

    where d is `correct` for the label and (1 − correct) / (classes − 1) for the other classes. Because u does
    not depend on the student, this is label smoothing by a different amount. For the paper's other scheme,
    Tf-KD by self-training, use a `distill.training.chain` of one network, with a teacher of the same
    architecture [1].

    Args:
        weight: weight of the virtual teacher, from 0 to 1.
        temperature: temperature of the virtual teacher alone, at least 1e-6.
        correct: the virtual teacher's probability of the label before it is softened, from 0 to 1.
        from_logits: whether `y_pred` holds logits, as for Keras' own cross-entropies.
        axis: axis of the classes in `y_pred`, likewise; 1 for a model whose channels come first.
        name: name of the loss.

    Call args:
        y_true: integer labels (batch, ...), or (batch, ..., 1).
        y_pred: probabilities or logits (batch, ..., classes), classes >= 2; or with the classes on `axis`.

    Returns:
        `call`: (batch, ...), in nats, >= 0; NaN for a label that is no class. Calling the object: their mean, a scalar.

    Raises:
        ValueError: a number is out of range, there is a single class, or labels and predictions do not fit.

    Example:
        ```python
        import distill

        student.compile("adam", loss=distill.losses.VirtualTeacher())
        ```

    References:
        [1] Yuan et al. 2020, arXiv:1909.11723, equations 8 and 9. As in the official code, the student is not
            softened. That code takes the mean over classes times a factor; here it is their sum, so the
            factor is the number of classes.
    """

    def __init__(
        self,
        *,
        weight: float = 0.1,
        temperature: float = 20.0,
        correct: float = 0.99,
        from_logits: bool = False,
        axis: int = -1,
        name: str = "virtual_teacher",
    ) -> None:
        # Always float32, not `floatx`: labels get this dtype, and half precision lacks whole numbers above 2048 or 256.
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self._weight = require_number("weight", weight, 0.0, 1.0)
        self._temperature = require_number("temperature", temperature, 1e-6)
        self._correct = require_number("correct", correct, 0.0, 1.0)
        self._from_logits = from_logits
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise ValueError(f"axis must be a whole number other than 0, the batch. Received: axis={axis!r}.")
        self._axis = axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns the value of each row."""
        if not -len(y_pred.shape) < self._axis < len(y_pred.shape):
            raise ValueError(
                f"axis must be one of the predictions. Received: axis={self._axis}, predictions of shape "
                f"{tuple(y_pred.shape)}."
            )
        given = tuple(y_pred.shape)
        y_pred = ops.moveaxis(y_pred, self._axis, -1) if self._axis != -1 else y_pred
        classes = y_pred.shape[-1]
        labels = ops.convert_to_tensor(y_true)
        if len(labels.shape) == len(y_pred.shape) and 1 in (labels.shape[-1], labels.shape[self._axis]):
            labels = ops.squeeze(labels, axis=-1 if labels.shape[-1] == 1 else self._axis)
        fits = agree(tuple(labels.shape), tuple(y_pred.shape[:-1]))
        if classes is None or classes < 2 or not fits:
            raise ValueError(
                "VirtualTeacher needs one label for each row of predictions, and two classes or more. Received: labels "
                f"of shape {tuple(labels.shape)}, predictions of shape {given}. Pass integer labels "
                "(batch,), and axis=1 if the channels come first."
            )
        labels = ops.cast(labels, "int32")
        # torch raises for a label that is no class. Such a row becomes NaN below.
        target = ops.one_hot(ops.clip(labels, 0, classes - 1), classes, dtype=y_pred.dtype)
        other = (1.0 - self._correct) / (classes - 1)
        log_taught = ops.log_softmax((other + (self._correct - other) * target) / self._temperature)
        taught = ops.exp(log_taught)
        # Both parts are cross-entropies of the same prediction, so they are one, of the mean target, up to u's entropy.
        mixed = (1.0 - self._weight) * target + self._weight * taught
        entropy = -ops.sum(taught * log_taught, axis=-1)
        values = ops.categorical_crossentropy(mixed, y_pred, from_logits=self._from_logits)
        known = ops.logical_and(labels >= 0, labels < classes)
        return ops.where(known, values - self._weight * entropy, float("nan"))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "weight": self._weight,
            "temperature": self._temperature,
            "correct": self._correct,
            "from_logits": self._from_logits,
            "axis": self._axis,
            "name": self.name,
        }

"""Logit standardization: a loss on logits of mean 0 and standard deviation 1."""

from typing import Any, Self

import keras

from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss, Recipe
from distill.losses._decoupled import DecoupledKD
from distill.losses._multi_level import MultiLevelKD
from distill.losses._soft_targets import SoftTargets
from distill.losses._standardization import standardize


@keras.saving.register_keras_serializable(package="distill")
class Standardized(DistillationLoss):
    """Applies another loss to logits of mean 0 and standard deviation 1 over the classes of each row.

    z ← (z − mean z) / (1e-7 + std z) on both sides, where the standard deviation divides by classes − 1; the
    gradient passes through the student's. What remains is how much likelier one class is than another, so the
    student need not match the size of the teacher's logits.

    The combinations with `SoftTargets` and `DecoupledKD` are published [1]. The third published one is
    `MultiLevelKD(standardize=True)`, which standardizes only a part of that loss.

    `recipe`: 0.1 for the student's own loss and 9 for this one around `SoftTargets`; 1 and 9 around `DecoupledKD`;
    empty around any other loss.

    Args:
        loss: a loss on softmax logits; `SoftTargets(2.0)` by default. Its temperature applies to the standardized
            logits; the published one is 2.
        name: key of this loss in the training logs; "standardized_" and the name of `loss` by default.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        The same as `loss`.

    Raises:
        ValueError: `loss` is not a loss on softmax logits, or is a `MultiLevelKD`; `loss` refuses the shapes.

    Example:
        ```python
        import distill

        loss = distill.losses.Standardized(distill.SoftTargets(temperature=2.0))
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Sun et al. 2024, arXiv:2403.01427, algorithm 1, with the 1e-7 and the unbiased deviation of the
            official code, whose released configuration has a cross-entropy of 1 alongside the 9. Around DKD,
            that code multiplies alpha by 9.
    """

    same_shape = True
    head = "softmax"
    shift_invariant = True

    def __init__(self, loss: DistillationLoss | None = None, *, name: str | None = None) -> None:
        loss = SoftTargets(2.0) if loss is None else loss
        if not isinstance(loss, DistillationLoss) or loss.head != "softmax":
            raise ValueError(
                "Standardized needs a loss on softmax logits, such as distill.SoftTargets(2.0). "
                f"Received: {loss!r}."
            )
        if isinstance(loss, MultiLevelKD):
            raise ValueError(
                "MultiLevelKD standardizes the logits of its divergence only. Received: "
                "Standardized(MultiLevelKD(...)). Use MultiLevelKD(standardize=True)."
            )
        super().__init__(name=f"standardized_{loss.name}" if name is None else name)
        self._loss = loss
        self.settings, self.layers = loss.settings, loss.layers
        self.needs_labels = loss.needs_labels
        if isinstance(loss, SoftTargets | DecoupledKD):
            self.recipe = Recipe(
                student_loss_weight=loss.recipe["student_loss_weight"], distillation_weight=9.0
            )

    @property
    def builds_layers(self) -> bool:
        """Whether the inner loss creates something that fits only one pair of models."""
        return self._loss.builds_layers

    def build(self, teacher: Tensors, student: Tensors) -> None:
        """Builds the inner loss."""
        self._loss.ensure_built(teacher, student)
        self.layers = self._loss.layers

    def start(self, owner: object) -> None:
        """Gives the inner loss to the Distiller too."""
        self._loss.start(owner)
        super().start(owner)
        self.layers = self._loss.layers

    def call(self, teacher: Tensor, student: Tensor, *labels: Tensor) -> Tensor:
        """Returns the inner loss of the standardized logits."""
        return self._loss.call(standardize(teacher), standardize(student), *labels)

    def validate_outputs(self, teacher_outputs: Tensors, student_outputs: Tensors) -> None:
        """Raises ValueError unless the inner loss takes both sides."""
        self._loss.validate_outputs(teacher_outputs, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"loss": keras.saving.serialize_keras_object(self._loss), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss that `get_config` describes."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]), name=config["name"])

"""Probabilistic knowledge transfer: how probable each example is as a neighbour of each other one."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._relation import Relation, flat, unless_zero


@keras.saving.register_keras_serializable(package="distill")
class ProbabilisticTransfer(Relation):
    """Divergence between teacher and student in how probable each example is as another's neighbour: PKT.

    With x a row of features divided by its L2 norm + 1e-7, and K = (XXᵀ + 1) / 2 with each row divided by its
    sum, row i is Σ_j K_teacher,ij log((K_teacher,ij + 1e-7) / (K_student,ij + 1e-7)) / B. As in the reference
    code, an example is its own neighbour too and the sum is divided by B; the paper leaves out j = i and does
    not divide [1].

    An example is compared only with those in its batch, so the batch size is part of the loss. Under
    `tf.distribute`, the loss is the mean over shards, and each shard compares only its own examples; one
    device with the whole batch computes something else. `sample_weight` multiplies rows: an example of weight
    0 still appears in the rows of the others.

    `recipe`: 1 for the student's own loss, 30000 for this one.

    Args:
        teacher_layer_name: the teacher's layer to read; the published choice is the final embedding. `None`
            reads its outputs.
        student_layer_name: the student's layer, likewise. The widths may differ.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), with the same batch size.

    Returns:
        `call`: (batch,) float32, in nats divided by the batch size; >= 0 up to rounding, 0 if all cosines
        agree.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: a side has no axis besides the batch, the batch sizes differ, or a layer name is not a string.

    Example:
        ```python
        import distill

        loss = distill.losses.ProbabilisticTransfer(teacher.layers[-2].name, student.layers[-2].name)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Passalis, Tefas 2018, arXiv:1803.10837, section 3, with its cosine kernel for both sides. The 1e-7
            in both places, and the weight, follow the reference code (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=30000.0)

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        name: str = "probabilistic_transfer",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the divergence of each row of K, over B."""
        k_teacher, k_student = _neighbours(teacher), _neighbours(student)
        divergence = k_teacher * ops.log((k_teacher + 1e-7) / (k_student + 1e-7))
        # Rows of K sum to 1, so these differences add up to 0. Without them large terms would cancel and lose digits.
        return ops.mean(divergence - (k_teacher - k_student), axis=-1)


def _neighbours(features: Tensor) -> Tensor:
    """Returns K."""
    features = flat(features)
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    x = features * unless_zero(squares, lambda safe: 1.0 / (ops.sqrt(safe) + 1e-7))
    # Between opposite rows, rounding may take the cosine below -1, and so K below 0, where it has no logarithm.
    k = ops.relu(ops.matmul(x, ops.transpose(x)) + 1.0) / 2.0
    return k / ops.sum(k, axis=-1, keepdims=True)

"""Similarity-preserving distillation: how similar the examples of a batch are to each other."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._relation import Relation, flat, unit


@keras.saving.register_keras_serializable(package="distill")
class SimilarityPreserving(Relation):
    """Squared difference between teacher and student in how similar the examples of a batch are.

    With F the features as (B, -1), and G = FFᵀ with each row divided by max(its L2 norm, 1e-12), row i is
    Σ_j (G_student,ij − G_teacher,ij)² / B. Their mean is ‖G_student − G_teacher‖²_F / B² [1].

    An example is compared only with those in its batch, so the batch size is part of the loss. Under
    `tf.distribute`, the loss is the mean over shards, and each shard compares only its own examples; one
    device with the whole batch computes something else. `sample_weight` multiplies rows: an example of weight
    0 still appears in the rows of the others.

    `recipe`: 1 for the student's own loss, 3000 for this one.

    Args:
        teacher_layer_name: the teacher's layer to read; the published choice is the last feature map. `None`
            reads its outputs.
        student_layer_name: the student's layer, likewise. The widths may differ.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), with the same batch size.

    Returns:
        `call`: (batch,) float32 in [0, 4 / batch], no unit; 0 if all similarities agree.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: a side has no axis besides the batch, the batch sizes differ, or a layer name is not a string.

    Example:
        ```python
        import distill

        loss = distill.losses.SimilarityPreserving(teacher.layers[-2].name, student.layers[-2].name)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Tung, Mori 2019, arXiv:1907.09682, section 3. The 1e-12 and the weight follow the reference code
            of [2], which otherwise agrees with the paper.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=3000.0)

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        name: str = "similarity_preserving",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the squared difference of each row of G, over B."""
        return ops.mean(ops.square(_similarities(student) - _similarities(teacher)), axis=-1)


def _similarities(features: Tensor) -> Tensor:
    """Returns G."""
    features = flat(features)
    products = ops.matmul(features, ops.transpose(features))
    return unit(products, ops.sum(ops.square(products), axis=-1, keepdims=True))

"""Relational knowledge distillation: distances and angles between the examples of a batch."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._numbers import require_number
from distill.losses._relation import Relation, flat, unit


@keras.saving.register_keras_serializable(package="distill")
class Relational(Relation):
    """Relational knowledge distillation: distances between pairs of examples, and angles of triples.

    Row i is `distance` · Σ_j h(D_student,ij − D_teacher,ij) / B
    + `angle` · Σ_jk h(A_student,ijk − A_teacher,ijk) / B², with h(x) = x²/2 up to |x| = 1 and |x| − 1/2
    beyond. D_ij = √max(‖x_j − x_i‖², 1e-12), 0 on the diagonal, divided by the mean of its positive entries;
    A_ijk = ⟨e_ij, e_ik⟩ with e_ij = (x_j − x_i) / max(‖x_j − x_i‖, 1e-12). The means over rows are means over
    all B² and B³ entries, diagonals included, as in the reference code; the paper sums over tuples of
    different examples [1].

    Memory: batch² · width floats for the differences of a side, and batch³ floats for its angles: 67 MB at
    256 examples, 4.3 GB at 1024. With its gradient, a step takes several times that: at 256 examples of 100
    features, it takes 0.25 GB compiled by XLA, as `fit` does by default, 0.63 GB without, and 0.09 GB with
    `angle=0`. The loss is made for embeddings, so pool wide feature maps first.

    An example is compared only with those in its batch, so the batch size is part of the loss. Under
    `tf.distribute`, the loss is the mean over shards, and each shard compares only its own examples; one
    device with the whole batch computes something else. `sample_weight` multiplies rows: an example of weight
    0 still appears in the rows of the others. Examples with the same features have no direction between them
    and get no gradient from each other.

    `recipe`: 1 for the student's own loss, 1 for this one; the published weights of its parts are the defaults of
    `distance` and `angle`.

    Args:
        teacher_layer_name: the teacher's layer to read; the published choice is the final embedding. `None`
            reads its outputs.
        student_layer_name: the student's layer, likewise. The widths may differ.
        distance: weight of the distances, >= 0, no unit; at 0 they are not computed.
        angle: weight of the angles, likewise. If the weights are to change, or each part is to have its own
            line in the logs, give the Distiller `Relational(distance=1.0, angle=0.0, name=...)` and
            `Relational(distance=0.0, angle=1.0, name=...)`, each with its own weight.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), with the same batch size.

    Returns:
        `call`: (batch,) float32, >= 0, no unit; 0 if the student's features are the teacher's after a shift,
        a rotation or a scaling, and for a batch of one.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: a weight is negative, or both are 0; a side has no axis besides the batch, the batch sizes differ,
            or a layer name is not a string.

    Example:
        ```python
        import distill

        loss = distill.losses.Relational(teacher.layers[-2].name, student.layers[-2].name)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Park, Kim, Lu, Cho 2019, arXiv:1904.05068, section 3: its distance-wise and angle-wise losses, with the
            Huber loss for h. Both floors of 1e-12, and the weights 25 and 50 together, follow the reference code.
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=1.0)

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        distance: float = 25.0,
        angle: float = 50.0,
        name: str = "relational",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self._distance = require_number("distance", distance, 0.0)
        self._angle = require_number("angle", angle, 0.0)
        if self._distance == self._angle == 0:
            raise ValueError(
                "Relational compares distances or angles, so one of them must have a weight > 0. "
                "Received: distance=0, angle=0."
            )

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the weighted sum of both parts, of each example to all pairs."""
        edges = _differences(teacher), _differences(student)
        squares = tuple(ops.sum(ops.square(x), axis=-1) for x in edges)
        parts = []
        if self._distance:
            of_teacher, of_student = map(_distances, squares)
            parts.append(self._distance * ops.mean(_smooth_l1(of_student - of_teacher), axis=-1))
        if self._angle:
            of_teacher, of_student = map(_angles, edges, squares)
            parts.append(self._angle * ops.mean(_smooth_l1(of_student - of_teacher), axis=(-2, -1)))
        return sum(parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"distance": self._distance, "angle": self._angle, **super().get_config()}


def _differences(features: Tensor) -> Tensor:
    """Returns x_j − x_i at [i, j]: (batch, batch, width)."""
    # ‖x_i‖² + ‖x_j‖² − 2⟨x_i, x_j⟩ would be smaller, but loses all digits of rows that lie close to each other.
    features = flat(features)
    return ops.expand_dims(features, 0) - ops.expand_dims(features, 1)


def _distances(squares: Tensor) -> Tensor:
    """Returns D, from the squared lengths of all differences."""
    batch = ops.shape(squares)[0]
    distances = ops.sqrt(ops.maximum(squares, 1e-12)) * (1.0 - ops.eye(batch))
    # All entries but the diagonal are positive.
    pairs = ops.cast(ops.maximum(batch * (batch - 1), 1), "float32")
    mean = ops.sum(distances) / pairs
    return distances / ops.where(mean > 0, mean, 1.0)  # a batch of one has no distances


def _angles(differences: Tensor, squares: Tensor) -> Tensor:
    """Returns A: cosines (batch, batch, batch)."""
    e = unit(differences, ops.expand_dims(squares, -1))
    return ops.matmul(e, ops.transpose(e, (0, 2, 1)))


def _smooth_l1(x: Tensor) -> Tensor:
    """Returns x²/2 up to |x| = 1, |x| − 1/2 beyond."""
    inside = ops.clip(x, -1.0, 1.0)
    return inside * (x - inside / 2.0)

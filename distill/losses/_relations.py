"""Losses on relations: how the examples of a batch lie to each other, whatever the widths of the two sides."""

import math
from typing import Any, ClassVar

import keras
from keras import ops

from distill.losses._base import DistillationLoss
from distill.losses._settings import require_number


class Relation(DistillationLoss):
    """One layer or output of each side, and a value for what each row of the batch is to all of them."""

    def __init__(self, teacher_layer_name: str | None, student_layer_name: str | None, name: str) -> None:
        super().__init__(name)
        for side, layer in (("teacher", teacher_layer_name), ("student", student_layer_name)):
            if layer is not None and (not isinstance(layer, str) or not layer):
                raise ValueError(
                    f"{type(self).__name__} reads one layer of each side, by its name, or the outputs. Received: "
                    f"{side}_layer_name={layer!r}. For several layers, give the Distiller a loss for each."
                )
        self.teacher_layer_name = teacher_layer_name
        self.student_layer_name = student_layer_name

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are features (batch, ...) of the same examples."""
        super().validate_outputs(teacher_outputs, student_outputs)
        teacher, student = tuple(teacher_outputs.shape), tuple(student_outputs.shape)
        if min(len(teacher), len(student)) < 2 or (
            None not in (teacher[0], student[0]) and teacher[0] != student[0]
        ):
            raise ValueError(
                f"{type(self).__name__} compares examples by their features: (batch, ...) of one batch and at least "
                f"one more axis, which may differ. Received teacher {teacher} and student {student}. Name layers "
                "that keep the batch axis, and give one value per example an axis of its own: (batch, 1)."
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "teacher_layer_name": self.teacher_layer_name,
            "student_layer_name": self.student_layer_name,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="distill")
class SimilarityPreserving(Relation):
    """Squared difference of how similar teacher and student find the examples of a batch.

    With F the features as (B, -1) and G = FFᵀ, each row divided by max(its L2 norm, 1e-12), row i is
    Σ_j (G_student,ij − G_teacher,ij)² / B. Their mean is ‖G_student − G_teacher‖²_F / B² [1].

    Examples relate to those of their batch alone, so the batch size is part of the loss; under
    `tf.distribute` it is the mean over shards, each of which relates its own examples: not what one device
    computes from the whole batch. `sample_weight` multiplies rows: an example of weight 0 stays in the others'.

    Args:
        teacher_layer_name: the teacher's layer to read; published with the last feature map. `None`: its outputs.
        student_layer_name: likewise for the student. The widths may differ.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), as many examples.

    Returns:
        `call`: (batch,) float32 in [0, 4 / batch], no unit; 0 where all similarities agree.
        Calling the object: their mean, a scalar. Published with a weight of 3000 beside the student's own loss:
        `SimilarityPreserving.recipe`.

    Raises:
        ValueError: a side has no axis besides the batch, or the batches differ; a layer name is no string.

    References:
        [1] Tung, Mori 2019, arXiv:1907.09682, section 3. 1e-12 and the weight are those of the reference code of [2],
            which otherwise is the paper's.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 3000.0}

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        name: str = "similarity_preserving",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """The squared difference of each row of G, over B."""
        return ops.mean(ops.square(_similarities(student) - _similarities(teacher)), axis=-1)


@keras.saving.register_keras_serializable(package="distill")
class Relational(Relation):
    """Relational knowledge distillation: distances between pairs of examples, and angles of triples.

    Row i is `distance` · Σ_j h(D_student,ij − D_teacher,ij) / B
    + `angle` · Σ_jk h(A_student,ijk − A_teacher,ijk) / B², with h(x) = x²/2 up to |x| = 1, |x| − 1/2 beyond.
    D_ij = √max(‖x_j − x_i‖², 1e-12), 0 on the diagonal, over the mean of its positive entries;
    A_ijk = ⟨e_ij, e_ik⟩ with e_ij = (x_j − x_i) / max(‖x_j − x_i‖, 1e-12). The means over rows are means over
    all B² and B³ entries, diagonals included, as the reference code has them; the paper sums over
    tuples of different examples [1].

    Memory: batch² · width floats for the differences of a side, and batch³ floats for its angles: 67 MB at 256
    examples, 4.3 GB at 1024. With its gradient a step takes several times that: at 256 examples of 100 features
    0.25 GB compiled by XLA, as `fit` does by default, 0.63 GB without, and 0.09 GB with `angle=0`. It is for
    embeddings: pool wide feature maps first.

    Examples relate to those of their batch alone, so the batch size is part of the loss; under
    `tf.distribute` it is the mean over shards, each of which relates its own examples: not what one device
    computes from the whole batch. `sample_weight` multiplies rows: an example of weight 0 stays in the others'.
    Examples with the same features have no direction between them and get no gradient from each other.

    Args:
        distance: weight of the distances, >= 0, no unit; 0 leaves them out, uncomputed.
        angle: weight of the angles, likewise. For weights that change, or a line each in the logs, give the
            Distiller `Relational(1.0, 0.0, name=...)` and `Relational(0.0, 1.0, name=...)` with weights of its own.
        teacher_layer_name: the teacher's layer to read; published with the final embedding. `None`: its outputs.
        student_layer_name: likewise for the student. The widths may differ.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), as many examples.

    Returns:
        `call`: (batch,) float32, >= 0, no unit; 0 where the student's features are the teacher's, moved, turned
        or scaled, and for a batch of one.
        Calling the object: their mean, a scalar. Published as 25 · distances + 50 · angles beside the student's
        own loss: `Relational.recipe`.

    Raises:
        ValueError: a weight is negative, or both are 0; a side has no axis besides the batch, or the batches
            differ; a layer name is no string.

    References:
        [1] Park, Kim, Lu, Cho 2019, arXiv:1904.05068, section 3: its distance-wise and angle-wise losses, with the
            Huber loss for h. Both floors of 1e-12, and the weights 25 and 50 together, are those of the reference code.
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 1.0}

    def __init__(
        self,
        distance: float = 25.0,
        angle: float = 50.0,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        name: str = "relational",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)
        self._distance = require_number("distance", distance, 0.0)
        self._angle = require_number("angle", angle, 0.0)
        if self._distance == self._angle == 0:
            raise ValueError(
                "Relational compares distances or angles. Received: distance=0, angle=0. Give one of them a weight."
            )

    def call(self, teacher: Any, student: Any) -> Any:
        """The weighted sum of both parts, of each example to all pairs."""
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
        """The constructor's arguments."""
        return {"distance": self._distance, "angle": self._angle, **super().get_config()}


@keras.saving.register_keras_serializable(package="distill")
class ProbabilisticTransfer(Relation):
    """Divergence between how probable teacher and student find each other example as a neighbour (PKT).

    With x a row of features over its L2 norm + 1e-7 and K = (XXᵀ + 1) / 2, each row divided by its sum, row i is
    Σ_j K_teacher,ij log((K_teacher,ij + 1e-7) / (K_student,ij + 1e-7)) / B. As in the reference code, an example
    is its own neighbour too and the sum is divided by B; the paper leaves j = i out and adds all up [1].

    Examples relate to those of their batch alone, so the batch size is part of the loss; under
    `tf.distribute` it is the mean over shards, each of which relates its own examples: not what one device
    computes from the whole batch. `sample_weight` multiplies rows: an example of weight 0 stays in the others'.

    Args:
        teacher_layer_name: the teacher's layer to read; published with the final embedding. `None`: its outputs.
        student_layer_name: likewise for the student. The widths may differ.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), as many examples.

    Returns:
        `call`: (batch,) float32, in nats over the batch size; >= 0 up to rounding, 0 where all cosines agree.
        Calling the object: their mean, a scalar. Published with a weight of 30000 beside the student's own loss:
        `ProbabilisticTransfer.recipe`.

    Raises:
        ValueError: a side has no axis besides the batch, or the batches differ; a layer name is no string.

    References:
        [1] Passalis, Tefas 2018, arXiv:1803.10837, section 3, with its cosine kernel for both sides. 1e-7 at both
            places, and the weight, are those of the reference code (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 30000.0}

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        name: str = "probabilistic_transfer",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """The divergence of each row of K, over B."""
        k_teacher, k_student = _neighbours(teacher), _neighbours(student)
        divergence = k_teacher * ops.log((k_teacher + 1e-7) / (k_student + 1e-7))
        # The differences add up to 0: rows of K sum to 1. Without them large terms would cancel, digits with them.
        return ops.mean(divergence - (k_teacher - k_student), axis=-1)


def flat(features: Any) -> Any:
    """Features of any rank as (batch, width)."""
    # The width is not left open: of an empty shard of tf.distribute it could not be told.
    return ops.reshape(features, (-1, math.prod(ops.shape(features)[1:])))


def _similarities(features: Any) -> Any:
    """G of `SimilarityPreserving`."""
    features = flat(features)
    products = ops.matmul(features, ops.transpose(features))
    return _unit(products, ops.sum(ops.square(products), axis=-1, keepdims=True))


def _neighbours(features: Any) -> Any:
    """K of `ProbabilisticTransfer`."""
    features = flat(features)
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    x = features * _unless_zero(squares, lambda safe: 1.0 / (ops.sqrt(safe) + 1e-7))
    # Between opposite rows, rounding may take the cosine below -1, and K below what a logarithm takes.
    k = ops.relu(ops.matmul(x, ops.transpose(x)) + 1.0) / 2.0
    return k / ops.sum(k, axis=-1, keepdims=True)


def _differences(features: Any) -> Any:
    """x_j − x_i at [i, j]: (batch, batch, width)."""
    # ‖x_i‖² + ‖x_j‖² − 2⟨x_i, x_j⟩ would be smaller, and loses all digits of rows that lie close to each other.
    features = flat(features)
    return ops.expand_dims(features, 0) - ops.expand_dims(features, 1)


def _distances(squares: Any) -> Any:
    """D of `Relational`, from the squared lengths of all differences."""
    batch = ops.shape(squares)[0]
    distances = ops.sqrt(ops.maximum(squares, 1e-12)) * (1.0 - ops.eye(batch))
    # All but the diagonal are positive.
    pairs = ops.cast(ops.maximum(batch * (batch - 1), 1), "float32")
    mean = ops.sum(distances) / pairs
    return distances / ops.where(mean > 0, mean, 1.0)  # a batch of one has no distances


def _angles(differences: Any, squares: Any) -> Any:
    """A of `Relational`: cosines (batch, batch, batch)."""
    e = _unit(differences, ops.expand_dims(squares, -1))
    return ops.matmul(e, ops.transpose(e, (0, 2, 1)))


def _unit(x: Any, squares: Any) -> Any:
    """Divides x by max(‖x‖, 1e-12) along the last axis, given ‖x‖² with that axis kept.

    A zero vector has no direction, so it gets no gradient: 1e12 times what comes down would be the formula's.
    """
    return x * _unless_zero(squares, lambda safe: ops.rsqrt(ops.maximum(safe, 1e-24)))


def _unless_zero(x: Any, function: Any) -> Any:
    """Applies `function`, and gives 0 with a gradient of 0 where x is 0."""
    # The inner choice keeps an infinite derivative at 0 from meeting the outer's gradient of 0: NaN.
    return ops.where(x > 0, function(ops.where(x > 0, x, 1.0)), 0.0)


def _smooth_l1(x: Any) -> Any:
    """x²/2 up to |x| = 1, |x| − 1/2 beyond."""
    inside = ops.clip(x, -1.0, 1.0)
    return inside * (x - inside / 2.0)

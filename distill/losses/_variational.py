"""Variational information distillation: the teacher's features under a Gaussian that the student predicts."""

import math

import keras
from keras import ops

from distill._types import Tensor, Tensors
from distill.losses import projectors
from distill.losses._base import Recipe
from distill.losses._layers import LayerNames, pairs_of
from distill.losses._maps import mean_of_example, pool_to_smaller, smaller_size
from distill.losses._projected import Projected, Projectors
from distill.losses._shapes import Shape


@keras.saving.register_keras_serializable(package="distill")
class VariationalInformation(Projected):
    """Negative log likelihood of the teacher's features under a Gaussian that the student predicts: VID.

    Row i is the mean over the features of ½[(μ(student_i) − teacher_i)² / v_c + log v_c]. The network μ, and
    the variance v_c = softplus(a_c) + 1e-5 of each channel of the teacher, are trained with the student; v
    starts at 5. The larger map is first average-pooled to the size of the smaller one. With several pairs of
    layers, the loss is their sum.

    `recipe`: 1 for the student's own loss, 1 for this one.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several.
        student_layer_name: the student's layer, or a tuple of the same length.
        projector: μ, a `keras.Layer` that returns the teacher's shape, or a list with one for each layer.
            `None` makes three 1×1 convolutions (dense layers on tokens and vectors) of the teacher's width,
            without bias and with ReLU between them.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, height, width, channels), (batch, time, channels) or (batch, channels);
            receives no gradient.
        student: features of the same kind. Sizes and channels may differ, but the number of tokens may not.

    Returns:
        `call`: (batch,) float32, or (batch, time) for tokens; in nats minus ½ log 2π, below 0 where v is
        small.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are of different kinds, the size of a map is unknown when the step runs, or
            the projector does not return the teacher's shape.

    Example:
        ```python
        import keras

        import distill

        loss = distill.losses.VariationalInformation("block2", "block2")
        value = loss(keras.random.normal((4, 8, 8, 32)), keras.random.normal((4, 8, 8, 12)))
        ```

    References:
        [1] Ahn et al. 2019, arXiv:1904.05835, section 3: its Gaussian with a variance for each channel,
            without the constant ½ log 2π. The three convolutions, the constants, the mean instead of a sum,
            and the weight of 1 follow the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=1.0)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        projector: Projectors = None,
        name: str = "variational_information",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        self.variances: list[_Variance] = []

    def build(self, teacher: Tensors, student: Tensors) -> None:
        """Creates μ and the variances."""
        super().build(teacher, student)
        self.variances = []
        for t, _ in pairs_of(teacher, student):
            variance = _Variance(name="variance", dtype="float32")
            variance.build((t.shape[-1],))
            self.variances.append(variance)
        self.layers += self.variances

    def _shapes_to_project(self, teacher: Shape, student: Shape) -> tuple[Shape, Shape]:
        if len(teacher) != 4:
            return teacher, student
        size = smaller_size(teacher, student)
        return (teacher[0], *size, teacher[-1]), (student[0], *size, student[-1])

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Returns three linear maps with ReLU between them."""
        return projectors.mlp(teacher[-1], rank=len(teacher), use_bias=False)

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the negative log likelihood of each example, or token."""
        if len(teacher.shape) == 4:
            teacher, student = pool_to_smaller(type(self).__name__, teacher, student)
        mean = self.project(stage, teacher, student)
        variance = self.variances[stage](teacher)
        return mean_of_example(0.5 * (ops.square(mean - teacher) / variance + ops.log(variance)))


class _Variance(keras.Layer):
    """A trained variance for each channel."""

    def build(self, input_shape: Shape) -> None:
        """Creates a_c, so that the variance is 5."""
        start = math.log(math.exp(5.0 - 1e-5) - 1.0)
        self.a = self.add_weight(
            shape=input_shape[-1:], initializer=keras.initializers.Constant(start), name="a"
        )

    def call(self, features: Tensor) -> Tensor:
        """Returns v_c."""
        return ops.softplus(self.a) + 1e-5

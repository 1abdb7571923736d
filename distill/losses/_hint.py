"""Hints: squared difference between a layer of the teacher and a regressor on a layer of the student."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses import projectors
from distill.losses._base import Recipe
from distill.losses._layers import LayerNames
from distill.losses._maps import mean_of_example
from distill.losses._projected import Projected, Projectors
from distill.losses._shapes import Shape


@keras.saving.register_keras_serializable(package="distill")
class Hint(Projected):
    """Mean squared difference between a middle layer of the teacher and a regressor on one of the student: FitNets.

    Row i is the mean over the features of (r(student_i) − teacher_i)². The regressor r is trained with the
    student. With several pairs of layers, the loss is their sum.

    `recipe`: 1 for the student's own loss, 100 for this one.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several; `None` for its output.
        student_layer_name: the student's layer, or a tuple of the same length.
        projector: r, a `keras.Layer` that returns the teacher's shape, or a list with one for each layer.
            `None` chooses FitNet's by shape (`distill.losses.projectors.regressor`): convolution, batch
            normalization and ReLU on maps, a dense layer on tokens and vectors. Because the one for maps ends
            in ReLU, read layers of the teacher after its own ReLU. `keras.layers.Identity()` compares
            features of the same shape as they are.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, height, width, channels), (batch, time, channels) or (batch, channels);
            receives no gradient.
        student: features of the same kind. Sizes and channels may differ, but the number of tokens may not.

    Returns:
        `call`: (batch,) float32, or (batch, time) for tokens; in squared units of the teacher's features.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are of different kinds, FitNet has no regressor between them, or the
            projector does not return the teacher's shape.

    Example:
        ```python
        import keras

        import distill

        loss = distill.Hint("block2", "block2")  # reads these layers when it is given to a Distiller
        print(loss.recipe)
        value = loss(keras.random.normal((4, 8, 8, 32)), keras.random.normal((4, 16, 16, 12)))
        ```

    References:
        [1] Romero et al. 2014, arXiv:1412.6550, equation 3. The paper trains hints first and the rest afterwards, on
            half the squared norm. The mean, the batch normalization, and the weight of 100 alongside the student's own
            loss follow the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=100.0)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        projector: Projectors = None,
        name: str = "hint",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Returns FitNet's regressor."""
        return projectors.regressor(teacher, student)

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the mean squared difference of each example, or token."""
        return mean_of_example(ops.square(self.project(stage, teacher, student) - teacher))

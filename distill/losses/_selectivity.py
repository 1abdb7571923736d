"""Neuron selectivity transfer: which positions activate the channels together."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._layers import LayerNames, OnLayers
from distill.losses._maps import pool_to_smaller, unit


@keras.saving.register_keras_serializable(package="distill")
class NeuronSelectivity(OnLayers):
    """Maximum mean discrepancy between the channels of teacher and student, each a map of where it is active: NST.

    Row i is the sum over the layers of mean k(t, t′) + mean k(s, s′) − 2 mean k(s, t) with k(a, b) = ⟨a, b⟩², over
    all pairs of the channels' maps t and s, each divided by its norm over positions (at least 1e-12). The larger map
    is first average-pooled to the size of the smaller one.

    `recipe`: 1 for the student's own loss, 50 for this one.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several.
        student_layer_name: the student's layer, or a tuple of the same length.
        name: key of this loss in the training logs.

    Call args:
        teacher: maps (batch, height, width, channels); receives no gradient.
        student: maps, of any size and with any number of channels.

    Returns:
        `call`: (batch,) float32, no unit; >= 0 up to rounding, 0 if the channels are the same up to order,
        sign and factors.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not maps, or a size is unknown when the step runs.

    Example:
        ```python
        import keras

        import distill

        loss = distill.losses.NeuronSelectivity("block3", "block3")
        value = loss(keras.random.normal((4, 8, 8, 32)), keras.random.normal((4, 8, 8, 12)))
        ```

    References:
        [1] Huang and Wang 2017, arXiv:1707.01219, section 4, with the polynomial kernel (d = 2, c = 0), for
            which the published λ is 50. The pooling and the mean over examples follow the reference code of
            [2], which also keeps the term that depends on the teacher alone.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=50.0)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        name: str = "neuron_selectivity",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the discrepancy of each example."""
        teacher, student = (
            unit(ops.reshape(side, (-1, side.shape[1] * side.shape[2], side.shape[3])), axis=1)
            for side in pool_to_smaller(type(self).__name__, teacher, student)
        )
        positions = teacher.shape[1]
        if positions <= max(teacher.shape[2], student.shape[2]):
            # With G = XXᵀ over positions, mean k(s, t) = Σ G_s G_t / (C_s C_t): the whole is a square.
            difference = _gram(teacher) / teacher.shape[2] - _gram(student) / student.shape[2]
            return ops.sum(ops.square(difference), axis=(1, 2))
        return _kernel(teacher, teacher) + _kernel(student, student) - 2.0 * _kernel(student, teacher)


def _gram(maps: Tensor) -> Tensor:
    """Returns ⟨positions, positions⟩ of (batch, positions, channels)."""
    return ops.matmul(maps, ops.transpose(maps, (0, 2, 1)))


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """Returns the mean of ⟨a, b⟩² over the channels a and b of (batch, positions, channels)."""
    return ops.mean(ops.square(ops.matmul(ops.transpose(left, (0, 2, 1)), right)), axis=(1, 2))

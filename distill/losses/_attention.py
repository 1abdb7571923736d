"""Attention transfer: where the channels of a map are active."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._layers import LayerNames, OnLayers
from distill.losses._maps import pool_to_smaller, root, unit
from distill.losses._numbers import require_number


@keras.saving.register_keras_serializable(package="distill")
class AttentionTransfer(OnLayers):
    """Squared difference of attention maps: where the channels are active, whatever they respond to.

    Row i is the sum over the layers of the mean over positions of (Q_student − Q_teacher)², with
    Q = a / max(‖a‖₂, 1e-12), where a is the mean over channels of |features|^p at each position. The larger
    map is first average-pooled to the size of the smaller one.

    `recipe`: 1 for the student's own loss, 1000 for this one. It is empty with `paper_form=True`, because the
    published weight then depends on the map: β/2, with β = 1000 over (positions × examples of a batch).

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several (the ends of its groups of blocks).
        student_layer_name: the student's layer, or a tuple of the same length.
        p: exponent from 1 to 4, no unit; a higher one gives more weight to the most active positions.
        paper_form: `True` for the paper's ‖Q_student − Q_teacher‖₂, with the sum over channels instead of
            their mean.
        name: key of this loss in the training logs.

    Call args:
        teacher: maps (batch, height, width, channels); receives no gradient.
        student: maps, of any size and with any number of channels.

    Returns:
        `call`: (batch,) float32, no unit; 0 if the maps are equal up to a factor.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not maps, a size is unknown when the step runs, or `p` is out of range.

    Example:
        ```python
        import keras

        import distill

        loss = distill.AttentionTransfer(("block1", "block2"), ("stage1", "stage2"))
        print(loss.recipe)
        one = distill.AttentionTransfer()
        value = one(keras.random.normal((4, 8, 8, 32)), keras.random.normal((4, 16, 16, 12)))
        ```

    References:
        [1] Zagoruyko and Komodakis 2016, arXiv:1612.03928, equation 2. The default form, its weight and the pooling
            follow the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe = Recipe(student_loss_weight=1.0, distillation_weight=1000.0)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        p: float = 2.0,
        paper_form: bool = False,
        name: str = "attention_transfer",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self.p = require_number("p", p, 1.0, 4.0)  # beyond 4, |f|^2p of features of 1e4 leaves float32
        self.paper_form = paper_form
        if paper_form:
            self.recipe = Recipe()

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the difference of the attention maps of each example."""
        teacher, student = pool_to_smaller(type(self).__name__, teacher, student)
        square = ops.square(self._attention(student) - self._attention(teacher))
        if self.paper_form:
            return root(ops.sum(square, axis=-1))
        return ops.mean(square, axis=-1)

    def _attention(self, features: Tensor) -> Tensor:
        """Returns Q, (batch, positions)."""
        over_channels = ops.sum if self.paper_form else ops.mean
        # Without XLA, TensorFlow computes a power through logarithms.
        powers = ops.square(features) if self.p == 2 else ops.power(ops.abs(features), self.p)
        energy = over_channels(powers, axis=-1)
        return unit(ops.reshape(energy, (-1, energy.shape[1] * energy.shape[2])), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "p": self.p, "paper_form": self.paper_form}

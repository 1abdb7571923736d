"""Overhaul of feature distillation: the teacher's features before the ReLU, beyond a margin."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._types import Tensor, Tensors
from distill.losses import projectors
from distill.losses._base import Recipe
from distill.losses._layers import LayerNames, pairs_of
from distill.losses._projected import Projected, Projectors
from distill.losses._shapes import MAPS, VECTORS, Shape, shape_error

# One number per channel, or such for each of several layers.
Margins = Sequence[float] | np.ndarray | Sequence[Sequence[float] | np.ndarray]


@keras.saving.register_keras_serializable(package="distill")
class OverhaulDistillation(Projected):
    """Squared difference from the teacher's features before the ReLU, where they carry information: OFD.

    Row i is Σ_j 2^{−(n−1−j)} Σ (s − t′)² / 1000, over the n layers and over the features of each where s > t′
    or t′ > 0, with t′ = max(teacher_i, m_c) and s = r(student_i). The connector r is trained with the
    student. Values that the teacher's ReLU removes count as their mean m_c, and the student's value only
    needs to lie below it.

    `recipe`: 1 for the student's own loss, 1 for this one; its values already contain the published 1 / 1000.

    Args:
        margins: m_c <= 0 for each channel of the teacher's layer, in units of its features; for several
            layers, a list with such margins for each. `batch_norm_margins` computes them from the batch
            normalization before the ReLU.
        teacher_layer_name: the teacher's layer, or a tuple of several from input to output. Name layers whose
            output goes into a ReLU, such as the batch normalization before it, or the addition at the end of
            a residual block.
        student_layer_name: the student's layer, or a tuple of the same length; also before the ReLU.
        projector: r, a `keras.Layer` that returns the teacher's shape, or a list with one for each layer.
            `None` makes a 1×1 convolution (a dense layer on vectors) without bias, followed by batch
            normalization.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, height, width, channels) or (batch, channels); receives no gradient.
        student: features of the same kind and size; channels may differ.

    Returns:
        `call`: (batch,) float32, in squared units of the teacher's features / 1000.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the margins are not numbers <= 0, or not one for each of the teacher's channels; the
            features are of different kinds; the projector does not return the teacher's shape.

    Example:
        ```python
        import keras

        import distill

        norm = keras.layers.BatchNormalization()  # of a trained teacher: teacher.get_layer("norm3")
        norm.build((None, 8, 8, 32))
        margins = distill.losses.batch_norm_margins(norm)
        loss = distill.losses.OverhaulDistillation(margins, "norm3", "norm3")
        value = loss(keras.random.normal((4, 8, 8, 32)), keras.random.normal((4, 8, 8, 12)))
        ```

    References:
        [1] Heo et al. 2019, arXiv:1904.01866, section 3: margin ReLU, its position before the ReLU and the partial
            distance. The sum over features, the factor 2^{−(n−1−j)}, which counts the last layer most, and 1 / 1000
            alongside a cross-entropy of weight 1 follow the authors' code.
    """

    shapes = (VECTORS, MAPS)
    recipe = Recipe(student_loss_weight=1.0, distillation_weight=1.0)

    def __init__(
        self,
        margins: Margins,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        projector: Projectors = None,
        name: str = "overhaul_distillation",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        several = isinstance(self.teacher_layer_name, tuple)
        count = len(self._given)
        try:
            arrays = [np.asarray(one, "float32") for one in (margins if several else [margins])]
        except (TypeError, ValueError):
            arrays = []
        if len(arrays) != count or any(a.ndim != 1 or not (np.isfinite(a) & (a <= 0)).all() for a in arrays):
            raise ValueError(
                "Margins must be numbers <= 0, one for each channel; for several layers, a list with these for each. "
                f"Received: margins={margins!r} for {count} layer{'s' if count > 1 else ''}. "
                "Use batch_norm_margins(layer) with the teacher's batch normalization."
            )
        self.margins = arrays

    def validate_outputs(self, teacher_outputs: Tensors, student_outputs: Tensors) -> None:
        """Raises ValueError unless the sides can be compared, with a margin for each channel of the teacher."""
        super().validate_outputs(teacher_outputs, student_outputs)
        for (teacher, student), margins in zip(
            pairs_of(teacher_outputs, student_outputs), self.margins, strict=True
        ):
            if teacher.shape[-1] != len(margins):
                raise shape_error(
                    f"{type(self).__name__} needs a margin for each channel of the teacher, but has {len(margins)}",
                    tuple(teacher.shape),
                    tuple(student.shape),
                    "Take the margins from the batch normalization before the ReLU that follows this layer.",
                )

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Returns a linear map and batch normalization."""
        return projectors.connector(teacher[-1], rank=len(teacher))

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the partial squared difference of each example, times the factor of the layer."""
        target = ops.maximum(teacher, self.margins[stage])
        projected = self.project(stage, teacher, student)
        counted = ops.cast(ops.logical_or(projected > target, target > 0), "float32")
        distance = ops.sum(counted * ops.square(projected - target), axis=tuple(range(1, len(teacher.shape))))
        return distance * 2.0 ** (stage + 1 - len(self.projectors)) / 1000.0

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; a projector as it was given, without its weights."""
        margins = [one.tolist() for one in self.margins]
        several = isinstance(self.teacher_layer_name, tuple)
        return {**super().get_config(), "margins": margins if several else margins[0]}


def batch_norm_margins(layer: keras.layers.BatchNormalization) -> np.ndarray:
    """Returns the mean of the negative outputs of a batch normalization, for each channel: margins of OFD.

    m = E[x | x < 0] of x ~ N(β, γ²), which is β − |γ| φ(β/|γ|) / Φ(−β/|γ|). Where at most one value in 1000
    is negative, it is −3 |γ|, as in the authors' code; where γ = 0, it is min(β, 0).

    Args:
        layer: batch normalization of the trained teacher, the one before the ReLU.

    Returns:
        (channels,) float32, <= 0, in units of the layer's output.

    Raises:
        ValueError: the layer is not a built `keras.layers.BatchNormalization`.

    Example:
        ```python
        import keras

        from distill.losses import batch_norm_margins

        norm = keras.layers.BatchNormalization()
        norm.build((None, 3))
        print(batch_norm_margins(norm))  # three times −0.798, the mean of the negative half of N(0, 1)
        ```

    References:
        Heo et al. 2019, arXiv:1904.01866, section 3.
    """
    if not isinstance(layer, keras.layers.BatchNormalization) or not layer.built:
        raise ValueError(
            "Margins are computed from the trained batch normalization before the teacher's ReLU. "
            f"Received: {layer!r}. Pass teacher.get_layer(its name), or compute E[x | x < 0] of each channel of the "
            "ReLU's input yourself."
        )
    channels = layer.moving_mean.shape[0]
    means = ops.convert_to_numpy(layer.beta) if layer.center else np.zeros(channels)
    deviations = np.abs(ops.convert_to_numpy(layer.gamma)) if layer.scale else np.ones(channels)
    return np.array(
        [_negative_mean(float(m), float(d)) for m, d in zip(means, deviations, strict=True)], "float32"
    )


def _negative_mean(mean: float, deviation: float) -> float:
    """Returns E[x | x < 0] of a normal distribution."""
    if deviation == 0.0:
        return min(mean, 0.0)
    z = mean / deviation
    below = math.erfc(z / math.sqrt(2.0)) / 2.0
    if below <= 0.001:
        return -3.0 * deviation
    return mean - deviation * math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi) / below

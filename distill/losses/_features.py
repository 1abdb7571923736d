"""Losses on the features of layers: maps (batch, height, width, channels), tokens and vectors.

All take several layers too, as stages: two tuples of names of one length, compared pair by pair and summed.
"""

import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from distill.losses import projectors
from distill.losses._base import DistillationLoss
from distill.losses._settings import require_number
from distill.losses._stages import LayerNames, OnLayers, Projected, Shape, misfit, pairs_of, smaller_size


@keras.saving.register_keras_serializable(package="distill")
class Hint(Projected):
    """Mean squared difference between a middle layer of the teacher and a regressor on one of the student: FitNets.

    Row i is the mean over the features of (r(student_i) − teacher_i)², with the regressor r trained along.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several; `None` for its output.
        student_layer_name: the student's layer, or a tuple of as many.
        projector: r, a `keras.Layer` that returns the teacher's shape, or a list of one for each layer.
            `None` chooses FitNet's by shape (`distill.projectors.regressor`): convolution, batch normalization
            and ReLU on maps, a dense layer on tokens and vectors. As that ends in ReLU, it is for layers of the
            teacher after theirs. `keras.layers.Identity()` compares features of one shape as they are.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, height, width, channels), (batch, time, channels) or (batch, channels);
            receives no gradient.
        student: features of the same kind; sizes and channels may differ, the number of tokens may not.

    Returns:
        `call`: (batch,) float32, or (batch, time) for tokens; in squared units of the teacher's features.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not of one kind, FitNet has no regressor between them, or the projector
            returns another shape than the teacher's.

    References:
        [1] Romero et al. 2014, arXiv:1412.6550, equation 3. The paper trains hints first and the rest afterwards, on
            half the squared norm; mean, batch normalization and the weight 100 beside the student's own loss are
            those of the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 100.0}

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        projector: Any = None,
        name: str = "hint",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector, name)

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """FitNet's regressor."""
        return projectors.regressor(teacher, student)

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """The mean squared difference of each example, or token."""
        return _mean(ops.square(self.project(stage, teacher, student) - teacher))


@keras.saving.register_keras_serializable(package="distill")
class AttentionTransfer(OnLayers):
    """Squared difference of attention maps: where the channels are active, whatever they say.

    Row i is the sum over the stages of the mean over positions of (Q_student − Q_teacher)², with
    Q = a / max(‖a‖₂, 1e-12) and a the mean over channels of |features|^p at each position. The larger map is first
    average-pooled to the size of the smaller.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several (the ends of its groups of blocks).
        student_layer_name: the student's layer, or a tuple of as many.
        p: from 1 to 4, no unit; higher looks more at the most active positions.
        paper_form: `True` for the paper's ‖Q_student − Q_teacher‖₂ with the sum over channels in place of their
            mean; its published weight is β/2 with β = 1000 over (positions × examples of a batch).
        name: the key of this term in the training logs.

    Call args:
        teacher: maps (batch, height, width, channels); receives no gradient.
        student: maps; any size and channels.

    Returns:
        `call`: (batch,) float32, no unit; 0 where the maps are equal up to a factor.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not maps, a size is unknown when the step runs, or `p` is out of range.

    References:
        [1] Zagoruyko and Komodakis 2016, arXiv:1612.03928, equation 2. The default and its weight are those of the
            reference code of [2], as is pooling.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 1000.0}

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        p: float = 2.0,
        paper_form: bool = False,
        name: str = "attention_transfer",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)
        self.p = require_number("p", p, 1.0, 4.0)  # beyond, |f|^2p of features of 1e4 leaves float32
        self.paper_form = paper_form

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """The difference of the attention maps of each example."""
        teacher, student = _pool_to_smaller(self, teacher, student)
        square = ops.square(self._attention(student) - self._attention(teacher))
        if self.paper_form:
            return _root(ops.sum(square, axis=-1))
        return ops.mean(square, axis=-1)

    def _attention(self, features: Any) -> Any:
        """Q, (batch, positions)."""
        over_channels = ops.sum if self.paper_form else ops.mean
        # TensorFlow without XLA takes a power by logarithms.
        powers = ops.square(features) if self.p == 2 else ops.power(ops.abs(features), self.p)
        energy = over_channels(powers, axis=-1)
        return _unit(ops.reshape(energy, (-1, energy.shape[1] * energy.shape[2])), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "p": self.p, "paper_form": self.paper_form}


@keras.saving.register_keras_serializable(package="distill")
class VariationalInformation(Projected):
    """Negative log likelihood of the teacher's features under a Gaussian that the student's predict: VID.

    Row i is the mean over the features of ½[(μ(student_i) − teacher_i)² / v_c + log v_c]. The network μ and the
    variance v_c = softplus(a_c) + 1e-5 of each channel of the teacher are trained along; v starts at 5. The larger
    map is first average-pooled to the size of the smaller.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several, which are summed.
        student_layer_name: the student's layer, or a tuple of as many.
        projector: μ, a `keras.Layer` that returns the teacher's shape, or a list of one for each layer. `None` makes
            three 1×1 convolutions (dense layers on tokens and vectors) of the teacher's width, without bias and
            with ReLU between them.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, height, width, channels), (batch, time, channels) or (batch, channels);
            receives no gradient.
        student: features of the same kind; sizes and channels may differ, the number of tokens may not.

    Returns:
        `call`: (batch,) float32, or (batch, time) for tokens; in nats less ½ log 2π, below 0 where v is small.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not of one kind, a map's size is unknown when the step runs, or the projector
            returns another shape than the teacher's.

    References:
        [1] Ahn et al. 2019, arXiv:1904.05835, section 3, its Gaussian with a variance for each channel, without the
            constant ½ log 2π. Three convolutions, the constants, the mean in place of a sum and the weight 1 are those
            of the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 1.0}
    pools = True

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        projector: Any = None,
        name: str = "variational_information",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector, name)
        self.variances: list[_Variance] = []

    def build(self, teacher: Any, student: Any) -> None:
        """Makes μ and the variances."""
        super().build(teacher, student)
        for t, _ in pairs_of(teacher, student):
            variance = _Variance(name="variance", dtype="float32")
            variance.build((t.shape[-1],))
            self.variances.append(variance)
        self.layers += self.variances

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Three linear maps with ReLU between them."""
        return projectors.mlp(teacher[-1], len(teacher), use_bias=False)

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """The negative log likelihood of each example, or token."""
        if len(teacher.shape) == 4:
            teacher, student = _pool_to_smaller(self, teacher, student)
        mean = self.project(stage, teacher, student)
        variance = self.variances[stage](teacher)
        return _mean(0.5 * (ops.square(mean - teacher) / variance + ops.log(variance)))


class _Variance(keras.Layer):
    """A trained variance for each channel."""

    def build(self, input_shape: Shape) -> None:
        """Makes a_c, with which the variance is 5."""
        start = math.log(math.exp(5.0 - 1e-5) - 1.0)
        self.a = self.add_weight(
            shape=input_shape[-1:], initializer=keras.initializers.Constant(start), name="a"
        )

    def call(self, features: Any) -> Any:
        """v_c."""
        return ops.softplus(self.a) + 1e-5


@keras.saving.register_keras_serializable(package="distill")
class NeuronSelectivity(OnLayers):
    """Maximum mean discrepancy between the channels of teacher and student, each a map of where it is active: NST.

    Row i is the sum over the stages of mean k(t, t′) + mean k(s, s′) − 2 mean k(s, t) with k(a, b) = ⟨a, b⟩², over
    all pairs of the channels' maps t and s, each divided by its norm over positions (at least 1e-12). The larger map
    is first average-pooled to the size of the smaller.

    Args:
        teacher_layer_name: the teacher's layer, or a tuple of several.
        student_layer_name: the student's layer, or a tuple of as many.
        name: the key of this term in the training logs.

    Call args:
        teacher: maps (batch, height, width, channels); receives no gradient.
        student: maps; any size and channels.

    Returns:
        `call`: (batch,) float32, no unit; >= 0 up to rounding, 0 where the channels are the same up to order,
        sign and factors.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the features are not maps, or a size is unknown when the step runs.

    References:
        [1] Huang and Wang 2017, arXiv:1707.01219, section 4, with the polynomial kernel (d = 2, c = 0); the published
            λ of it is 50. Pooling, and the mean over examples, are those of the reference code of [2], which has the
            term of the teacher alone too.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 50.0}

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        name: str = "neuron_selectivity",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """The discrepancy of each example."""
        teacher, student = (
            _unit(ops.reshape(side, (-1, side.shape[1] * side.shape[2], side.shape[3])), axis=1)
            for side in _pool_to_smaller(self, teacher, student)
        )
        positions = teacher.shape[1]
        if positions <= max(teacher.shape[2], student.shape[2]):
            # With G = XXᵀ over positions, mean k(s, t) = Σ G_s G_t / (C_s C_t): the whole is a square.
            difference = _gram(teacher) / teacher.shape[2] - _gram(student) / student.shape[2]
            return ops.sum(ops.square(difference), axis=(1, 2))
        return _kernel(teacher, teacher) + _kernel(student, student) - 2.0 * _kernel(student, teacher)


def _gram(maps: Any) -> Any:
    """⟨positions, positions⟩ of (batch, positions, channels)."""
    return ops.matmul(maps, ops.transpose(maps, (0, 2, 1)))


def _kernel(left: Any, right: Any) -> Any:
    """The mean of ⟨a, b⟩² over the channels a and b of (batch, positions, channels)."""
    return ops.mean(ops.square(ops.matmul(ops.transpose(left, (0, 2, 1)), right)), axis=(1, 2))


@keras.saving.register_keras_serializable(package="distill")
class OverhaulDistillation(Projected):
    """Squared difference to the teacher's features before the ReLU, where they say something: OFD.

    Row i is Σ_j 2^{−(n−1−j)} Σ (s − t′)² / 1000 over the n stages and the features of each where s > t′ or t′ > 0,
    with t′ = max(teacher_i, m_c) and s = r(student_i), the connector r trained along. What the teacher's ReLU cuts
    counts as the mean m_c of such values, and it is enough for the student to lie below.

    Args:
        margins: m_c <= 0 for each channel of the teacher's layer, in units of its features, or a list with
            these for each of several layers; `batch_norm_margins` has them from the batch normalization before the
            ReLU.
        teacher_layer_name: the teacher's layer, or a tuple of several from input to output: what goes into a ReLU,
            such as the batch normalization before it, or the addition at the end of a residual block.
        student_layer_name: the student's layer, or a tuple of as many; also before the ReLU.
        projector: r, a `keras.Layer` that returns the teacher's shape, or a list of one for each layer.
            `None` makes a 1×1 convolution (a dense layer on vectors) without bias, and batch normalization.
        name: the key of this term in the training logs.

    Call args:
        teacher: features (batch, height, width, channels) or (batch, channels); receives no gradient.
        student: features of the same kind and size; channels may differ.

    Returns:
        `call`: (batch,) float32, in squared units of the teacher's features / 1000.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the margins are not numbers <= 0 or not as many as the teacher's channels; the features are not
            of one kind; the projector returns another shape than the teacher's.

    References:
        [1] Heo et al. 2019, arXiv:1904.01866, section 3: margin ReLU, its position before the ReLU and the partial
            distance. The sum over features, the factor 2^{−(n−1−j)}, which counts the last stage most, and 1 / 1000
            beside a cross-entropy of weight 1 are those of the authors' code.
    """

    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 1.0}
    ranks = (2, 4)

    def __init__(
        self,
        margins: Any,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        projector: Any = None,
        name: str = "overhaul_distillation",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, projector, name)
        several = isinstance(self.teacher_layer_name, tuple)
        stages = len(self._given)
        try:
            arrays = [np.asarray(of_stage, "float32") for of_stage in (margins if several else [margins])]
        except (TypeError, ValueError):
            arrays = []
        if len(arrays) != stages or any(a.ndim != 1 or not (np.isfinite(a) & (a <= 0)).all() for a in arrays):
            raise ValueError(
                "Margins are numbers <= 0, one for each channel; of several layers, a list with these for each. "
                f"Received: margins={margins!r} for {stages} layer{'s' if stages > 1 else ''}. "
                "Use batch_norm_margins(layer) of the teacher's batch normalization."
            )
        self.margins = arrays

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are features of one kind, with a margin for each of the teacher's."""
        super().validate_outputs(teacher_outputs, student_outputs)
        for (teacher, student), margins in zip(
            pairs_of(teacher_outputs, student_outputs), self.margins, strict=True
        ):
            if teacher.shape[-1] != len(margins):
                raise misfit(
                    f"{type(self).__name__} needs a margin for each channel of the teacher, and has {len(margins)}",
                    tuple(teacher.shape),
                    tuple(student.shape),
                    "Take the margins from the batch normalization before the ReLU that follows this layer.",
                )

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """A linear map and batch normalization."""
        return projectors.connector(teacher[-1], len(teacher))

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """The partial squared difference of each example, times the factor of the stage."""
        target = ops.maximum(teacher, self.margins[stage])
        projected = self.project(stage, teacher, student)
        counted = ops.cast(ops.logical_or(projected > target, target > 0), "float32")
        distance = ops.sum(counted * ops.square(projected - target), axis=tuple(range(1, len(teacher.shape))))
        return distance * 2.0 ** (stage + 1 - len(self.projectors)) / 1000.0

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; a projector as it was given, without its weights."""
        margins = [of_stage.tolist() for of_stage in self.margins]
        several = isinstance(self.teacher_layer_name, tuple)
        return {**super().get_config(), "margins": margins if several else margins[0]}


def batch_norm_margins(layer: keras.layers.BatchNormalization) -> np.ndarray:
    """The mean of the negative values that a batch normalization returns, channel by channel: margins of OFD.

    m = E[x | x < 0] of x ~ N(β, γ²), which is β − |γ| φ(β/|γ|) / Φ(−β/|γ|). Where at most one value in 1000 is
    negative it is −3 |γ|, as in the authors' code; where γ = 0, it is min(β, 0).

    Args:
        layer: of the trained teacher, the one before the ReLU.

    Returns:
        (channels,) float32, <= 0, in units of what the layer returns.

    Raises:
        ValueError: the layer is no `keras.layers.BatchNormalization`, or not built.

    References:
        Heo et al. 2019, arXiv:1904.01866, section 3.
    """
    if not isinstance(layer, keras.layers.BatchNormalization) or not layer.built:
        raise ValueError(
            "Margins come from the trained batch normalization before the teacher's ReLU. "
            f"Received: {layer!r}. Pass teacher.get_layer(its name), or compute E[x | x < 0] of each channel of what "
            "goes into the ReLU."
        )
    channels = layer.moving_mean.shape[0]
    means = ops.convert_to_numpy(layer.beta) if layer.center else np.zeros(channels)
    deviations = np.abs(ops.convert_to_numpy(layer.gamma)) if layer.scale else np.ones(channels)
    return np.array(
        [_negative_mean(float(m), float(d)) for m, d in zip(means, deviations, strict=True)], "float32"
    )


def _negative_mean(mean: float, deviation: float) -> float:
    """E[x | x < 0] of a normal distribution."""
    if deviation == 0.0:
        return min(mean, 0.0)
    z = mean / deviation
    below = math.erfc(z / math.sqrt(2.0)) / 2.0
    if below <= 0.001:
        return -3.0 * deviation
    return mean - deviation * math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi) / below


def _mean(values: Any) -> Any:
    """Of each example, or of each token: masks and weights may be of tokens."""
    rank = len(values.shape)
    return ops.mean(values, axis=-1 if rank == 3 else tuple(range(1, rank)))


def _unit(values: Any, axis: int) -> Any:
    """Of length one along an axis: x / max(‖x‖₂, 1e-12)."""
    return values / _root(ops.sum(ops.square(values), axis=axis, keepdims=True))


def _root(square: Any) -> Any:
    """max(√x, 1e-12); the maximum comes first because the root has no finite gradient at 0."""
    return ops.sqrt(ops.maximum(square, 1e-24))


def _pool_to_smaller(loss: DistillationLoss, teacher: Any, student: Any) -> tuple[Any, Any]:
    """Both maps, average-pooled to the smaller height and the smaller width."""
    size = smaller_size(tuple(teacher.shape), tuple(student.shape))
    if None in size:
        raise misfit(
            f"{type(loss).__name__} pools the larger map to the smaller, so their sizes must be known",
            tuple(teacher.shape),
            tuple(student.shape),
            "Give the models' inputs, or the data set's examples, a fixed size.",
        )
    return _pooled(teacher, size), _pooled(student, size)


def _pooled(features: Any, size: Shape) -> Any:
    if tuple(features.shape[1:3]) == size:
        return features
    return ops.adaptive_average_pool(features, size, data_format="channels_last")

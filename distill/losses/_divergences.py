"""Losses on logits beyond plain soft targets: what of the two distributions is compared, and how."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from distill.losses._base import DistillationLoss
from distill.losses._logits import Softened, SoftTargets, kl_divergence, require_classes
from distill.losses._settings import Schedule, Setting, require_number


@keras.saving.register_keras_serializable(package="distill")
class Standardized(DistillationLoss):
    """Another loss on logits, on logits of mean 0 and standard deviation 1 over the classes of each row.

    z ← (z − mean z) / (1e-7 + std z), with the standard deviation over classes − 1, on both sides; the
    gradient passes through the student's. What is left is which class is how much likelier than which, so the
    student need not match the size of the teacher's logits. Around `SoftTargets` and `DecoupledKD` these are published
    combinations [1]; the third is `MultiLevelKD(standardize=True)`, which standardizes a part of that loss alone.

    Args:
        loss: a loss on softmax logits; `SoftTargets(2.0)` by default. Its temperature is the one of the standardized
            logits, published as 2.
        name: the key of this term in the training logs; that of `loss` after "standardized_" by default.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        As `loss`.

    Raises:
        ValueError: `loss` is not on softmax logits, or is a `MultiLevelKD`, or see there.

    References:
        [1] Sun et al. 2024, arXiv:2403.01427, algorithm 1; the official code's 1e-7 and unbiased deviation.
            Published with cross-entropy 0.1 and distillation 9: `recipe`.
    """

    head = "softmax"
    same_shape = True
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.1, "distillation_weight": 9.0}

    def __init__(self, loss: DistillationLoss | None = None, name: str | None = None) -> None:
        loss = SoftTargets(2.0) if loss is None else loss
        if not isinstance(loss, DistillationLoss) or loss.head != "softmax":
            raise ValueError(
                "Logits are standardized for a loss on softmax logits, such as distill.SoftTargets(2.0). "
                f"Received: {loss!r}."
            )
        if isinstance(loss, MultiLevelKD):
            raise ValueError(
                "Of MultiLevelKD, the logits of the divergence alone are standardized. Received: "
                "Standardized(MultiLevelKD(...)). Use MultiLevelKD(standardize=True)."
            )
        super().__init__(f"standardized_{loss.name}" if name is None else name)
        self._loss = loss
        self.settings, self.layers = loss.settings, loss.layers
        self.needs_labels = loss.needs_labels

    def build(self, teacher: Any, student: Any) -> None:
        """Builds the loss within."""
        self._loss.ensure_built(teacher, student)

    def call(self, teacher: Any, student: Any, *labels: Any) -> Any:
        """The loss within, of standardized logits."""
        return self._loss.call(_standardize(teacher), _standardize(student), *labels)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Asks the loss within."""
        self._loss.validate_outputs(teacher_outputs, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"loss": keras.saving.serialize_keras_object(self._loss), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Standardized":
        """The loss that `get_config` describes."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]), config["name"])


def _standardize(logits: Any) -> Any:
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    # The root of 0, where all logits are equal, has no finite gradient.
    spread = ops.where(variance > 0, ops.sqrt(ops.where(variance > 0, variance, 1.0)), 0.0)
    return centered / (1e-7 + spread)


@keras.saving.register_keras_serializable(package="distill")
class DecoupledKD(Softened):
    """Decoupled distillation: how likely the label is, and how the other classes share the rest, apart.

    With p = softmax(teacher_i / T), q = softmax(student_i / T) and y the label, row i is

        T² [α KL((p_y, 1 − p_y) ‖ (q_y, 1 − q_y)) + β KL(p̂ ‖ q̂)]

    where p̂ and q̂ are the softmax over the classes other than y. Plain soft targets weigh the second part by
    1 − p_y, hence little where the teacher is sure. With two classes the second part is 0.

    Args:
        alpha: weight of the first part, >= 0.
        beta: weight of the second, >= 0. Published per pair of models: 8 for ResNet 32x4 → 8x4, 6 for wide
            ResNets and VGG, 2 for ResNet 56 → 20.
        temperature: T from 1e-6 to 1e6, a number or a schedule of the training step.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.
        labels: (batch, ...) or (batch, ..., 1) class numbers, or (batch, ..., classes) one-hot or as probabilities, of
            which the largest counts.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, there are no labels, or an argument is out of range.

    References:
        Zhao et al. 2022, arXiv:2203.08679, equation 7. Published beside a cross-entropy of weight 1 (`recipe`),
        with the distillation side raised linearly from 0 over the first 20 epochs:
        `distillation_weight=keras.optimizers.schedules.PolynomialDecay(0.0, 20 * steps_per_epoch, 1.0)`.
    """

    head = "softmax"
    needs_labels = True
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 1.0}

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float | Schedule = 4.0,
        name: str = "decoupled_kd",
    ) -> None:
        super().__init__(temperature, name)
        self._alpha = require_number("alpha", alpha, 0.0)
        self._beta = require_number("beta", beta, 0.0)

    def call(self, teacher: Any, student: Any, *labels: Any) -> Any:
        """The two divergences of each row, weighted."""
        classes = _class_numbers(labels[0], student)
        target = ops.expand_dims(classes, axis=-1) == ops.arange(student.shape[-1], dtype="int32")
        sides = [side / self._temperature.variable for side in (teacher, student)]
        (log_b_t, log_b_s), (log_o_t, log_o_s) = zip(
            *(_decouple(side, target) for side in sides), strict=True
        )
        parts = self._alpha * kl_divergence(log_b_t, log_b_s) + self._beta * kl_divergence(log_o_t, log_o_s)
        # A label that is no class has no answer.
        known = ops.logical_and(classes >= 0, classes < student.shape[-1])
        return ops.square(self._temperature.variable) * ops.where(known, parts, math.nan)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"alpha": self._alpha, "beta": self._beta, **super().get_config()}


def _decouple(logits: Any, target: Any) -> tuple[Any, Any]:
    """Logarithms of (label, not label), (batch, ..., 2), and of the others among themselves, (batch, ..., classes)."""
    log_p = ops.log_softmax(logits, axis=-1)
    # Finite, so that the label's class counts 0 · (x − x) = 0 among the others.
    others = ops.where(target, -1e30, logits)
    log_label = ops.sum(ops.where(target, log_p, 0.0), axis=-1)
    log_rest = ops.logsumexp(ops.where(target, -1e30, log_p), axis=-1)
    return ops.stack([log_label, log_rest], axis=-1), ops.log_softmax(others, axis=-1)


def _class_numbers(labels: Any, logits: Any) -> Any:
    """Labels as int32 (batch, ...)."""
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == len(logits.shape):
        labels = labels[..., 0] if labels.shape[-1] == 1 else ops.argmax(labels, axis=-1)
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            "Labels are class numbers, one for each row of logits, or one-hot. "
            f"Received: labels of shape {tuple(labels.shape)} for logits {tuple(logits.shape)}."
        )
    return ops.cast(labels, "int32")


@keras.saving.register_keras_serializable(package="distill")
class DIST(Softened):
    """Correlation of probabilities, within each example and, over the batch, within each class.

    With P = softmax(teacher / T), Q = softmax(student / T) and ρ Pearson's correlation, row i is

        T² [β (1 − ρ(P_i, Q_i)) + γ (1 − mean_c ρ(P_·c, Q_·c))]

    whose second part is one number for the batch, and 0 where that is a single example, which correlates with no other.
    Correlation leaves the student free in how sure it is.

    Args:
        beta: weight of the correlation within examples, >= 0.
        gamma: weight of the correlation within classes, >= 0.
        temperature: T from 1e-6 to 1e6: 1 published on ImageNet, 4 on CIFAR. A number or a schedule of the
            training step.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch,) float32, from 0 to 2 T² (β + γ). Calling the object: their mean, a scalar. Under
        `tf.distribute` the batch of the second part is each replica's.

    Raises:
        ValueError: the shapes differ or are of other than two axes, or an argument is out of range.

    References:
        Huang et al. 2022, arXiv:2205.10536, equations 8 to 11; the official code's 1e-8 in the denominator.
        Published with weight 2 beside a cross-entropy of weight 1: `recipe`.
    """

    head = "softmax"
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 1.0, "distillation_weight": 2.0}

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float | Schedule = 1.0, name: str = "dist"
    ) -> None:
        super().__init__(temperature, name)
        self._beta = require_number("beta", beta, 0.0)
        self._gamma = require_number("gamma", gamma, 0.0)

    def call(self, teacher: Any, student: Any) -> Any:
        """What is missing to a full correlation, of each row and of the batch."""
        p, q = (ops.softmax(side / self._temperature.variable, axis=-1) for side in (teacher, student))
        rows = 1.0 - _pearson(p, q, axis=1)
        columns = ops.where(ops.shape(p)[0] > 1, 1.0 - ops.mean(_pearson(p, q, axis=0)), 0.0)
        return ops.square(self._temperature.variable) * (self._beta * rows + self._gamma * columns)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits (batch, classes) of one shape."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)
        require_batch_of_rows(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"beta": self._beta, "gamma": self._gamma, **super().get_config()}


def _pearson(a: Any, b: Any, axis: int) -> Any:
    """Pearson's correlation along an axis; 0 where a side is constant."""
    a, b = (side - ops.mean(side, axis=axis, keepdims=True) for side in (a, b))
    return ops.sum(a * b, axis=axis) / (_norm(a, axis) * _norm(b, axis) + 1e-8)


def _norm(x: Any, axis: int) -> Any:
    # The root of 0 has no finite gradient.
    square = ops.sum(ops.square(x), axis=axis)
    return ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)


def require_batch_of_rows(what: str, logits: Any) -> None:
    """Raises ValueError unless logits are (batch, classes)."""
    if len(logits.shape) != 2:
        raise ValueError(
            f"{what} compares examples of a batch with each other, so it needs logits (batch, classes). "
            f"Received: shape {tuple(logits.shape)}. For maps and tokens use SoftTargets."
        )


@keras.saving.register_keras_serializable(package="distill")
class GeneralizedJSD(Softened):
    """Generalised Jensen-Shannon divergence, from forward KL (β = 0) to reverse KL (β = 1).

    With p = softmax(teacher_i / T), q = softmax(student_i / T) and m = β p + (1 − β) q, row i is
    β KL(p ‖ m) + (1 − β) KL(q ‖ m) for 0 < β < 1; it is KL(p ‖ q) for β = 0 and KL(q ‖ p) for β = 1, towards which it
    tends when divided by β, or by 1 − β. There is no T².

    Args:
        beta: from 0, where the student covers all that the teacher holds possible, to 1, where it seeks what
            the teacher holds likeliest.
        temperature: T from 1e-6 to 1e6, a number or a schedule of the training step.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape. Where they have a mask, the mean is over the tokens that it leaves.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, or an argument is out of range.

    References:
        Agarwal et al. 2023, arXiv:2306.13649, equation 1 and its limits as the official code has them. Published
        without labels, `recipe`, and partly on sequences that the student writes, which are left to the data.
    """

    head = "softmax"
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.0, "distillation_weight": 1.0}

    def __init__(
        self, beta: float = 0.5, temperature: float | Schedule = 1.0, name: str = "generalized_jsd"
    ) -> None:
        super().__init__(temperature, name)
        self._beta = require_number("beta", beta, 0.0, 1.0)

    def call(self, teacher: Any, student: Any) -> Any:
        """The divergence of each row."""
        log_p, log_q = (
            ops.log_softmax(side / self._temperature.variable, axis=-1) for side in (teacher, student)
        )
        if self._beta == 0:
            return kl_divergence(log_p, log_q)
        if self._beta == 1:
            return kl_divergence(log_q, log_p)
        return ops.sum(self._terms(log_p, log_q), axis=-1)

    def _terms(self, log_p: Any, log_q: Any) -> Any:
        """β p (log p − log m) + (1 − β) q (log q − log m) of each class; 0 where both sides mask it."""

        @ops.custom_gradient
        def terms(log_p: Any, log_q: Any) -> tuple[Any, Any]:
            p, q = ops.exp(log_p), ops.exp(log_q)
            log_m = ops.log(ops.maximum(self._beta * p + (1.0 - self._beta) * q, 1.1754944e-38))
            of_p = self._beta * p * (ops.maximum(log_p, -1e30) - log_m)
            of_q = (1.0 - self._beta) * q * (ops.maximum(log_q, -1e30) - log_m)

            # What comes by way of m cancels what comes by way of p and q, so each part is its own derivative.
            def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any]:
                upstream = arguments[0] if upstream is None else upstream
                return upstream * of_p, upstream * of_q

            return of_p + of_q, gradient

        return terms(log_p, log_q)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"beta": self._beta, **super().get_config()}


@keras.saving.register_keras_serializable(package="distill")
class MultiLevelKD(DistillationLoss):
    """Soft targets at several temperatures, with how examples resemble each other and how classes do.

    At each temperature T, with P = softmax(teacher / T) and Q = softmax(student / T), row i adds

        T² KL(P_i ‖ Q_i) + Σ_j (P Pᵀ − Q Qᵀ)²_ij + ‖Pᵀ P − Qᵀ Q‖² / C

    whose last part is one number for the batch.

    Args:
        temperatures: several T from 1e-6 to 1e6.
        standardize: whether the logits of the divergence, and of nothing else, are standardized as `Standardized`
            does [2].
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch,) float32; >= 0 up to rounding. Calling the object: their mean, a scalar. Under
        `tf.distribute` the batch is each replica's.

    Raises:
        ValueError: the shapes differ or are of other than two axes, or there is no temperature, or a wrong one.

    References:
        [1] Jin, Wang, Lin 2023, Multi-level logit distillation, CVPR, its alignment of instances, batch and classes,
            without its two augmented views. All three at each temperature, T², the sums over entries, / B and / C, and
            the weights of `recipe` are those of the official code of [2].
        [2] Sun et al. 2024, arXiv:2403.01427.
    """

    head = "softmax"
    same_shape = True
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.1, "distillation_weight": 9.0}

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        standardize: bool = False,
        name: str = "multi_level_kd",
    ) -> None:
        super().__init__(name)
        if not isinstance(temperatures, (list, tuple)) or not temperatures:
            raise ValueError(
                f"temperatures are a list of one or more. Received: temperatures={temperatures!r}."
            )
        self._temperatures = tuple(require_number("temperatures", t, 1e-6, 1e6) for t in temperatures)
        self._standardize = bool(standardize)

    def call(self, teacher: Any, student: Any) -> Any:
        """The three parts of each row, summed over temperatures."""
        total = ops.zeros_like(student[:, 0])
        sides = (
            [_standardize(side) for side in (teacher, student)] if self._standardize else (teacher, student)
        )
        for temperature in self._temperatures:
            log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in sides)
            total += temperature**2 * kl_divergence(log_p, log_q)
            if self._standardize:  # the logits of the divergence alone
                log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in (teacher, student))
            p, q = ops.exp(log_p), ops.exp(log_q)
            p_turned, q_turned = ops.transpose(p), ops.transpose(q)
            examples = ops.matmul(p, p_turned) - ops.matmul(q, q_turned)
            classes = ops.matmul(p_turned, p) - ops.matmul(q_turned, q)
            total += ops.sum(ops.square(examples), axis=-1) + ops.sum(ops.square(classes)) / p.shape[-1]
        return total

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits (batch, classes) of one shape."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)
        require_batch_of_rows(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "temperatures": list(self._temperatures),
            "standardize": self._standardize,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="distill")
class CurriculumTemperature(DistillationLoss):
    """Soft targets at a temperature that is trained against the student, the more the longer training lasts.

    Row i is that of `SoftTargets` at T = 1 + 20 sigmoid(θ), with one trained θ, at first 1. Its gradient is
    multiplied by λ = −(1 − cos(π min(step / steps, 1))) / 2, which falls from 0 to −1: the optimizer that lowers the
    loss by the student then raises it by the temperature.

    Args:
        steps: training steps until λ reaches −1; published as those of 10 epochs.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, or `steps` is no number >= 1.

    References:
        Li et al. 2023, arXiv:2211.16231, equations 6 to 8, its global temperature; λ there moves once an epoch.
    """

    head = "softmax"
    same_shape = True
    recipe: ClassVar[dict[str, float]] = SoftTargets.recipe

    def __init__(self, steps: float, name: str = "curriculum_temperature") -> None:
        super().__init__(name)
        self._steps = require_number("steps", steps, 1.0)
        self._reversal = Setting("gradient_factor", self._factor, -1.0, 0.0)
        self.settings.append(self._reversal)
        self._theta = _Scalar(name=f"{name}_theta")
        self.layers.append(self._theta)

    def _factor(self, step: Any) -> Any:
        done = ops.minimum(ops.convert_to_tensor(step, dtype="float32") / self._steps, 1.0)
        return -0.5 * (1.0 - ops.cos(math.pi * done))

    @property
    def temperature(self) -> float:
        """The temperature now."""
        theta = float(ops.convert_to_numpy(ops.convert_to_tensor(self._theta.value)))
        return 1.0 + 20.0 / (1.0 + math.exp(-theta))

    def call(self, teacher: Any, student: Any) -> Any:
        """T² KL(p ‖ q) of each row."""
        theta, factor = ops.cast(self._theta.value, "float32"), self._reversal.variable
        # θ as it is, with its gradient times the factor.
        theta = factor * theta + ops.stop_gradient(theta - factor * theta)
        temperature = 1.0 + 20.0 * ops.sigmoid(theta)
        log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in (teacher, student))
        return ops.square(temperature) * kl_divergence(log_p, log_q)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; not what was trained, which `save_weights` keeps."""
        return {"steps": self._steps, "name": self.name}


class _Scalar(keras.Layer):
    """One trained number, at first 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.value = self.add_weight(shape=(), initializer="ones", name="value")
        self.built = True

"""Networks that are trained together and learn from each other."""

import functools
from collections.abc import Sequence
from typing import Any

import keras

from distill._types import Tensor, Tensors
from distill.losses import DistillationLoss, SoftTargets
from distill.losses._settings import Schedule
from distill.training._arguments import require_student
from distill.training._distiller import Distiller
from distill.training._joining import join
from distill.training._preparing import Prepare
from distill.training._preprocessing import prepared, preprocessing_of, require_one_preprocessing
from distill.training._teacher import Peer


class MutualLearning(Distiller):
    """Trains networks together, each on the labels and on the answers of the others: deep mutual learning.

    Network i minimizes

        student_loss_weight · student_lossᵢ + distillation_weight · mean over j ≠ i of loss(networkⱼ, networkᵢ)

    where the others' answers, from the same forward pass, are constants. The total is the sum over the networks. With
    the default loss this is CEᵢ + mean KL(pⱼ ‖ pᵢ) [1], except that all networks are updated at once and not in turn.

    It is a `distill.Distiller` for one model that has the outputs of all networks, so `compile`, `fit`,
    `evaluate`, `save_weights` and `tf.distribute` work as they do there. You give labels, `sample_weight`,
    loss and metrics once, and they apply to each network. In the logs, each name starts with the network's
    name. `predict` returns a list.

    Args:
        students: two or more built Functional or Sequential models that share no variables. They must have
            the same inputs, one output each, with the same classes, and unique names.
        loss: a loss of `distill.losses` on logits; `SoftTargets(temperature=1.0)` by default.
        student_loss_weight: weight of the labels, from 0 to 1; a number, or a schedule as in `distill.Distiller`.
        distillation_weight: weight of the others' answers, >= 0; likewise.
        from_logits: `None` finds the logits behind softmax heads; see `distill.Distiller`.
        name: name of this model.

    Attributes:
        students: the networks, the same objects that you passed.

    Raises:
        ValueError: there are fewer than two networks, they do not fit each other, their preprocessors differ,
            or `distill.Distiller` refuses an argument.

    Example:
        ```python
        import keras

        import distill

        small, large = keras.models.clone_model(student), keras.models.clone_model(teacher)
        small.name, large.name = "small", "large"
        peers = distill.MutualLearning([small, large])
        peers.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        peers.fit(x, y, epochs=2)
        small.save("small.keras")
        ```

    References:
        [1] Zhang et al. 2018, arXiv:1706.00384, equations 4 to 7.
    """

    def __init__(
        self,
        students: Sequence[keras.Model],
        loss: DistillationLoss | None = None,
        *,
        student_loss_weight: float | Schedule = 1.0,
        distillation_weight: float | Schedule = 1.0,
        from_logits: bool | None = None,
        name: str = "mutual_learning",
    ) -> None:
        for student in students if isinstance(students, (list, tuple)) else ():
            require_student(student)
        cohort = join(students, "Networks that learn from each other", lambda outputs: outputs, "cohort")
        require_one_preprocessing(students, "Networks that learn from each other")
        policies = [student.dtype_policy.name for student in students]
        if len(set(policies)) > 1:
            raise ValueError(
                "Networks that learn from each other must have one precision, since one optimizer trains them. "
                f"Received: {policies}."
            )
        loss = SoftTargets(temperature=1.0) if loss is None else loss
        if not isinstance(loss, DistillationLoss) or loss.head is None or loss.needs_labels:
            raise ValueError(
                "MutualLearning needs a loss on logits that needs no labels, such as distill.SoftTargets(1.0). "
                f"Received: {loss!r}."
            )
        super().__init__(
            [Peer(ahead) for ahead in range(1, len(students))],
            cohort,
            {student.name: loss for student in students},
            student_loss_weight=student_loss_weight,
            distillation_weight=distillation_weight,
            from_logits=from_logits,
            name=name,
        )
        self.students = list(students)

    def preparation(self, *, teaching: bool | None) -> Prepare | None:
        """Returns a function that runs the networks' preprocessor on each batch; `None` if they have none."""
        one = preprocessing_of(self.students[0], "network")
        return None if one is None else functools.partial(prepared, one, None)

    def _student_layers(self) -> list[keras.Layer]:
        return [layer for student in self.students for layer in student.layers]

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *,
        metrics: Sequence[Any] | None = None,
        weighted_metrics: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does for one network; the others get the same.

        Args:
            optimizer: optimizer that trains all networks.
            loss: each network's own loss on the labels.
            metrics: list of metrics for each network. Each network gets new metric objects, made from the
                configs of these.
            weighted_metrics: likewise, for metrics that use `sample_weight`.
            **kwargs: other arguments of `keras.Model.compile`, except `loss_weights`: all networks count the same.

        Raises:
            ValueError: an argument treats the networks differently; a metric cannot be made again from its
                config; there is no loss, and `student_loss_weight` is above 0.
        """
        given = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        listed = all(value is None or isinstance(value, (list, tuple)) for value in given.values())
        if (
            not listed
            or keras.tree.is_nested(loss)
            or any(keras.tree.is_nested(metric) for value in given.values() for metric in value or ())
            or kwargs.get("loss_weights") is not None
        ):
            raise ValueError(
                "MutualLearning takes one loss and one list of metrics, the same for all networks, and no "
                f"loss_weights. Received: loss={loss!r}, "
                f"{', '.join(f'{name}={value!r}' for name, value in given.items())}, "
                f"loss_weights={kwargs.get('loss_weights')!r}."
            )
        for name, value in given.items():
            if value:
                given[name] = [[_new(metric) for metric in value] for _ in self.students]
        each = None if loss is None else [loss for _ in self.students]
        super().compile(optimizer, each, **given, **kwargs)

    def compute_loss(
        self,
        x: Tensors = None,
        y: Tensors = None,
        y_pred: Tensors = None,
        sample_weight: Tensors = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the sum of the networks' losses, as in `distill.Distiller`; all get the same labels."""
        return super().compute_loss(x, self._for_each(y), y_pred, self._for_each(sample_weight), training)

    def compute_metrics(
        self, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors = None
    ) -> dict[str, Any]:
        """Updates the metrics of each network and returns the logs."""
        return super().compute_metrics(x, self._for_each(y), y_pred, self._for_each(sample_weight))

    def _for_each(self, value: Tensors) -> Tensors:
        return None if value is None else [value for _ in self.students]


def _new(metric: Any) -> Any:
    """Returns a metric for one network: an object that others use too would mix their results."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ValueError(
            f"A metric is made anew for each network, from its config. Received: {metric!r}, for which that fails "
            f"({error}). Give its class a get_config, register the function that it calls, or pass the metric's name."
        ) from error

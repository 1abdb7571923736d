"""What a Distiller minimises: the terms of its loss, their weights, and the schedules that move them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill._keras import get_keras_mask
from distill._replicas import replica_count, whole_batch_means
from distill.losses._base import BatchLoss, DistillationLoss
from distill.losses._settings import Setting
from distill.training._outputs import Output, pick
from distill.training._taps import Read, Tapped


class Term(NamedTuple):
    """One distillation loss in the total.

    Attributes:
        name: its key in the logs.
        output: the student's output that it is for, or `None` for the only one, or all.
        loss: the loss.
        weight: its weight.
        tracker: its mean over the epoch.
        teacher_read: what it reads of a teacher.
        student_read: what it reads of the student.
    """

    name: str
    output: Output
    loss: DistillationLoss
    weight: Setting
    tracker: keras.metrics.Mean
    teacher_read: Read
    student_read: Read

    def settings(self) -> list[tuple[str, Setting]]:
        """Its numbers and schedules, with their names in the logs."""
        own = [(f"{self.name}_{setting.name}", setting) for setting in self.loss.settings]
        return [(f"{self.name}_weight", self.weight), *own]

    def value(
        self,
        taught: Sequence[Any],
        learned: Any,
        teacher_weights: Sequence[Setting],
        teacher_mean: str | None,
        sample_weight: Any,
        labels: Any,
        ids: Any,
    ) -> Any:
        """The loss of a batch, a float32 scalar.

        Args:
            taught: what the term reads of each teacher.
            learned: what it reads of the student.
            teacher_weights: of each teacher.
            teacher_mean: how teachers make one loss, see `Distiller`.
            sample_weight: as Keras has it: a tensor, or one for each output of the student.
            labels: likewise, or `None`.
            ids: of the examples, or `None`.
        """
        rest = {
            "sample_weight": self._own_weight(sample_weight),
            "labels": self._own_labels(labels),
            "ids": ids if self.loss.needs_ids else None,
        }
        if len(taught) == 1:
            return self.loss(taught[0], learned, **rest)
        weights = [setting.variable for setting in teacher_weights]
        if teacher_mean is None:
            losses = [self.loss(teacher, learned, **rest) for teacher in taught]
            return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        logits = [ops.cast(teacher, "float32") for teacher in taught]
        if teacher_mean == "logits":
            mean = sum(weight * teacher for weight, teacher in zip(weights, logits, strict=True))
        else:
            mean = self.loss.average_predictions(logits, weights)
        return self.loss(mean, learned, **rest)

    def _own_labels(self, labels: Any) -> Any:
        if not self.loss.needs_labels or labels is None:
            return None
        return pick(labels, self.output, "labels")

    def _own_weight(self, sample_weight: Any) -> Any:
        if sample_weight is None:
            return None
        if isinstance(self.loss, BatchLoss):
            raise ValueError(
                f"sample_weight and class_weight need one loss per example, and {self.name!r} returns one number "
                "for a batch. Train without weights, use a loss of distill.losses, or keep the weights to the "
                "student's own loss with weigh_distillation=False."
            )
        if not keras.tree.is_nested(sample_weight):
            return sample_weight
        if self.output is not None:
            # Keras leaves out what has no labels.
            missing = isinstance(sample_weight, dict) and self.output not in sample_weight
            return None if missing else pick(sample_weight, self.output, "sample_weight")
        # Keras makes one weight an example into one for each output; a loss on no output takes it back.
        given = [weight for weight in keras.tree.flatten(sample_weight) if weight is not None]
        if not given:
            return None
        weights = [ops.convert_to_tensor(weight) for weight in given]
        if len({len(weight.shape) for weight in weights}) > 1:
            raise ValueError(
                f"{self.name!r} is not of one output, so its sample_weight is the mean of the outputs'. Received: "
                f"shapes {[tuple(weight.shape) for weight in weights]}. Give one weight per example, or keep them to "
                "the student's own loss with weigh_distillation=False."
            )
        return sum(ops.cast(weight, "float32") for weight in weights) / len(weights)


class Objective:
    """The loss of a training step, from what the models returned.

    A plain object, like the terms and settings in it: the Distiller lists `variables` and `trackers` for Keras to
    find.

    Args:
        terms: the distillation losses.
        student_loss_weight: of the student's own loss.
        distillation_weight: of the distillation side, or `None` for 1 − `student_loss_weight`.
        teacher_weights: of each teacher.
        teacher_mean: how teachers make one loss, see `Distiller`.

    Attributes:
        step: how many training steps there were.
        trackers: the means that are logged: the student's loss, each term, each schedule.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student_loss_weight: Setting,
        distillation_weight: Setting | None,
        teacher_weights: Sequence[Setting],
        teacher_mean: str | None,
    ) -> None:
        self.terms = tuple(terms)
        self.student_loss_weight = student_loss_weight
        self.distillation_weight = distillation_weight
        self.teacher_weights = tuple(teacher_weights)
        self.teacher_mean = teacher_mean
        # "int" is the integer that Keras' optimizers count with on each backend.
        self.step = keras.Variable(
            0, dtype="int", trainable=False, aggregation="only_first_replica", name="step"
        )
        self._student_tracker = keras.metrics.Mean(name="student_loss")
        self._schedule_trackers = {
            name: keras.metrics.Mean(name=name)
            for name, setting in self.settings().items()
            if setting.schedule is not None
        }

    @property
    def variables(self) -> list[keras.Variable]:
        """The step, and the value of every setting once."""
        held = [setting.variable for setting in self.settings().values()]
        return [self.step, *{id(variable): variable for variable in held}.values()]

    @property
    def trackers(self) -> list[keras.metrics.Mean]:
        """All means that are logged."""
        return [
            self._student_tracker,
            *(term.tracker for term in self.terms),
            *self._schedule_trackers.values(),
        ]

    @property
    def needs_labels(self) -> bool:
        """Whether the student's own loss counts, now or by its schedule."""
        return self.student_loss_weight.schedule is not None or self.student_loss_weight.value > 0

    @property
    def waits_for_shapes(self) -> bool:
        """Whether a loss has yet to make what it trains."""
        losses = [term.loss for term in self.terms]
        return any(not loss.built and type(loss).build is not DistillationLoss.build for loss in losses)

    def settings(self) -> dict[str, Setting]:
        """Every number or schedule, by its name in the logs."""
        pairs = [("student_loss_weight", self.student_loss_weight)]
        if self.distillation_weight is not None:
            pairs.append(("distillation_weight", self.distillation_weight))
        pairs += [(f"teacher_{i}_weight", setting) for i, setting in enumerate(self.teacher_weights)]
        for term in self.terms:
            pairs += term.settings()
        names = [name for name, _ in pairs] + [term.name for term in self.terms]
        if clash := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                "Each name in the logs and in saved weights is one number. "
                f"Received: {clash} twice. Give the distillation loss that brings it another name=."
            )
        return dict(pairs)

    def follow_schedules(self) -> None:
        """Sets what follows a schedule for this step, and counts the step."""
        for name, tracker in self._schedule_trackers.items():
            setting = self.settings()[name]
            setting.update(ops.cast(self.step, "float32"))
            tracker.update_state(setting.variable)
        self.step.assign_add(1)

    def losses(
        self,
        student_loss: Any,
        taught: Sequence[Tapped],
        learned: Tapped,
        sample_weight: Any,
        labels: Any,
        ids: Any,
        examples: Any,
    ) -> list["Part"]:
        """What is added up.

        Args:
            student_loss: the student's own loss, or `None` without labels.
            taught: what each teacher returned.
            learned: what the student returned.
            sample_weight: of the distillation losses; a tensor, or one for each output of the student.
            labels: of the examples, or `None`.
            ids: their numbers, or `None`.
            examples: how many examples this replica has.
        """
        parts = []
        if student_loss is not None:
            weight, count = self.student_loss_weight.variable, _count(learned.outputs, examples)
            parts.append(Part(ops.cast(student_loss, "float32"), weight, count, self._student_tracker))
        if self.distillation_weight is None:
            distillation_weight = 1.0 - self.student_loss_weight.variable
        else:
            distillation_weight = self.distillation_weight.variable
        for i, term in enumerate(self.terms):
            value = term.value(
                [tapped.values[i] for tapped in taught],
                learned.values[i],
                self.teacher_weights,
                self.teacher_mean,
                sample_weight,
                labels,
                ids,
            )
            weight, count = distillation_weight * term.weight.variable, _count(learned.values[i], examples)
            parts.append(Part(value, weight, count, term.tracker))
        return parts

    def total(self, parts: Sequence["Part"], penalties: Any, examples: Any) -> Any:
        """The weighted sum, and its parts into the logs.

        Args:
            parts: of this replica.
            penalties: their sum, of this replica; divided by the number of replicas, as Keras' losses are.
            examples: how many examples this replica has.

        Returns:
            A float32 scalar; divided by the number of replicas.
        """
        losses, counts = [part.loss for part in parts], [part.count for part in parts]
        *means, total = whole_batch_means([*losses, penalties], [*counts, examples])
        for mean, part in zip(means, parts, strict=True):
            # Undoes the division by the number of replicas by which their sum is a mean, for the logs.
            part.tracker.update_state(mean * replica_count(), sample_weight=examples)
            total += part.weight * mean
        return total


class Part(NamedTuple):
    """One loss in the sum, its weight, of how many values it is the mean, and its tracker."""

    loss: Any
    weight: Any
    count: Any
    tracker: keras.metrics.Mean


def _count(outputs: Any, examples: Any) -> Any:
    """How many values a mean over `outputs` is of, as far as masks tell: tokens, or else examples."""
    masks = [get_keras_mask(output) for output in keras.tree.flatten(outputs)]
    return examples if len(masks) != 1 or masks[0] is None else ops.sum(ops.cast(masks[0], "float32"))

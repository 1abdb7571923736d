"""The loss that a Distiller minimizes: a weighted sum, and the schedules that move its weights."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from distill._keras import get_keras_mask, share_of_penalty
from distill._replicas import replica_count, whole_batch_means
from distill._types import Tensor, Tensors
from distill.losses._settings import Setting
from distill.training._taps import Tapped
from distill.training._teacher_mix import TeacherMix
from distill.training._terms import Batch, Term
from distill.training._weights import WeightRow, WeightsTable


class Part(NamedTuple):
    """One loss of the sum, as one replica computed it.

    Attributes:
        loss: its value, a mean.
        weight: its weight in the total.
        count: number of values that the mean is over.
        tracker: its mean over the epoch.
    """

    loss: Tensor
    weight: Tensor
    count: Tensor
    tracker: keras.metrics.Mean


class Objective:
    """The loss of a training step, computed from what the models returned.

    It is a plain object, like the terms and settings that it holds, so Keras does not find its variables. The
    Distiller lists `variables` and `trackers` for Keras.

    Args:
        terms: the distillation losses.
        student_loss_weight: weight of the student's own loss.
        distillation_weight: weight of the distillation side, or `None` for 1 − `student_loss_weight`.
        mix: how several teachers make one loss.

    Attributes:
        step: number of training steps so far.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student_loss_weight: Setting,
        distillation_weight: Setting | None,
        mix: TeacherMix,
    ) -> None:
        self.terms = tuple(terms)
        self.student_loss_weight = student_loss_weight
        self.distillation_weight = distillation_weight
        self.mix = mix
        self._owner = object()  # stands for the Distiller in its losses
        # "int" is the integer type with which Keras' optimizers count on each backend.
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
        """The step, and the variable of each setting once."""
        held = [setting.variable for setting in self.settings().values()]
        return [self.step, *{id(variable): variable for variable in held}.values()]

    @property
    def loss_trackers(self) -> list[keras.metrics.Mean]:
        """The means of losses that are logged: the student's, and each term."""
        return [self._student_tracker, *(term.tracker for term in self.terms)]

    @property
    def schedule_trackers(self) -> list[keras.metrics.Mean]:
        """The means of the values of schedules that are logged."""
        return list(self._schedule_trackers.values())

    @property
    def needs_labels(self) -> bool:
        """Whether the student's own loss counts, now or later by its schedule."""
        return self.student_loss_weight.schedule is not None or self.student_loss_weight.value > 0

    @property
    def waits_for_shapes(self) -> bool:
        """Whether a loss still has to create what it trains."""
        return any(not term.loss.built and term.loss.builds_layers for term in self.terms)

    def start(self) -> None:
        """Takes the losses for this Distiller; an earlier one that trains layers of theirs can then not go on."""
        for term in self.terms:
            term.loss.start(self._owner)

    def require_own_losses(self) -> None:
        """Raises ValueError if another Distiller has started a loss anew."""
        if taken := [term.name for term in self.terms if not term.loss.belongs_to(self._owner)]:
            raise ValueError(
                "A loss that trains layers of its own belongs to the Distiller that got it last, and was reset for it. "
                f"Received: {taken}, which another Distiller has now. To use both Distillers, make a loss object for "
                "each."
            )

    def validate(self, taught: Sequence[Tapped], learned: Tapped) -> None:
        """Raises ValueError if a loss cannot compare what is known of the models; arguments as for `build_losses`."""
        for i, term in enumerate(self.terms):
            for tapped in taught:
                if tapped.values[i] is not None and learned.values[i] is not None:
                    term.loss.validate_outputs(tapped.values[i], learned.values[i])

    def build_losses(self, taught: Sequence[Tapped], learned: Tapped) -> None:
        """Checks the shapes of what each loss compares, and lets it create what it trains.

        Args:
            taught: what to expect of each teacher. `None` in it is not known yet: the shapes of a model without a
                readable graph are known when it first runs.
            learned: likewise for the student.
        """
        for i, term in enumerate(self.terms):
            for tapped in taught:
                if tapped.values[i] is not None and learned.values[i] is not None:
                    term.loss.ensure_built(tapped.values[i], learned.values[i])

    def settings(self) -> dict[str, Setting]:
        """Every number and schedule, by its name in the logs and in saved weights."""
        pairs = [("student_loss_weight", self.student_loss_weight)]
        if self.distillation_weight is not None:
            pairs.append(("distillation_weight", self.distillation_weight))
        pairs += [(f"teacher_{i}_weight", setting) for i, setting in enumerate(self.mix.weights)]
        for term in self.terms:
            pairs += term.settings()
        names = [name for name, _ in pairs] + [term.name for term in self.terms]
        if clash := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                "Each name in the logs and in saved weights must belong to one number. "
                f"Received: {clash} twice. Give the distillation loss that causes it another name=."
            )
        return dict(pairs)

    def weights(self) -> WeightsTable:
        """The weight of each loss in the total now."""
        student, side = self.student_loss_weight, self.distillation_weight
        weight = 1.0 - student.value if side is None else side.value
        scheduled = (student if side is None else side).schedule is not None
        terms = [
            WeightRow(term.name, weight * term.weight.value, scheduled or term.weight.schedule is not None)
            for term in self.terms
        ]
        own = WeightRow("student_loss", student.value, student.schedule is not None)
        return WeightsTable((own, *terms))

    def follow_schedules(self) -> None:
        """Sets every scheduled number to its value at this step, and counts the step."""
        for name, tracker in self._schedule_trackers.items():
            setting = self.settings()[name]
            setting.update(ops.cast(self.step, "float32"))
            tracker.update_state(setting.variable)
        self.step.assign_add(1)

    @property
    def evaluated_terms(self) -> list[Term]:
        """The terms that have a value on examples that were not trained on."""
        return [term for term in self.terms if not term.loss.needs_ids]

    def parts(
        self,
        student_loss: Tensor | None,
        taught: Sequence[Tapped],
        learned: Tapped,
        batch: Batch,
        *,
        training: bool,
    ) -> list[Part]:
        """Returns the losses to be added up.

        Args:
            student_loss: the student's own loss, or `None` without labels.
            taught: what each teacher returned.
            learned: what the student returned.
            batch: the batch.
            training: `False` in an evaluation, which leaves out losses that remember training examples.
        """
        self.require_own_losses()
        parts = []
        if student_loss is not None:
            weight, count = self.student_loss_weight.variable, _count(learned.outputs, batch.examples)
            parts.append(Part(ops.cast(student_loss, "float32"), weight, count, self._student_tracker))
        if self.distillation_weight is None:
            distillation_weight = 1.0 - self.student_loss_weight.variable
        else:
            distillation_weight = self.distillation_weight.variable
        for i, term in enumerate(self.terms):
            if not training and term.loss.needs_ids:
                continue
            answers = [tapped.values[i] for tapped in taught]
            value = term.value(i, answers, learned.values[i], batch, self.mix, training=training)
            weight, count = (
                distillation_weight * term.weight.variable,
                _count(learned.values[i], batch.examples),
            )
            parts.append(Part(value, weight, count, term.tracker))
        return parts

    def total(self, parts: Sequence[Part], penalties: Tensor, examples: Tensor) -> Tensor:
        """Adds the parts up, and notes them for the logs.

        Args:
            parts: the losses of this replica.
            penalties: sum of the penalties of this replica, divided by the number of replicas as Keras' losses are.
            examples: number of examples of this replica.

        Returns:
            The weighted sum, a float32 scalar, divided by the number of replicas.
        """
        losses, counts = [part.loss for part in parts], [part.count for part in parts]
        *means, total = whole_batch_means([*losses, penalties], [*counts, examples])
        for mean, part in zip(means, parts, strict=True):
            # The sum over the replicas is the mean over the batch, so each has a part of it; the logs want the whole.
            part.tracker.update_state(mean * replica_count(), sample_weight=examples)
            total += part.weight * mean
        return total


def sum_of_penalties(model: keras.Model, penalties: Sequence[Tensor]) -> Tensor:
    """Returns the sum of penalties of a model, divided by the number of replicas, all of which compute it."""
    total = ops.zeros((), "float32")
    for penalty in penalties:
        total += ops.cast(share_of_penalty(model, penalty), "float32")
    return total


def _count(outputs: Tensors, examples: Tensor) -> Tensor:
    """The number of values that a mean over `outputs` is over, as far as masks tell: tokens, otherwise examples."""
    masks = [get_keras_mask(output) for output in keras.tree.flatten(outputs)]
    return examples if len(masks) != 1 or masks[0] is None else ops.sum(ops.cast(masks[0], "float32"))

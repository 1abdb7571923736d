"""The terms of a Distiller's loss: each distillation loss with what it reads, its weight and its mean in the logs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill._graphs import functional_of
from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._batch_loss import BatchLoss
from distill.losses._settings import Schedule, Setting
from distill.training._arguments import as_pair, term_names
from distill.training._outputs import Output, output_key, pick
from distill.training._taps import Read
from distill.training._teacher_mix import TeacherMix


class Batch(NamedTuple):
    """What a training step knows of its batch besides the answers of the models.

    Attributes:
        labels: labels as `fit` got them, or `None`.
        ids: ids of the examples, or `None`.
        sample_weight: weights of the examples in the distillation losses, as Keras has them: a tensor, or one for
            each output of the student; or `None`.
        examples: number of examples; under tf.distribute, of this replica.
        axes: for each term, the axis that the student's output has its channels on, if it is not the last.
    """

    labels: Tensors
    ids: Tensor
    sample_weight: Tensors
    examples: Tensor
    axes: Sequence[int | None]


class Term(NamedTuple):
    """One distillation loss in the total.

    Attributes:
        name: its key in the logs.
        output: output of the student that it is for, or `None` for the only one, or all.
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
        """Its weight and the settings of its loss, with their names in the logs."""
        own = [(f"{self.name}_{setting.name}", setting) for setting in self.loss.settings]
        return [(f"{self.name}_weight", self.weight), *own]

    def value(
        self,
        number: int,
        taught: Sequence[Tensors],
        learned: Tensors,
        batch: Batch,
        mix: TeacherMix,
        *,
        training: bool,
    ) -> Tensor:
        """Returns the loss of a batch, a float32 scalar.

        Args:
            number: number of the term.
            taught: what the term reads of each teacher.
            learned: what it reads of the student.
            batch: the batch.
            mix: how several teachers make one loss.
            training: `False` in an evaluation.
        """
        extra = {
            "training": training,
            "sample_weight": self._own_weight(batch.sample_weight),
            "labels": self._own_labels(batch.labels, batch.axes[number], learned),
            "ids": batch.ids if self.loss.needs_ids else None,
        }
        return mix.loss(self.loss, taught, lambda teacher: self.loss(teacher, learned, **extra))

    def _own_labels(self, labels: Tensors, axis: int | None, learned: Tensors) -> Tensor:
        if not self.loss.needs_labels or labels is None:
            return None
        own = ops.convert_to_tensor(pick(labels, self.output, "labels"))
        if axis is None or len(own.shape) != len(learned.shape):
            return own
        # Labels with an axis for the classes have it where the student has it; class numbers may end in a column.
        return own if own.shape[-1] == 1 != own.shape[axis] else ops.moveaxis(own, axis, -1)

    def _own_weight(self, sample_weight: Tensors) -> Tensor:
        if sample_weight is None:
            return None
        if isinstance(self.loss, BatchLoss):
            raise ValueError(
                f"sample_weight and class_weight need one loss per example, but {self.name!r} returns one number "
                "for a batch. Train without weights, use a loss of distill.losses, or apply the weights to the "
                "student's own loss alone with weigh_distillation=False."
            )
        if not keras.tree.is_nested(sample_weight):
            return sample_weight
        if self.output is not None:
            # Keras leaves out the weights of outputs without labels.
            missing = isinstance(sample_weight, dict) and self.output not in sample_weight
            return None if missing else pick(sample_weight, self.output, "sample_weight")
        # Keras turns one weight per example into one for each output. A loss on no output turns it back.
        given = [weight for weight in keras.tree.flatten(sample_weight) if weight is not None]
        if not given:
            return None
        weights = [ops.convert_to_tensor(weight) for weight in given]
        if len({len(weight.shape) for weight in weights}) > 1:
            raise ValueError(
                f"{self.name!r} belongs to no single output, so it takes the mean of the outputs' sample_weight, "
                f"which must have one number of axes. Received: shapes {[tuple(w.shape) for w in weights]}. Give one "
                "weight per example, or apply the weights to the student's own loss alone with "
                "weigh_distillation=False."
            )
        return sum(ops.cast(weight, "float32") for weight in weights) / len(weights)


def make_terms(
    student: keras.Model,
    losses: Sequence[tuple[Output, DistillationLoss]],
    weights: Sequence[float | Schedule],
    from_logits: Any,
) -> list[Term]:
    """Returns a term for each loss.

    Args:
        student: the student.
        losses: each loss, with the output that it is for.
        weights: weight of each loss.
        from_logits: the Distiller's argument.
    """
    graph, outputs = functional_of(student), [output for output, _ in losses]
    terms = []
    for name, (output, loss), weight in zip(term_names(losses), losses, weights, strict=True):
        key = output if graph is None else output_key(graph, output)
        position = key if isinstance(key, int) else None
        stated = as_pair(from_logits, output, outputs)
        last = not isinstance(loss, BatchLoss)  # which gets what Keras' own Distiller gives it
        # Logarithms of probabilities are logits up to a number of each row.
        center = loss.head == "softmax" and False in stated and not loss.shift_invariant
        reads = [
            Read(None, output, position, loss.head, side, center, last)
            if layer is None
            else Read(layer=layer, channels_last=last)
            for layer, side in zip((loss.teacher_layer_name, loss.student_layer_name), stated, strict=True)
        ]
        setting = Setting(f"{name}_weight", weight, low=0.0)
        terms.append(Term(name, key, loss, setting, keras.metrics.Mean(name=name), *reads))
    return terms

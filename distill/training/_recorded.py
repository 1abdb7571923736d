"""Teachers whose answers were recorded: they are read where a live teacher would run."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._sparse import SparseLogits
from distill.training._look_up import LookUp, Stored
from distill.training._outputs import Output, pick
from distill.training._probabilities import centered, logits_of
from distill.training._taps import Read, Tapped


class Answer(NamedTuple):
    """An output or a layer of a teacher, as it is recorded: with its channels or classes on the last axis.

    Attributes:
        layer: name of the layer, as a loss names it; `None` for an output.
        output: key of an output in a dictionary, its position in a list, or `None` for the only one.
        name: Keras' name of an output in a list, or `None`.
        shape: shape of one example.
        axis: axis, batch included, on which the teacher itself has its channels, if it is not the last.
        activation: what the output does to what is recorded: "softmax", "log_softmax" or "sigmoid" to logits, "linear"
            if the output is recorded as it is and has no activation; `None` if that cannot be known.
        rounded_in: dtype that the output's probabilities were rounded in.
    """

    layer: str | None
    output: Output
    name: str | None
    shape: tuple[int, ...]
    axis: int | None = None
    activation: str | None = None
    rounded_in: str | None = None

    @property
    def label(self) -> str:
        """Its name in files and errors."""
        if self.layer is not None:
            return f"layer {self.layer}"
        key = self.output if self.name is None else self.name
        return "output" if key is None else f"output {key}"


class Recorded:
    """Base class of answers that were recorded. A `Distiller` takes them in the place of a teacher.

    A subclass says what was recorded and reads it; `distill.cache` has one.

    Attributes:
        name: name of the teacher that answered.
        parts: what was recorded of it.
        stored: arrays that `look_up` returns, by name.
    """

    name: str
    parts: tuple[Answer, ...]
    stored: Mapping[str, Stored]

    def look_up(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the arrays of `stored`, in its order, of examples with these ids."""
        raise NotImplementedError(f"{type(self).__name__} must implement look_up(ids).")

    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> Tensor | SparseLogits:
        """Returns an answer from what `look_up` found."""
        raise NotImplementedError(f"{type(self).__name__} must implement restore(answer, found).")

    def is_sparse(self, answer: Answer) -> bool:
        """Whether `restore` returns `SparseLogits`."""
        raise NotImplementedError(f"{type(self).__name__} must implement is_sparse(answer).")

    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises ValueError unless a loss can be computed from an answer as it was recorded."""
        raise NotImplementedError(f"{type(self).__name__} must implement require(answer, loss).")


class RecordedTeacher:
    """Takes the place of a `Teacher` that would answer the same.

    Args:
        recorded: the answers.
        reads: what each loss reads.
        losses: the losses.

    Raises:
        ValueError: a loss reads what was not recorded, or cannot be computed from how it was.
    """

    def __init__(self, recorded: Recorded, reads: Sequence[Read], losses: Sequence[DistillationLoss]) -> None:
        self.model = recorded
        self.name = recorded.name
        self.variables: list[keras.Variable] = []
        self.supports_jit = True
        self.pipeline = LookUp(recorded.look_up, recorded.stored, f"{recorded.name!r}")
        self._reads = tuple(reads)
        self._losses = tuple(losses)
        self.require_losses()

    @property
    def has_all_logits(self) -> bool:
        """Whether nothing that the losses read is sparse."""
        return not any(self.model.is_sparse(one) for read in self._reads for one in self._answers_of(read))

    def require_losses(self) -> None:
        """Raises ValueError if a loss, with its settings as they are now, cannot be computed from what was recorded."""
        for read, loss in zip(self._reads, self._losses, strict=True):
            self._check(read, loss)

    def guard_settings(self) -> None:
        """Lets settings of the losses refuse values, such as a temperature, for which nothing was recorded."""
        for read, loss in zip(self._reads, self._losses, strict=True):
            if any(self.model.is_sparse(one) for one in self._answers_of(read)):
                for setting in loss.settings:
                    setting.conditions.append(functools.partial(self._check, read, loss))

    def expected(self, learned: Tapped) -> Tapped:
        """Returns the shapes of what it will answer."""
        specs = {one: keras.KerasTensor((None, *one.shape)) for one in self.model.parts}
        return Tapped(None, tuple(self._read(read, specs, symbolic=True) for read in self._reads))

    def answer(self, view: Mapping[str, Tensor], learned: Tapped | None = None) -> Tapped:
        """Returns the outputs of the teacher, and what the losses read.

        Args:
            view: what `pipeline` found for a batch.
            learned: not used.
        """
        found = {one: self.model.restore(one, view) for one in self.model.parts}
        values = tuple(self._read(read, found) for read in self._reads)
        return Tapped(self._outputs({one: _output(one, found[one]) for one in self._own_outputs}), values)

    @property
    def _own_outputs(self) -> list[Answer]:
        return [one for one in self.model.parts if one.layer is None]

    def _outputs(self, values: Mapping[Answer, Any]) -> Any:
        """Returns what the outputs have, in the structure in which the teacher returns them."""
        outputs = self._own_outputs
        if len(outputs) == 1 and outputs[0].output is None:
            return values[outputs[0]]
        if any(isinstance(one.output, str) for one in outputs):
            return {one.output: values[one] for one in outputs}
        return [values[one] for one in outputs]

    def _answers_of(self, read: Read) -> list[Answer]:
        """What was recorded of what a loss reads."""
        if read.layer is None:
            outputs = self._own_outputs
            if not outputs:
                raise ValueError(
                    f"A loss reads an output of {self.name!r}, of which none was recorded. Received: layers "
                    f"{[one.layer for one in self.model.parts]}. Record its outputs too."
                )
            if read.head is None and read.output is None:
                return outputs
            key, labels = read.output, self._outputs({one: one.label for one in outputs})
            if isinstance(key, str) and isinstance(labels, list):
                named = [one.output for one in outputs if one.name == key]
                key = named[0] if len(named) == 1 else key if read.position is None else read.position
            found = pick(labels, key, self.name, only_serves_all=True)
            return [one for one in outputs if one.label == found]
        names = read.layer if isinstance(read.layer, tuple) else (read.layer,)
        recorded = {one.layer: one for one in self.model.parts if one.layer is not None}
        if missing := [name for name in names if name not in recorded]:
            raise ValueError(
                f"A loss reads layers of {self.name!r} that were not recorded. Received: {missing}; there are "
                f"{sorted(recorded) or 'no layers'}. Record them with layers={tuple(missing)!r}."
            )
        return [recorded[name] for name in names]

    def _check(self, read: Read, loss: DistillationLoss) -> None:
        for answer in self._answers_of(read):
            self.model.require(answer, loss)
            if not read.channels_last and answer.axis is not None:
                raise ValueError(
                    f"{loss.name!r} is a loss of Keras, which compares tensors as the models return them, and the "
                    f"channels of {answer.label!r} are recorded as the last axis. Received: an axis {answer.axis}. "
                    "Use a loss of distill.losses."
                )
            if read.head is None or read.from_logits is not None:
                continue
            activation = "softmax" if answer.activation == "log_softmax" else answer.activation
            if activation is None:
                raise ValueError(
                    "A loss on logits must know whether the recorded answers are logits. Received: "
                    f"{self.name!r}, which does not say. Pass from_logits=(True, None) if they are, or "
                    "from_logits=(False, None) if they are probabilities; with None, the student's own head decides."
                )
            if activation not in ("linear", read.head):
                raise ValueError(
                    f"A loss on {read.head} logits needs a {read.head} head. Received: {self.name!r}, which ends in "
                    f"{activation}. Use a loss for that head, or pass from_logits=True if the outputs are logits "
                    "nevertheless."
                )

    def _read(self, read: Read, found: Mapping[Answer, Any], *, symbolic: bool = False) -> Tensors:
        """Returns what a loss reads; its shapes, if `found` holds shapes."""
        answers = self._answers_of(read)
        if read.layer is not None:
            values = [found[one] for one in answers]
            return values if isinstance(read.layer, tuple) else values[0]
        if read.head is None and read.output is None:
            return self._outputs(
                {one: found[one] if symbolic else _activated(one, found[one]) for one in answers}
            )
        value = found[answers[0]]
        if symbolic or isinstance(value, SparseLogits):
            return value
        if read.head is None or read.from_logits is not None:
            value = _activated(answers[0], value)
        if read.head is not None and read.from_logits is False:
            value = logits_of(value, read.head, answers[0].rounded_in)
        return centered(value) if read.centered else value


def _activated(answer: Answer, value: Any) -> Any:
    """Returns an output, its channels last, from what is recorded of it."""
    if isinstance(value, SparseLogits) or answer.activation in (None, "linear"):
        return value
    return keras.activations.get(answer.activation)(value)


def _output(answer: Answer, value: Any) -> Any:
    """Returns an output as the teacher does."""
    value = _activated(answer, value)
    return (
        value
        if answer.axis is None or isinstance(value, SparseLogits)
        else ops.moveaxis(value, -1, answer.axis)
    )

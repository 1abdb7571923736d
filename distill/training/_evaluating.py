"""The part of a Distiller that evaluates the student, alone or together with its teachers."""

from typing import Any, NamedTuple

import keras

from distill._keras import compile_settings, compiled_loss, compiled_metrics
from distill._types import Tensors
from distill.training._arguments import require_validation
from distill.training._objective import Objective
from distill.training._preparing import PreparingTrainer
from distill.training._taps import Tapped
from distill.training._traced_step import TracedStep


class Examined(NamedTuple):
    """A batch of an evaluation that the teachers answer too. `call` returns a `Tapped` for it."""

    inputs: Tensors


class EvaluatingTrainer(PreparingTrainer):
    """Evaluates the student, and its losses against the teachers.

    Attributes:
        validate_teacher: whether evaluations run the teachers; `None`: only where there is nothing else to
            report. You can change it at any time.
    """

    _validate_teacher: bool | None
    _objective: Objective
    _traced_evaluation: TracedStep

    @property
    def validate_teacher(self) -> bool | None:
        """Whether evaluations run the teachers; a change holds from the next one on."""
        return self._validate_teacher

    @validate_teacher.setter
    def validate_teacher(self, value: bool | None) -> None:
        require_validation(value, [(term.output, term.loss) for term in self._objective.terms])
        self._validate_teacher = value
        self.test_function = None  # it was traced with the earlier value

    @property
    def teaches_in_evaluation(self) -> bool | None:
        """Whether data for an evaluation is prepared for the teachers too; `None`: only batches without labels."""
        if self.validate_teacher is not None or not self.compiled:
            return bool(self.validate_teacher)
        return None if self._has_own_numbers else True

    @property
    def _has_own_numbers(self) -> bool:
        given = compile_settings(self)
        metrics = keras.tree.flatten([given.get("metrics"), given.get("weighted_metrics")])
        return compiled_loss(self) is not None or any(metric is not None for metric in metrics)

    def test_step(self, *args: Any) -> Any:
        """Runs one step of an evaluation; on JAX, the first argument is the state."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(args[-1])
        self._traced_evaluation.note_evaluation(y)
        reports = y is not None and self._has_own_numbers
        if self.validate_teacher is False and not reports:
            raise ValueError(
                "Evaluation and validation report the student's own loss and metrics, so they need labels, and a "
                f"compiled loss or metric. Received: {'no labels' if y is None else 'neither a loss nor metrics'}, and "
                "validate_teacher=False. Leave validation data out, give labels and compile(metrics=...), or make the "
                "Distiller with validate_teacher=True, to report the distillation losses."
            )
        if not self.validate_teacher and reports:
            return super().test_step(*args)
        if not self._objective.evaluated_terms:
            names = [term.name for term in self._objective.terms]
            raise ValueError(
                f"A loss that remembers the training examples has no value on others. Received: {names} alone, in an "
                "evaluation of distillation losses. Give labels and compile(metrics=...), without "
                "validate_teacher=True."
            )
        return super().test_step(*args[:-1], (Examined(x), y, sample_weight))

    def compute_metrics(
        self, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors = None
    ) -> dict[str, Any]:
        """Updates the compiled metrics and returns the logs of what this step computed."""
        trackers = (*self._objective.loss_trackers, *self._objective.schedule_trackers)
        own = {tracker.name for tracker in trackers}
        if isinstance(x, Examined):
            logged = {"loss"} | {term.name for term in self._objective.evaluated_terms}
        elif isinstance(y_pred, Tapped):
            has_student_loss = y is not None and compiled_loss(self) is not None
            logged = {"loss"} | (own if has_student_loss else own - {"student_loss"})
        else:
            logged = set() if compiled_loss(self) is None else {"loss"}
        if y is None:
            return {name: result for name, result in self.get_metrics_result().items() if name in logged}
        outputs = y_pred.outputs if isinstance(y_pred, Tapped) else y_pred
        results = super().compute_metrics(x, y, outputs, sample_weight)
        compiled, loss = compiled_metrics(self), compiled_loss(self)
        others = set() if compiled is None else set(compiled.result())
        others |= set() if loss is None else {metric.name for metric in loss.metrics}
        if clash := own & others:
            raise ValueError(
                "Each name in the logs must belong to one number. "
                f"Received: {sorted(clash)}, both a term of the loss and a compiled metric, or the loss of an output. "
                "Give the distillation loss, or the output, another name."
            )
        return {key: value for key, value in results.items() if key in logged or key not in {"loss"} | own}

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the values of all metrics, without compiled ones that have never seen labels."""
        compiled = compiled_metrics(self)
        results: dict[str, Any] = {}
        for metric in self.metrics:
            if metric is compiled and not compiled.built:
                continue
            result = metric.result()
            results.update(result if isinstance(result, dict) else {metric.name: result})
        return results

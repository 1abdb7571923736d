"""The Distiller: a Keras model that trains a student on labels and on what a teacher says."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill.arguments import (
    as_losses,
    as_pair,
    as_weights,
    common_head,
    require_two_models,
    term_names,
)
from distill.losses.base import BatchLoss, DistillationLoss, require_number, setting, setting_value
from distill.taps import Tapped, Taps
from distill.teacher import Teacher


class Distiller(keras.Model):
    """Trains a student on its own loss and on distillation losses against a frozen teacher.

    The loss of a training step is

        student_loss_weight · student_loss + distillation_weight · Σᵢ weightᵢ · lossᵢ + penalties

    where `student_loss` is the loss given to `compile`, `distillation_weight` is
    1 − `student_loss_weight` unless given, and the penalties are the student's own: its regularizers
    and what its layers passed to `add_loss`. `sample_weight` and `class_weight` multiply each
    example's part of the student loss and of every distillation loss.

    It behaves as the student does: `call`, `predict` and `evaluate` run the student alone; `save` and
    `export`, hence callbacks such as `ModelCheckpoint`, write the student alone. `evaluate` and
    validation report what `student.evaluate` would and never run the teacher. `save_weights`, hence
    `BackupAndRestore`, keeps what training needs to go on: student, optimizer and settings. The
    teacher runs with `training=False`, gets no gradient, is changed in no way and is never saved.

    Logs of `fit` hold `loss`, `student_loss`, each distillation loss under its name (numbered where
    a name comes twice), and the compiled metrics; all are means over examples. Without labels
    (`fit(x)`) there are no compiled metrics and no `student_loss`.

    Args:
        teacher: a trained, built `keras.Model`. It keeps its `trainable` flags.
        student: the `keras.Model` to train; shares no variables with the teacher.
        distillation_losses: one or several losses of `distill.losses` or of `keras.distillation`.
        distillation_loss_weights: a weight >= 0 for each loss; a number will do for a single one.
            Defaults to 1 each. Assign to change them at any time.
        student_loss_weight: weight of the student's own loss, from 0 to 1. Assign to change it at any
            time. At 0, neither a compiled loss nor labels are needed.
        name: name of this model.
        distillation_weight: weight of the distillation side, >= 0, for recipes published as a plain sum
            such as CE + 0.9 KD: `student_loss_weight=1.0, distillation_weight=0.9`. Defaults to
            1 − `student_loss_weight`, and follows its changes. Assign to change it at any time.
        from_logits: `None` finds the logits behind softmax and sigmoid heads. `True` states that the
            models return logits, `False` that they return probabilities; a pair speaks of
            (teacher, student) apart. Only losses on logits ask.

    Attributes:
        teacher: the frozen teacher; `teacher.model` is the model that came in.
        student: the student, the very object that came in.

    Raises:
        ValueError: a model is not a Keras model; both are one, or share variables; the teacher is not
            built; a weight is out of range, or there are too few or too many; there is no loss; the
            losses do not fit the models, such as logits of other class counts.

    Example:
    ```python
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, epochs=10, validation_data=(x_dev, y_dev))
    distiller.save("student.keras")
    ```

    References:
        Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
    """

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: float | Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        *,
        distillation_weight: float | None = None,
        from_logits: bool | tuple[bool | None, bool | None] | None = None,
    ) -> None:
        losses = as_losses(distillation_losses)
        weights = as_weights(distillation_loss_weights, len(losses))
        student_loss_weight = require_number("student_loss_weight", student_loss_weight, 0.0, 1.0)
        if distillation_weight is not None:
            distillation_weight = require_number("distillation_weight", distillation_weight, 0.0)
        teacher_from_logits, student_from_logits = as_pair(from_logits)
        head = common_head(losses)
        require_two_models(teacher, student)
        if isinstance(teacher, Distiller) or isinstance(student, Distiller):
            raise ValueError(
                "Teacher and student are models, and a Distiller is how one is trained. Received: a Distiller. "
                "Pass its .student."
            )
        for loss in losses:
            loss.validate_model_compatibility(teacher, student)
        frozen = Teacher(
            teacher, _unique(loss.teacher_layer_name for loss in losses), head, teacher_from_logits
        )

        # The student's layers cast their inputs themselves. Its policy is taken over because `compile`
        # reads it to decide on loss scaling.
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        self.teacher = frozen
        self.student = student
        self._head, self._student_from_logits = head, student_from_logits
        self._student_taps: Taps | None = None
        self._terms = [
            _Term(term, loss, setting(f"{term}_weight", weight), keras.metrics.Mean(name=term))
            for term, loss, weight in zip(term_names(losses), losses, weights, strict=True)
        ]
        self._student_loss_weight = setting("student_loss_weight", student_loss_weight)
        self._distillation_weight = None
        if distillation_weight is not None:
            self._distillation_weight = setting("distillation_weight", distillation_weight)
        self._needs_labels = student_loss_weight > 0
        self._traced_without_labels = False
        self._student_loss_tracker = keras.metrics.Mean(name="student_loss")
        # Keras tracks attributes and lists of them, not what a `_Term` holds; untracked variables would be
        # constants to a compiled step on some backends, and absent from `save_weights`.
        self._term_trackers = [term.tracker for term in self._terms]
        self._term_variables = [v for term in self._terms for v in (term.weight, *term.loss.variables)]
        if student.built:
            self._student_taps = self._read_student()
            self.built = True

    @property
    def student_loss_weight(self) -> float:
        """Weight of the student's own loss; setting it takes effect at the next training step."""
        return setting_value(self._student_loss_weight)

    @student_loss_weight.setter
    def student_loss_weight(self, value: float) -> None:
        value = require_number("student_loss_weight", value, 0.0, 1.0)
        if value > 0 and self.compiled and (self._compile_loss is None or self._traced_without_labels):
            raise ValueError(
                "A student_loss_weight above 0 needs a compiled loss and labels, and this model was compiled or "
                f"trained without. Received: student_loss_weight={value}. Call compile(loss=...) again first."
            )
        self._student_loss_weight.assign(value)
        self._needs_labels = value > 0

    @property
    def distillation_weight(self) -> float:
        """Weight of the distillation side; setting it takes effect at the next training step."""
        if self._distillation_weight is None:
            return 1.0 - self.student_loss_weight
        return setting_value(self._distillation_weight)

    @distillation_weight.setter
    def distillation_weight(self, value: float) -> None:
        value = require_number("distillation_weight", value, 0.0)
        if self._distillation_weight is None:
            raise ValueError(
                "This Distiller's distillation weight is 1 - student_loss_weight. "
                f"Received: distillation_weight={value}. Give distillation_weight to the constructor to set it apart."
            )
        self._distillation_weight.assign(value)

    @property
    def distillation_loss_weights(self) -> tuple[float, ...]:
        """Weight of each distillation loss; setting them takes effect at the next training step."""
        return tuple(setting_value(term.weight) for term in self._terms)

    @distillation_loss_weights.setter
    def distillation_loss_weights(self, values: float | Sequence[float]) -> None:
        for term, value in zip(self._terms, as_weights(values, len(self._terms)), strict=True):
            term.weight.assign(value)

    def _read_student(self) -> Taps:
        """The built student with its taps, checked against the teacher and the losses."""
        taps = Taps(
            self.student,
            _unique(term.loss.student_layer_name for term in self._terms),
            self._head,
            self._student_from_logits,
        )
        for term in self._terms:
            taught = _read(self.teacher.spec, term.loss, term.loss.teacher_layer_name)
            learned = _read(taps.spec, term.loss, term.loss.student_layer_name)
            # Shapes of models without a readable graph are known, and checked by the loss, at the first step.
            if taught is not None and learned is not None:
                term.loss.validate_outputs(taught, learned)
        return taps

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: trains the student.
            loss: the student's own loss on the labels; may be left out if `student_loss_weight` is 0.
            metrics: of the student's outputs.
            **kwargs: see `keras.Model.compile`.

        Raises:
            ValueError: there is no loss and `student_loss_weight` is above 0.
        """
        if loss is None and self._needs_labels:
            raise self._loss_missing()
        # Keras keeps the loss and metrics of an earlier call where this one gives none.
        self._compile_loss = self._compile_metrics = None
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self._traced_without_labels = False

    def fit(self, x: Any = None, y: Any = None, *args: Any, sample_weight: Any = None, **kwargs: Any) -> Any:
        """Trains the student as `keras.Model.fit` does, with the same arguments.

        Raises:
            ValueError: `sample_weight` without labels, which Keras would drop in silence.
        """
        if y is None and sample_weight is not None:
            raise ValueError(
                "Keras drops sample_weight where there are no labels. Received: sample_weight without y. Pass a "
                "data set of (x, y, sample_weight); with student_loss_weight=0, y may be anything."
            )
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Prepares a training step, as Keras does at each `fit`."""
        self._needs_labels = self.student_loss_weight > 0  # `load_weights` may have changed it
        if self._needs_labels and self._compile_loss is None:
            raise self._loss_missing()
        # A step that was traced without labels would go on without the student's loss.
        return super().make_train_function(force or (self._needs_labels and self._traced_without_labels))

    def test_step(self, *args: Any) -> Any:
        """One batch of an evaluation; with JAX its state comes before it."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(args[-1])
        if y is None or (self._compile_loss is None and self._compile_metrics is None):
            raise ValueError(
                "Evaluation and validation report the student's own loss and metrics, so they need labels and "
                f"something compiled. Received: {'no labels' if y is None else 'neither a loss nor metrics'}. "
                "Leave validation data out, or give labels and compile(metrics=...)."
            )
        return super().test_step(*args)

    def _loss_missing(self) -> ValueError:
        return ValueError(
            "A student_loss_weight above 0 needs the student's own loss. Received: loss=None, "
            f"student_loss_weight={self.student_loss_weight:g}. Pass a loss to compile, such as "
            "'sparse_categorical_crossentropy', or set student_loss_weight=0."
        )

    @property
    def output_names(self) -> list[str]:
        """The student's, so that `compile` takes losses and metrics by output name."""
        return self.student.output_names

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the student once.

        Args:
            inputs: a batch of the student's inputs.
            training: in training, what the losses read is returned along.

        Returns:
            The student's outputs; with `training=True` a `distill.taps.Tapped`, whose first field they are.
        """
        if self._student_taps is None:
            # The student came unbuilt. Keras makes this call symbolically, before any data.
            self.student(inputs, training=False)
            self._student_taps = self._read_student()
        if training:
            # Not kept on `self` for `compute_loss`: replicas of tf.distribute take turns on one object.
            return self._student_taps(inputs, training=True)
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The total loss of a training step, or the student's own loss in evaluation.

        Args:
            x: inputs; the teacher sees them as they are.
            y: labels, or `None` if `student_loss_weight` is 0.
            y_pred: what `call` returned for `x`; `None` to call it.
            sample_weight: one weight per example, or `None`.
            training: `False` in evaluation, where the teacher is not run.

        Returns:
            A float32 scalar.

        Raises:
            ValueError: labels are missing and needed, `sample_weight` meets a loss that cannot honour it, or
                `y_pred` comes from elsewhere.
        """
        if not training:
            if self._compile_loss is None:
                return ops.zeros(())
            return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)

        if y_pred is None:
            y_pred = self(x, training=True)
        if not isinstance(y_pred, Tapped):
            raise ValueError(
                "In training, y_pred holds what the losses read: it is what the Distiller returns for "
                f"training=True. Received: y_pred of type {type(y_pred).__name__}. Pass y_pred=None, or "
                "distiller(x, training=True)."
            )
        examples = ops.shape(keras.tree.flatten(x)[0])[0]
        total = ops.zeros((), "float32")
        for loss in self.losses:
            # Keras' own step for a penalty, which all replicas of tf.distribute compute: it counts it once.
            total += ops.cast(self._aggregate_additional_loss(loss), "float32")
        if y is None:
            if self._needs_labels:
                raise ValueError(
                    "A student_loss_weight above 0 needs labels. Received: a batch without labels, "
                    "student_loss_weight above 0. Train on (x, y), or set student_loss_weight=0."
                )
            self._traced_without_labels = True
        elif self._compile_loss is not None:
            # Keras has no public way to its compiled loss apart from the penalties, which are not to be weighted.
            student_loss = self._compile_loss(y, y_pred.outputs, sample_weight)
            self._student_loss_tracker.update_state(_unscaled(student_loss), sample_weight=examples)
            total += self._student_loss_weight * ops.cast(student_loss, "float32")

        distillation_weight = self._distillation_weight
        if distillation_weight is None:
            distillation_weight = 1.0 - self._student_loss_weight
        taught = self.teacher(x)
        for term in self._terms:
            if sample_weight is not None and isinstance(term.loss, BatchLoss):
                raise ValueError(
                    f"sample_weight and class_weight need one loss per example, and {term.name!r} returns one number "
                    "for a batch. Train without weights, or use a loss of distill.losses."
                )
            value = term.loss(
                _read(taught, term.loss, term.loss.teacher_layer_name),
                _read(y_pred, term.loss, term.loss.student_layer_name),
                sample_weight=sample_weight,
            )
            term.tracker.update_state(_unscaled(value), sample_weight=examples)
            total += distillation_weight * term.weight * value
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the compiled metrics and returns the logs; nothing that this pass did not compute is in them."""
        training = isinstance(y_pred, Tapped)
        has_loss = self._compile_loss is not None
        own = {term.name for term in self._terms} | {"student_loss"}
        if y is None:
            logged = {"loss"} | own - {"student_loss"}
            return {metric.name: metric.result() for metric in self.metrics if metric.name in logged}
        results = super().compute_metrics(x, y, y_pred.outputs if training else y_pred, sample_weight)
        if self._compile_metrics is not None and (clash := own & set(self._compile_metrics.result())):
            raise ValueError(
                f"Each name in the logs is one number. Received: {sorted(clash)}, both a term of the loss and a "
                "compiled metric. Give the distillation loss another name=."
            )
        absent = set() if has_loss else {"student_loss"}
        if not training:
            absent = own if has_loss else own | {"loss"}
        return {key: value for key, value in results.items() if key not in absent}

    def get_metrics_result(self) -> dict[str, Any]:
        """The metrics' values; compiled metrics that no labels ever reached are left out."""
        unreached = (
            self._compile_metrics if self._compile_metrics and not self._compile_metrics.built else None
        )
        results: dict[str, Any] = {}
        for metric in self.metrics:
            if metric is not unreached:
                result = metric.result()
                results.update(result if isinstance(result, dict) else {metric.name: result})
        return results

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the student alone, as `student.save` does; `keras.models.load_model` needs no `distill`."""
        self.student.save(filepath, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Exports the student alone, as `student.export` does."""
        self.student.export(filepath, format=format, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Refuses: a Distiller is how a student is trained, not something to rebuild from a file."""
        raise NotImplementedError(
            "A Distiller has no config: it would hold a second copy of the teacher. Save the student with "
            "save(), the state of training with save_weights(), and make the Distiller anew to go on."
        )


class _Term(NamedTuple):
    """One distillation loss in the total."""

    name: str
    loss: DistillationLoss
    weight: keras.Variable
    tracker: keras.metrics.Mean


def _read(tapped: Tapped, loss: DistillationLoss, layer_name: str | None) -> Any:
    """The tensor that a loss compares, out of a forward pass."""
    if layer_name is not None:
        return tapped.layers[layer_name]
    return tapped.outputs if loss.head is None else tapped.logits


def _unscaled(loss: Any) -> Any:
    """Undoes the division by the number of replicas by which Keras makes their sum a mean, for the logs."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss * tf.distribute.get_strategy().num_replicas_in_sync


def _unique(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))

"""The Distiller: a Keras model that trains a student on labels and on what teachers say."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._graphs import functional_of
from distill._keras import (
    Trainer,
    compiled_loss,
    compiled_metrics,
    flatten_layers,
    forget_compiled,
    own_losses,
    share_of_penalty,
    take_any_arguments,
)
from distill._replicas import replica_count, scope_of
from distill.files._saving import save_model
from distill.losses._base import DistillationLoss
from distill.losses._settings import Schedule, Setting, require_number
from distill.training import _arguments as arguments
from distill.training._identified import split
from distill.training._objective import Objective, Term
from distill.training._outputs import Output, output_key
from distill.training._taps import Read, Tapped, Taps
from distill.training._teacher import Peer, Teacher


class Distiller(Trainer):
    """Trains a student on its own loss and on distillation losses against a frozen teacher.

    The loss of a training step is

        student_loss_weight · student_loss + distillation_weight · Σᵢ weightᵢ · lossᵢ + penalties

    where `student_loss` is the loss given to `compile`, `distillation_weight` is
    1 − `student_loss_weight` unless given, and the penalties are the student's own: its regularizers
    and what its layers passed to `add_loss`. `sample_weight` and `class_weight` multiply each
    example's part of the student loss and, unless told otherwise, of every distillation loss.

    It behaves as the student does: `call`, `predict` and `evaluate` run the student alone; `save` and
    `export`, hence callbacks such as `ModelCheckpoint`, write the student alone. `evaluate` and
    validation report what `student.evaluate` would and never run the teacher. `save_weights`, hence
    `BackupAndRestore`, keeps what training needs to go on: student, optimizer, step and settings. The
    teacher runs with `training=False`, gets no gradient, is changed in no way and is never saved.

    Logs of `fit` hold `loss`, `student_loss`, each distillation loss under its name (after its output's
    name, numbered where a name comes twice), the compiled metrics, and the value of every schedule; these are
    means over examples, those of schedules over steps. Without labels (`fit(x)`) there are no compiled
    metrics and no `student_loss`.

    Wherever a weight is asked for, a number or a schedule will do: a function of the training step such as
    a `keras.optimizers.schedules.LearningRateSchedule`. Steps are batches, counted from 0 over all calls of `fit`;
    restoring weights, as `EarlyStopping` can, restores the step and the settings with them. A schedule that leaves
    the allowed range makes the loss NaN.

    Under `tf.distribute` every example of a batch counts the same, however the replicas share it: in the losses, and
    in penalties that are means over examples.

    Args:
        teacher: a trained, built `keras.Model`, which keeps its `trainable` flags; or another Keras layer, a
            tf_keras model or any function of a batch, see `distill.training.Teacher`; or a list of these.
        student: the `keras.Model` to train; shares no variables with the teacher. Under `tf.distribute`,
            the Distiller belongs to the strategy that the student was made under.
        distillation_losses: one or several losses of `distill.losses` or of `keras.distillation`. For a student
            of several outputs, a dictionary that gives for each output a loss, a list of them, or `None`;
            outputs go by Keras' output names or by position. The teacher's output is the one of the same name or
            position, or its only one.
        distillation_loss_weights: a weight >= 0 for each loss; a number will do for a single one, and losses
            in a dictionary have their weights in one. Defaults to 1 each. Assign to change them at any time.
        student_loss_weight: weight of the student's own loss, from 0 to 1. Assign to change it at any
            time. At 0, neither a compiled loss nor labels are needed.
        name: name of this model.
        distillation_weight: weight of the distillation side, >= 0, for recipes published as a plain sum
            such as CE + 0.9 KD: `student_loss_weight=1.0, distillation_weight=0.9`. Defaults to
            1 − `student_loss_weight`, and follows its changes. Assign to change it at any time.
        from_logits: `None` finds the logits behind softmax and sigmoid heads. `True` states that the
            models return logits, `False` that they return probabilities; a pair speaks of
            (teacher, student) apart, a dictionary of each output. Only losses on logits ask.
        teacher_preprocessing: a function that makes the teacher's inputs from a batch of the student's;
            a list has one, or `None`, for each teacher.
        teacher_weights: a weight >= 0 for each of several teachers; equal ones that sum to 1 by default.
        teacher_mean: how several teachers make one loss. `None`: the sum of the losses against each, times
            its teacher's weight. "logits": the loss against the weighted mean of their logits, a geometric mean
            of their probabilities. "probabilities": the loss against the weighted mean of their softened
            probabilities; for a KL divergence it has the gradient of the sum and is smaller by a constant.
            Weights of a mean sum to 1.
        weigh_distillation: `False` keeps `sample_weight` and `class_weight` to the student's own loss: for
            batches in which some examples have no label, whose weight is 0 (and whose label is anything valid).

    Attributes:
        teacher: the frozen teacher, a `distill.training.Teacher` (`teacher.model` is the model that came in), or a list
            of several.
        student: the student, the very object that came in.

    Raises:
        ValueError: a model is not a Keras model; both are one, or share variables; the teacher is not
            built; a weight is out of range, or there are too few or too many; there is no loss; the
            losses do not fit the models, such as logits of other class counts; the student has a training step
            of its own.

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
        teacher: Any,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: Any = None,
        student_loss_weight: float | Schedule = 0.5,
        name: str = "distiller",
        *,
        distillation_weight: float | Schedule | None = None,
        from_logits: Any = None,
        teacher_preprocessing: Callable[[Any], Any] | Sequence[Callable[[Any], Any] | None] | None = None,
        teacher_weights: Sequence[float | Schedule] | None = None,
        teacher_mean: str | None = None,
        weigh_distillation: bool = True,
    ) -> None:
        losses = arguments.as_losses(distillation_losses)
        names = arguments.term_names(losses)
        weights = arguments.as_weights(distillation_loss_weights, losses)
        teachers = arguments.as_teachers(teacher)
        preprocessings = arguments.as_preprocessings(teacher_preprocessing, len(teachers))
        if any(isinstance(model, Distiller) for model in (*teachers, student)):
            raise ValueError(
                "Teacher and student are models, and a Distiller is how one is trained. Received: a Distiller. "
                "Pass its .student."
            )
        arguments.require_student(student)
        for model, preprocessing in zip(teachers, preprocessings, strict=True):
            if isinstance(model, Peer):
                continue
            arguments.require_two_models(model, student)
            if preprocessing is None:
                arguments.require_same_inputs(model, student)
            for _, loss in losses:
                loss.validate_model_compatibility(model, student)
        arguments.require_mean_fits(teacher_mean, losses)

        with scope_of(student):
            arguments.require_one_memory(losses, len(teachers), replica_count())
            # The student's layers cast their inputs themselves. Its policy is taken over because `compile`
            # reads it to decide on loss scaling.
            super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
            outputs = [output for output, _ in losses]
            terms = [
                _term(student, term, output, loss, weight, arguments.as_pair(from_logits, output, outputs))
                for term, (output, loss), weight in zip(names, losses, weights, strict=True)
            ]
            self._objective = Objective(
                terms,
                Setting("student_loss_weight", student_loss_weight, 0.0, 1.0),
                None
                if distillation_weight is None
                else Setting("distillation_weight", distillation_weight, 0.0),
                arguments.as_teacher_weights(teacher_weights, teacher_mean, len(teachers)),
                teacher_mean,
            )
        reads = [term.teacher_read for term in terms]
        self._teachers = tuple(
            model if isinstance(model, Peer) else Teacher(model, reads, preprocessing)
            for model, preprocessing in zip(teachers, preprocessings, strict=True)
        )
        self._student = student
        self._outputs = outputs
        self._weigh_distillation = weigh_distillation
        self._student_taps: Taps | None = None
        self._needs_labels = self._objective.needs_labels
        self._traced_without_labels = False
        self._traced_teachers: list[Any] = []
        # Keras tracks attributes and lists of them, not what a plain object holds; untracked variables would be
        # constants to a compiled step on some backends, and absent from `save_weights`.
        self._objective_trackers = self._objective.trackers
        self._objective_variables = self._objective.variables
        self._loss_layers = _LossLayers()
        self._traced_variables: list[int] = []
        if student.built:
            self._student_taps = self._read_student()
            self.built = not self._objective.waits_for_shapes

    @property
    def student(self) -> keras.Model:
        """The student, the very object that came in."""
        return self._student

    @property
    def teacher(self) -> Teacher | Peer | list[Teacher | Peer]:
        """The frozen teacher, or a list of several."""
        return self._teachers[0] if len(self._teachers) == 1 else list(self._teachers)

    @property
    def student_loss_weight(self) -> float:
        """Weight of the student's own loss; setting it takes effect at the next training step."""
        return self._objective.student_loss_weight.value

    @student_loss_weight.setter
    def student_loss_weight(self, value: float) -> None:
        needs_new_step = self.compiled and (compiled_loss(self) is None or self._traced_without_labels)
        if needs_new_step and require_number("student_loss_weight", value, 0.0, 1.0) > 0:
            raise ValueError(
                "A student_loss_weight above 0 needs a compiled loss and labels, and this model was compiled or "
                f"trained without. Received: student_loss_weight={value}. Call compile(loss=...) again first."
            )
        self._objective.student_loss_weight.value = value
        self._needs_labels = self._objective.needs_labels

    @property
    def distillation_weight(self) -> float:
        """Weight of the distillation side; setting it takes effect at the next training step."""
        setting = self._objective.distillation_weight
        return 1.0 - self.student_loss_weight if setting is None else setting.value

    @distillation_weight.setter
    def distillation_weight(self, value: float) -> None:
        if self._objective.distillation_weight is None:
            raise ValueError(
                "This Distiller's distillation weight is 1 - student_loss_weight. "
                f"Received: distillation_weight={value}. Give distillation_weight to the constructor to set it apart."
            )
        self._objective.distillation_weight.value = value

    @property
    def distillation_loss_weights(self) -> tuple[float, ...]:
        """Weight of each distillation loss, output by output; setting them takes effect at the next training step."""
        return tuple(term.weight.value for term in self._objective.terms)

    @distillation_loss_weights.setter
    def distillation_loss_weights(self, values: Any) -> None:
        terms = self._objective.terms
        losses = [(output, term.loss) for output, term in zip(self._outputs, terms, strict=True)]
        _assign([term.weight for term in terms], arguments.as_weights(values, losses))

    @property
    def teacher_weights(self) -> tuple[float, ...]:
        """Weight of each teacher; setting them takes effect at the next training step."""
        return tuple(setting.value for setting in self._objective.teacher_weights)

    @teacher_weights.setter
    def teacher_weights(self, values: Sequence[float]) -> None:
        # The checks of the constructor.
        arguments.as_teacher_weights(values, self._objective.teacher_mean, len(self._teachers))
        _assign(self._objective.teacher_weights, values)

    def _read_student(self) -> Taps:
        """The built student with its taps; what is known of shapes is checked, and builds the losses."""
        taps = Taps(self.student, [term.student_read for term in self._objective.terms], self.student.name)
        self._build_losses([teacher.expected(taps.spec) for teacher in self._teachers], taps.spec)
        return taps

    def _build_losses(self, taught: Sequence[Tapped], learned: Tapped) -> None:
        with scope_of(self.student):
            for i, term in enumerate(self._objective.terms):
                for tapped in taught:
                    # Shapes of models without a readable graph are known when they first run.
                    if tapped.values[i] is not None and learned.values[i] is not None:
                        term.loss.ensure_built(tapped.values[i], learned.values[i])
        if not self._objective.waits_for_shapes:
            self._loss_layers.hold([layer for term in self._objective.terms for layer in term.loss.layers])

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
        forget_compiled(self)
        with scope_of(self):
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
                "data set of (x, y, sample_weight); with student_loss_weight=0, y may be any valid labels."
            )
        self._forget_step_without_labels()
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Prepares a training step, as Keras does at each `fit`."""
        self._needs_labels = self._objective.needs_labels  # `load_weights` may have changed it
        if self._needs_labels and compiled_loss(self) is None:
            raise self._loss_missing()
        # A step that was traced without labels would go on without the student's loss.
        stale: bool = self._needs_labels and self._traced_without_labels
        # One that was traced before the student was quantized or pruned, say, would go on with what it was.
        variables = [
            id(part) for variable in self.student.variables for part in (variable, variable.constraint)
        ]
        stale = stale or variables != self._traced_variables
        self._traced_variables = variables
        if keras.backend.backend() == "jax":
            # To JAX the teachers' weights, which are no state of this model, are constants of the compiled step.
            values = [variable.value for teacher in self._teachers for variable in teacher.variables]
            stale = stale or [id(value) for value in values] != [id(value) for value in self._traced_teachers]
            self._traced_teachers = values
        return super().make_train_function(force or stale)

    @property
    def allows_jit(self) -> bool:
        """Whether XLA may compile the step; on TensorFlow it compiles the teachers along."""
        return keras.backend.backend() != "tensorflow" or all(t.supports_jit for t in self._teachers)

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """One training step, as `keras.Model.train_on_batch`."""
        if y is not None:
            self._forget_step_without_labels()
        return super().train_on_batch(x, y, *args, **kwargs)

    def _forget_step_without_labels(self) -> None:
        # What was compiled is built with the first labels, for which a step that was traced has no room.
        compiled = (compiled_loss(self), compiled_metrics(self))
        if self._traced_without_labels and any(part is not None and not part.built for part in compiled):
            self.train_function = None

    def test_step(self, *args: Any) -> Any:
        """One batch of an evaluation; with JAX its state comes before it."""
        _, y, _ = keras.utils.unpack_x_y_sample_weight(args[-1])
        if y is None or (compiled_loss(self) is None and compiled_metrics(self) is None):
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
            inputs: a batch of the student's inputs; of a `distill.training.Identified`, these alone.
            training: in training, what the losses read is returned along.

        Returns:
            The student's outputs; with `training=True` a `distill.training._taps.Tapped`, whose first field they are.
        """
        inputs, _ = split(inputs)
        if self._student_taps is None:
            # The student came unbuilt. Keras makes this call symbolically, before any data.
            self.student(inputs, training=False)
            self._student_taps = self._read_student()
        if self._objective.waits_for_shapes:
            learned = self._student_taps(inputs, training=False)
            self._build_losses([teacher(inputs, learned) for teacher in self._teachers], learned)
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
            x: inputs of the student, and of the teacher after its `teacher_preprocessing`; or a
                `distill.training.Identified` for losses that remember examples.
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
            # Without labels, Keras asks for this to build what was compiled; `test_step` refuses it.
            if compiled_loss(self) is None or y is None:
                return ops.zeros(())
            return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)

        if y_pred is None:
            y_pred = self(x, training=True)
        x, ids = split(x)
        if not isinstance(y_pred, Tapped):
            raise ValueError(
                "In training, y_pred holds what the losses read: it is what the Distiller returns for "
                f"training=True. Received: y_pred of type {type(y_pred).__name__}. Pass y_pred=None, or "
                "distiller(x, training=True)."
            )
        # Read before anything that replicas of tf.distribute wait for each other in: they share the list.
        penalties = self._sum_of_penalties(self.losses)
        self._objective.follow_schedules()
        examples = ops.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]
        student_loss = None
        if y is None:
            if self._needs_labels:
                raise ValueError(
                    "A student_loss_weight above 0 needs labels. Received: a batch without labels, "
                    "student_loss_weight above 0. Train on (x, y), or set student_loss_weight=0."
                )
            self._traced_without_labels = True
        elif (loss := compiled_loss(self)) is not None:
            student_loss = loss(y, y_pred.outputs, sample_weight)
        taught = [teacher(x, y_pred) for teacher in self._teachers]
        weight = sample_weight if self._weigh_distillation else None
        parts = self._loss_layers(
            lambda: self._objective.losses(student_loss, taught, y_pred, weight, y, ids, examples),
            training=True,
        )
        penalties += self._sum_of_penalties(self._loss_layers.own_losses())
        return self._objective.total(parts, penalties, examples)

    def _sum_of_penalties(self, losses: Sequence[Any]) -> Any:
        total = ops.zeros((), "float32")
        for loss in losses:
            total += ops.cast(share_of_penalty(self, loss), "float32")
        return total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the compiled metrics and returns the logs; nothing that this pass did not compute is in them."""
        training = isinstance(y_pred, Tapped)
        has_loss = compiled_loss(self) is not None
        own = {tracker.name for tracker in self._objective_trackers}
        if y is None:
            logged = {"loss"} | own - {"student_loss"}
            return {metric.name: metric.result() for metric in self.metrics if metric.name in logged}
        results = super().compute_metrics(x, y, y_pred.outputs if training else y_pred, sample_weight)
        if (compiled := compiled_metrics(self)) is not None and (clash := own & set(compiled.result())):
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
        compiled = compiled_metrics(self)
        unreached = compiled if compiled and not compiled.built else None
        results: dict[str, Any] = {}
        for metric in self.metrics:
            if metric is not unreached:
                result = metric.result()
                results.update(result if isinstance(result, dict) else {metric.name: result})
        return results

    def save_own_variables(self, store: Any) -> None:
        """Saves the step and the settings by name, and the states of random generators, which Keras leaves out."""
        for name, variable in self._own_variables().items():
            store[name] = ops.convert_to_numpy(ops.convert_to_tensor(variable))

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` saved, all of it or nothing."""
        names, found = list(self._own_variables()), list(store.keys())
        if set(names) != set(found):
            raise ValueError(
                "A Distiller's weights go back into one with the same losses, teachers and random layers. Received: a "
                f"file with {sorted(set(found) - set(names))} too many and without {sorted(set(names) - set(found))}."
            )
        settings = self._objective.settings()
        for name, setting in settings.items():
            setting.restore(float(np.asarray(store[name])))
        for name, variable in self._own_variables().items():
            if name not in settings:
                variable.assign(store[name])

    def _own_variables(self) -> dict[str, keras.Variable]:
        settings = {name: setting.variable for name, setting in self._objective.settings().items()}
        seeds = {f"seed_{i}": state for i, state in enumerate(self._seed_states())}
        return {"step": self._objective.step, **settings, **seeds}

    def _seed_states(self) -> list[keras.Variable]:
        models = (self.student, self._loss_layers)
        kept = {id(variable) for model in models for variable in model.weights}
        variables = [variable for model in models for variable in model.variables if id(variable) not in kept]
        return [variable for variable in variables if variable.name == "seed_generator_state"]

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the student alone, as `student.save` does; `keras.models.load_model` needs no `distill`.

        A file that is there already is replaced at once, or stays as it is if that fails.
        """
        if (
            overwrite
            and not kwargs
            and isinstance(filepath, str | os.PathLike)
            and "://" not in str(filepath)
        ):
            save_model(self.student, filepath)
        else:
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


class _LossLayers(keras.Layer):
    """What the losses train, and the call in which they run, so that their layers are in training as the student's are.

    It waits to be built with them, so that Keras builds the Distiller by a symbolic call.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False, name="loss_layers")
        take_any_arguments(self)

    def hold(self, layers: Sequence[keras.Layer]) -> None:
        """Takes the losses' layers, once all are made."""
        self.held = list({id(layer): layer for layer in layers}.values())
        self.built = True

    def call(self, compute: Callable[[], Any], training: bool | None = None) -> Any:
        """What `compute` returns."""
        return compute()

    def own_losses(self) -> list[Any]:
        """What the layers passed to `add_loss` in the last call, and their activity regularizers."""
        return [loss for layer in flatten_layers(self) for loss in own_losses(layer)]


def _term(
    student: keras.Model,
    name: str,
    output: Output,
    loss: DistillationLoss,
    weight: Any,
    from_logits: tuple[bool | None, bool | None],
) -> Term:
    """A loss with what it reads of each side."""
    graph = functional_of(student)
    key = output if graph is None else output_key(graph, output)
    position = key if isinstance(key, int) else None
    reads = [
        Read(layer=layer) if layer is not None else Read(None, output, position, loss.head, said)
        for layer, said in zip((loss.teacher_layer_name, loss.student_layer_name), from_logits, strict=True)
    ]
    return Term(
        name, key, loss, Setting(f"{name}_weight", weight, 0.0), keras.metrics.Mean(name=name), *reads
    )


def _assign(settings: Sequence[Setting], values: Sequence[Any]) -> None:
    """Sets all or, if one is refused, none."""
    for setting, value in zip(settings, values, strict=True):
        setting.check(value)
    for setting, value in zip(settings, values, strict=True):
        setting.value = value

"""The Distiller: a Keras model that trains a student on labels and on the answers of teachers."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from distill._graphs import functional_of
from distill._keras import LossMeans, compile_settings, compiled_loss, forget_compiled
from distill._replicas import replica_count, scope_of
from distill._types import Data, PathLike, Tensor, Tensors
from distill.files import save_model
from distill.losses._settings import Schedule, Setting
from distill.training import _arguments as arguments
from distill.training._adjustable import AdjustableWeights
from distill.training._check import Checkup, checkup, require_ready, warn_of_heads
from distill.training._evaluating import EvaluatingTrainer, Examined
from distill.training._features import features_of, require_one_order
from distill.training._identified import Identified, split, unlabelled
from distill.training._loss_layers import LossLayers
from distill.training._objective import Objective, Part, sum_of_penalties
from distill.training._outputs import by_position
from distill.training._preparing import Prepare, as_arrays
from distill.training._preprocessing import Views, prepared, preprocessing_of
from distill.training._recorded import Recorded, RecordedTeacher
from distill.training._scoring import taken
from distill.training._state import load_state, save_state
from distill.training._taps import Read, Tapped, Taps
from distill.training._teacher import Peer, Teacher
from distill.training._teacher_mix import TeacherMix
from distill.training._terms import Batch, make_terms
from distill.training._traced_step import NEEDS_LABELS, TracedStep
from distill.training._weights import with_defaults


class Distiller(AdjustableWeights, EvaluatingTrainer):
    """Trains a student on its own loss and on distillation losses against a frozen teacher.

    The loss of a training step is

        student_loss_weight · student_loss + distillation_weight · Σᵢ weightᵢ · lossᵢ + penalties

    where `student_loss` is the loss given to `compile`, and the penalties are the student's own: its regularizers and
    what its layers pass to `add_loss`. `sample_weight` and `class_weight` multiply each example's part of the student
    loss and, unless `weigh_distillation` is `False`, of every distillation loss.

    **Default weights.** If you leave out all three of `distillation_loss_weights`, `student_loss_weight` and
    `distillation_weight`, the losses train with the weights they were published with, their `recipe`:

    - A single loss: `student_loss_weight` and `distillation_weight` come from its recipe.
    - Several losses: each loss gets the distillation weight of its own recipe, `student_loss_weight` is the
      largest in their recipes, and `distillation_weight` is 1. A loss without a recipe counts as if published
      with ½ and ½.
    - No loss has a recipe: `student_loss_weight` is ½, and the other two are as described next.

    If you give any of the three, the others default to weight 1 for each loss, ½ for `student_loss_weight`,
    and 1 − `student_loss_weight` for `distillation_weight`, which follows when you change
    `student_loss_weight`. `repr(distiller)` and `weights_table()` show the weights in force. Some recipes,
    such as that of `LogitMSE`, have no student loss; then you need neither a compiled loss nor labels.

    Every weight is a number or a schedule: a function of the training step, such as a
    `keras.optimizers.schedules.LearningRateSchedule`. Steps are batches, counted from 0 over all calls of `fit`.
    Restoring weights, as `EarlyStopping` can, restores the step and the settings too. A schedule that leaves the
    allowed range makes the loss NaN.

    **It behaves like the student.** `call`, `predict` and `evaluate` run the student alone. `save` and
    `export` write the student alone, and so do callbacks such as `ModelCheckpoint`. `evaluate` and validation
    report what `student.evaluate` reports, and run the teacher only for `validate_teacher`. `save_weights`,
    and therefore `BackupAndRestore`, keeps what training needs to continue: student, optimizer, step and
    settings. The teacher runs with `training=False`, gets no gradient, is not changed in any way and is never
    saved.

    **Each model gets each batch as its own `fit` would prepare it.** Task models of keras_hub preprocess
    their data. In `fit`, `evaluate` and `predict`, the `preprocessor` of the student and of each teacher runs
    in the data's pipeline, on strings too; in a direct call you pass preprocessed data. If preprocessors make
    labels, such as the next tokens, the student's labels count, and the Distiller refuses a teacher that
    would see other tokens. Features in a dictionary go to the inputs with the same names. A class that
    defines its own `fit`, `evaluate` or `predict` may do anything there, so the Distiller refuses it. It
    accepts such a teacher only if `teacher_preprocessing` says what its `call` takes.

    **Logs** of `fit` hold `loss`, `student_loss`, each distillation loss under its name (preceded by the name
    of its output, and numbered if the name occurs twice), the compiled metrics, and the value of every
    schedule. Losses are means over examples; values of schedules are means over steps. Without labels, as in
    `fit(x)`, there are no compiled metrics and no `student_loss`.

    **Distillation losses on validation data.** With `validate_teacher=True`, `evaluate` and validation run
    the teacher too and report each distillation loss under its name, so that
    `EarlyStopping("val_soft_targets")` can watch it; the compiled loss and metrics stay as they are. If the
    data has no labels, or the Distiller is compiled without loss and metrics, there is nothing else to
    report. Then this is the default, and `loss` is the weighted sum of the distillation losses. The student,
    and the layers of the losses, run with `training=False`. A loss that remembers training examples, such as
    `ContrastiveRepresentation`, has no value on other examples and is left out.

    **Under `tf.distribute`** every example of a batch counts equally, however the replicas share the batch.
    This holds for the losses, and for penalties that are means over examples.

    Args:
        teacher: a trained, built `keras.Model`; or another Keras layer, a tf_keras model or any function of a
            batch (see `distill.training.Teacher`); or a teacher's recorded answers (see `distill.cache`); or
            a list of these. The Distiller leaves its `trainable` flags alone.
        student: the `keras.Model` to train. It must not share variables with the teacher. Under `tf.distribute`, the
            Distiller belongs to the strategy under which the student was made.
        distillation_losses: a loss of `distill.losses` or `keras.distillation`, or a list of them. For a
            student with several outputs, a dictionary that gives each output a loss, a list of losses or
            `None`; its keys are Keras' output names, or positions. The matching output of the teacher is the
            one with the same name or position, or its only one.
        distillation_loss_weights: weight >= 0 of each loss, as a list; a number for a single loss. For losses
            in a dictionary, a dictionary too, where outputs that are left out get 1. You can assign to it at any
            time to change the weights; a dictionary must then name all outputs with losses.
        student_loss_weight: weight of the student's own loss, from 0 to 1. You can assign to it at any time.
            At 0, you need neither a compiled loss nor labels.
        distillation_weight: weight of the distillation side, >= 0. You can assign to it at any time, unless
            it follows `student_loss_weight`.
        from_logits: `None` finds the logits behind softmax and sigmoid heads. `True` states that the models
            return logits, `False` that they return probabilities. A pair states it for (teacher, student),
            and a dictionary states it for each output. Only losses on logits use it. Probabilities carry less
            information than logits: one that was rounded to 0 or 1 counts as the nearest number that its
            dtype cannot tell from it.
        teacher_preprocessing: function that makes the teacher's inputs from a batch as `fit` gets it. It
            replaces the teacher's own preprocessor. For several teachers, give one function for all, or a
            list with a function or `None` for each. `keras.layers.Identity()` passes the batch on unchanged.
            XLA may compile it if it is a layer; for any other function, you must ask for that with
            `compile(jit_compile=True)`.
        teacher_weights: weight >= 0 of each of several teachers; equal weights that sum to 1 by default.
        teacher_mean: how several teachers make one loss. `None`: each teacher gives a loss, and the losses
            are added, weighted by `teacher_weights`. "logits": the loss against the weighted mean of their
            logits, which amounts to a geometric mean of their probabilities. "probabilities": the loss
            against the weighted mean of their softened probabilities; for a KL divergence, it has the same
            gradient as the sum and is smaller by a constant. The weights of a mean must sum to 1.
        weigh_distillation: `False` applies `sample_weight` and `class_weight` to the student's own loss only.
            Use it for batches in which some examples have no label: give these examples weight 0 and any
            valid label.
        validate_teacher: whether evaluation and validation run the teacher and report the distillation
            losses. `None`: only where there is nothing else to report, as above.
        name: name of the Distiller.

    Attributes:
        teacher: the frozen teacher, a `distill.training.Teacher` (its `model` is the model that you passed),
            or a list of several.
        student: the student, the same object that you passed.

    Raises:
        ValueError: the student or teacher cannot be used (the student is not a `keras.Model`, one of the two
            is not built, both are the same model or share variables, the student has its own training step,
            `fit` or `predict`, or the teacher has its own `fit`, `evaluate` or `predict` and there is no
            `teacher_preprocessing`); a weight is out of range, or there are too few or too many; the losses
            do not fit the models, for example because the logits have different class counts.

    Example:
        ```python
        import distill

        distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
        distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        print(distiller.weights_table())  # student_loss 0.1, soft_targets 0.9: the published weights
        distiller.fit(x, y, epochs=2, validation_split=0.1)
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
        *,
        distillation_loss_weights: Any = None,
        student_loss_weight: float | Schedule | None = None,
        distillation_weight: float | Schedule | None = None,
        from_logits: Any = None,
        teacher_preprocessing: Callable[[Any], Any] | Sequence[Callable[[Any], Any] | None] | None = None,
        teacher_weights: Sequence[float | Schedule] | None = None,
        teacher_mean: str | None = None,
        weigh_distillation: bool = True,
        validate_teacher: bool | None = None,
        name: str = "distiller",
    ) -> None:
        losses = arguments.as_losses(distillation_losses)
        weights = with_defaults(losses, distillation_loss_weights, student_loss_weight, distillation_weight)
        teachers = arguments.as_teachers(teacher)
        preprocessings = arguments.as_preprocessings(teacher_preprocessing, len(teachers))
        if any(isinstance(model, Distiller) for model in (*teachers, student)):
            raise ValueError(
                "teacher and student must be plain models. Received: a Distiller. Pass its .student instead."
            )
        arguments.require_student(student)
        arguments.require_validation(validate_teacher, losses)
        for model, preprocessing in zip(teachers, preprocessings, strict=True):
            if isinstance(model, Recorded):
                arguments.require_no_preprocessing(model.name, preprocessing)
            elif not isinstance(model, Peer):
                arguments.require_fit(model, student, losses, same_inputs=preprocessing is None)
        with scope_of(student):
            arguments.require_one_memory(losses, len(teachers), replica_count())
            # The student's layers cast their inputs. `compile` reads the policy to decide whether to scale the loss.
            super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
            mix = TeacherMix.of(teacher_weights, teacher_mean, len(teachers))
            mix.require_fit([loss for _, loss in losses])
            self._objective = Objective(
                make_terms(student, losses, weights.losses, from_logits),
                Setting("student_loss_weight", weights.student, low=0.0, high=1.0),
                None
                if weights.distillation is None
                else Setting("distillation_weight", weights.distillation, low=0.0),
                mix,
            )
        reads = [term.teacher_read for term in self._objective.terms]
        self._teachers = tuple(
            self._teacher_of(model, preprocessing, reads)
            for model, preprocessing in zip(teachers, preprocessings, strict=True)
        )
        self._student = student
        self._outputs = [output for output, _ in losses]
        self._weigh_distillation = weigh_distillation
        self.validate_teacher = validate_teacher
        self._traced_step = TracedStep(self._objective)
        self._traced_evaluation = TracedStep(self._objective)
        self._traced_prediction = TracedStep(self._objective)
        # Keras tracks attributes and lists of them, but not what a plain object holds. Untracked variables would be
        # constants of a compiled step on some backends, and missing from `save_weights`.
        self._loss_means = LossMeans(self._objective.loss_trackers)
        self._schedule_means = self._objective.schedule_trackers
        self._objective_variables = self._objective.variables
        self._loss_layers = LossLayers()
        # Whether Keras, which saves or loads the state, asks for `layers` next; they name the groups in its files.
        self._is_walked = False
        self._student_taps: Taps | None = None
        taps = self._read_student() if student.built else None
        if taps is not None:
            self._objective.validate([teacher.expected(taps.spec) for teacher in self._teachers], taps.spec)
        self._objective.start()  # only now: what was refused above has taken no loss from another Distiller
        for teacher in self._teachers:
            if isinstance(teacher, RecordedTeacher):
                teacher.guard_settings()
        if taps is not None:
            self._student_taps = self._built_for(taps)
            self.built = not self._objective.waits_for_shapes

    def _teacher_of(
        self, model: Any, preprocessing: Callable[[Any], Any] | None, reads: Sequence[Read]
    ) -> Teacher | Peer | RecordedTeacher:
        if isinstance(model, Peer):
            return model
        if not isinstance(model, Recorded):
            return Teacher(model, reads=reads, preprocessing=preprocessing)
        teacher = RecordedTeacher(model, reads, [term.loss for term in self._objective.terms])
        self._objective.mix.require_logits(teacher.name, teacher.has_all_logits)
        return teacher

    def _read_student(self) -> Taps:
        """Returns the built student with its taps."""
        return Taps(self.student, [term.student_read for term in self._objective.terms], self.student.name)

    def _built_for(self, taps: Taps) -> Taps:
        """Checks the shapes that are known, and builds the losses."""
        self._build_losses([teacher.expected(taps.spec) for teacher in self._teachers], taps.spec)
        return taps

    def _build_losses(self, taught: Sequence[Tapped], learned: Tapped) -> None:
        with scope_of(self.student):
            self._objective.build_losses(taught, learned)
        if not self._objective.waits_for_shapes:
            self._loss_layers.hold([layer for term in self._objective.terms for layer in term.loss.layers])

    @property
    def _student_axes(self) -> tuple[int | None, ...]:
        """For each term, the axis that the student's output has its channels on, if it is not the last."""
        return () if self._student_taps is None else self._student_taps.axes

    @property
    def student(self) -> keras.Model:
        """The student, the same object that was passed in."""
        return self._student

    @property
    def layers(self) -> list[keras.Layer]:
        """The student's layers and those of the losses; callbacks such as `TensorBoard` look no deeper."""
        if self._is_walked:
            self._is_walked = False
            return [self.student, self._loss_layers]
        return [*self._student_layers(), self._loss_layers]

    def _student_layers(self) -> list[keras.Layer]:
        return list(self.student.layers)

    @property
    def teacher(self) -> Teacher | Peer | RecordedTeacher | list[Teacher | Peer | RecordedTeacher]:
        """The frozen teacher, or a list of several."""
        return self._teachers[0] if len(self._teachers) == 1 else list(self._teachers)

    def __repr__(self) -> str:
        names = [teacher.name for teacher in self._teachers]
        try:
            loss = self.weights_table().formula
        except Exception:  # values cannot be read while a step is traced; repr must not fail then
            loss = " + ".join(["student_loss", *(term.name for term in self._objective.terms)])
        return (
            f"<{type(self).__name__} name={self.name}, teacher={', '.join(names)}, student={self.student.name}, "
            f"loss={loss}>"
        )

    # Training.

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, *, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Configures training as `keras.Model.compile` does.

        Args:
            optimizer: optimizer that trains the student.
            loss: the student's own loss on the labels; you may leave it out if `student_loss_weight` is 0.
            metrics: metrics of the student's outputs.
            **kwargs: other arguments of `keras.Model.compile`.

        Raises:
            ValueError: there is no loss, and `student_loss_weight` is above 0.
        """
        self._traced_step.require_loss(loss)
        # Keras keeps the loss and metrics of an earlier call if this one gives none.
        forget_compiled(self)
        with scope_of(self):
            super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self._traced_step.forget()
        self._traced_evaluation.forget()

    def fit(
        self, x: Data = None, y: Tensors = None, *args: Any, sample_weight: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains the student as `keras.Model.fit` does, with the same arguments.

        Warns if the student returns logits but its own loss takes probabilities, or the other way round; see
        `check`.

        Raises:
            ValueError: `sample_weight` is given without labels; labels or a compiled loss are missing and needed; or
                a loss has been given to another Distiller since.
        """
        _require_labels_of(y, sample_weight)
        validation = kwargs.get("validation_data")
        if isinstance(validation, Identified):
            kwargs["validation_data"] = (validation,)
        elif isinstance(validation, tuple) and len(validation) == 3:
            _require_labels_of(*validation[1:])
        elif validation is not None:
            kwargs["validation_data"] = unlabelled(validation)
        x = unlabelled(x)
        if self.compiled and self._objective.needs_labels:
            warn_of_heads(self.student, compile_settings(self)["loss"])
        self._make_room_for_labels()
        return super().fit(x, y, *args, sample_weight=sample_weight, **kwargs)

    def evaluate(
        self, x: Data = None, y: Tensors = None, *args: Any, sample_weight: Any = None, **kwargs: Any
    ) -> Any:
        """Evaluates the student as `keras.Model.evaluate` does, and its losses if `validate_teacher` says so.

        Raises:
            ValueError: `sample_weight` is given without labels.
        """
        _require_labels_of(y, sample_weight)
        if not kwargs.get("_use_cached_eval_dataset"):  # in which `fit` evaluates, once an epoch
            self._make_room_for_labels()
        return super().evaluate(unlabelled(x), y, *args, sample_weight=sample_weight, **kwargs)

    def test_on_batch(self, x: Tensors, y: Tensors = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates one batch, as `keras.Model.test_on_batch` does."""
        if y is not None:
            self._make_room_for_labels()
        return super().test_on_batch(x, y, *args, **kwargs)

    def train_on_batch(self, x: Tensors, y: Tensors = None, *args: Any, **kwargs: Any) -> Any:
        """Runs one training step, as `keras.Model.train_on_batch` does."""
        if y is not None:
            self._make_room_for_labels()
        return super().train_on_batch(x, y, *args, **kwargs)

    def preparation(self, *, teaching: bool | None) -> Prepare | None:
        """Returns a function that prepares each batch as the models' own `fit` would; `None` for nothing.

        Args:
            teaching: whether the teachers answer the batch too; `None`: only if it has no labels.
        """
        student = preprocessing_of(self.student, "student")
        teachers = [teacher.pipeline for teacher in self._teachers]
        if student is None and (teaching is False or not any(teachers)):
            return None
        asked = None if teaching is False else teachers
        return functools.partial(prepared, student, asked, only_without_labels=teaching is None)

    def _make_room_for_labels(self) -> None:
        if self._traced_step.has_no_room_for_labels(self):
            self.train_function = None
        if self._traced_evaluation.has_no_room_for_labels(self):
            self.test_function = None

    def make_train_function(self, force: bool = False) -> Any:
        """Prepares the training step; Keras calls it at each `fit`."""
        self._objective.require_own_losses()
        self._require_recorded()
        self._traced_step.refresh()  # `load_weights` may have changed the weights
        self._traced_step.require_loss(compiled_loss(self))
        return super().make_train_function(self._traced_step.is_stale(self.student, self._teachers) or force)

    def make_test_function(self, force: bool = False) -> Any:
        """Prepares the step of an evaluation; Keras calls it at each `evaluate`."""
        self._require_recorded()
        stale = self._traced_evaluation.is_stale(self.student, self._teachers)
        return super().make_test_function(stale or force)

    def make_predict_function(self, force: bool = False) -> Any:
        """Prepares the step of a prediction; Keras calls it at each `predict`."""
        stale = self._traced_prediction.is_stale(self.student, self._teachers)
        return super().make_predict_function(stale or force)

    def _require_recorded(self) -> None:
        for teacher in self._teachers:
            if isinstance(teacher, RecordedTeacher):
                teacher.require_losses()  # a temperature may have been set, or loaded

    @property
    def allows_jit(self) -> bool:
        """Whether XLA may compile the step. On TensorFlow the step holds the teachers too."""
        return keras.backend.backend() != "tensorflow" or all(t.supports_jit for t in self._teachers)

    def call(self, inputs: Tensors, training: bool | None = None) -> Tensors:
        """Runs the student once.

        Args:
            inputs: a batch of the student's inputs, or a `distill.Identified` of them.
            training: in training, the result also holds what the losses read.

        Returns:
            The student's outputs; with `training=True`, a `Tapped` that holds them in `outputs`.
        """
        examined = isinstance(inputs, Examined)
        given, _ = split(inputs.inputs if examined else inputs)
        inputs = features_of(self.student, given.student if isinstance(given, Views) else given)
        if self._student_taps is None:
            # The student was not built. Keras makes this call symbolically, before any data.
            self.student(inputs, training=False)
            self._student_taps = self._built_for(self._read_student())
        if self._objective.waits_for_shapes:
            learned = self._student_taps(inputs, training=False)
            self._build_losses(self._taught(given, learned), learned)
        if training:
            # Not kept on `self` for `compute_loss`: replicas of tf.distribute take turns on one object.
            return self._student_taps(inputs, training=True)
        if examined:
            return self._student_taps(inputs, training=False)
        return self.student(inputs, training=training)

    def compute_loss(
        self,
        x: Tensors = None,
        y: Tensors = None,
        y_pred: Tensors = None,
        sample_weight: Tensors = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the total loss of a training step, or what an evaluation reports as `loss`.

        Args:
            x: inputs of the student, and of the teacher after its `teacher_preprocessing`; or a
                `distill.Identified` for losses that remember examples.
            y: labels; may be `None` if `student_loss_weight` is 0.
            y_pred: what `call` returned for `x`; `None` to call it here.
            sample_weight: one weight per example, or `None`.
            training: `False` in evaluation.

        Returns:
            A float32 scalar.

        Raises:
            ValueError: labels are missing and needed, a loss cannot use `sample_weight`, or `y_pred` does not come
                from the Distiller.
        """
        if not training:
            distilled = ops.zeros(())  # Keras also asks for a loss without labels, to build what was compiled
            if isinstance(x, Examined):
                distilled = self._evaluated(x.inputs, y, y_pred, sample_weight)
                y_pred = y_pred.outputs
            if compiled_loss(self) is None or y is None:
                return distilled
            own = compiled_loss(self)(y, y_pred, sample_weight)
            # Not those of the losses' layers, which are no part of the student.
            return sum_of_penalties(self, self.student.losses) + (0.0 if own is None else own)

        learned = self(x, training=True) if y_pred is None else y_pred
        x, ids = split(x)
        if not isinstance(learned, Tapped):
            raise ValueError(
                "In training, y_pred must be what the Distiller returns for training=True, since it holds what the "
                f"losses read. Received: y_pred of type {type(learned).__name__}. Pass y_pred=None, or "
                "distiller(x, training=True)."
            )
        # Read first: replicas of tf.distribute share this list, and wait for each other below.
        penalties = sum_of_penalties(self, self.losses)
        self._objective.follow_schedules()
        self._traced_step.note_labels(y)
        loss = None if y is None else compiled_loss(self)
        batch = self._batch(x, y, ids, sample_weight)
        student_loss = None if loss is None else loss(y, learned.outputs, sample_weight)
        parts = self._parts(x, learned, batch, student_loss, training=True)
        penalties += sum_of_penalties(self, self._loss_layers.penalties())
        return self._objective.total(parts, penalties, batch.examples)

    def _evaluated(self, x: Tensors, y: Tensors, learned: Tapped, sample_weight: Tensors) -> Tensor:
        """Returns the weighted sum of the distillation losses in an evaluation, and notes each for the logs."""
        x, ids = split(x)
        batch = self._batch(x, y, ids, sample_weight)
        parts = self._parts(x, learned, batch, None, training=False)
        return self._objective.total(parts, ops.zeros((), "float32"), batch.examples)

    def _batch(self, x: Tensors, y: Tensors, ids: Tensor, sample_weight: Tensors) -> Batch:
        examples = ops.shape(next(part for part in keras.tree.flatten(x) if part is not None))[0]
        weights = sample_weight if self._weigh_distillation else None
        y, weights = (by_position(values, functional_of(self.student)) for values in (y, weights))
        return Batch(y, ids, weights, examples, self._student_axes)

    def _parts(
        self, x: Tensors, learned: Tapped, batch: Batch, student_loss: Tensor | None, *, training: bool
    ) -> list[Part]:
        """Runs the teachers, and returns the losses to be added up."""
        taught = self._taught(x, learned)
        return self._loss_layers(
            lambda: self._objective.parts(student_loss, taught, learned, batch, training=training),
            training=training,
        )

    def _taught(self, x: Tensors, learned: Tapped) -> list[Tapped]:
        """Runs the teachers, each on its view of a batch."""
        if isinstance(x, Views):
            views = x.teachers
        elif any(teacher.pipeline for teacher in self._teachers):
            raise ValueError(
                "A teacher with a preprocessor answers batches that were prepared. Received: x as it is. Use fit or "
                "train_on_batch, or pass distiller.preparation(teaching=True)(x)[0]."
            )
        else:
            views = (x,) * len(self._teachers)
        if preprocessing_of(self.student, "student") is None:
            for teacher, view in zip(self._teachers, views, strict=True):
                if isinstance(teacher, Teacher) and teacher.takes_batch and not teacher.pipeline:
                    require_one_order(teacher.model, self.student, view)
        # By number: torch.compile of torch 2.13 fails on teachers that come out of an iterator over a tuple.
        return [self._teachers[i].answer(views[i], learned) for i in range(len(self._teachers))]

    def check(self, x: Data, y: Tensors = None, *, examples: int = 512, batch_size: int = 64) -> Checkup:
        """Looks for settings that would make training useless: a few seconds can save you hours.

        It compares the scores and sizes of teacher and student. It checks whether the student's head fits the
        compiled loss, and whether the teacher's classes fit the labels. It also looks at the range of the
        inputs, and at the scale of each term of the loss and of its gradient, on one batch in training. It
        trains nothing, and changes no model, metric or random generator. A data set that is shuffled anew at each
        pass goes on to its next order, as at any other pass; a generator loses the batches that were read.

        Before `fit`, it cannot see how long training will be. With too few steps, a distilled student can end
        far behind one trained on the labels alone, and nothing here warns of that. If you call it again after
        `fit`, it says for `SoftTargets` and `BernoulliSoftTargets` whether the student is still far from its
        teacher and needs more steps. The only proof is a student trained without the teacher for as long.

        Args:
            x: inputs, as for `fit`, or a data set of (x, y) or (x, y, sample_weight).
            y: labels; may be `None` if `student_loss_weight` is 0.
            examples: number of examples to look at: evenly spaced rows of arrays, or the first ones of a data
                set.
            batch_size: number of rows in a batch; a data set keeps its own batches.

        Returns:
            What was found. `print` shows two tables with advice; a notebook shows them without `print`.

        Raises:
            ValueError: the Distiller is not compiled, its student has no weights, its networks teach each
                other, or labels are missing and needed.

        Example:
            ```python
            import distill

            distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
            distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
            print(distiller.check(x, y))
            ```
        """
        require_ready(self, self.student, self._teachers, examples=examples, batch_size=batch_size)

        def parts(x: Tensors, y: Tensors, sample_weight: Tensors, loss: Any) -> list[tuple[str, Part]]:
            if y is None and self._objective.needs_labels:
                raise ValueError(NEEDS_LABELS)
            learned, (x, ids) = self(x, training=True), split(x)
            own = None if loss is None else loss(y, learned.outputs, sample_weight)
            found = self._parts(x, learned, self._batch(x, y, ids, sample_weight), own, training=True)
            return [(part.tracker.name, part) for part in found]

        return checkup(
            self,
            self._teachers,
            [term.loss for term in self._objective.terms],
            [
                self._prepared(*batch, teaching=True)
                for batch in taken(as_arrays(x), as_arrays(y), examples, batch_size)
            ],
            lambda x, outputs: self._taught(split(x)[0], Tapped(outputs, ())),
            parts,
        )

    # Evaluation, metrics and logs.

    @property
    def output_names(self) -> list[str]:
        """The student's output names, by which `compile` takes losses and metrics."""
        return self.student.output_names

    # Files.

    def save_own_variables(self, store: Any) -> None:
        """Saves the step, the settings by name, and the states of random generators."""
        self._is_walked = True
        save_state(self._objective, (self.student, self._loss_layers), store)

    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` saved, all of it or nothing."""
        self._is_walked = True
        load_state(self._objective, (self.student, self._loss_layers), store)

    def save(self, filepath: PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the student alone, as `student.save` does; `keras.models.load_model` reads it without `distill`.

        An existing file is replaced in one step; it stays as it is if saving fails.
        """
        local = isinstance(filepath, str | os.PathLike) and "://" not in str(filepath)
        if overwrite and not kwargs and local:
            save_model(self.student, filepath)
        else:
            self.student.save(filepath, overwrite=overwrite, **kwargs)

    def export(self, filepath: PathLike, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Exports the student alone, as `student.export` does."""
        self.student.export(filepath, format=format, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Raises NotImplementedError: a Distiller trains a student, and is not rebuilt from a file."""
        raise NotImplementedError(
            "A Distiller has no config, since that would hold a copy of the teacher. Save the student with save() and "
            "the state of training with save_weights(); to go on, make the Distiller anew and load the weights."
        )


def _require_labels_of(y: Tensors, sample_weight: Any) -> None:
    """Raises ValueError if there are weights of examples without labels."""
    if y is None and sample_weight is not None:
        raise ValueError(
            "sample_weight needs labels: Keras drops it without. Received: sample_weight without y. Pass a "
            "data set of (x, y, sample_weight); with student_loss_weight=0, y may be any valid labels."
        )

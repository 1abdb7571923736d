"""The base class of all distillation losses: one value per example, in float32, reduced once by Keras."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

import keras
from keras import ops

from distill._keras import get_keras_mask, reduce_weighted_values, to_snake_case
from distill._types import Tensor, Tensors
from distill.losses._owned import Owned
from distill.losses._settings import Setting
from distill.losses._shapes import Shape, agree, require_shapes
from distill.losses._sparse import SparseLogits

Head = Literal["softmax", "sigmoid"]


class Recipe(TypedDict, total=False):
    """Weights that a loss was published with, under the names of the Distiller's arguments."""

    student_loss_weight: float
    distillation_weight: float


class DistillationLoss(Owned, keras.losses.Loss, keras.distillation.DistillationLoss):
    """Base class of losses that compare what a teacher and a student computed for the same examples.

    A subclass implements `call` and returns one value per example. The base class casts both sides to float32, stops
    the gradient to the teacher, and applies sample weights, masks and the mean over the batch as Keras does for the
    student's own loss. So `sample_weight` and `tf.distribute` treat both losses alike.

    A Distiller always passes maps, tokens and logits to a loss with their channels last, even from layers and
    heads with `data_format="channels_first"`.

    A loss that trains layers of its own, such as a projector, creates them in `build` and lists them in
    `layers`. It belongs to one Distiller at a time. If you give it to a second one, for example for the next
    fold or seed, it starts anew: `build` runs again, schedules begin at their first step, and numbers that
    you set by hand stay. The first Distiller then refuses to continue with it.

    `keras.distillation.Distiller` accepts these losses too.

    Args:
        name: key of the loss in the training logs; the class name in snake case by default.

    Attributes:
        shapes: kinds of tensors that the loss compares, such as "logits (batch, ..., classes)"; "..." stands for any
            number of axes. Both sides must be of one of these kinds.
        same_shape: whether both sides must have the same shape.
        head: activation whose logits the loss compares: "softmax" or "sigmoid". `None` for a loss that reads
            outputs as they are, or layers.
        shift_invariant: whether a loss on softmax logits stays the same if one number is added to all logits
            of a row, as the softmax does. Probabilities determine the logits only up to such a number. So if
            you tell the Distiller that one side returns probabilities (`from_logits=False`), it subtracts
            from both sides their mean over the classes for a loss that is not shift-invariant, like
            `LogitMSE`.
        needs_labels: whether `call` takes the labels as its third argument.
        needs_ids: whether `call` takes the examples' ids as its last argument; see `distill.Identified`.
        sparse: kinds of `SparseLogits` from which `call_sparse` can compute the loss, such as the largest
            logits of a row that `distill.cache` keeps. Empty for a loss that needs all logits.
        recipe: weights that the loss was published with, as keyword arguments of the Distiller. If you use
            the loss alone and set no weights, it trains with these. Empty if there are none; the Distiller
            then weighs both sides equally.
        teacher_layer_name: name of the teacher's layer to read, or `None` for the outputs. A layer of a nested model
            is "backbone/block3"; the second call of a shared layer is "shared[1]". For a tuple of names, `call`
            gets a list.
        student_layer_name: name of the student's layer to read, likewise.
        settings: numbers and schedules that training reads from variables, such as a temperature.
        layers: Keras layers that are trained with the student. The Distiller saves them with its own weights, and
            leaves them out of the student that it saves.
        built: whether `build` has run.

    Raises:
        ValueError: the name cannot be a key in the logs.

    Example:
        A loss of your own:

        ```python
        import keras
        from keras import ops

        import distill


        @keras.saving.register_keras_serializable(package="mine")
        class CosineDistance(distill.losses.DistillationLoss):
            shapes = ("logits (batch, ..., classes)",)
            same_shape = True

            def call(self, teacher, student):
                return 1.0 - ops.sum(ops.normalize(teacher) * ops.normalize(student), axis=-1)


        distiller = distill.Distiller(teacher, student, CosineDistance())
        ```
    """

    shapes: tuple[str, ...] = ("tensors (batch, ...)",)
    same_shape: ClassVar[bool] = False
    head: ClassVar[Head | None] = None
    shift_invariant: ClassVar[bool] = False
    needs_labels: bool = False
    needs_ids: bool = False
    sparse: tuple[type[SparseLogits], ...] = ()
    recipe: Recipe = Recipe()
    teacher_layer_name: str | tuple[str, ...] | None = None
    student_layer_name: str | tuple[str, ...] | None = None

    def __init__(self, *, name: str | None = None) -> None:
        name = to_snake_case(type(self).__name__).strip("_") if name is None else name
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(
                "The name of a distillation loss is its key in the logs: it must start with a letter and continue with "
                f"letters, digits, '_', '.' or '-'. Received: name={name!r}."
            )
        # Always float32, not `floatx`: in half precision a softmax over many classes underflows.
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self.settings: list[Setting] = []
        self.layers: list[keras.Layer] = []
        self.built = False
        self._in_training = True
        self._start = None
        self._kept_layers = []
        self._built_for: list[tuple[Any, ...]] = []

    def build(self, teacher: Tensors, student: Tensors) -> None:
        """Creates what the loss trains. Does nothing by default.

        It runs again for each Distiller that gets the loss. So assign attributes in it, and append only to
        `layers`.

        Args:
            teacher: tensors, or `keras.KerasTensor`s, with the shapes of the teacher's side.
            student: likewise for the student's side.
        """

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables of the loss: the values of its settings and the weights of its layers."""
        weights = [variable for layer in self.layers for variable in layer.variables]
        return [*(setting.variable for setting in self.settings), *weights]

    def ensure_built(self, teacher: Tensors, student: Tensors) -> None:
        """Checks the shapes of both sides, and calls `build` the first time."""
        self.validate_outputs(teacher, student)
        sides = [[tuple(x.shape) for x in keras.tree.flatten(side)] for side in (teacher, student)]
        fitted = [self._fitted_sizes(shape) for shape in (*sides[0], *sides[1])]
        if self.built and self.builds_layers and not all(map(agree, self._built_for, fitted)):
            raise ValueError(
                f"The layers that a {type(self).__name__} trains fit the features that they were built for. Received: "
                f"teacher {_listed(sides[0])} and student {_listed(sides[1])}, with other channels than before. Use a "
                "separate loss for each pair of models."
            )
        if not self.built:
            self._kept_layers = list(self.layers)
            self.build(teacher, student)
            self.built, self._built_for = True, fitted
            if unbuilt := [layer.name for layer in self.layers if not layer.built]:
                raise ValueError(
                    "The layers of a loss must have their weights before the first training step. Received: "
                    f"{type(self).__name__}.build leaves {unbuilt} without weights. Call layer.build(shape) there."
                )

    @property
    def builds_layers(self) -> bool:
        """Whether `build` creates something that fits only one pair of models."""
        return type(self).build is not DistillationLoss.build

    def _fitted_sizes(self, shape: Shape) -> tuple[Any, ...]:
        """Returns the sizes of features that what `build` creates depends on."""
        return len(shape), shape[-1]

    def __call__(
        self,
        teacher: Tensors,
        student: Tensors,
        sample_weight: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the mean of `call` over the batch, each value times its weight: a float32 scalar.

        Args:
            teacher: what the teacher computed, or `SparseLogits` in place of its logits; receives no
                gradient.
            student: what the student computed for the same examples.
            sample_weight: weights with the shape of `call`'s values, or with fewer trailing axes: one weight
                per example, (batch,), counts for all positions of the example.
            labels: labels of the examples, for a loss that needs them.
            ids: ids of the examples, for a loss that needs them.
            training: `False` in an evaluation; layers of the loss then run in inference mode.

        Raises:
            ValueError: the shapes do not fit, `call` or `sample_weight` has a wrong shape, or labels or ids are
                missing.
        """
        self.ensure_built(teacher, student)
        if self.needs_labels and labels is None:
            raise ValueError(
                f"{type(self).__name__} needs the label of each example. Received: labels=None. "
                "Train on (x, y), or use a loss that needs no labels, such as SoftTargets."
            )
        if self.needs_ids and ids is None:
            raise ValueError(
                f"{type(self).__name__} remembers each example, so it must know which examples a batch holds. "
                "Received: inputs without ids. Train on distill.Identified(x, ids), where ids numbers the "
                "training examples from 0."
            )
        self._in_training = training  # while it is called
        masks = [get_keras_mask(tensor) for tensor in keras.tree.flatten(student)]
        student = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x, dtype=self.dtype), student)
        students = keras.tree.flatten(student)
        if isinstance(teacher, SparseLogits):
            values = self.call_sparse(teacher, student)
        else:
            teachers = [
                ops.stop_gradient(
                    self._aligned(
                        ops.convert_to_tensor(x, dtype=self.dtype), students[i if self.same_shape else 0]
                    )
                )
                for i, x in enumerate(keras.tree.flatten(teacher))
            ]
            extra = [*([labels] if self.needs_labels else []), *([ids] if self.needs_ids else [])]
            values = self.call(keras.tree.pack_sequence_as(teacher, teachers), student, *extra)
        batch = students[0].shape[0]
        if len(values.shape) == 0 or (None not in (values.shape[0], batch) and values.shape[0] != batch):
            raise ValueError(
                "The call(teacher, student) of a distillation loss must return one value per example, so that weights "
                f"and masks can be applied. Received: shape {tuple(values.shape)} from {type(self).__name__} for a "
                f"batch of {batch}. Leave the mean over the batch to the base class."
            )
        if sample_weight is not None:
            sample_weight = _expand_weight(sample_weight, len(values.shape), type(self).__name__)
        # A mask with more axes than the values does not apply: it is of tokens, and the loss compares whole sequences.
        fitting = (one for one in masks if one is not None and len(one.shape) <= len(values.shape))
        mask = next(fitting, None)
        if mask is not None:
            mask = _expand_weight(mask, len(values.shape), type(self).__name__)
        return reduce_weighted_values(values, sample_weight, mask, self.reduction, self.dtype)

    def _aligned(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns `teacher`. If sizes that are unknown before the step differ, the step fails: no broadcasting."""
        shape = ops.shape(student)
        wanted = shape if self.same_shape else (shape[0], *ops.shape(teacher)[1:])
        known = all(isinstance(size, int) for size in (*wanted, *ops.shape(teacher)))
        if known and tuple(wanted) != tuple(teacher.shape):
            raise ValueError(
                f"{type(self).__name__} compares example by example, so the teacher must return one row per example. "
                f"Received: teacher {tuple(teacher.shape)} where this student needs {tuple(wanted)}."
            )
        return teacher if known else ops.reshape(teacher, wanted)

    def call(self, teacher: Tensors, student: Tensors, *extra: Tensor) -> Tensor:
        """Returns one loss per example. A subclass implements this. It runs in training, and in evaluations on request.

        Args:
            teacher: float32 tensor of the teacher's side, or a list if `teacher_layer_name` is a tuple.
            student: float32 tensor of the student's side, likewise.
            *extra: the labels, unchanged, if `needs_labels`; then the ids, if `needs_ids`.

        Returns:
            Tensor (batch,), or (batch, ...) with one value per position.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement call(teacher, student).")

    def call_sparse(self, teacher: Any, student: Tensor) -> Tensor:
        """Returns what `call` does, from the known logits only, for the kinds that `sparse` lists.

        Args:
            teacher: a `SparseLogits`.
            student: float32 tensor of the student's side.
        """
        raise ValueError(
            f"{type(self).__name__} needs the teacher's logits of all classes. Received: {type(teacher).__name__}."
        )

    def validate_outputs(self, teacher_outputs: Tensors, student_outputs: Tensors) -> None:
        """Raises ValueError unless both sides have shapes that the class declares."""
        loss = type(self).__name__
        names = {"teacher": self.teacher_layer_name, "student": self.student_layer_name}
        for side, outputs in (("teacher", teacher_outputs), ("student", student_outputs)):
            if keras.tree.is_nested(outputs) and not isinstance(names[side], tuple):
                keys = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
                raise ValueError(
                    f"{loss} compares one output. Received: a {side} with outputs {keys}. "
                    f"Name the output: distillation_losses={{{keys[0]!r}: {loss}(...)}}."
                )
        teachers, students = keras.tree.flatten(teacher_outputs), keras.tree.flatten(student_outputs)
        if len(teachers) == len(students):  # a loss may read more layers of one side than of the other
            for teacher, student in zip(teachers, students, strict=True):
                require_shapes(
                    loss,
                    self.shapes,
                    tuple(teacher.shape),
                    tuple(student.shape),
                    same_shape=self.same_shape,
                    several_classes=self.head == "softmax",
                )

    def compute_loss(self, teacher_outputs: Tensors, student_outputs: Tensors, **kwargs: Any) -> Tensor:
        """Returns the scalar loss for `keras.distillation.Distiller`; it ignores `kwargs`."""
        return self(teacher_outputs, student_outputs)

    def average_predictions(self, teachers: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Returns one tensor that stands for the weighted mean of several teachers' probabilities.

        Losses that compare probabilities implement this.

        Args:
            teachers: for each teacher, the tensor that the loss reads.
            weights: scalar weight of each teacher; they sum to 1.
        """
        raise ValueError(
            f"{type(self).__name__} does not compare probabilities, so it cannot average those of several teachers. "
            "Received: teacher_mean='probabilities'. Leave teacher_mean out, and the losses against each teacher are "
            "added up."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name}


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))


def _expand_weight(weight: Tensor, rank: int, loss: str) -> Tensor:
    """Appends axes of size 1 to `weight`, so that one weight per example counts for all its positions."""
    weight = ops.convert_to_tensor(weight)
    if len(weight.shape) == rank + 1 and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, axis=-1)  # Keras takes a column of weights too
    if len(weight.shape) > rank:
        raise ValueError(
            f"{loss} has values of {rank} ax{'es' if rank > 1 else 'is'}, so weights and masks must have as many or "
            f"fewer. Received: shape {tuple(weight.shape)}. Give one weight per example, or apply the weights to the "
            "student's own loss only, with weigh_distillation=False."
        )
    # Otherwise Keras would broadcast (batch,) along the last axis of (batch, time).
    return ops.reshape(weight, (*ops.shape(weight), *(1,) * (rank - len(weight.shape))))

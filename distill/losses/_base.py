"""What every distillation loss shares: one value per example, in float32, reduced once by Keras."""

import re
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from distill._keras import get_keras_mask, reduce_weighted_values
from distill.losses._settings import Setting

Head = Literal["softmax", "sigmoid"]


class DistillationLoss(keras.losses.Loss, keras.distillation.DistillationLoss):
    """Base class: compares what a teacher and a student computed for the same examples.

    A subclass implements `call` and returns one value per example. Weights, masks and the mean over
    the batch are applied as to the student's own loss, so both agree on `sample_weight` and under
    `tf.distribute`. Inputs are cast to float32 first, and the teacher's side is cut from the gradient.
    What is trained with the student, such as a projector, is made by `build` and listed in `layers`.

    It is also a `keras.distillation.DistillationLoss`: `keras.distillation.Distiller` accepts it.

    Args:
        name: the key of this term in the training logs.

    Attributes:
        head: the activation whose logits the loss compares, or `None` if it reads outputs or layers.
        same_shape: whether both sides must be of one shape.
        needs_labels: whether `call` takes the labels as a third argument.
        needs_ids: whether `call` takes the examples' numbers as its last, see `distill.training.Identified`.
        recipe: the weights that the loss was published with: `Distiller(teacher, student, loss, **loss.recipe)`.
            Empty where there are none: the Distiller's own are half and half.
        teacher_layer_name: the teacher's layer to read instead of its outputs, or `None`; a layer of a nested
            model is "backbone/block3", the second call of a shared layer "shared[1]". A tuple of several gives
            `call` a list.
        student_layer_name: likewise for the student.
        settings: the numbers or schedules that training reads from variables, such as a temperature.
        layers: Keras layers that are trained with the student; the Distiller keeps them in its weights and
            leaves them out of the student that it saves.
        built: whether `build` was called.
    """

    head: ClassVar[Head | None] = None
    same_shape: ClassVar[bool] = False
    needs_labels: bool = False
    needs_ids: bool = False
    recipe: ClassVar[dict[str, float]] = {}
    teacher_layer_name: str | tuple[str, ...] | None = None
    student_layer_name: str | tuple[str, ...] | None = None

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise ValueError(
                "A distillation loss is known in the logs by its name: a letter, then letters, digits, '_', '.' "
                f"or '-'. Received: name={name!r}."
            )
        # Not `floatx`: in half precision a softmax over many classes underflows.
        super().__init__(name=name, reduction="sum_over_batch_size", dtype="float32")
        self.settings: list[Setting] = []
        self.layers: list[keras.Layer] = []
        self.built = False

    def build(self, teacher: Any, student: Any) -> None:
        """Makes what is trained, from tensors or `keras.KerasTensor`s of the shapes to come; nothing by default."""

    @property
    def variables(self) -> list[keras.Variable]:
        """What training reads or writes besides the models: the settings' values and the layers' weights."""
        of_layers = [variable for layer in self.layers for variable in layer.variables]
        return [*(setting.variable for setting in self.settings), *of_layers]

    def ensure_built(self, teacher: Any, student: Any) -> None:
        """Checks both sides, and calls `build` once."""
        self.validate_outputs(teacher, student)
        if not self.built:
            self.build(teacher, student)
            self.built = True
            if unbuilt := [layer.name for layer in self.layers if not layer.built]:
                raise ValueError(
                    "What a loss trains is there before the first step. Received: "
                    f"{type(self).__name__}.build leaves {unbuilt} without weights. Call their build(shape) in it."
                )

    def __call__(
        self, teacher: Any, student: Any, sample_weight: Any = None, labels: Any = None, ids: Any = None
    ) -> Any:
        """Mean over the batch of `call`, each value times its weight; a float32 scalar.

        Args:
            teacher: what the teacher computed; receives no gradient.
            student: what the student computed for the same examples.
            sample_weight: of the shape of `call`'s values, or with fewer trailing axes: one weight per example
                (batch,) holds for all its positions.
            labels: of the examples, for a loss that needs them.
            ids: their numbers, for a loss that needs them.

        Raises:
            ValueError: the sides do not fit, `call` or `sample_weight` has a wrong shape, or labels or ids are missing.
        """
        self.ensure_built(teacher, student)
        if self.needs_labels and labels is None:
            raise ValueError(
                f"{type(self).__name__} compares by the label of each example. Received: labels=None. "
                "Train on (x, y), or use a loss that needs no labels, such as SoftTargets."
            )
        if self.needs_ids and ids is None:
            raise ValueError(
                f"{type(self).__name__} remembers examples, so it must know which they are. Received: inputs without "
                "ids. Train on distill.training.Identified(x, ids), where ids numbers the training examples from 0."
            )
        masks = [get_keras_mask(tensor) for tensor in keras.tree.flatten(student)]
        student = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x, dtype=self.dtype), student)
        shape = ops.shape(keras.tree.flatten(student)[0])
        teacher = keras.tree.map_structure(
            lambda x: ops.stop_gradient(self._aligned(ops.convert_to_tensor(x, dtype=self.dtype), shape)),
            teacher,
        )
        asked = [*([labels] if self.needs_labels else []), *([ids] if self.needs_ids else [])]
        values = self.call(teacher, student, *asked)
        batch = keras.tree.flatten(student)[0].shape[0]
        if len(values.shape) == 0 or (None not in (values.shape[0], batch) and values.shape[0] != batch):
            raise ValueError(
                "call(teacher, student) of a distillation loss returns one value per example, so that weights and "
                f"masks can be applied. Received: shape {tuple(values.shape)} from {type(self).__name__} for a batch "
                f"of {batch}. Leave the mean over the batch to the base class."
            )
        if sample_weight is not None:
            sample_weight = expand_weight(sample_weight, len(values.shape), type(self).__name__)
        # A mask of more axes than the values (of tokens, where a loss compares whole sequences) says nothing here.
        mask = masks[0] if masks[0] is not None and len(masks[0].shape) <= len(values.shape) else None
        if mask is not None:
            mask = expand_weight(mask, len(values.shape), type(self).__name__)
        return reduce_weighted_values(values, sample_weight, mask, self.reduction, self.dtype)

    def _aligned(self, teacher: Any, shape: tuple[Any, ...]) -> Any:
        """`teacher` as it is, or an error in the step: sizes that are known only there would be broadcast."""
        wanted = shape if self.same_shape else (shape[0], *ops.shape(teacher)[1:])
        known = all(isinstance(size, int) for size in (*wanted, *ops.shape(teacher)))
        if known and tuple(wanted) != tuple(teacher.shape):
            raise ValueError(
                f"{type(self).__name__} compares example by example. Received: a teacher's {tuple(teacher.shape)} "
                f"where the student's sizes ask for {tuple(wanted)}. Let the teacher answer for each example."
            )
        return teacher if known else ops.reshape(teacher, wanted)

    def call(self, teacher: Any, student: Any, *asked: Any) -> Any:
        """One loss per example, from tensors already in float32; a subclass implements it. It runs in training alone.

        Args:
            teacher: what is read of the teacher: a tensor, or a list where `teacher_layer_name` is a tuple.
            student: likewise.
            *asked: the labels, as they came, if `needs_labels`; the ids, if `needs_ids`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement call(teacher, student).")

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are single tensors, or read of as many layers, of fitting shapes."""
        names = {"teacher": self.teacher_layer_name, "student": self.student_layer_name}
        for side, outputs in (("teacher", teacher_outputs), ("student", student_outputs)):
            if keras.tree.is_nested(outputs) and not isinstance(names[side], tuple):
                keys = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
                raise ValueError(
                    f"{type(self).__name__} compares one output. Received: a {side} with outputs {keys}. "
                    f"Say which: distillation_losses={{{keys[0]!r}: {type(self).__name__}(...)}}."
                )
        if self.same_shape:
            require_same_shape(type(self).__name__, teacher_outputs, student_outputs)

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        """The scalar that `keras.distillation.Distiller` asks for; `kwargs` are its own and unused."""
        return self(teacher_outputs, student_outputs)

    def average_predictions(self, teachers: list[Any], weights: list[Any]) -> Any:
        """One tensor that stands for the weighted mean of several teachers' predictions; a subclass implements it.

        Args:
            teachers: the tensor that the loss reads, of each teacher.
            weights: a scalar for each; they sum to 1.
        """
        raise ValueError(
            f"{type(self).__name__} compares no probabilities, so teachers have no mean of them. "
            "Received: teacher_mean='probabilities'. Leave teacher_mean out: the losses against each are added up."
        )


class BatchLoss(DistillationLoss):
    """Lets a `keras.distillation` loss, which returns one number for a whole batch, stand beside ours.

    Args:
        loss: a `keras.distillation.DistillationLoss`; it reads the layers that its attributes
            `teacher_layer_name` and `student_layer_name` name, where it has them, else the outputs.
    """

    def __init__(self, loss: keras.distillation.DistillationLoss) -> None:
        super().__init__(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(loss).__name__).lower())
        self._loss = loss
        # Keras defines no attribute on the base class: its own Distiller asks the same way.
        self.teacher_layer_name = getattr(loss, "teacher_layer_name", None)
        self.student_layer_name = getattr(loss, "student_layer_name", None)

    def __call__(
        self, teacher: Any, student: Any, sample_weight: Any = None, labels: Any = None, ids: Any = None
    ) -> Any:
        """The number of the batch; the wrapped loss knows nothing of weights or masks."""
        unmasked = keras.tree.map_structure(ops.copy, student)  # a copy has no Keras mask
        return super().__call__(teacher, unmasked, sample_weight)

    def call(self, teacher: Any, student: Any, *asked: Any) -> Any:
        """The batch's number for each of its examples, so that their mean is the number again."""
        value = self._loss.compute_loss(teacher, student)
        batch = ops.shape(keras.tree.flatten(student)[0])[0]
        return ops.broadcast_to(ops.cast(value, "float32"), (batch,))

    def validate_model_compatibility(self, teacher: Any, student: keras.Model) -> None:
        """Asks the wrapped loss."""
        # That of Keras asks for layers at the top level alone; `Taps` finds nested ones too, or refuses.
        if not isinstance(self._loss, keras.distillation.FeatureDistillation):
            self._loss.validate_model_compatibility(teacher, student)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Asks the wrapped loss, and refuses what it would broadcast."""
        self._loss.validate_outputs(teacher_outputs, student_outputs)
        sides = (keras.tree.flatten(outputs) for outputs in (teacher_outputs, student_outputs))
        for teacher, student in zip(*sides, strict=False):
            if len(teacher.shape) != len(student.shape) or any(
                a != b and 1 in (a, b) for a, b in zip(teacher.shape[1:], student.shape[1:], strict=True)
            ):
                require_same_shape(self.name, teacher, student)


def expand_weight(weight: Any, rank: int, what: str) -> Any:
    """`weight` with axes of size 1 appended, so that a weight per example holds for all its positions."""
    weight = ops.convert_to_tensor(weight)
    if len(weight.shape) == rank + 1 and weight.shape[-1] == 1:
        weight = ops.squeeze(weight, axis=-1)  # a column of weights, as Keras takes it
    if len(weight.shape) > rank:
        raise ValueError(
            f"{what} has values of {rank} ax{'es' if rank > 1 else 'is'}, so weights and masks have as many or fewer. "
            f"Received: shape {tuple(weight.shape)}. Give one weight per example, or keep the weights to the "
            "student's own loss with weigh_distillation=False."
        )
    # Left as they are, Keras would broadcast (batch,) along the last axis of (batch, time).
    return ops.reshape(weight, (*ops.shape(weight), *(1,) * (rank - len(weight.shape))))


def require_same_shape(what: str, teacher: Any, student: Any) -> None:
    """Raises ValueError unless two tensors agree in every statically known size; a 1 is a size like others."""
    left, right = tuple(teacher.shape), tuple(student.shape)
    agree = len(left) == len(right) and all(
        a == b or (None in (a, b) and (axis == 0 or 1 not in (a, b)))
        for axis, (a, b) in enumerate(zip(left, right, strict=True))
    )
    if not agree:
        raise ValueError(
            f"{what} compares element by element, so both sides need one shape. "
            f"Received teacher {left} and student {right}. "
            "Logits need the same label set on both sides."
        )

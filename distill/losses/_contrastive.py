"""Contrastive representation distillation: tells embeddings from remembered ones of other examples."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._keras import in_stateless_scope
from distill._types import Tensor
from distill.losses import projectors
from distill.losses._base import Recipe
from distill.losses._numbers import require_count, require_number
from distill.losses._relation import Relation, flat
from distill.losses._shapes import Shape


@keras.saving.register_keras_serializable(package="distill")
class ContrastiveRepresentation(Relation):
    """How well the embeddings of teacher and student together tell an example from others: CRD.

    A trained dense layer on each side maps its features to embeddings of length 1. A memory holds embeddings
    of both sides. For an example i, with its embedding z of one side and the memory's embeddings m of the
    other side, the loss is

        −log x_i / (x_i + K/n) − Σ_k log (K/n) / (x_k + K/n),    x_j = exp(⟨z, m_j⟩ / temperature) / Z

    with K negatives k. They are drawn for each example and step from the examples of other classes among the
    n training examples; 1e-7 is added to each denominator. The value is the sum for both anchors: the
    student's z against the teacher's memory, and the teacher's against the student's. Each anchor has its own
    Z: n times the mean of the first batch's exponentials, which then stays fixed. After each step, the memory
    of the batch's examples becomes momentum · old + (1 − momentum) · new, at length 1 [1].

    A training step must know which examples its batch holds, so train on `distill.Identified(x, ids)`. An id
    without a label makes the loss NaN.

    Memory: two banks of n · width floats are created once and updated in place. A step also takes a few times
    batch · (n + K) floats, because the batch is scored against the whole bank. That is smaller and faster
    than gathering batch · K · width floats, unless n is above K · width: at batch 256 and n = K = 4096, a
    step takes 0.05 GB compiled by XLA and 0.11 GB without, but 1.1 or 1.2 GB with gathered rows
    (`scripts/bench/losses`).

    `recipe`: 1 for the student's own loss, 0.8 for this one.

    Args:
        labels: class of each training example, integers (n,), in the order of the ids. To draw negatives from
            all other examples, as the paper does without labels, give each example a class of its own:
            `np.arange(n)`.
        teacher_layer_name: the teacher's layer to read; the published choice is the final embedding, after
            pooling. `None` reads its outputs.
        student_layer_name: the student's layer, likewise. The widths may differ.
        negatives: K; reduced to n if there are fewer examples. They are drawn with replacement; the reference
            code does this if a class has fewer negatives than K.
        temperature: number >= 0.02.
        momentum: momentum of the memory, from 0 to 1.
        width: width of the embeddings.
        name: key of this loss in the training logs.

    Call args:
        teacher: features (batch, ...); receives no gradient.
        student: features (batch, ...), with the same batch size.
        ids: integers (batch,), from 0 to n − 1.

    Returns:
        `call`: (batch,) float32, >= 0, in nats.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: labels are not integers of two classes or more; a number is out of range; a side has no
            axis besides the batch; ids are missing or not integers (batch,); there are several teachers or
            replicas, which would each need a memory of their own.

    Example:
        ```python
        import numpy as np

        import distill

        layers = teacher.layers[-2].name, student.layers[-2].name
        loss = distill.losses.ContrastiveRepresentation(y, *layers, negatives=16)
        distiller = distill.Distiller(teacher, student, loss)
        distiller.compile("adam", loss="sparse_categorical_crossentropy")
        distiller.fit(distill.Identified(x, np.arange(len(x))), y)
        ```

    References:
        [1] Tian, Krishnan, Isola 2019, arXiv:1910.10699, sections 3.2 and 3.4. Defaults, the memories, the sum of
            both anchors, Z and 1e-7 follow the reference code (RepDistiller).
    """

    needs_ids = True
    recipe = Recipe(student_loss_weight=1.0, distillation_weight=0.8)

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
        name: str = "contrastive_representation",
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        self._labels = _checked_labels(labels)
        self._negatives = require_count("negatives", negatives)
        self._width = require_count("width", width)
        # Below 0.02, exp(1 / temperature) comes near the end of float32.
        self._temperature = require_number("temperature", temperature, 0.02)
        self._momentum = require_number("momentum", momentum, 0.0, 1.0)
        # The banks hold the examples sorted by class, so that those of other classes are all rows but one stretch.
        order = np.argsort(self._labels, kind="stable")
        self._row_of = np.empty_like(order)
        self._row_of[order] = np.arange(len(order))
        _, inverse, sizes = np.unique(self._labels, return_inverse=True, return_counts=True)
        self._class_size = sizes[inverse]
        self._class_start = (np.cumsum(sizes) - sizes)[inverse]

    def build(self, teacher: Tensor, student: Tensor) -> None:
        """Creates the layers of the embeddings, and the memory."""
        if any(size is None for side in (teacher, student) for size in side.shape[1:]):
            raise ValueError(
                "ContrastiveRepresentation must know all sizes of the features besides the batch. Received: teacher "
                f"{tuple(teacher.shape)} and student {tuple(student.shape)}. First pool the axes whose sizes vary."
            )
        self._embed_teacher, self._embed_student = (projectors.linear(self._width, rank=2) for _ in range(2))
        self._memory = _Memory(len(self._labels), self._width)
        self._embed_teacher.build((None, math.prod(teacher.shape[1:])))
        self._embed_student.build((None, math.prod(student.shape[1:])))
        self._memory.build(None)
        self.layers = [self._embed_teacher, self._embed_student, self._memory]

    def _fitted_sizes(self, shape: Shape) -> tuple[Any, ...]:
        return shape[1:]

    def call(self, teacher: Tensor, student: Tensor, ids: Tensor) -> Tensor:
        """Returns the value of each example, from both anchors, and updates the memory."""
        ids = ops.convert_to_tensor(ids)
        if not keras.backend.is_int_dtype(ids.dtype) or len(ids.shape) != 1:
            raise ValueError(
                "ids must be the numbers of the examples in the training data, integers (batch,). Received: "
                f"{keras.backend.standardize_dtype(ids.dtype)} of shape {tuple(ids.shape)}."
            )
        ids = ops.cast(ids, "int32")
        known = ops.logical_and(ids >= 0, ids < len(self._labels))
        ids = ops.clip(ids, 0, len(self._labels) - 1)
        own = ops.expand_dims(ops.take(self._row_of.astype("int32"), ids), -1)
        rows = ops.concatenate([own, self._draw(ids)], axis=1)
        of_teacher = _unit(self._embed_teacher(flat(teacher)))
        of_student = _unit(self._embed_student(flat(student)))
        memory = self._memory
        value = self._contrast(of_student, memory.teacher, rows, memory.student_scale)
        value += self._contrast(of_teacher, memory.student, rows, memory.teacher_scale)
        for bank, embeddings in ((memory.teacher, of_teacher), (memory.student, of_student)):
            old = ops.take(ops.convert_to_tensor(bank), own[:, 0], axis=0)
            mixed = self._momentum * old + (1.0 - self._momentum) * ops.stop_gradient(embeddings)
            _write(bank, own, _unit(mixed))
        # For an unknown id, a gather would raise on one device and take another example's row on the next.
        return ops.where(known, value, float("nan"))

    def _draw(self, ids: Tensor) -> Tensor:
        """Returns rows (batch, K) of examples of other classes."""
        size, start = (
            ops.expand_dims(ops.take(x.astype("int32"), ids), -1)
            for x in (self._class_size, self._class_start)
        )
        others = len(self._labels) - size
        shape = (ops.shape(ids)[0], min(self._negatives, len(self._labels)))
        uniform = keras.random.uniform(shape, seed=self._memory.seed)
        # The product may be rounded up to one too many.
        place = ops.minimum(ops.cast(uniform * ops.cast(others, "float32"), "int32"), others - 1)
        return ops.where(place < start, place, place + size)

    def _contrast(self, anchors: Tensor, bank: keras.Variable, rows: Tensor, scale: keras.Variable) -> Tensor:
        """Returns minus the log likelihood of telling an anchor's own row, the first, from the others; sets Z once."""
        examples = len(self._labels)
        noise = (rows.shape[1] - 1) / examples
        scores = ops.matmul(anchors / self._temperature, ops.transpose(_as_read(bank)))
        scores = ops.take_along_axis(scores, rows, axis=1)
        exponentials = ops.exp(scores)
        z = ops.convert_to_tensor(scale)
        z = ops.where(z > 0, z, ops.stop_gradient(ops.mean(exponentials)) * examples)
        scale.assign(z)
        # With x = exponentials / z, each row adds log((x + noise + 1e-7) / noise), and its own also −log(x / noise).
        factor = 1.0 / (z * noise)
        shares = ops.log(exponentials * factor + (1.0 + 1e-7 / noise))
        return ops.sum(shares, axis=-1) - scores[:, 0] - ops.log(factor)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "labels": self._labels.tolist(),
            "negatives": self._negatives,
            "temperature": self._temperature,
            "momentum": self._momentum,
            "width": self._width,
            **super().get_config(),
        }


class _Memory(keras.Layer):
    """Memory of every example: a bank of embeddings for each side, and Z for each anchor."""

    def __init__(self, examples: int, width: int) -> None:
        super().__init__(dtype="float32", name="memory")
        self._shape = (examples, width)
        self.seed = keras.random.SeedGenerator()

    def build(self, _: Any) -> None:
        """Creates the banks, with random rows whose expected length is 1."""
        limit = 1.0 / math.sqrt(self._shape[1] / 3.0)
        for side in ("teacher", "student"):
            start = keras.initializers.RandomUniform(-limit, limit)
            setattr(
                self, side, self.add_weight(shape=self._shape, initializer=start, trainable=False, name=side)
            )
            # 0 until the first batch.
            scale = self.add_weight(shape=(), initializer="zeros", trainable=False, name=f"{side}_scale")
            setattr(self, f"{side}_scale", scale)
        self.built = True


def _write(bank: keras.Variable, indices: Tensor, rows: Tensor) -> None:
    """Replaces rows (k, width) of a bank at indices (k, 1)."""
    if keras.backend.backend() == "tensorflow" and not in_stateless_scope():
        # In place: an assignment copies the bank unless XLA compiles the step. A scope would not see it.
        bank.value.scatter_nd_update(indices, rows)
    else:
        bank.assign(ops.scatter_update(bank, indices, rows))


def _as_read(bank: keras.Variable) -> Tensor:
    """Returns the bank as it is now, for a gradient that is computed after the next write."""
    # torch writes in place, and then lacks what it read; the other backends keep it.
    return ops.copy(bank) if keras.backend.backend() == "torch" else ops.convert_to_tensor(bank)


def _unit(x: Tensor) -> Tensor:
    """Returns rows at length 1; a row of zeros stays as it is, and gets no gradient."""
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.where(squares > 0, ops.rsqrt(ops.where(squares > 0, squares, 1.0)), 0.0)


def _checked_labels(labels: Any) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(np.unique(array)) < 2:
        raise ValueError(
            "labels must hold the class of each training example, integers (n,) of two classes or more, because "
            f"negatives are drawn from other classes. Received: {array.dtype} of shape {array.shape}"
            f"{', all of one class' if array.ndim == 1 and array.dtype.kind in 'iu' else ''}."
        )
    return array

"""Teachers: trained models that are run, never trained, and never saved with the student."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from distill._keras import flatten_layers
from distill._types import Tensor, Tensors
from distill.training._taps import Read, Tapped, Taps


class Teacher:
    """Runs a trained model in inference mode and without a gradient.

    It is a plain object, not a Keras layer. A `Distiller` that holds it does not track the model: the model's
    `trainable` flags stay as they are, its variables are never updated, and no file contains it.

    Args:
        model: a built `keras.Model`. Or another Keras layer (such as `keras.layers.TFSMLayer` over a SavedModel), a
            tf_keras model or any function of a batch: their graph cannot be read, so they teach by their outputs
            alone. They are called inside the compiled step.
        reads: what the losses read; see `Taps`.
        preprocessing: function that makes this teacher's inputs from a batch of the student's. It becomes part of the
            compiled step. `None` passes the student's inputs on.

    Attributes:
        model: the model, as it was given.
        name: its name in errors.
        spec: shapes to expect; see `Taps`.

    Raises:
        ValueError: `model` cannot be called or is not built, or what `Taps` refuses.

    Example:
        ```python
        import distill

        distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
        assert distiller.teacher.model is teacher  # a Distiller makes the `Teacher` itself
        answers = distiller.teacher(x[:8]).outputs
        ```
    """

    def __init__(
        self,
        model: Any,
        *,
        reads: Sequence[Read] = (),
        preprocessing: Callable[[Any], Any] | None = None,
    ) -> None:
        _require_teacher(model)
        if preprocessing is not None and not callable(preprocessing):
            raise ValueError(
                "teacher_preprocessing must be a function of a batch of inputs. "
                f"Received: {preprocessing!r}, a {type(preprocessing).__name__}."
            )
        self.model = model
        self.name = _name_of(model)
        self._preprocessing = preprocessing
        run = model if isinstance(model, keras.Model) else _in_inference(model)
        self._taps = Taps(run, reads, self.name, only_serves_all=True)
        self.spec = self._taps.spec

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of a Keras model or layer; empty for anything else."""
        return list(self.model.variables) if isinstance(self.model, keras.Layer) else []

    @property
    def supports_jit(self) -> bool:
        """Whether XLA may compile the teacher, as far as Keras can tell."""
        return isinstance(self.model, keras.Layer) and all(
            layer.supports_jit for layer in flatten_layers(self.model)
        )

    def expected(self, learned: Tapped) -> Tapped:
        """Returns the shapes of what it will answer, next to a student of the shapes `learned`."""
        return self.spec

    def __call__(self, inputs: Tensors, learned: Tapped | None = None) -> Tapped:
        """Returns the model's outputs, and what the losses read, for a batch; constants to any gradient.

        Args:
            inputs: the student's inputs.
            learned: what the student returned for them; only a `Peer` uses it.
        """
        try:
            if self._preprocessing is not None:
                inputs = self._preprocessing(inputs)
            with _no_gradient():
                tapped = self._taps(inputs, training=False)
            return keras.tree.map_structure(_constant, tapped)
        except Exception as error:
            error.add_note(
                f"(Raised while running the teacher {self.name!r} on the student's batch. If it needs other inputs, "
                "give the Distiller a teacher_preprocessing.)"
            )
            raise


class Peer:
    """One output of a student as the teacher of another output, for networks that learn from each other.

    It takes the place of a `Teacher`. It teaches output i of n with what output i + `ahead`, counted around, answered
    in the same forward pass.

    Args:
        ahead: distance between the outputs, from 1 to n − 1. With n − 1 peers, each output learns from all others.
    """

    def __init__(self, ahead: int) -> None:
        self.name = f"peer{ahead}"
        self.variables: list[keras.Variable] = []
        self.supports_jit = True
        self._ahead = ahead

    def expected(self, learned: Tapped) -> Tapped:
        """Returns the shapes of what it will answer."""
        count = len(learned.values)
        return Tapped(None, tuple(learned.values[(i + self._ahead) % count] for i in range(count)))

    def __call__(self, inputs: Tensors, learned: Tapped) -> Tapped:
        """Returns what the losses read of the other outputs, as constants to any gradient."""
        return Tapped(None, tuple(ops.stop_gradient(value) for value in self.expected(learned).values))


def _require_teacher(model: Any) -> None:
    if isinstance(model, type) or not callable(model):
        raise ValueError(
            "A teacher must be a trained keras.Model, another Keras layer, a tf_keras model or a function of a batch. "
            f"Received: {model!r}."
        )
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(
            f"A teacher must be trained, so it must have weights. Received: {model.name!r} without weights. "
            "Load it with its weights, or call it on a batch first."
        )


def _name_of(model: Any) -> str:
    if isinstance(model, keras.Layer) or _is_tf_keras(model):
        return model.name
    return getattr(model, "__name__", type(model).__name__)


def _constant(output: Tensor) -> Tensor:
    output = ops.stop_gradient(ops.convert_to_tensor(output))
    try:
        len(output.shape)
    except ValueError as error:
        raise ValueError(
            "A teacher's answers must have a known number of axes. Received: a tensor of unknown shape. "
            "Set the shape in the function, as tf.ensure_shape(answer, (None, classes)) does."
        ) from error
    return output


def _no_gradient() -> AbstractContextManager[Any]:
    """On torch, keeps the forward pass from storing what a gradient would need; other backends know from the graph."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _in_inference(model: Any) -> Callable[..., Any]:
    """Returns a function that is called as a Keras model is."""
    if isinstance(model, keras.Layer) or _is_tf_keras(model):
        return lambda inputs, training: model(inputs, training=False)
    return lambda inputs, training: model(inputs)


def _is_tf_keras(model: Any) -> bool:
    # Keras 2 lives on as the package tf_keras, which is not imported just to ask this.
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__)

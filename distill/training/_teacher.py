"""The frozen teacher: a model that is run, never trained, never saved with the student."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from distill._keras import flatten_layers
from distill.training._taps import Read, Tapped, Taps


class Teacher:
    """Runs a trained model in inference mode and without a gradient.

    A plain object, not a Keras layer: a `Distiller` that holds it does not track the model, so its
    `trainable` flags stay as they are, its variables are never updated and no file contains it.

    Args:
        model: a built `keras.Model`; or a `keras.Layer` (such as `keras.layers.TFSMLayer` over a SavedModel), a
            tf_keras model or any function of a batch, whose graph cannot be read: these teach by their
            outputs alone. They are called inside the compiled step.
        reads: what to read, see `Taps`.
        preprocessing: applied to each batch of inputs before this teacher sees it; it becomes part of the
            compiled step. `None` for what the student sees.

    Attributes:
        model: the model, as it came.
        name: how errors call it.
        spec: the shapes to expect, see `Taps`.

    Raises:
        ValueError: `model` cannot be called or is not built, or see `Taps`.
    """

    def __init__(
        self,
        model: Any,
        reads: Sequence[Read] = (),
        preprocessing: Callable[[Any], Any] | None = None,
    ) -> None:
        require_teacher(model)
        if preprocessing is not None and not callable(preprocessing):
            raise ValueError(
                "teacher_preprocessing is a function of a batch of inputs. "
                f"Received: {preprocessing!r}, a {type(preprocessing).__name__}."
            )
        self.model = model
        self.name = name_of(model)
        self._preprocessing = preprocessing
        run = model if isinstance(model, keras.Model) else _in_inference(model)
        self._taps = Taps(run, reads, self.name, only_serves_all=True)
        self.spec = self._taps.spec

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's, where it is one of Keras; empty elsewhere."""
        return list(self.model.variables) if isinstance(self.model, keras.Layer) else []

    @property
    def supports_jit(self) -> bool:
        """Whether XLA may compile it, as far as Keras can tell."""
        return isinstance(self.model, keras.Layer) and all(
            layer.supports_jit for layer in flatten_layers(self.model)
        )

    def expected(self, learned: Tapped) -> Tapped:
        """The shapes of what it will answer beside a student of the shapes `learned`."""
        return self.spec

    def __call__(self, inputs: Any, learned: Tapped | None = None) -> Tapped:
        """The model's outputs and what is read, for a batch; constants to any gradient.

        Args:
            inputs: of the student.
            learned: what the student returned for them, which is for a `Peer`.
        """
        try:
            if self._preprocessing is not None:
                inputs = self._preprocessing(inputs)
            with _no_gradient():
                tapped = self._taps(inputs, training=False)
            return keras.tree.map_structure(_constant, tapped)
        except Exception as error:
            error.add_note(
                f"(This came from running the teacher {self.name!r} on the student's batch. Where it needs other "
                "inputs, give the Distiller a teacher_preprocessing.)"
            )
            raise


class Peer:
    """A student's own output as the teacher of another, where all learn from each other; it stands for a `Teacher`.

    To output i of n it shows what output i + `ahead`, counted around, answered in the same forward pass.

    Args:
        ahead: from 1 to n − 1; so many peers together show each output all others.
    """

    def __init__(self, ahead: int) -> None:
        self.variables: list[keras.Variable] = []
        self.supports_jit = True
        self._ahead = ahead

    def expected(self, learned: Tapped) -> Tapped:
        """The shapes of what it will answer."""
        count = len(learned.values)
        return Tapped(None, tuple(learned.values[(i + self._ahead) % count] for i in range(count)))

    def __call__(self, inputs: Any, learned: Tapped) -> Tapped:
        """What is read of the other outputs, constants to any gradient."""
        return Tapped(None, tuple(ops.stop_gradient(value) for value in self.expected(learned).values))


def _constant(output: Any) -> Any:
    output = ops.stop_gradient(ops.convert_to_tensor(output))
    try:
        len(output.shape)
    except ValueError as error:
        raise ValueError(
            "A teacher's answers have a known number of axes. Received: a tensor of unknown shape. "
            "Give it one in the function, as tf.ensure_shape(answer, (None, classes)) does."
        ) from error
    return output


def require_teacher(model: Any) -> None:
    """Raises ValueError unless `model` can be called and has weights."""
    if isinstance(model, type) or not callable(model):
        raise ValueError(
            "A teacher is a trained model: a keras.Model, another Keras layer, a tf_keras model or a function of a "
            f"batch. Received: {model!r}."
        )
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(
            f"A teacher must be trained, so it must be built. Received: {model.name!r} without weights. "
            "Load it with its weights, or call it on a batch first."
        )


def name_of(model: Any) -> str:
    """What errors call a teacher or student."""
    if isinstance(model, keras.Layer) or _is_tf_keras(model):
        return model.name
    return getattr(model, "__name__", type(model).__name__)


def _no_gradient() -> AbstractContextManager[Any]:
    """Spares torch what it keeps of a forward pass for a gradient; elsewhere it is known from the graph."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _in_inference(model: Any) -> Callable[..., Any]:
    """`model` as something that is called like a Keras model."""
    if isinstance(model, keras.Layer) or _is_tf_keras(model):
        return lambda inputs, training: model(inputs, training=False)
    return lambda inputs, training: model(inputs)


def _is_tf_keras(model: Any) -> bool:
    # Keras 2 lives on as a package that is not imported for this question.
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__)

"""Teachers: trained models that are run, never trained, and never saved with the student."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from distill._keras import flatten_layers
from distill._types import Tensor, Tensors
from distill.training._features import features_of
from distill.training._preprocessing import (
    ANSWERS,
    Preprocessing,
    pipeline_part,
    preprocessing_of,
    require_plain,
)
from distill.training._taps import Read, Tapped, Taps


class Teacher:
    """Runs a trained model in inference mode and without a gradient.

    It is a plain object, not a Keras layer. A `Distiller` that holds it does not track the model: the model's
    `trainable` flags stay as they are, its variables are never updated, and no file contains it.

    Args:
        model: a built `keras.Model`. Or another Keras layer (such as `keras.layers.TFSMLayer` over a
            SavedModel), a tf_keras model or any function of a batch. Their graph cannot be read, so losses
            can use only their outputs. Such a teacher is called inside the compiled step.
        reads: what the losses read; see `Taps`.
        preprocessing: function that makes this teacher's inputs from a batch as `fit` gets it. It becomes
            part of the compiled step; a keras_hub layer runs in the data's pipeline instead. With `None`, a
            keras_hub model gets what its own `predict` would make of the batch, and all others get the batch
            as it is.

    Attributes:
        model: the model that you passed.
        name: its name in errors.
        spec: shapes to expect; see `Taps`.

    Raises:
        ValueError: `model` cannot be called or is not built; its class has its own `fit`, `evaluate` or
            `predict` and there is no `preprocessing`; or `Taps` refuses the model.

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
        if preprocessing is None and (isinstance(model, keras.Model) or is_tf_keras(model)):
            require_plain(
                model,
                ANSWERS,
                "The Distiller runs a teacher's call, so its predict must do nothing more.",
                "Say what its call takes: pass a function that makes it from a batch as teacher_preprocessing=..., or "
                "keras.layers.Identity() if it takes the batch as it is.",
            )
        self.model = model
        self.name = _name_of(model)
        self._given = pipeline_part(preprocessing, f"the teacher {self.name!r}")
        self._preprocessing = preprocessing if self._given is None else None
        run = model if isinstance(model, keras.Model) else _in_inference(model)
        self._taps = Taps(run, reads, self.name, only_serves_all=True)
        self.spec = self._taps.spec

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of a Keras model or layer; empty for anything else."""
        return list(self.model.variables) if isinstance(self.model, keras.Layer) else []

    @property
    def channel_axes(self) -> tuple[int | None, ...]:
        """For each read, the axis on which the model has its channels, if it is not the last."""
        return self._taps.moved

    @property
    def supports_jit(self) -> bool:
        """Whether XLA may compile the teacher and its preprocessing, as far as Keras can tell: it knows layers."""
        run = [self.model] if self._preprocessing is None else [self.model, self._preprocessing]
        return all(
            isinstance(part, keras.Layer) and all(layer.supports_jit for layer in flatten_layers(part))
            for part in run
        )

    @property
    def pipeline(self) -> Preprocessing | None:
        """What the data's pipeline does to a batch before `answer` gets it; a model's preprocessor can be changed."""
        return preprocessing_of(self.model, "teacher") if self.takes_batch else self._given

    @property
    def takes_batch(self) -> bool:
        """Whether the model gets a batch as the student does."""
        return self._given is None and self._preprocessing is None

    def expected(self, learned: Tapped) -> Tapped:
        """Returns the shapes of its answers, for a student with the shapes `learned`."""
        return self.spec

    def __call__(self, inputs: Tensors) -> Tapped:
        """Returns the model's outputs, and what the losses read, for a batch as `fit` gets it."""
        pipeline = self.pipeline
        return self.answer(inputs if pipeline is None else pipeline(inputs)[0])

    def answer(self, view: Tensors, learned: Tapped | None = None) -> Tapped:
        """Returns the model's outputs, and what the losses read, for a batch; constants to any gradient.

        Args:
            view: the batch, after `pipeline`.
            learned: what the student returned for it; only a `Peer` uses it.
        """
        try:
            inputs = view if self._preprocessing is None else self._preprocessing(view)
            with _no_gradient():
                tapped = self._taps(features_of(self.model, inputs), training=False)
            return keras.tree.map_structure(_constant, tapped)
        except Exception as error:
            error.add_note(
                f"(Raised while running the teacher {self.name!r} on the student's batch. If it needs other inputs, "
                "give the Distiller a teacher_preprocessing.)"
            )
            raise


class Peer:
    """One output of a student as the teacher of another output, for networks that learn from each other.

    It takes the place of a `Teacher`. Of n outputs, output i learns from what output (i + `ahead`) mod n
    answered in the same forward pass.

    Args:
        ahead: distance between the outputs, from 1 to n − 1. With n − 1 peers, each output learns from all others.
    """

    def __init__(self, ahead: int) -> None:
        self.name = f"peer{ahead}"
        self.variables: list[keras.Variable] = []
        self.supports_jit = True
        self.pipeline = None
        self._ahead = ahead

    def expected(self, learned: Tapped) -> Tapped:
        """Returns the shapes of what it will answer."""
        count = len(learned.values)
        return Tapped(None, tuple(learned.values[(i + self._ahead) % count] for i in range(count)))

    def answer(self, view: Tensors, learned: Tapped) -> Tapped:
        """Returns what the losses read of the other outputs, as constants to any gradient."""
        return Tapped(None, tuple(ops.stop_gradient(value) for value in self.expected(learned).values))


def _require_teacher(model: Any) -> None:
    if isinstance(model, type) or not callable(model):
        raise ValueError(
            "A teacher must be a trained keras.Model, another Keras layer, a tf_keras model or a function of a batch. "
            f"Received: {model!r}. Load a file with distill.load_model."
        )
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(
            f"A teacher must be trained, so it must have weights. Received: {model.name!r} without weights. "
            "Load it with its weights, or call it on a batch first."
        )


def _name_of(model: Any) -> str:
    if isinstance(model, keras.Layer) or is_tf_keras(model):
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
    if isinstance(model, keras.Layer) or is_tf_keras(model):
        return lambda inputs, training: model(inputs, training=False)
    return lambda inputs, training: model(inputs)


def is_tf_keras(model: Any) -> bool:
    """Whether a model is of Keras 2."""
    # Keras 2 lives on as the package tf_keras, which is not imported just to ask this.
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__)

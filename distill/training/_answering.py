"""All that can be recorded of a teacher, for numpy batches: its outputs, their logits where it is known, and layers."""

import collections
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from distill._graphs import functional_of, output_keys
from distill._types import Arrays, Tensor, Tensors
from distill.training._heads import head_of
from distill.training._outputs import Output
from distill.training._probabilities import dtype_rounded_in
from distill.training._recorded import Answer
from distill.training._taps import Read
from distill.training._teacher import Teacher, is_tf_keras

_HEADS: dict[str, Any] = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}


class Answering:
    """Asks a teacher for everything that is recorded of it.

    Args:
        teacher: what a Distiller takes as a teacher; or any function of a numpy batch that returns an array, or a list
            or dictionary of arrays.
        layers: names of layers whose outputs are recorded, as a loss would name them.
        preprocessing: function that makes the teacher's inputs from a batch.
        name: name of the teacher; its own by default.

    Attributes:
        name: name of the teacher.

    Raises:
        ValueError: `teacher` cannot be a teacher; it has no such layer, or its graph cannot be read.
    """

    def __init__(
        self,
        teacher: Any,
        *,
        layers: Sequence[str] = (),
        preprocessing: Callable[[Any], Any] | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(teacher, keras.Layer) or is_tf_keras(teacher):
            known = _outputs_of(teacher)
            reads = [Read(output=one.output, head=_HEADS.get(one.activation or "")) for one in known]
            live = Teacher(
                teacher,
                reads=[*(reads or [Read()]), *(Read(layer=layer) for layer in layers)],
                preprocessing=preprocessing,
            )
            self.name = live.name if name is None else name
            self._variables = list(teacher.weights)  # not the random seeds of Dropout, which no file keeps
            self._known = known
            self._axes = live.channel_axes if known else ()
            self._ask = _compiled(live)
        else:
            if not callable(teacher) or isinstance(teacher, type):
                raise ValueError(
                    "A teacher must answer a batch: a keras.Model, another Keras layer, an exported file or a function "
                    f"of a numpy batch. Received: {teacher!r}. Load a file with distill.load_model."
                )
            if layers:
                raise ValueError(
                    "Layers can only be read in Keras models. Received: "
                    f"layers={tuple(layers)!r} and a {type(teacher).__name__}. Let it return a dictionary of outputs."
                )
            own = getattr(teacher, "__name__", type(teacher).__name__)
            self.name = own if name is None else name
            self._variables = []
            self._known, self._axes = [], ()
            prepare = (lambda batch: batch) if preprocessing is None else preprocessing
            self._ask = lambda batch: [teacher(prepare(batch))]
        self._layers = tuple(layers)

    def __call__(self, batch: Arrays) -> list[tuple[Answer, np.ndarray]]:
        """Returns what the teacher answers to a numpy batch: each answer with its array (batch, ...).

        Raises:
            ValueError: an answer is no array of numbers with a row for each example, or is NaN.
        """
        values = self.ask(batch)
        count = len(keras.tree.flatten(batch)[0])
        split = len(values) - len(self._layers)
        outputs, layers = values[:split], values[split:]
        known = self._known or _named(outputs[0])
        if not self._known and isinstance(outputs[0], dict):  # flattening keeps the order of an OrderedDict
            outputs = [outputs[0][one.output] for one in known]
        outputs = keras.tree.flatten(outputs)
        named = [*known, *(Answer(layer, None, None, ()) for layer in self._layers)]
        answered = []
        for one, value, axis in zip(
            named, [*outputs, *layers], self._axes or (None,) * len(named), strict=True
        ):
            array = _array(value)
            if array.dtype.name == "bfloat16":  # which numpy does not count among the numbers
                array = array.astype("float32")
            self._require_rows(one, array, count)
            answered.append((one._replace(shape=array.shape[1:], axis=axis), array))
        return answered

    def ask(self, batch: Arrays) -> list[Tensors]:
        """Returns the outputs, as logits where they are known, and the layers: tensors, which may be on their way."""
        return self._ask(batch)

    def weights(self) -> Iterator[np.ndarray]:
        """Returns the values of the teacher's weights; none of a function."""
        yield from (_array(variable) for variable in self._variables)

    def _require_rows(self, answer: Answer, array: np.ndarray, count: int) -> None:
        if array.dtype.kind not in "fiub" or array.ndim < 2 or len(array) != count:
            raise ValueError(
                "A teacher must answer with numbers, a row of one or more for each example. Received: "
                f"{answer.label!r} of {self.name!r}, {array.dtype} of shape {array.shape} for a batch of {count}."
            )
        if bad := np.flatnonzero(np.isnan(array.reshape(count, -1)).any(axis=1)).tolist():
            raise ValueError(
                f"A teacher must answer with numbers. Received: {answer.label!r} of {self.name!r}, NaN for {len(bad)} "
                f"of {count} examples, the first in place {bad[0]} of its batch. Look at the inputs there."
            )


def _outputs_of(model: Any) -> list[Answer]:
    """What is known of a model's outputs before it runs; empty if its graph cannot be read."""
    graph = functional_of(model)
    if graph is None:
        return []
    keys: list[Output] = list(range(len(graph.outputs)))
    counted = collections.Counter(graph.output_names)
    # One head may be called for several outputs, which then go by their positions.
    names: list[str | None] = [name if counted[name] == 1 else None for name in graph.output_names]
    if isinstance(graph.output, dict):
        keys, names = output_keys(graph), [None] * len(graph.outputs)
    elif len(graph.outputs) == 1:
        keys, names = [None], [None]
    answers = []
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        try:
            activation = head_of(model, i).activation
        except ValueError:  # the output is recorded as it is
            activation = None
        rounded_in = dtype_rounded_in(graph.outputs[i])
        answers.append(Answer(None, key, name, (), activation=activation, rounded_in=rounded_in))
    return answers


def _named(outputs: Any) -> list[Answer]:
    """The outputs that a function returned, those of a dictionary in the order of their names."""
    keys: list[Output] = [None]
    if isinstance(outputs, dict):
        keys = sorted(outputs)
    elif isinstance(outputs, (list, tuple)):
        keys = list(range(len(outputs)))
    if len(keras.tree.flatten(outputs)) != len(keys):
        raise ValueError(
            "A teacher must return an array, or one list or dictionary of arrays. Received: "
            f"{keras.tree.map_structure(type, outputs)}."
        )
    return [Answer(None, key, None, ()) for key in keys]


def _compiled(teacher: Teacher) -> Callable[[Arrays], list[Tensors]]:
    """Returns a function of a numpy batch that runs a teacher as a training step does."""

    def run(view: Tensors) -> tuple[Tensors, ...]:
        return teacher.answer(view).values

    backend = keras.backend.backend()
    step: Callable[[Tensors], tuple[Tensors, ...]] = run
    if backend == "tensorflow":
        import tensorflow as tf

        step = tf.function(run, autograph=False, reduce_retracing=True)
    elif backend == "jax":
        import jax

        @jax.jit
        def stateless(values: list[Tensor], view: Tensors) -> tuple[Tensors, ...]:
            with keras.StatelessScope(state_mapping=list(zip(teacher.variables, values, strict=True))):
                return run(view)

        step = lambda view: stateless([variable.value for variable in teacher.variables], view)  # noqa: E731

    def ask(batch: Arrays) -> list[Tensors]:
        pipeline = teacher.pipeline
        return list(step(batch if pipeline is None else pipeline(batch)[0]))

    return ask


def _array(value: Any) -> np.ndarray:
    """Returns a tensor of any library as an array."""
    if isinstance(value, keras.Variable):
        value = keras.ops.convert_to_tensor(value)  # of TensorFlow and JAX, an array is then no copy of it
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return np.asarray(value.float() if str(value.dtype) == "torch.bfloat16" else value)
    return np.asarray(value)

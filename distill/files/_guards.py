"""Watch Keras while it builds a model from a file, and stop it before it takes more memory than the file can ask for.

Most classes only make variables, which wait for their values. What is watched here takes memory as soon as a config is
built: values that a layer computes from its sizes, tensors that an operation returns by the million, loops of layers
whose call Keras tries out, and layers, of which a small file can list a great many.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras

from distill._keras import adds_operations, compute_output_spec, looking, makes_states, makes_values

# A layer takes about 16 kB, a tensor up to 2 kB, an operation in a graph 4 kB. The largest of Keras' applications has
# about a thousand layers; only preprocessing in a Pipeline, and classes of other packages, are tried out in a graph.
MOST_LAYERS = 2**13
MOST_TENSORS = 2**16
MOST_TRIED = 2**15
# Bytes of values, and how many times the bytes of the weights they may be besides.
MOST_VALUES, MOST_TIMES = 2**25, 4


class _Guard:
    """Counts what a model takes while it is built."""

    def __init__(self, source: str, held: int) -> None:
        self._source, self._held = source, 4 * held
        self._bytes = self._tensors = self._layers = self._tried = 0
        self.refusal: ValueError | None = None

    def layer(self, *args: Any, **kwargs: Any) -> None:
        """A layer or an operation is made."""
        self._layers += 1
        most = MOST_LAYERS + self._held // 1024
        if self._layers > most:
            self._refuse(
                f"A model with {self._held:,} bytes of weights may have at most {most:,} layers and operations, those "
                f"in layers included. Received: {self._source} with more."
            )

    def tensor(self, *args: Any, **kwargs: Any) -> None:
        """A call returns a tensor, or an operation splits one into parts."""
        self._tensors += 1
        if self._tensors > MOST_TENSORS:
            self._refuse(
                f"The layers and operations of a model may return at most {MOST_TENSORS:,} tensors. Received: "
                f"{self._source} with more."
            )

    def tried(self, *args: Any, attrs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """A layer whose call says what it returns adds an operation to a graph, which may have many results."""
        self._tried += max([1, *(attrs[key].i for key in ("num", "num_split") if attrs and key in attrs)])
        if self._tried > MOST_TRIED:
            self._refuse(
                f"Layers whose call Keras tries out, such as those of a Pipeline, may run at most {MOST_TRIED:,} "
                f"operations. Received: {self._source} with more, as of a loop."
            )

    def normalization(self, layer: keras.layers.Normalization, input_shape: Sequence[int | None]) -> None:
        """A layer spreads the mean and variance of its config over its axes."""
        if layer.input_mean is not None:
            self._values(2 * math.prod(input_shape[axis] or 1 for axis in layer.axis), layer)

    def quantized(self, layer: keras.Layer, shape: Sequence[int], *args: Any, **kwargs: Any) -> None:
        """A layer numbers the groups of its rows or columns."""
        self._values(math.prod(shape), layer)

    def adapted(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> None:
        """A layer gets LoRA; it will merge it into its weights to say what a file is to hold."""
        self._values(sum(math.prod(weight.shape) for weight in layer.weights), layer)

    def states(self, layer: keras.layers.RNN, batch: int) -> None:
        """A recurrent layer makes the states that it keeps between batches."""
        made = compute_output_spec(lambda: layer.get_initial_state(batch))
        self._values(sum(math.prod(state.shape) for state in keras.tree.flatten(made)), layer)

    def variable(self, variable: keras.Variable, *args: Any) -> None:
        """A variable takes memory at once, in a model that must be built with values."""
        self._values(math.prod(variable.shape), variable)

    def _refuse(self, reason: str) -> None:
        self.refusal = ValueError(f"{reason} The model was not built.")
        raise self.refusal

    def _values(self, count: int, of: Any) -> None:
        self._bytes += 4 * count
        if self._bytes > MOST_TIMES * self._held + MOST_VALUES:
            self._refuse(
                f"What a model computes while it is built may take at most {MOST_TIMES} times the bytes of its weights "
                f"and {MOST_VALUES:,} more. Received: {self._source} with {self._held:,} bytes of weights, where "
                f"{of.name!r} ({type(of).__name__}) would take it to {self._bytes:,}."
            )


@contextlib.contextmanager
def guarded(source: str, held: int) -> Iterator[None]:
    """Refuse, within the block, to build a model that takes more memory than its file can honestly ask for.

    Args:
        source: name of the file in errors.
        held: how many numbers the file has for weights.
    """
    guard = _Guard(source, held)
    looks: dict[tuple[type, str], Callable[..., None]] = {
        (keras.Operation, "__init__"): guard.layer,
        (keras.KerasTensor, "__init__"): guard.tensor,
        (keras.layers.Normalization, "build"): guard.normalization,
        makes_states(): guard.states,
        makes_values(): guard.variable,
        **{(kind, "quantized_build"): guard.quantized for kind in _that_have("quantized_build")},
        **{(kind, "enable_lora"): guard.adapted for kind in _that_have("enable_lora")},
        **dict.fromkeys(adds_operations(), guard.tried),
    }
    try:
        with looking(looks):
            yield
    except Exception:
        if guard.refusal is None:
            raise
    # Keras reports it with much around it, or takes it for a failed attempt of its own.
    if guard.refusal is not None:
        raise guard.refusal


def _that_have(method: str) -> set[type]:
    """The classes of Keras' layers in which a method is written."""
    kinds = {kind for kind in vars(keras.layers).values() if isinstance(kind, type)}
    bases = {base for kind in kinds for base in kind.__mro__ if method in vars(base)}
    return bases - {keras.Layer}

"""What a model costs: parameters, multiply-adds, bytes on disk and time on one CPU thread.

Each number is of one example and of the model as it stands, so that a student and its teacher can be
compared on the same terms.
"""

import dataclasses
import gzip
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one example on one CPU thread.

    Attributes:
        median_ms: median over the runs, in milliseconds.
        low_ms: lower quartile, in milliseconds.
        high_ms: upper quartile, in milliseconds.
        runs: number of timed runs.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a model as files; zeros make all but the plain ones smaller.

    Attributes:
        keras: the `.keras` file, see `file_bytes`.
        keras_gzip: the same, compressed.
        litert: the LiteRT file of float32 weights.
        litert_gzip: the same, compressed.
        litert_sparse: the LiteRT file that leaves zeros out; LiteRT runs it as it is.
    """

    keras: int
    keras_gzip: int
    litert: int
    litert_gzip: int
    litert_sparse: int


def parameters(model: keras.Model) -> int:
    """Number of scalars in the model's weights; a shared weight counts once.

    Non-trainable weights count, such as the running mean and variance of a BatchNormalization: they are
    stored and shipped like the rest.

    Args:
        model: a built model.

    Returns:
        Number of scalars, no unit.

    Raises:
        ValueError: the model is not built.
    """
    if not model.built:
        raise ValueError(
            "Parameters exist only once a model is built. "
            f"Received: {model.name}, which is not. Call it on an example, or give it a keras.Input."
        )
    return model.count_params()


def macs(model: keras.Model) -> int:
    """Multiply-adds of one example's forward pass; FLOPs are twice as many.

    Counted: products with a kernel, in dense and (transposed, depthwise, separable) convolution layers.
    A layer called twice counts twice; products with the zeros of "same" padding count too, and a transposed
    convolution counts every product of an input with its kernel, cropped or not.
    Not counted: biases, activations, normalizations, pooling, look-ups and raw `keras.ops`. Products of two
    activations, as in attention, are therefore not in the number.

    Args:
        model: Functional or Sequential, possibly with such models nested, channels last or first.

    Returns:
        Multiply-adds of one example, no unit.

    Raises:
        ValueError: the model has no graph, a size other than the batch's is unknown, or a layer with
            weights is of a type whose cost is not known here.

    Example:
        >>> macs(keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3)]))
        48672
    """
    total = 0

    def counted(operation: keras.Operation) -> Callable:
        def spec(*args: Any, **kwargs: Any) -> Any:
            nonlocal total
            tensors = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
            if isinstance(operation, keras.Model):
                return run(operation, tensors)
            outputs = operation.compute_output_spec(*args, **kwargs)
            if isinstance(operation, keras.Layer):
                total += _layer_macs(operation, tensors, outputs)
            return outputs

        return spec

    def run(part: keras.Model, tensors: list[keras.KerasTensor]) -> list[keras.KerasTensor]:
        # Shapes are inferred anew for every call: those stored in a nested graph are of its first call.
        graph = keras.Function(*_ends(part))
        return graph._run_through_graph(tensors, operation_fn=counted)

    inputs, _ = _ends(model)
    run(model, [keras.KerasTensor((1, *_known(t.shape[1:], model.name)), dtype=t.dtype) for t in inputs])
    return total


def file_bytes(model: keras.Model) -> int:
    """Size of the `.keras` file that Keras writes for the model, without an optimizer's state.

    Args:
        model: a built model that Keras can save and, if it is compiled, rebuild from its config.

    Returns:
        Size in bytes.
    """
    return len(_keras_file(model))


def sizes(model: keras.Model) -> Sizes:
    """Sizes of the files that a model becomes, with and without their zeros.

    Args:
        model: a built model that Keras can save and LiteRT can run: with a known size of input, the batch's apart.

    Returns:
        Sizes in bytes.
    """
    file = _keras_file(model)
    litert, sparse = (_litert_file(model, sparse=sparse) for sparse in (False, True))
    return Sizes(len(file), len(gzip.compress(file)), len(litert), len(gzip.compress(litert)), len(sparse))


def _keras_file(model: keras.Model) -> bytes:
    shipped = model
    if model.compiled:
        # Only training needs the optimizer, and `save` cannot leave it out; `clone_model` compiles its copy.
        shipped = type(model).from_config(model.get_config())
        shipped.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        shipped.save(path)
        return path.read_bytes()


def _litert_file(model: keras.Model, *, sparse: bool = False) -> bytes:
    options = {}
    if sparse:
        import tensorflow as tf

        options["optimizations"] = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        model.export(path, format="litert", verbose=False, **options)
        return path.read_bytes()


def latency(model: keras.Model, *, runs: int = 200) -> Latency:
    """Time of one example through LiteRT on one CPU thread; see `latencies`."""
    return latencies({model.name: model}, runs=runs)[model.name]


def latencies(models: Mapping[str, keras.Model], *, runs: int = 200) -> dict[str, Latency]:
    """Times of one example through LiteRT on one CPU thread, models taking turns.

    The models run A B C A B C …, so that a slow spell of the machine meets all of them and their ratios
    hold where single times do not. Inputs are random normal, or zero where they are integers.

    Args:
        models: name to model, each with known input sizes.
        runs: timed runs of each model, after a tenth as many to warm up; >= 1.

    Returns:
        Name to latency, in the order given.

    Raises:
        ImportError: ai-edge-litert is not installed.
        ValueError: runs < 1, or a model's input size other than the batch's is unknown.
    """
    return in_turns({name: _invoker(model) for name, model in models.items()}, runs=runs)


def in_turns(calls: Mapping[str, Callable[[], Any]], *, runs: int = 200) -> dict[str, Latency]:
    """Times of calls that take turns, A B C A B C …; see `latencies`.

    Args:
        calls: name to call.
        runs: timed runs of each, after a tenth as many to warm up; >= 1.

    Returns:
        Name to latency, in the order given.

    Raises:
        ValueError: runs < 1.
    """
    if runs < 1:
        raise ValueError(f"A latency needs at least one timed run. Received: runs={runs}. Pass 100 or more.")
    for _ in range(1 + runs // 10):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: _summary(values) for name, values in times.items()}


def _summary(times_ms: list[float]) -> Latency:
    """Median and quartiles of the times, in milliseconds."""
    low, median, high = (float(q) for q in np.percentile(times_ms, [25, 50, 75]))
    return Latency(median, low, high, runs=len(times_ms))


def _invoker(model: keras.Model) -> Callable[[], None]:
    """A call that runs one example through the model's LiteRT form."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Latency is measured in LiteRT, the runtime of phones and boards. "
            "Received: no ai_edge_litert to import. Install it with `pip install ai-edge-litert`."
        ) from error
    for tensor in _ends(model)[0]:
        _known(tensor.shape[1:], model.name)
    interpreter = Interpreter(model_content=_litert_file(model), num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for details in interpreter.get_input_details():
        values = np.zeros(details["shape"], details["dtype"])
        if np.issubdtype(values.dtype, np.floating):
            values[:] = rng.normal(size=values.shape)
        interpreter.set_tensor(details["index"], values)
    return interpreter.invoke


def _ends(model: keras.Model) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    """Symbolic inputs and outputs of a model that has a graph."""
    try:
        return model.inputs, model.outputs
    except AttributeError as error:
        raise ValueError(
            "Multiply-adds and latency need a model's graph: a Functional model, or a Sequential one with a "
            f"keras.Input. Received: {model.name} of type {type(model).__name__}, which has none. "
            "Build it from keras.Input, or wrap its call in a Functional model."
        ) from error


def _known(shape: Shape, name: str) -> tuple[int, ...]:
    """The shape, every size of which must be known."""
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise ValueError(
            "Multiply-adds and latency are of one example, all of whose sizes must be known. "
            f"Received: {name} with shape {shape}. Rebuild the model with a fixed keras.Input shape."
        )
    return sizes


def _layer_macs(layer: keras.Layer, inputs: list[keras.KerasTensor], outputs: Any) -> int:
    """Multiply-adds of one call: every scalar of a kernel is used once at each position."""
    kind = type(layer)
    if kind is keras.layers.Dense:
        return math.prod(_known(inputs[0].shape, layer.name)) * layer.units
    if kind is keras.layers.EinsumDense:
        source, kernel = layer.equation.split("->")[0].split(",")
        sizes = zip(kernel, layer.kernel.shape, strict=True)
        fan_out = math.prod(size for label, size in sizes if label not in source)
        return math.prod(_known(inputs[0].shape, layer.name)) * fan_out
    if kind in _CONVOLUTIONS:
        pixels = _known((inputs[0] if kind in _TRANSPOSED else outputs).shape, layer.name)
        channels = len(pixels) - 1 if layer.data_format == "channels_last" else 1
        positions = math.prod(pixels) // pixels[channels]
        return positions * sum(math.prod(w.shape) for w in layer.weights if w.name.endswith("kernel"))
    if layer.weights and kind not in _FREE:
        raise ValueError(
            "Multiply-adds are counted for layers whose arithmetic is known, never guessed. "
            f"Received: layer {layer.name} of type {kind.__name__}, which has weights. "
            "Build the model from Dense, EinsumDense and convolution layers, or count this layer by hand."
        )
    return 0


# By exact type: a subclass may do other arithmetic.
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    *_TRANSPOSED,
)
# Layers that have weights but no kernel.
_FREE = (
    keras.layers.BatchNormalization,
    keras.layers.Embedding,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)

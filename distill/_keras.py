"""The one door to what Keras keeps to itself.

Keras exports no name for what is here, so any minor version may move it. Everything else in `distill` uses what Keras
exports: `tests/test_package.py` forbids an import of `keras.src`, and a read of a Keras attribute that begins with an
underscore, anywhere else. Each function says why there is no public way.
"""

import contextlib
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import keras
from keras import ops

# Classes that are compared by type, and functions that would be a copy of Keras' own.
from keras.src.activations import activations as activation_ops
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.backend import (
    AutocastScope,
    compute_output_spec,
    get_keras_mask,
    in_stateless_scope,
    set_keras_mask,
)
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import initialize_all_variables
from keras.src.export.export_utils import get_input_signature
from keras.src.export.tf2onnx_lib import patch_tf2onnx
from keras.src.layers.layer import CallSpec
from keras.src.losses.loss import reduce_weighted_values
from keras.src.models import Functional
from keras.src.ops import core, image, linalg, nn
from keras.src.ops import math as math_ops
from keras.src.ops import numpy as numpy_ops
from keras.src.saving import saving_lib
from keras.src.saving.saving_lib import DiskIOStore, H5IOStore
from keras.src.saving.serialization_lib import ObjectSharingScope, SafeModeScope, in_safe_mode
from keras.src.trainers.compile_utils import MetricsList
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters.array_slicing import train_validation_split
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

MARK = "shared_object_id"  # key of a config: the id of the object that it was made from

__all__ = [
    "MARK",
    "AutocastScope",
    "CustomScaleLayer",
    "DiskIOStore",
    "Functional",
    "H5IOStore",
    "LayerScale",
    "ObjectSharingScope",
    "SafeModeScope",
    "StochasticDepth",
    "activation_ops",
    "compute_output_spec",
    "core",
    "get_input_signature",
    "get_keras_mask",
    "image",
    "in_safe_mode",
    "in_stateless_scope",
    "initialize_all_variables",
    "linalg",
    "math_ops",
    "nn",
    "numpy_ops",
    "patch_tf2onnx",
    "reduce_weighted_values",
    "set_keras_mask",
    "train_validation_split",
]


# Graphs.


def graph_of_sequential(model: keras.Sequential) -> Functional | None:
    """The Functional model that a built Sequential runs. Its public `layers` say nothing of calls."""
    return model._functional


def nodes_by_depth(graph: Functional) -> Mapping[int, Sequence[Any]]:
    """The calls of a graph by their distance from the outputs. Keras exports layers, not their calls."""
    return graph._nodes_by_depth


def history_of(tensor: keras.KerasTensor) -> Any:
    """The operation, the number of its call and the number of its output that made a symbolic tensor."""
    return tensor._keras_history


def inbound_nodes(operation: Any) -> list[Any]:
    """All calls of an operation; `operation.output` knows the first alone."""
    return operation._inbound_nodes


def standardize_inputs(graph: Functional, inputs: Any) -> list[Any]:
    """Inputs as a Functional model's own call takes them: flat, cast and with the axes that it adds."""
    return graph._standardize_inputs(inputs)


def twin(layer: Any, **changes: Any) -> Any:
    """A layer or model that shares every variable with `layer` and can be called without a trace on it.

    `copy.copy` goes through Keras' pickling, which copies the weights too.
    """
    made = object.__new__(type(layer))
    made.__dict__.update(layer.__dict__, _inbound_nodes=[], _outbound_nodes=[], **changes)
    return made


def twin_that_activates(layer: Any) -> Any:
    """A twin of a layer that only applies its activation; Keras' `__call__` adds the layer's activity regularizer."""
    return twin(layer, call=lambda inputs, **_: layer.activation(inputs), _input_spec=None)


def twin_run_by(graph: Functional, run: Callable[[Any, Any], Any]) -> Functional:
    """A twin of a graph that `run(inputs, operation_fn)` runs; Keras' `__call__` sees to all around it."""
    return twin(graph, _run_through_graph=run)


def twin_with_graph(model: keras.Sequential, graph: Functional) -> Any:
    """A twin of a Sequential model that runs `graph`."""
    return twin(model, _functional=graph)


# Layers.


def flatten_layers(layer: keras.Layer, *, include_self: bool = True, recursive: bool = True) -> list[Any]:
    """A layer and all layers in it, each once. `Model.layers` is one level deep, and other layers have no such list."""
    return layer._flatten_layers(include_self=include_self, recursive=recursive)


def tracker_of(layer: keras.Layer) -> Any:
    """What tells a layer's variables and layers from its other attributes."""
    return layer._tracker


def makes_values() -> tuple[type, str]:
    """The class and name of the method by which a variable takes memory for its values, as `looking` wants them."""
    return keras.Variable, "_initialize_with_initializer"


def makes_states() -> tuple[type, str]:
    """Those of the method by which a recurrent layer makes the states that it keeps, given the size of the batch."""
    return keras.layers.RNN, "_create_state_variables"


def adds_operations() -> list[tuple[type, str]]:
    """Those by which operations come into a graph where Keras tries out a layer, on a backend that has such graphs."""
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    return [(tf.__internal__.FuncGraph, "_create_op_internal")]


def kernel_variable(layer: Any) -> keras.Variable:
    """The variable of a kernel: `layer.kernel` is what the layer computes with, rounded or with LoRA."""
    return layer._kernel


def embeddings_variable(layer: Any) -> keras.Variable:
    """The variable of a table of embeddings; likewise."""
    return layer._embeddings


def attributes_of(layer: keras.Layer) -> dict[str, Any]:
    """What the class of a layer has set on it, by attribute; Keras keeps its own records among them."""
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in _records() and not name.startswith("_self_")
    }


@functools.cache
def _records() -> frozenset[str]:
    """What every layer and model has; Keras says so nowhere."""
    return frozenset(vars(keras.Model(name="records")))


def lookup_of(layer: Any) -> Any:
    """The layer that numbers the words of a TextVectorization, whose frequencies have no public name."""
    return layer._lookup_layer


def own_trainable_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The layer's own trainable variables; `trainable_variables` has those of the layers in it too."""
    return layer._trainable_variables


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The layer's own variables; `variables` has those of the layers in it too."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def attention_projections(layer: Any) -> tuple[Any, Any, Any, Any]:
    """The query, key, value and output layers of an attention layer of Keras or keras_hub."""
    return layer._query_dense, layer._key_dense, layer._value_dense, layer._output_dense


def is_gated(layer: Any) -> bool:
    """Whether an attention layer multiplies its outputs by a gate."""
    # Older versions of Keras have no gate.
    return getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False)


def call_takes_training(layer: keras.Layer) -> bool:
    """Whether a layer's `call` takes `training`, as Keras decides it."""
    return layer._call_has_training_arg


def build_for_call(operation: keras.Layer, args: Any, kwargs: Any) -> None:
    """Builds a layer without weights as its first call would."""
    operation._maybe_build(CallSpec(operation._call_signature, operation._call_context_args, args, kwargs))


def take_any_arguments(layer: keras.Layer) -> None:
    """Lets a layer be called on what is no tensor."""
    layer._allow_non_tensor_positional_args = True


# Training.


def strategy_of(model: keras.Model) -> Any:
    """The tf.distribute strategy that a model was made under, or `None`; the public property answers with today's."""
    return model._distribute_strategy


def compiled_loss(model: keras.Model) -> Any:
    """The loss given to `compile`, apart from the penalties; `Model.loss` is the argument and cannot be called."""
    return model._compile_loss


def compiled_metrics(model: keras.Model) -> Any:
    """The metrics given to `compile`, as one; `Model.metrics` has the trackers of losses too."""
    return model._compile_metrics


def forget_compiled(model: keras.Model) -> None:
    """Drops the loss and metrics of an earlier `compile`, which Keras keeps where the next one gives none."""
    model._compile_loss = model._compile_metrics = None


def compile_settings(model: keras.Model) -> dict[str, Any]:
    """What `compile` was given, as objects; `get_compile_config` has them serialized."""
    return dict(model._compile_config.config)


def note_compile_settings(model: keras.Model, **settings: Any) -> None:
    """Changes what `get_compile_config` says and a file of the model holds; `compile` would begin anew."""
    model._compile_config.config.update(settings)


def compute_loss(model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
    """A model's loss as its training step asks for it: a `compute_loss` of older code knows no `training`."""
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def share_of_penalty(model: keras.Model, penalty: Any) -> Any:
    """A penalty divided by the number of replicas, all of which compute it."""
    return model._aggregate_additional_loss(penalty)


class LossMeans(MetricsList):
    """Means of losses, held as Keras holds those that it makes itself.

    Callbacks such as `EarlyStopping` look into such a list alone to know whether lower is better, by an attribute that
    Keras sets on its own metrics.
    """

    def __init__(self, means: Sequence[keras.metrics.Mean]) -> None:
        super().__init__(list(means), name="loss_means")
        for mean in means:
            mean._direction = "down"

    def result(self) -> dict[str, Any]:
        """The mean of each loss by name."""
        return {mean.name: mean.result() for mean in self.metrics}


def own_losses(layer: keras.Layer) -> list[Any]:
    """What this layer alone passed to `add_loss` in its last call, and its activity regularizer."""
    return layer._get_own_losses()


def clear_losses(model: keras.Model) -> None:
    """Forgets what layers passed to `add_loss`, in a graph that is gone."""
    model._clear_losses()


def set_initial_epoch(model: keras.Model, epoch: int) -> None:
    """The epoch that `fit` goes on with, which `BackupAndRestore` sets the same way."""
    model._initial_epoch = epoch


def learning_rate_of(optimizer: Any) -> Any:
    """The variable or schedule; the public property is the schedule's value."""
    return optimizer._learning_rate


def iterations_of(optimizer: Any) -> Any:
    """Batches counted; the public `iterations` counts updates, fewer where gradients are accumulated."""
    return optimizer._iterations


def decays(optimizer: Any, variable: keras.Variable) -> bool:
    """Whether weight decay applies to a variable."""
    return optimizer._use_weight_decay(variable)


def is_present(variable: keras.Variable) -> bool:
    """Whether a variable holds its value; Keras' JAX trainer keeps it elsewhere between the batches of an epoch."""
    return variable._value is not None


class MappedData(TFDatasetAdapter):
    """Data of any kind that `fit` takes, with a function of (x, y, sample_weight) mapped over its batches.

    `fit`, `evaluate` and `predict` take it as x. A `tf.data.Dataset` would do for data that is one; of arrays and of a
    `PyDataset` it would not know the number of batches, and the latter is to be told when an epoch begins and ends.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
        shuffle: bool | str = False,
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        import tensorflow as tf

        self._source = get_data_adapter(x, y, sample_weight, batch_size, steps, shuffle)
        batches = self._source.get_tf_dataset().map(function, num_parallel_calls=tf.data.AUTOTUNE)
        super().__init__(batches.prefetch(tf.data.AUTOTUNE), class_weight)

    @property
    def num_batches(self) -> int | None:
        """Number of batches, or `None` if it is not known."""
        return self._source.num_batches

    def on_epoch_begin(self) -> None:
        """Tells the data."""
        self._source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tells the data."""
        self._source.on_epoch_end()


# Variables without memory.


def uninitialized_variables() -> list[Any]:
    """The variables that wait for their values after a `StatelessScope`."""
    return global_state.get_global_attribute("uninitialized_variables", [])


def set_uninitialized_variables(waiting: list[Any]) -> None:
    """Puts others in their place."""
    global_state.set_global_attribute("uninitialized_variables", waiting)


# Random numbers.


def global_seeds() -> tuple[Any, Any]:
    """The generator of seeds that random operations without one draw from, if there is one yet, and its state."""
    generator = global_state.get_global_attribute("global_seed_generator")
    return generator, None if generator is None else ops.convert_to_numpy(generator.state)


def set_global_seeds(seeds: tuple[Any, Any]) -> None:
    """Puts it back."""
    generator, state = seeds
    global_state.set_global_attribute("global_seed_generator", generator)
    if generator is not None:
        generator.state.assign(state)


# Files.

_LOOKING = threading.RLock()


@contextlib.contextmanager
def looking(looks: Mapping[tuple[type, str], Callable[..., None]]) -> Iterator[None]:
    """Calls `look(self, *arguments)` before this thread runs a method of a class. Keras has no hooks around these.

    Args:
        looks: functions by class and name of the method.
    """
    thread, active = threading.get_ident(), True

    def watched(method: Callable[..., Any], look: Callable[..., None]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            if active and threading.get_ident() == thread:  # a layer keeps the `build` that it was made with
                look(self, *args, **kwargs)
            return method(self, *args, **kwargs)

        if method.__name__ == "__init__":  # Keras asks for its arguments in a way that sees `run` alone
            run.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
        return run

    with _LOOKING:  # two threads that put methods back in another order would leave one that looks
        before = {(kind, name): vars(kind).get(name) for kind, name in looks}
        try:
            for (kind, name), look in looks.items():
                setattr(kind, name, watched(getattr(kind, name), look))
            yield
        finally:
            active = False
            for (kind, name), own in before.items():
                if own is None:
                    delattr(kind, name)  # it is a base's
                else:
                    setattr(kind, name, own)


def save_state(model: keras.Model, weights_store: Any, assets_store: Any, visited: set[int]) -> None:
    """Writes a model's state to stores, as `save_weights` does to a file."""
    saving_lib._save_state(model, weights_store, assets_store, "", visited)


def signatures_of(layer: keras.layers.TFSMLayer) -> Any:
    """The functions of a SavedModel that take their inputs by name; the layer exports only the one it calls."""
    return layer._reloaded_obj.signatures


def load_state(model: keras.Model, weights_store: Any, assets_store: Any, visited: set[int]) -> None:
    """Reads a model's state from stores, as `load_weights` does from a file."""
    saving_lib._load_state(model, weights_store, assets_store, "", visited_saveables=visited)


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Keras' callback with its files left to the methods `read` and `write`, which are private in Keras."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch that a backup in the middle of it belongs to; Keras does so when an epoch has ended."""
        self._current_epoch = epoch
        set_initial_epoch(self.model, 0)  # `fit` has read it, and would begin every later training there

    def read(self) -> None:
        """Called when training begins, to go on from what was written."""
        raise NotImplementedError

    def write(self, epoch: int) -> None:
        """Called to write a backup from which training goes on with `epoch`."""
        raise NotImplementedError

    def _load_model(self) -> None:
        self.read()

    def _save_model(self) -> None:
        self.write(self._current_epoch)


@contextlib.contextmanager
def marking(objects: Iterable[Any]) -> Iterator[None]:
    """Serialization marks the configs of these objects by `MARK`; `ObjectSharingScope` marks what it sees twice."""

    class Seen(dict[int, dict[str, Any]]):
        def __setitem__(self, key: int, value: dict[str, Any]) -> None:
            """Keeps nothing: the id of what is made on the way may be another's later."""

    with _global("shared_objects/id_to_config_map", Seen({id(one): {} for one in objects})):
        yield


@contextlib.contextmanager
def taking(objects: Mapping[int, Any]) -> Iterator[None]:
    """Deserialization takes objects by the mark of their config; `ObjectSharingScope` begins with none."""
    with _global("shared_objects/id_to_obj_map", dict(objects)):
        yield


@contextlib.contextmanager
def _global(name: str, value: Any) -> Iterator[None]:
    """Sets one of Keras' global attributes for a while; it has no public way for those of its own."""
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, value)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


# Words and sizes.


def operations(module: ModuleType, *names: str) -> list[type]:
    """The classes of a module of operations that this version of Keras has; it exports their functions alone."""
    return [vars(module)[name] for name in names if name in vars(module)]


def operation_modules() -> tuple[ModuleType, ...]:
    """The modules in which Keras defines operations."""
    return core, image, linalg, math_ops, nn, numpy_ops


def dtype_size(dtype: str) -> int:
    """Bits of a number; ValueError for what is no number, such as a string."""
    if dtype == "bool":
        return 1
    if (found := re.fullmatch(r"(?:bfloat|float|u?int)(\d+)", dtype)) is None:
        raise ValueError(f"Only numbers and bool have a size. Received: dtype {dtype!r}.")
    return int(found[1])


def to_snake_case(name: str) -> str:
    """The name that Keras gives the layers of a class in files of weights: "Conv2DTranspose" is "conv2d_transpose"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


# Several workers.

# Keras may change what is overridden here: add a version once tests/training/test_multiworker.py passes with it.
WORKERS_TESTED_WITH = ("3.13.2", "3.14.1", "3.15.1")


class Trainer(keras.Model):
    """A `keras.Model` whose `fit` and `evaluate` work with several replicas, in one process or in several.

    Inherit from it instead of `keras.Model`. The help of `distill.training` says what each worker sees and reports.

    Raises:
        RuntimeError: `fit` or `evaluate` is called with several workers, on a version of Keras that was not tested.
        ValueError: it is called with several workers, compiled with `steps_per_execution` above 1 or
            `jit_compile=True`.
    """

    @property
    def allows_jit(self) -> bool:
        """Whether XLA may compile a step. Keras only asks the layers that it tracks."""
        return True

    def _resolve_auto_jit_compile(self) -> bool:
        return super()._resolve_auto_jit_compile() and self.allows_jit

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # To learn the shape of a batch, Keras averages one over all replicas. That fails with several workers and with
        # shards of different sizes, and uses up a batch of a generator or an order of a shuffled data set. The element
        # spec of the data set tells the shape too.
        if iterator is not None and worker_replicas(self) > 1:
            import tensorflow as tf

            data_batch = tf.nest.map_structure(
                lambda replicas: tf.nest.flatten(replicas, expand_composites=True)[0],
                iterator._distributed_dataset.element_spec,
            )
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _make_function(self, step_function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if worker_strategy(self) is None:
            return super()._make_function(step_function, *args, **kwargs)
        if self.steps_per_execution > 1 or self.jit_compile:
            raise ValueError(
                "With several workers, TensorFlow can compile neither loops of steps nor steps for XLA. Received: "
                f"steps_per_execution={self.steps_per_execution}, jit_compile={self.jit_compile}. "
                "Compile with steps_per_execution=1 and jit_compile=False."
            )

        def step(data: Any) -> Any:
            # Keras averages the logs over axis 0 and then over workers, but a scalar has no axis 0.
            return keras.tree.map_structure(lambda log: ops.expand_dims(log, 0), step_function(data))

        return super()._make_function(step, *args, **kwargs)

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        # Keras reports the logs of the last batch, a mean over replicas, unless the metrics' names are exactly those
        # of the logs. Outside of the step, where this runs, a metric covers the examples of all replicas.
        if not isinstance(logs, dict):
            return logs
        results = self.get_metrics_result()
        return {name: results.get(name, log) for name, log in logs.items()}


def worker_replicas(model: keras.Model) -> int:
    """The number of replicas that train a model, on all workers together."""
    if keras.backend.backend() != "tensorflow":
        return 1
    worker_strategy(model)  # refuses an untested Keras
    return model.distribute_strategy.num_replicas_in_sync


def worker_strategy(model: keras.Model) -> Any:
    """The strategy of a model that several workers train; `None` for all others."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    if not strategy.extended._in_multi_worker_mode():
        return None
    if keras.__version__ not in WORKERS_TESTED_WITH:
        raise RuntimeError(
            "Training with several workers overrides private methods of Keras, so it only works with versions that it "
            f"was tested with: {', '.join(WORKERS_TESTED_WITH)}. Received: Keras {keras.__version__}. "
            f"Install keras=={WORKERS_TESTED_WITH[-1]}, or train in one process."
        )
    return strategy

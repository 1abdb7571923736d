"""The names of tfmot, the TensorFlow Model Optimization Toolkit: its pruning scripts run on Keras 3 with other imports.

from distill import pruning  # was: from tensorflow_model_optimization.sparsity import keras as pruning

model = pruning.prune_low_magnitude(model, pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000))
model.compile(…)
model.fit(x, y, epochs=10, callbacks=[pruning.UpdatePruningStep()])
model = pruning.strip_pruning(model)
"""

import dataclasses
import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops

from distill._keras import flatten_layers
from distill.pruning.weights._callbacks import GradualPruning, Schedule
from distill.pruning.weights._kernels import Kernel, find_kernels
from distill.pruning.weights._masks import Constraint, Mask, forget_traces, pruned_part, strip_masks
from distill.pruning.weights._patterns import Blocks, Elements, NofM, Pattern, is_whole

_POOLING: dict[str, Literal["mean", "max"]] = {"AVG": "mean", "MAX": "max"}
_SCHEDULES = ("PolynomialDecay", "ConstantSparsity")


class PruningPolicy(Protocol):
    """Says which layers are pruned."""

    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Whether a layer is pruned, with all layers inside it."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    schedule: Schedule
    pattern: Pattern

    @property
    def key(self) -> tuple[int, Pattern]:
        """Layers with the same are pruned by one callback."""
        return id(self.schedule), self.pattern


_plans: WeakKeyDictionary[keras.Layer, _Plan] = WeakKeyDictionary()


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Schedule | None = None,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
) -> Any:
    """Marks layers to be pruned while they train; `UpdatePruningStep` then prunes them.

    As tfmot's function of this name, with these differences. Nothing is wrapped or copied: the very object comes back,
    and a model that was trained before is compiled anew. Models may be of any kind, subclassed ones too. Layers that
    have nothing to prune, are not known (see `find_kernels`) or do not fit the pattern are left whole, where tfmot
    refuses or, with M:N, fills up with zeros; what is known is more. What is pruned stays at zero until the masks
    move: tfmot lets it take one step before each update, by which it may win its place back. Marks are no part of a
    saved file: after loading, mark again.

    Layers that are not built yet can be marked, and what they make when they are built is marked with them; the whole
    model must be built when training starts. Training without `UpdatePruningStep` is an error. It cannot be seen only
    where a layer by itself is marked of a model that was trained before and is not compiled again. After a training
    with the callback the masks hold in any other, but move with the callback only.

    A layer in a model or list that is marked already keeps its first mark.

    Args:
        to_prune: a model, a layer, or a list of these; built or not. Of a `distill.Distiller`, the student.
        pruning_schedule: see `GradualPruning`; tfmot's default, `ConstantSparsity(0.5, 0)`, if not given.
        block_size: rows and columns of the blocks that are cut as a whole.
        block_pooling_type: "AVG" or "MAX": a block counts as its mean or its largest magnitude.
        pruning_policy: an object whose `allow_pruning(layer)` says which layers of models, and which layers given by
            themselves, are pruned. If it has a method `ensure_model_supports_pruning(model)`, that is called as well.
            tfmot's `PruneForLatencyOnXNNPack` knows no Keras 3 layers.
        sparsity_m_by_n: (m, n): m zeros of every n weights along the inputs, such as (2, 4). These are chosen once, at
            step 1; `pruning_schedule` and `block_size` are then not looked at, as in tfmot.

    Returns:
        `to_prune` itself.

    Raises:
        ValueError: an argument of another kind; a layer given by itself is marked already.
    """
    pattern = _pattern(block_size, block_pooling_type, sparsity_m_by_n)
    layers = list(to_prune) if isinstance(to_prune, (list, tuple)) else [to_prune]
    if not layers or not all(isinstance(layer, keras.Layer) for layer in layers):
        kinds = ", ".join(f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in layers)
        raise ValueError(
            "Keras 3 models and layers, or lists of them, are pruned. Received: "
            f"{kinds or 'an empty list'}. Models of tf_keras need tfmot."
        )
    if not isinstance(to_prune, (list, tuple, keras.Model)) and to_prune in _plans:
        raise ValueError(
            f"A layer is marked once. Received: {to_prune.name!r}, which is marked. Call strip_pruning on its model "
            "first."
        )
    if isinstance(pattern, NofM):
        schedule = _at_step_one(pattern.sparsity)
    else:
        schedule = pruning_schedule or tfmot_schedule("ConstantSparsity")(0.5, 0)
    plan = _Plan(schedule, pattern)
    GradualPruning(schedule, pattern=pattern)  # complains now about a schedule that never reaches its target
    parts = [pruned_part(layer) for layer in layers]
    if pruning_policy is not None:
        _require_policy(pruning_policy)
        ensure = getattr(pruning_policy, "ensure_model_supports_pruning", lambda model: None)
        for part in parts:
            if isinstance(part, keras.Model):
                ensure(part)
    for layer, part in zip(layers, parts, strict=True):
        _mark(part, plan, pruning_policy)
        if isinstance(layer, keras.Model):
            forget_traces(layer)
    return to_prune


def strip_pruning(model: keras.Model) -> keras.Model:
    """Takes marks and masks off again: the zeros stay until something trains them.

    Files need it not: neither is ever saved with a model.

    Args:
        model: a model, or a `distill.Distiller`, whose student is meant; pruned by whatever of `distill.pruning`.

    Returns:
        The same model.

    Raises:
        ValueError: it is no Keras 3 model.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Models are stripped. Received: {type(model).__qualname__}.")
    part = pruned_part(model)
    for layer in flatten_layers(part):
        _plans.pop(layer, None)
        for kernel in _kernels(layer):
            _take_guard(kernel.variable)
    vars(part).pop(_HELD, None)
    if _kernels(part):
        strip_masks(model)
    return model


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes what `prune_low_magnitude` marked, while the model trains; without it that is an error.

    Drives a `GradualPruning` for each plan. Steps count on from one `fit` to the next, also with another
    `UpdatePruningStep`, as tfmot's do. In a loop of one's own, call `set_model`, `on_train_batch_begin` before each
    step and `on_train_end`; the model must be compiled with the optimizer that trains it.

    At the end of an epoch the share of zeros of what is pruned is in the logs, as "sparsity".
    Put it after `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list: older weights have fewer zeros.

    Raises:
        ValueError: at the start of training: nothing of the model is marked, or a pattern fits none of the layers
            that are marked with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._driven: list[GradualPruning] = []
        self._variables: list[keras.Variable] = []

    def set_params(self, params: dict[str, Any]) -> None:
        """Notes how long training is."""
        super().set_params(params)
        for callback in self._driven:
            callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Finds what is marked and puts masks in place of errors."""
        super().set_model(model)
        part = pruned_part(model)
        plans: dict[tuple[int, Pattern], _Plan] = {}
        owners: dict[tuple[int, Pattern], set[keras.Layer]] = {}
        self._variables = []
        for kernel in find_kernels(part).found:
            plan = _plans.get(kernel.layer)
            if plan is not None:
                _take_guard(kernel.variable)
                self._variables.append(kernel.variable)
                plans[plan.key] = plan
                owners.setdefault(plan.key, set()).add(kernel.layer)
        if not plans:
            raise ValueError(
                f"UpdatePruningStep prunes what prune_low_magnitude marked. Received: {model.name!r}, of which nothing "
                "is marked. Copies of a model and models from files are not: mark them."
            )
        # Steps belong to the model, as in tfmot. Not by setattr, by which Keras would track them.
        held: dict[Any, GradualPruning] = vars(part).setdefault(_HELD, {})
        self._driven = []
        for key, plan in plans.items():
            if key not in held:
                held[key] = GradualPruning(
                    plan.schedule, pattern=plan.pattern, include=owners[key].__contains__
                )
            held[key].set_params(self.params or {})
            held[key].set_model(model)
            self._driven.append(held[key])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the masks that are due."""
        for callback in self._driven:
            callback.on_train_batch_begin(batch, logs)

    def on_epoch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the share of zeros to the logs; `batch` is tfmot's name for the epoch."""
        if logs is not None:
            values = [ops.convert_to_numpy(variable) for variable in self._variables]
            kept = sum(np.count_nonzero(value) for value in values)
            logs["sparsity"] = 1 - kept / sum(value.size for value in values)

    def on_train_end(self, logs: Any = None) -> None:
        """Sees to steps that were due, and zeroes again what averaging or restoring wrote."""
        for callback in self._driven:
            callback.on_train_end(logs)


def tfmot_schedule(name: str) -> Any:
    """A schedule class of tfmot, which is imported at the first call and leaves no trace.

    tfmot tells this process and its children by an environment variable to use Keras 2, and so turns a `tf.keras`
    that nobody has looked at into Keras 2. Both are undone or forestalled here.

    Args:
        name: "PolynomialDecay" or "ConstantSparsity".

    Raises:
        AttributeError: another name.
    """
    if name not in _SCHEDULES:
        raise AttributeError(f"tfmot's schedules are {' and '.join(_SCHEDULES)}. Received: {name!r}.")
    if "tensorflow_model_optimization" not in sys.modules:
        import tensorflow as tf

        tf.keras.Model  # noqa: B018 - what tf.keras is, is decided when it is first looked at
        before = dict(os.environ)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what it imports
                import tensorflow_model_optimization  # noqa: F401
        finally:
            for key in os.environ.keys() - before.keys():
                del os.environ[key]
            os.environ.update(before)
    return getattr(sys.modules["tensorflow_model_optimization"].sparsity.keras, name)


# The attribute of a model that holds the callbacks that prune it.
_HELD = "_distill_pruning_callbacks"


class _Guard(keras.constraints.Constraint):
    """Stops a training that would leave a marked kernel unpruned."""

    def __init__(self, name: str, before: Constraint | None) -> None:
        self.name = name
        self.before = before

    def __call__(self, w: keras.Variable) -> object:
        raise ValueError(
            f"What prune_low_magnitude marked is trained with UpdatePruningStep. Received: a training step of "
            f"{self.name!r} without. Add callbacks=[UpdatePruningStep()] to fit, or call strip_pruning on the model."
        )


def _take_guard(variable: keras.Variable) -> None:
    constraint = variable.constraint
    if isinstance(constraint, _Guard):
        variable.constraint = constraint.before
    elif isinstance(constraint, Mask) and isinstance(constraint.before, _Guard):
        constraint.before = constraint.before.before  # `prune` came after the mark


def _mark(layer: keras.Layer, plan: _Plan, policy: PruningPolicy | None) -> None:
    """Notes a plan for a layer and what is inside; a policy is asked about layers, not about their parts."""
    whole = isinstance(layer, keras.Model)
    if isinstance(layer, keras.layers.InputLayer):
        return
    if policy is not None and not whole and not policy.allow_pruning(layer):
        return
    if layer not in _plans:
        _plans[layer] = plan
        if not layer.built:
            _when_built(layer, lambda: _mark_inside(layer, plan, policy if whole else None))
    _mark_inside(layer, plan, policy if whole else None)


def _mark_inside(layer: keras.Layer, plan: _Plan, policy: PruningPolicy | None) -> None:
    if layer not in _plans:
        return  # stripped before it was built
    for child in flatten_layers(layer, include_self=False, recursive=False):
        _mark(child, plan, policy)
    for kernel in _kernels(layer):
        constraint = kernel.variable.constraint
        guarded = isinstance(constraint, _Guard) or isinstance(getattr(constraint, "before", None), _Guard)
        if kernel.layer in _plans and not guarded:
            kernel.variable.constraint = _Guard(kernel.variable.path, constraint)


def _when_built(layer: keras.Layer, then: Callable[[], None]) -> None:
    build = layer.build  # Keras itself puts a function of this kind on each layer

    @functools.wraps(build)
    def build_and_then(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        layer.build = build
        then()

    layer.build = build_and_then


def _kernels(layer: keras.Layer) -> tuple[Kernel, ...]:
    if not layer.built:
        return ()
    try:
        return find_kernels(layer).found
    except ValueError:  # it has none
        return ()


def _pattern(block_size: Any, pooling: Any, m_by_n: Any) -> Pattern:
    if pooling not in _POOLING:
        raise ValueError(f"Blocks are pooled by 'AVG' or 'MAX'. Received: block_pooling_type={pooling!r}.")
    if m_by_n:
        try:
            m, n = m_by_n
        except (TypeError, ValueError):
            m = n = None
        if not (is_whole(m) and is_whole(n) and 1 <= m < n):
            raise ValueError(
                f"Of every n weights m are zero, 1 <= m < n. Received: sparsity_m_by_n={m_by_n!r}."
            )
        return NofM(keep=n - m, of=n)
    blocks = Blocks(block_size, _POOLING[pooling])
    return Elements() if tuple(block_size) == (1, 1) else dataclasses.replace(blocks, shape=tuple(block_size))


@functools.cache
def _at_step_one(sparsity: float) -> Schedule:
    return lambda step: (step == 1, sparsity)


def _require_policy(policy: PruningPolicy) -> None:
    if not callable(getattr(policy, "allow_pruning", None)):
        raise ValueError(f"A policy has a method allow_pruning(layer). Received: pruning_policy={policy!r}.")
    if type(policy).__module__.startswith("tensorflow_model_optimization."):
        raise ValueError(
            f"tfmot's own policies know layers of tf_keras only. Received: pruning_policy={policy!r}. Write a class "
            "with a method allow_pruning(layer), as short as `return isinstance(layer, keras.layers.Conv2D) and "
            "layer.kernel_size == (1, 1)`."
        )

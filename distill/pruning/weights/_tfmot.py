"""tfmot's names (TensorFlow Model Optimization Toolkit): with other imports, its pruning scripts run on Keras 3.

    from distill import pruning  # was: from tensorflow_model_optimization.sparsity import keras as pruning

    model = pruning.prune_low_magnitude(model, pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000))
    model.compile(…)
    model.fit(x, y, epochs=10, callbacks=[pruning.UpdatePruningStep()])
    model = pruning.strip_pruning(model)

These functions keep tfmot's own signatures on purpose, positional arguments included, so that its scripts need no other
change.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import keras
import numpy as np
from keras import ops

from distill.pruning._numbers import is_whole
from distill.pruning.weights._gradual import GradualPruning
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._marks import (
    Plan,
    PruningPolicy,
    kernels_of,
    mark,
    plan_of,
    take_guard,
    unmark,
)
from distill.pruning.weights._masks import forget_traces, pruned_part, strip_masks
from distill.pruning.weights._patterns import Blocks, Elements, NofM, Pattern
from distill.pruning.weights._schedules import Schedule, tfmot_schedule

_POOLING: dict[str, Literal["mean", "max"]] = {"AVG": "mean", "MAX": "max"}
# The attribute in which a model holds the callbacks that prune it.
_HELD = "_distill_pruning_callbacks"

_Marked = TypeVar("_Marked", bound=keras.Layer | Sequence[keras.Layer])


def prune_low_magnitude(
    to_prune: _Marked,
    pruning_schedule: Schedule | None = None,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
) -> _Marked:
    """Marks layers to be pruned while they train; the callback `UpdatePruningStep` then prunes them.

    Like tfmot's function of this name, with these differences:

    - Nothing is wrapped or copied: you get back the same object that you passed. A model that was trained before is
      traced again.
    - You can pass any kind of model, including subclassed ones, and more layers are known. Layers that have nothing to
      prune, are not known (see `find_kernels`) or do not fit the pattern are left whole. tfmot refuses them or, with
      M:N, pads them with zeros.
    - Pruned weights stay at zero until the masks move. tfmot lets them take one step before each update, so that they
      may win their place back.
    - Marks are not part of a saved file: mark a loaded model again.

    You can mark layers that are not built yet; whatever they create when they are built is marked with them. The whole
    model must be built when training starts. Training without `UpdatePruningStep` is an error. One case goes unnoticed:
    a layer is marked by itself, and its model was trained before and is not compiled again. After training with the
    callback, the masks hold in any other training, but they move only with the callback.

    A layer that is already marked keeps its first mark if its model, or a list that contains it, is marked later.

    Args:
        to_prune: model, layer, or list of these; built or not. For a `distill.Distiller`, its student is marked.
        pruning_schedule: steps and sparsities; see `GradualPruning`. `None` is tfmot's default,
            `ConstantSparsity(0.5, 0)`.
        block_size: rows and columns of the blocks that are pruned as a whole.
        block_pooling_type: "AVG" or "MAX": a block is scored by the mean or the largest of its magnitudes.
        pruning_policy: object whose `allow_pruning(layer)` says which layers are pruned, among the layers in models and
            the layers passed by themselves. If it has a method `ensure_model_supports_pruning(model)`, that is called
            as well. tfmot's `PruneForLatencyOnXNNPack` does not know Keras 3 layers.
        sparsity_m_by_n: (m, n) for m zeros in every n weights along the inputs, such as (2, 4). These are chosen once,
            at step 1; as in tfmot, `pruning_schedule` and `block_size` are then not used.

    Returns:
        `to_prune` itself.

    Raises:
        ValueError: an argument has the wrong kind, or a layer passed by itself is already marked.
        TypeError: the schedule is not a function.

    Example:
    ```python
    from distill import pruning

    schedule = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10, frequency=1)
    pruning.prune_low_magnitude(model, schedule)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=[pruning.UpdatePruningStep()])
    pruning.strip_pruning(model)
    ```
    """
    pattern = _pattern(block_size, block_pooling_type, sparsity_m_by_n)
    layers: list[Any] = list(to_prune) if isinstance(to_prune, (list, tuple)) else [to_prune]
    if not layers or not all(isinstance(layer, keras.Layer) for layer in layers):
        kinds = ", ".join(f"{type(layer).__module__}.{type(layer).__qualname__}" for layer in layers)
        raise ValueError(
            "prune_low_magnitude needs a Keras 3 model or layer, or a list of them. Received: "
            f"{kinds or 'an empty list'}. Models of tf_keras need tfmot."
        )
    if not isinstance(to_prune, (list, tuple, keras.Model)) and plan_of(layers[0]) is not None:
        raise ValueError(
            f"A layer can be marked only once. Received: {layers[0].name!r}, which is marked already. Call "
            "strip_pruning on its model first."
        )
    if isinstance(pattern, NofM):
        schedule = _at_step_one(pattern.sparsity)
    else:
        schedule = pruning_schedule or tfmot_schedule("ConstantSparsity")(0.5, 0)
    plan = Plan(schedule, pattern)
    GradualPruning(schedule, pattern=pattern)  # raises now if the schedule never reaches its target
    parts = [pruned_part(layer) for layer in layers]
    if pruning_policy is not None:
        _require_policy(pruning_policy)
        ensure = getattr(pruning_policy, "ensure_model_supports_pruning", lambda model: None)
        for part in parts:
            if isinstance(part, keras.Model):
                ensure(part)
    for layer, part in zip(layers, parts, strict=True):
        mark(part, plan, pruning_policy)
        if isinstance(layer, keras.Model):
            forget_traces(layer)
    return to_prune


def strip_pruning(model: keras.Model) -> keras.Model:
    """Removes marks and masks. The zeros stay until something trains them.

    Saving a model does not need this: files never contain marks or masks.

    Args:
        model: model that any function or callback of `distill.pruning` has pruned; for a `distill.Distiller`, its
            student is used.

    Returns:
        The same model.

    Raises:
        ValueError: the model is not a Keras 3 model.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, 0.8)
    pruning.strip_pruning(model)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y)  # changes the zeros too
    ```
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"strip_pruning needs a Keras 3 model. Received: {type(model).__qualname__}.")
    part = pruned_part(model)
    unmark(part)
    vars(part).pop(_HELD, None)
    if kernels_of(part):
        strip_masks(model)
    return model


class _Held(NamedTuple):
    """A callback that a model holds, which prunes the layers that were marked with one plan before one training."""

    key: tuple[int, Pattern]
    layers: set[keras.Layer]
    callback: GradualPruning


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes what `prune_low_magnitude` marked, while the model trains. Training without it is an error.

    Runs one `GradualPruning` for each plan. As in tfmot, the step count continues from one `fit` to the next, even with
    another `UpdatePruningStep`. Layers that are marked after a `fit` count from the next one. In a training loop of
    your own, call `set_model`, then `on_train_batch_begin` before each step, then `on_train_end`; the model must be
    compiled with the optimizer that trains it.

    At the end of an epoch, it logs the share of zeros in all pruned kernels as "sparsity". Put this callback after
    `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list, because the older weights that are restored
    have fewer zeros.

    Raises:
        ValueError: at the start of training, nothing in the model is marked, or a pattern fits none of the layers that
            are marked with it.

    Example:
    ```python
    from distill import pruning

    pruning.prune_low_magnitude(model, pruning.ConstantSparsity(0.5, begin_step=1))
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[pruning.UpdatePruningStep()])
    ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._driven: list[GradualPruning] = []
        self._variables: list[keras.Variable] = []

    def set_params(self, params: dict[str, Any]) -> None:
        """Notes how long the training is."""
        super().set_params(params)
        for callback in self._driven:
            callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        """Finds what is marked, and puts masks in place of the guards."""
        super().set_model(model)
        part = pruned_part(model)
        plans: dict[tuple[int, Pattern], Plan] = {}
        owners: dict[tuple[int, Pattern], set[keras.Layer]] = {}
        self._variables = []
        for kernel in find_kernels(part).found:
            plan = plan_of(kernel.layer)
            if plan is not None:
                take_guard(kernel.variable)
                plans[plan.key] = plan
                owners.setdefault(plan.key, set()).add(kernel.layer)
        if not plans:
            raise ValueError(
                "UpdatePruningStep needs a model in which prune_low_magnitude has marked layers. Received: "
                f"{model.name!r}, in which nothing is marked. Copies and loaded models have no marks: mark them again."
            )
        # As in tfmot, the steps belong to the model. Not stored by setattr, or Keras would track the callbacks.
        held: list[_Held] = vars(part).setdefault(_HELD, [])
        self._driven = []
        for key, plan in plans.items():
            known = [one for one in held if one.key == key]
            if late := owners[key].difference(*(one.layers for one in known)):
                callback = GradualPruning(plan.schedule, pattern=plan.pattern, include=late.__contains__)
                known.append(_Held(key, late, callback))
                held.append(known[-1])
            self._driven += [one.callback for one in known]
        for callback in self._driven:
            callback.set_params(self.params or {})
            callback.set_model(model)
        # Without those that a pattern does not fit, which stay whole.
        self._variables = [kernel.variable for one in self._driven for kernel in one.kernels]

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
        """Handles steps that are still due, and zeroes again what averaging or restoring wrote."""
        for callback in self._driven:
            callback.on_train_end(logs)


def _pattern(block_size: Any, pooling: str, m_by_n: Any) -> Pattern:
    if pooling not in _POOLING:
        raise ValueError(
            f"block_pooling_type must be 'AVG' or 'MAX'. Received: block_pooling_type={pooling!r}."
        )
    if m_by_n:
        try:
            m, n = m_by_n
        except (TypeError, ValueError):
            m = n = None
        if not (is_whole(m) and is_whole(n) and 1 <= m < n):
            raise ValueError(
                "sparsity_m_by_n must be two integers (m, n) with 1 <= m < n: m zeros in every n weights. Received: "
                f"sparsity_m_by_n={m_by_n!r}."
            )
        return NofM(keep=n - m, of=n)
    blocks = Blocks(block_size, pooling=_POOLING[pooling])
    rows, columns = blocks.shape
    return Elements() if rows == columns == 1 else Blocks((rows, columns), pooling=blocks.pooling)


@functools.cache
def _at_step_one(sparsity: float) -> Schedule:
    return lambda step: (step == 1, sparsity)


def _require_policy(policy: PruningPolicy) -> None:
    if not callable(getattr(policy, "allow_pruning", None)):
        raise ValueError(
            f"pruning_policy must have a method allow_pruning(layer). Received: pruning_policy={policy!r}."
        )
    if type(policy).__module__.startswith("tensorflow_model_optimization."):
        raise ValueError(
            f"tfmot's own policies only know layers of tf_keras. Received: pruning_policy={policy!r}. Write a class "
            "with a method allow_pruning(layer), as short as `return isinstance(layer, keras.layers.Conv2D) and "
            "layer.kernel_size == (1, 1)`."
        )

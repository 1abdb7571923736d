"""Pruning while a model trains: callbacks that move masks at the steps that a schedule names."""

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill.pruning.criteria.weights import Criterion, magnitude, weights_of
from distill.pruning.kernels import Kernels, Selector, find_kernels
from distill.pruning.masks import (
    Mask,
    attach_masks,
    choose,
    fitting,
    kept_at,
    mask_of,
    pruned_part,
    require_sparsity,
)
from distill.pruning.patterns import Elements, NofM, Pattern, Scope
from distill.pruning.sparsity import sparsity_of
from distill.replicas import scope_of

# Steps from 1 on -> whether masks are updated at it, and the sparsity that they then have.
Schedule = Callable[[int], tuple[Any, Any]]


class MaskCallback(keras.callbacks.Callback):
    """What callbacks that move masks share: the kernels, their masks, steps, and a state that is saved.

    Steps are updates of the weights since pruning began, counted from 1 and taken from the optimizer: right under
    `steps_per_execution`, gradient accumulation and loss scaling, and resumed with it. While training runs, the masks
    are part of the optimizer's state, so that `keras.callbacks.BackupAndRestore` and `save_weights` keep them; files
    without the optimizer, and those written after training, hold none.
    """

    def __init__(
        self,
        pattern: Pattern,
        include: Selector | Sequence[Selector] | None,
        exclude: Selector | Sequence[Selector] | None,
        log_layers: bool,
    ) -> None:
        super().__init__()
        self._pattern = pattern
        self._include = include
        self._exclude = exclude
        self._log_layers = log_layers
        self._kernels = Kernels((), {})
        self._masks: list[Mask] = []
        self._state: Any = None
        self._optimizer: Any = None
        self.updates: list[tuple[int, dict[str, float]]] = []

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels and gives them masks; Keras calls this before anything is compiled."""
        super().set_model(model)
        if not model.compiled:
            raise ValueError(
                f"Masks follow an optimizer's steps. Received: {model.name!r}, which is not compiled."
            )
        part = pruned_part(model)
        steps, moved = (0, 0) if self._state is None else (self.steps_done, self._last_move)
        self._kernels = fitting(find_kernels(part, self._include, self._exclude), self._pattern)
        self._masks = attach_masks(part, self._kernels.found)
        if self._state is None or self._optimizer is not model.optimizer:
            self._optimizer = model.optimizer
            with scope_of(part):
                began = _iterations(self._optimizer) - steps
                self._state = _State([mask.kept for mask in self._masks], began, moved)
        self._name = _hold(self._optimizer, self._state)
        # One that was traced before knows nothing of the masks. Keras may have made it already, or not.
        model.make_train_function(force=True)

    @property
    def steps_done(self) -> int:
        """Updates of the weights since pruning began."""
        _ = self.model  # asked for by a callback, Keras brings variables up to date on JAX
        return _iterations(self._optimizer) - int(ops.convert_to_numpy(self._state.began))

    @property
    def _last_move(self) -> int:
        return int(ops.convert_to_numpy(self._state.moved))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the masks if this step, or one since the last look, is due."""
        self.move(self.steps_done + 1)

    def move(self, step: int) -> None:
        """Moves the masks if a step up to this one is due and has not been seen to."""
        raise NotImplementedError

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the share of zeros to the logs, for all callbacks that come later in the list."""
        if logs is None:
            return
        found = sparsity_of(self._kernels)
        logs["sparsity"] = found.sparsity
        if self._log_layers:
            logs.update({f"sparsity/{kernel.name}": kernel.sparsity for kernel in found.kernels})

    def on_train_end(self, logs: Any = None) -> None:
        """Sees to steps that were due and zeroes again what averaging or restoring wrote."""
        self.move(self.steps_done)
        for kernel, mask in zip(self._kernels.found, self._masks, strict=True):
            mask.apply(kernel.variable)
        delattr(self._optimizer, self._name)

    def set_masks(self, step: int, chosen: Sequence[np.ndarray]) -> None:
        """Sets all masks, and notes when."""
        for kernel, mask, kept in zip(self._kernels.found, self._masks, chosen, strict=True):
            mask.set(kernel.variable, kept)
        if keras.backend.backend() == "jax":
            self.model.make_train_function(force=True)  # there masks are constants of the compiled step
        self._state.moved.assign(step)
        names = [kernel.name for kernel in self._kernels.found]
        self.updates.append(
            (step, {n: 1 - float(np.mean(kept)) for n, kept in zip(names, chosen, strict=True)})
        )


class KeepZeros(MaskCallback):
    """Keeps at zero what is pruned, or zero in kernels without a mask, when training starts.

    `prune` and `keep_zeros` do so alone, but for an optimizer with `use_ema=True`: its averages are of weights before
    constraints apply, and at the end of training they replace the weights, in pruned places too. This callback zeroes
    them again. `GradualPruning` does so itself.

    Args:
        include: which layers; see `find_kernels`.
        exclude: which not.
        log_layers: also log each kernel's share of zeros, beside "sparsity" of all.
    """

    def __init__(
        self,
        *,
        include: Selector | Sequence[Selector] | None = None,
        exclude: Selector | Sequence[Selector] | None = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels, and gives those without a mask one of their zeros."""
        part = pruned_part(model)
        unmasked = [k for k in find_kernels(part, self._include, self._exclude).found if mask_of(k) is None]
        super().set_model(model)
        for kernel, mask in zip(unmasked, attach_masks(part, unmasked), strict=True):
            mask.set(kernel.variable, weights_of(kernel) != 0)

    def move(self, step: int) -> None:
        """Does nothing: the masks stay."""


class GradualPruning(MaskCallback):
    """Prunes while a model trains, at the steps and to the sparsities that a schedule names.

    What is pruned stays at zero until the masks move, so it can come back only where the sparsity falls. (tfmot lets
    a pruned weight take one step before each update, by which it may win its place back.) The final sparsity is the
    schedule's, exactly, also where a step was due inside the last `steps_per_execution`.

    Put it after `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list: both act when training ends,
    in the list's order, and older weights have fewer zeros. Put it before what logs: it adds "sparsity" to the logs.

    Args:
        schedule: step -> (whether the masks move, sparsity), steps from 1 on: tfmot's `PolynomialDecay` or
            `ConstantSparsity` (both also `distill.pruning`'s), or any function of a Python int. With tfmot's,
            `begin_step=0` and `frequency=100` mean steps 100, 200, …
        criterion: which weights stay; see `prune`.
        pattern: what is cut as a whole; with `NofM` the schedule's sparsity must be the pattern's.
        scope: where weights compete; see `prune`.
        include: which layers; see `find_kernels`.
        exclude: which not.
        log_layers: also log each kernel's share of zeros, as "sparsity/encoder/dense/kernel".

    Attributes:
        updates: for every update its step and the kernels' sparsities by name.

    Raises:
        ValueError: the schedule can never reach its target, such as `PolynomialDecay` with an `end_step` that is no
            multiple of `frequency` away from `begin_step`; at the start of training, whatever `find_kernels` refuses.

    References:
        Zhu, Gupta 2017, arXiv:1710.01878: the polynomial schedule.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        criterion: Criterion = magnitude,
        pattern: Pattern = Elements(),
        scope: Scope = "layer",
        include: Selector | Sequence[Selector] | None = None,
        exclude: Selector | Sequence[Selector] | None = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(pattern, include, exclude, log_layers)
        self._timetable = _Timetable(schedule)
        self._criterion = criterion
        self._scope = scope
        self._warned = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if this step, or one since the last look, is due."""
        if not self._warned:
            self._warned = True
            self._warn_if_too_short()
        super().on_train_batch_begin(batch, logs)

    def move(self, step: int) -> None:
        """Updates the masks if a step up to this one is due and has not been seen to."""
        sparsity = self._timetable.due(self._last_move, step)
        if sparsity is None:
            return
        if isinstance(self._pattern, NofM) and not np.isclose(sparsity, self._pattern.sparsity):
            raise ValueError(
                f"{self._pattern} says itself how much is cut, {self._pattern.sparsity:g}. Received: a schedule with "
                f"sparsity {sparsity:g}. Use ConstantSparsity({self._pattern.sparsity:g}, …)."
            )
        part = pruned_part(self.model)
        amount = kept_at(sparsity)
        chosen = choose(part, self._kernels.found, self._pattern, self._criterion, amount, self._scope)
        self.set_masks(step, chosen)

    def _warn_if_too_short(self) -> None:
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        end = self._timetable.last
        if steps and epochs and end is not None and end > self.steps_done + steps * epochs:
            warnings.warn(
                f"Pruning ends at step {end}, and this training at step {self.steps_done + steps * epochs} or before: "
                "it stops short of the final sparsity, unless another fit with this callback goes on.",
                stacklevel=2,
            )


class _Timetable:
    """When masks move, and to which sparsity."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule: Any = schedule
        self._is_tfmot = any(
            kind.__module__.startswith("tensorflow_model_optimization.") for kind in type(schedule).__mro__
        )
        self._chunk: dict[int, tuple[bool, float]] = {}
        self.last: int | None = None
        if self._is_tfmot:
            self._check_reachable(schedule)

    def due(self, after: int, until: int) -> float | None:
        """The sparsity of the latest update in steps after + 1 … until, or `None` if there is none."""
        for step in range(until, after, -1):
            moves, sparsity = self._at(step)
            if moves:
                return require_sparsity(sparsity)
        return None

    def _at(self, step: int) -> tuple[bool, float]:
        if self._is_tfmot:
            # A call costs TensorFlow 0.4 ms, for one step as for a thousand.
            if step not in self._chunk:
                steps = np.arange(step // 1000 * 1000, step // 1000 * 1000 + 1000)
                moves, sparsities = (np.broadcast_to(part, steps.shape) for part in self._schedule(steps))
                # float32's .8 is .800000012
                pairs = [(bool(m), round(float(s), 7)) for m, s in zip(moves, sparsities, strict=True)]
                self._chunk = dict(zip(steps.tolist(), pairs, strict=True))
            return self._chunk[step]
        try:
            moves, sparsity = self._schedule(step)
            return bool(moves), float(sparsity)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "A schedule maps a step to (whether masks move, sparsity). Received: "
                f"{self._schedule!r}, which at step {step} did not: {error}."
            ) from error

    def _check_reachable(self, schedule: Any) -> None:
        tfmot = sys.modules["tensorflow_model_optimization"].sparsity.keras
        if isinstance(schedule, tfmot.PolynomialDecay):
            self.last = schedule.end_step
            reached = schedule.end_step
        elif isinstance(schedule, tfmot.ConstantSparsity):
            begin, every = schedule.begin_step, schedule.frequency
            self.last = reached = begin if begin > 0 else every
        else:
            return
        if reached < 1 or not bool(schedule(reached)[0]):
            raise ValueError(
                "Masks move every `frequency` steps from `begin_step` on, so the end must be one of these steps, and "
                f"after step 0. Received: {type(schedule).__name__}({schedule.get_config()['config']}), which never "
                "reaches its final sparsity. Choose end_step = begin_step + a multiple of frequency."
            )


class _State(keras.Layer):
    """The masks and the steps, in a form that Keras saves along with the optimizer that holds it."""

    def __init__(self, masks: list[keras.Variable], began: int, moved: int) -> None:
        super().__init__(name="pruning_state")
        self.masks = masks
        self.began = keras.Variable(began, dtype="int", trainable=False, name="began")
        self.moved = keras.Variable(moved, dtype="int", trainable=False, name="moved")
        self.built = True


def _hold(optimizer: Any, state: _State) -> str:
    """Attaches a state to an optimizer under a free name, which is returned."""
    number = 0
    while getattr(optimizer, f"pruning_{number}", state) is not state:
        number += 1
    setattr(optimizer, f"pruning_{number}", state)
    return f"pruning_{number}"


def _iterations(optimizer: Any) -> int:
    return int(ops.convert_to_numpy(optimizer.iterations))

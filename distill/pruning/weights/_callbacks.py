"""Pruning while a model trains: callbacks that move masks at the steps that a schedule names."""

import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._replicas import scope_of
from distill.pruning.weights._kernels import Kernels, Selector, find_kernels
from distill.pruning.weights._masks import (
    Mask,
    attach_masks,
    choose,
    fitting,
    free_replaced,
    keep_zeros_of,
    kept_at,
    mask_of,
    pruned_part,
    require_choice,
    require_sparsity,
)
from distill.pruning.weights._patterns import Elements, NofM, Pattern, Scope
from distill.pruning.weights._sparsity import sparsity_of
from distill.pruning.weights.criteria._weights import Criterion, magnitude

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
        self._began = 0  # the optimizer's count when pruning began
        self.last_move = 0  # the step of the last update of the masks; 0 before the first
        self.updates: list[tuple[int, dict[str, float]]] = []

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels and gives them masks; Keras calls this before the first step is traced."""
        super().set_model(model)
        if not model.compiled or model.optimizer is None:
            raise ValueError(
                f"Masks follow an optimizer's steps. Received: {model.name!r}, which has none. Compile it with one."
            )
        part = pruned_part(model)
        self._kernels = fitting(find_kernels(part, self._include, self._exclude), self._pattern)
        masks = attach_masks(part, self._kernels.found)
        steps, moved = 0, 0
        if masks == self._masks:  # another fit of the same weights: steps go on
            steps, moved = self.steps_done, self.last_move
        else:
            self._state = None
            self.updates.clear()
            for kernel, mask in zip(self._kernels.found, masks, strict=True):
                free_replaced(kernel, mask)
        self._masks = masks
        if self._state is None or self._optimizer is not model.optimizer:
            self._optimizer = model.optimizer
            with scope_of(part):
                began = _iterations(self._optimizer) - steps
                self._state = _State([mask.kept for mask in masks], began, moved)
        self._looked = moved
        self._seen = 0
        self._read_state()
        for mask in masks:
            mask.mover = self
        # Found by Keras when it saves the optimizer, and named by what it is about: lists of callbacks may change.
        names = ",".join(kernel.name for kernel in self._kernels.found)
        self._name = f"pruning_{type(self).__name__}_{zlib.crc32(names.encode()):08x}"
        setattr(self._optimizer, self._name, self._state)
        # One that was traced before knows nothing of the masks. Keras may have made it already, or not.
        model.make_train_function(force=True)

    @property
    def steps_done(self) -> int:
        """Updates of the weights since pruning began."""
        _ = self.model  # asked for by a callback, Keras brings variables up to date on JAX
        return _iterations(self._optimizer) - self._began

    def _read_state(self) -> None:
        # Kept as numbers: reading variables at every batch takes longer than a small step.
        self._began = int(ops.convert_to_numpy(self._state.began))
        self.last_move = int(ops.convert_to_numpy(self._state.moved))

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuses two that move the same masks."""
        contested = [
            kernel.name
            for kernel, mask in zip(self._kernels.found, self._masks, strict=True)
            if mask.mover is not self
        ]
        if contested:
            raise ValueError(
                f"A mask is moved by one callback. Received: two for {', '.join(contested)}. Use include= and exclude=."
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the masks if this step, or one since the last look, is due."""
        if not self._seen:
            self._read_state()  # a backup has been restored by now
        self._seen += 1
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
        if hasattr(self._optimizer, self._name):
            delattr(self._optimizer, self._name)
        if self._seen and _iterations(self._optimizer) == 0:
            warnings.warn(
                f"Masks follow the steps of {self.model.name!r}'s compiled optimizer, which made none: weights were "
                "trained by another, and nothing was pruned. Compile the model with the one that trains it.",
                stacklevel=2,
            )

    def set_masks(self, step: int, chosen: Sequence[np.ndarray]) -> None:
        """Sets all masks, and notes when."""
        for kernel, mask, kept in zip(self._kernels.found, self._masks, chosen, strict=True):
            mask.set(kernel.variable, kept)
        if keras.backend.backend() == "jax":
            self.model.make_train_function(force=True)  # there masks are constants of the compiled step
        self._state.moved.assign(step)
        self.last_move = step
        names = [kernel.name for kernel in self._kernels.found]
        self.updates.append(
            (step, {n: 1 - float(np.mean(kept)) for n, kept in zip(names, chosen, strict=True)})
        )


class KeepZeros(MaskCallback):
    """Keeps at zero what is pruned when training starts; of a model without masks, what is zero.

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
        had_masks = any(mask_of(k) for k in find_kernels(part, self._include, self._exclude).found)
        super().set_model(model)
        if not had_masks:
            keep_zeros_of(part, self._kernels.found)

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
        require_choice(pattern, criterion, scope)
        self._timetable = _Timetable(schedule)
        if isinstance(pattern, NofM):
            self._require_sparsity_of(pattern, self._timetable.target)
        self._criterion = criterion
        self._scope = scope
        self._warned = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if this step, or one since the last look, is due."""
        super().on_train_batch_begin(batch, logs)
        if not self._warned:
            self._warned = True
            self._warn_if_too_short()

    def move(self, step: int) -> None:
        """Updates the masks if a step up to this one is due and has not been seen to."""
        # After a restart the state knows of later moves than this object; else it has looked further.
        sparsity = self._timetable.due(max(self.last_move, self._looked), step)
        self._looked = step
        if sparsity is None:
            return
        if isinstance(self._pattern, NofM):
            self._require_sparsity_of(self._pattern, sparsity)
        part = pruned_part(self.model)
        amount = kept_at(sparsity)
        chosen = choose(part, self._kernels.found, self._pattern, self._criterion, amount, self._scope)
        self.set_masks(step, chosen)

    def on_train_end(self, logs: Any = None) -> None:
        """Sees to steps that were due and zeroes again what averaging or restoring wrote."""
        super().on_train_end(logs)
        if self._seen and self.steps_done and self.last_move == 0 and self._timetable.last is None:
            warnings.warn(
                f"Nothing was pruned: no step from 1 to {self.steps_done} was due by {self._timetable.schedule!r}.",
                stacklevel=2,
            )

    @staticmethod
    def _require_sparsity_of(pattern: NofM, sparsity: float | None) -> None:
        if sparsity is not None and not np.isclose(sparsity, pattern.sparsity):
            raise ValueError(
                f"{pattern} says itself how much is cut, {pattern.sparsity:g}. Received: a schedule with sparsity "
                f"{sparsity:g}. Use ConstantSparsity({pattern.sparsity:g}, …)."
            )

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
        if not callable(schedule):
            raise TypeError(
                f"A schedule is a function of the step. Received: {schedule!r}. For one sparsity, "
                "ConstantSparsity(0.8, begin_step=…)."
            )
        self.schedule: Any = schedule
        self._is_tfmot = type(schedule).__module__.startswith("tensorflow_model_optimization.")
        self._chunk: dict[int, tuple[bool, float]] = {}
        self.last: int | None = None  # step of the last change of sparsity, where that is known
        self.target: float | None = None  # and the sparsity from there on
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
                moves, sparsities = (np.broadcast_to(part, steps.shape) for part in self.schedule(steps))
                pairs = [(bool(m), float(s)) for m, s in zip(moves, sparsities, strict=True)]
                self._chunk = dict(zip(steps.tolist(), pairs, strict=True))
            due, share = self._chunk[step]
            # float32's .8 is .800000012
            if self.target is not None and self.last is not None and step >= self.last:
                share = self.target
            return due, share
        try:
            moves, sparsity = self.schedule(step)
            return bool(moves), float(sparsity)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "A schedule maps a step to (whether masks move, sparsity). Received: "
                f"{self.schedule!r}, which at step {step} did not: {error}."
            ) from error

    def _check_reachable(self, schedule: Any) -> None:
        tfmot = sys.modules["tensorflow_model_optimization"].sparsity.keras
        if isinstance(schedule, tfmot.PolynomialDecay):
            self.target = float(schedule.final_sparsity)
            self.last = reached = schedule.end_step
        elif isinstance(schedule, tfmot.ConstantSparsity):
            self.target = float(schedule.target_sparsity)
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

    def load_own_variables(self, store: Any) -> None:
        """Restores masks and steps, all of it or nothing."""
        if len(store.keys()) != len(self.variables):
            raise ValueError(
                "Masks are restored by a callback for the same kernels as when they were saved. Received: a file with "
                f"{max(0, len(store.keys()) - 2)} masks of these {len(self.masks)}. Use the same callbacks."
            )
        super().load_own_variables(store)


def _iterations(optimizer: Any) -> int:
    return int(ops.convert_to_numpy(optimizer.iterations))

"""The base of all callbacks that prune: it finds kernels, gives them masks, counts steps, and saves its state."""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._replicas import scope_of
from distill.pruning.weights._choosing import fitting
from distill.pruning.weights._kernels import Kernel, Kernels, find_kernels
from distill.pruning.weights._masks import Mask, attach_masks, free_replaced, pruned_part
from distill.pruning.weights._patterns import Pattern
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._sparsity import sparsity_of


class MaskCallback(keras.callbacks.Callback):
    """Base of the callbacks that prune during training.

    A step is one update of the weights since pruning began, counted from 1. Steps are read from the optimizer, so they
    are right with `steps_per_execution`, gradient accumulation and loss scaling, and resume with the optimizer. During
    training the masks are part of the optimizer's state, so `keras.callbacks.BackupAndRestore` and `save_weights` keep
    them. Files without the optimizer, and files written after training, contain no masks.

    Args:
        pattern: the units that are pruned as a whole.
        include: layers to prune; all by default.
        exclude: layers to leave alone.
        log_layers: `True` also logs each kernel's share of zeros.

    Attributes:
        updates: for every change of the masks, its step and the sparsity of each kernel by name.
        last_move: step of the last change of the masks; 0 before the first.
        masks: masks of the kernels, in their order.
    """

    def __init__(self, pattern: Pattern, include: Selectors, exclude: Selectors, log_layers: bool) -> None:
        super().__init__()
        self._pattern = pattern
        self._include = include
        self._exclude = exclude
        self._log_layers = log_layers
        self._found = Kernels((), {})
        self.masks: list[Mask] = []
        self._state: Any = None  # a _State once `set_model` has run
        self._optimizer: Any = None
        self._began = 0  # the optimizer's count when pruning began
        self.last_move = 0
        self.updates: list[tuple[int, dict[str, float]]] = []

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels and gives them masks. Keras calls this before it traces the first step."""
        super().set_model(model)
        if not model.compiled or model.optimizer is None:
            raise ValueError(
                "The model must be compiled with an optimizer, because masks follow its steps. Received: "
                f"{model.name!r}, which has none. Call compile first."
            )
        part = pruned_part(model)
        found = fitting(find_kernels(part, include=self._include, exclude=self._exclude), self._pattern)
        self.require_fit(found.found)
        self._found = found
        masks = attach_masks(part, self.kernels)
        steps, moved = 0, 0
        if masks == self.masks:  # another fit of the same weights, so the steps go on
            steps, moved = self.steps_done, self.last_move
        else:
            self._state = None
            self.updates.clear()
            for kernel, mask in zip(self.kernels, masks, strict=True):
                free_replaced(kernel, mask)
        self.masks = masks
        if self._state is None or self._optimizer is not model.optimizer:
            self._optimizer = model.optimizer
            with scope_of(part):
                began = updates_made(self._optimizer) - steps
                self._state = _State([mask.kept for mask in masks], began, moved)
        self._looked = moved
        self._seen = 0
        self._read_state()
        for mask in masks:
            mask.mover = self
        # Keras finds it here when it saves the optimizer. Its name tells what it is about, because a list of callbacks
        # may change before the file is read.
        names = ",".join(kernel.name for kernel in self.kernels)
        self._name = f"pruning_{type(self).__name__}_{zlib.crc32(names.encode()):08x}"
        setattr(self._optimizer, self._name, self._state)
        # A step that was traced earlier does not know the masks, and Keras may have traced one already.
        model.make_train_function(force=True)

    def require_fit(self, kernels: Sequence[Kernel]) -> None:
        """Raises ValueError if this callback cannot prune kernels of the model; by default, it can prune all."""

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels that are pruned; empty before `set_model`."""
        return self._found.found

    @property
    def steps_done(self) -> int:
        """Updates of the weights since pruning began."""
        _ = self.model  # on JAX, Keras brings the variables up to date when a callback reads this
        return updates_made(self._optimizer) - self._began

    def _read_state(self) -> None:
        # Kept as Python numbers, because reading variables at every batch takes longer than a small step.
        self._began = int(ops.convert_to_numpy(self._state.began))
        self.last_move = int(ops.convert_to_numpy(self._state.moved))

    def on_train_begin(self, logs: Any = None) -> None:
        """Raises ValueError if another callback moves the same masks."""
        contested = [
            kernel.name
            for kernel, mask in zip(self.kernels, self.masks, strict=True)
            if mask.mover is not self
        ]
        if contested:
            raise ValueError(
                f"Only one callback may move a mask. Received: two for {', '.join(contested)}. Give each callback its "
                "own layers with include= and exclude=."
            )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the masks if this step, or one since the last look, is due."""
        if not self._seen:
            self._read_state()  # only now has a backup been restored
        self._seen += 1
        self.move(self.steps_done + 1)

    def move(self, step: int) -> None:
        """Moves the masks if a step up to this one is due and has not been handled yet."""
        raise NotImplementedError

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the share of zeros to the logs, for all callbacks later in the list."""
        if logs is None:
            return
        found = sparsity_of(self._found)
        logs["sparsity"] = found.sparsity
        if self._log_layers:
            logs.update({f"sparsity/{kernel.name}": kernel.sparsity for kernel in found.kernels})

    def on_train_end(self, logs: Any = None) -> None:
        """Handles steps that are still due, and zeroes again what averaging or restoring wrote."""
        self.move(self.steps_done)
        for kernel, mask in zip(self.kernels, self.masks, strict=True):
            mask.follow(kernel.variable)
        if hasattr(self._optimizer, self._name):
            delattr(self._optimizer, self._name)
        if self._seen and updates_made(self._optimizer) == 0:
            warnings.warn(
                f"Nothing was pruned: the optimizer that {self.model.name!r} is compiled with made no steps, so the "
                "weights were trained by another one. Compile the model with the optimizer that trains it.",
                stacklevel=2,
            )

    def set_masks(self, step: int, chosen: Sequence[np.ndarray]) -> None:
        """Sets all masks and records the step."""
        for kernel, mask, kept in zip(self.kernels, self.masks, chosen, strict=True):
            mask.set(kernel.variable, kept)
        if keras.backend.backend() == "jax":
            self.model.make_train_function(force=True)  # on JAX, masks are constants of the compiled step
        self._state.moved.assign(step)
        self.last_move = step
        names = [kernel.name for kernel in self.kernels]
        self.updates.append(
            (step, {n: 1 - float(np.mean(kept)) for n, kept in zip(names, chosen, strict=True)})
        )


class _State(keras.Layer):
    """The masks and steps, as a layer that Keras saves with the optimizer that holds it."""

    def __init__(self, masks: list[keras.Variable], began: int, moved: int) -> None:
        super().__init__(name="pruning_state")
        self.masks = masks
        self.began = keras.Variable(began, dtype="int", trainable=False, name="began")
        self.moved = keras.Variable(moved, dtype="int", trainable=False, name="moved")
        self.built = True

    def load_own_variables(self, store: Any) -> None:
        """Restores the masks and the steps, or raises ValueError and changes nothing."""
        if len(store.keys()) != len(self.variables):
            raise ValueError(
                "Masks can only be restored for the kernels that they were saved for. Received: a file with "
                f"{max(0, len(store.keys()) - 2)} masks, for {len(self.masks)} kernels. Use the same callbacks as when "
                "the file was written."
            )
        super().load_own_variables(store)


def updates_made(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns how many updates of the weights an optimizer has made."""
    return int(ops.convert_to_numpy(optimizer.iterations))

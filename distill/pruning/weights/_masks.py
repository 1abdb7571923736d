"""Masks: what keeps pruned weights at zero, whatever trains the model.

A mask is the constraint of a kernel's variable. Keras applies constraints inside the compiled training step, after the
optimizer's update, so zeros stay zero under every optimizer, and a saved file contains nothing about masks.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from distill._replicas import scope_of
from distill._types import Tensor
from distill.pruning.weights._kernels import Kernel, weights_of
from distill.pruning.weights._patterns import keep_largest

Constraint = Callable[[keras.Variable], Tensor]


class Mask(keras.constraints.Constraint):
    """Keeps the pruned weights of one variable at zero.

    Args:
        variable: kernel that the mask belongs to.
        before: constraint that the variable had, applied first; `None` if it had none.
    """

    def __init__(self, variable: keras.Variable, before: Constraint | None) -> None:
        self.kept = keras.Variable(
            np.ones(variable.shape, bool), dtype="bool", trainable=False, name=f"{variable.name}_mask"
        )
        self.before = before
        self.mover: object = None  # the callback that moves this mask, if there is one

    def __call__(self, w: keras.Variable) -> Tensor:
        """Returns the weights with zeros (never -0 or NaN) where they are pruned."""
        value = ops.convert_to_tensor(w if self.before is None else self.before(w))
        return ops.where(ops.convert_to_tensor(self.kept), value, 0)  # a scalar 0 is faster than zeros_like

    def set(self, variable: keras.Variable, kept: np.ndarray) -> None:
        """Prunes the variable so that weights stay only where `kept` is true."""
        self.kept.assign(kept)
        self.apply(variable)

    def follow(self, variable: keras.Variable) -> None:
        """Zeroes pruned weights after training, when averages or the weights of an earlier step may have been written.

        Weights from before an exchange are as sparse as now, in other places; then the mask moves to these.
        """
        kept, present = kept_by(self), ops.convert_to_numpy(variable) != 0
        if (present & ~kept).any() and present.sum() <= kept.sum():
            # Weights that had just been added then were still 0; present ones stand in for them.
            self.kept.assign(keep_largest(kept + 2.0 * present, int(kept.sum())))
        self.apply(variable)

    def apply(self, variable: keras.Variable) -> None:
        """Zeroes pruned weights that something other than an optimizer has written."""
        value = ops.convert_to_tensor(variable)
        variable.assign(ops.where(ops.convert_to_tensor(self.kept), value, 0))


def mask_of(kernel: Kernel) -> Mask | None:
    """Returns the mask of a kernel, or `None` if it has none."""
    constraint = kernel.variable.constraint
    return constraint if isinstance(constraint, Mask) else None


def kept_by(mask: Mask) -> np.ndarray:
    """Returns a copy of a mask as a bool array, true where weights stay."""
    return np.array(ops.convert_to_numpy(mask.kept))


def attach_masks(model: keras.Model, kernels: Sequence[Kernel]) -> list[Mask]:
    """Gives each kernel without a mask one that keeps everything. Returns the masks of all kernels."""
    masks = []
    for kernel in kernels:
        mask = mask_of(kernel)
        if mask is None:
            with scope_of(model):
                mask = Mask(kernel.variable, kernel.variable.constraint)
            kernel.variable.constraint = mask
        masks.append(mask)
    return masks


def pruned_places(kernel: Kernel) -> np.ndarray | None:
    """Returns where a kernel is pruned, apart from weights that have been replaced since; `None` if nowhere."""
    mask = mask_of(kernel)
    if mask is None:
        return None
    kept = np.asarray(ops.convert_to_numpy(mask.kept))
    if kept.all():
        return None
    gone: np.ndarray = ~kept & (weights_of(kernel) == 0)
    return gone


def free_replaced(kernel: Kernel, mask: Mask) -> None:
    """Frees pruned weights that are not zero any more, as after `set_weights` or `load_weights`."""
    mask.kept.assign(kept_by(mask) | (weights_of(kernel) != 0))


def strip_masks(model: keras.Model) -> None:
    """Removes all masks. The zeros stay until something trains them."""
    for variable in pruned_part(model).variables:  # also those of layers that were quantized after pruning
        if isinstance(variable.constraint, Mask):
            variable.constraint = variable.constraint.before
    forget_traces(model)


def pruned_part(model: keras.Model) -> keras.Model:
    """Returns the network to prune: the `student` of a model that trains one, as a Distiller does; else the model."""
    student = getattr(model, "student", None) if isinstance(model, keras.Model) else None
    return student if isinstance(student, keras.Model) else model


def forget_traces(model: keras.Model) -> None:
    """Makes Keras compile the training step again: a step that was traced earlier has the constraints from then."""
    for part in {id(m): m for m in (model, pruned_part(model))}.values():
        if isinstance(part, keras.Model) and part.train_function is not None:
            part.make_train_function(force=True)  # not set to None, because `fit` may be running

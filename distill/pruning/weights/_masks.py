"""Masks: weights at zero, whatever trains the model; and pruning in one shot.

A mask is the constraint of a kernel's variable. Keras applies constraints inside the compiled training step, after
the optimizer's update, so zeros stay zero under every optimizer, and a saved file knows nothing of masks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._replicas import scope_of
from distill.pruning.weights._kernels import Kernel, Kernels, Selector, find_kernels
from distill.pruning.weights._patterns import Amount, Blocks, Elements, NofM, Pattern, Scope, is_whole
from distill.pruning.weights._sparsity import Sparsity, sparsity_of
from distill.pruning.weights.criteria import _activations as activations
from distill.pruning.weights.criteria import _gradients as gradients
from distill.pruning.weights.criteria import _weights as weights
from distill.pruning.weights.criteria._weights import Criterion, magnitude, weights_of
from distill.training import Distiller

Constraint = Callable[[keras.Variable], object]
# Not criteria themselves: they make one.
_FACTORIES = (weights.random, gradients.snip, gradients.taylor, gradients.movement, activations.wanda)


class Mask(keras.constraints.Constraint):
    """Keeps the pruned weights of one variable at zero.

    Args:
        variable: the kernel.
        before: a constraint that the variable had, applied first.
    """

    def __init__(self, variable: keras.Variable, before: Constraint | None) -> None:
        self.kept = keras.Variable(
            np.ones(variable.shape, bool), dtype="bool", trainable=False, name=f"{variable.name}_mask"
        )
        self.before = before
        self.mover: object = None  # the callback that moves it, if one does

    def __call__(self, w: keras.Variable) -> object:
        """The weight, with zeros (and no -0 or NaN) where it is pruned."""
        value = ops.convert_to_tensor(w if self.before is None else self.before(w))
        return ops.where(ops.convert_to_tensor(self.kept), value, 0)  # a zero alone is faster than zeros_like

    def set(self, variable: keras.Variable, kept: np.ndarray) -> None:
        """Prunes the variable to where `kept` is true."""
        self.kept.assign(kept)
        self.apply(variable)

    def apply(self, variable: keras.Variable) -> None:
        """Zeroes what something other than an optimizer has written where the variable is pruned."""
        value = ops.convert_to_tensor(variable)
        variable.assign(ops.where(ops.convert_to_tensor(self.kept), value, 0))


def mask_of(kernel: Kernel) -> Mask | None:
    """The mask of a kernel, if it has one."""
    constraint = kernel.variable.constraint
    return constraint if isinstance(constraint, Mask) else None


def attach_masks(model: keras.Model, kernels: Sequence[Kernel]) -> list[Mask]:
    """Gives each kernel a mask that keeps everything, or the one that it has."""
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
    """Where a kernel is pruned, or `None` if nowhere; not where its weights have been replaced since."""
    mask = mask_of(kernel)
    if mask is None:
        return None
    kept = np.asarray(ops.convert_to_numpy(mask.kept))
    gone: np.ndarray | None = None if kept.all() else ~kept & (weights_of(kernel) == 0)
    return gone


def free_replaced(kernel: Kernel, mask: Mask) -> None:
    """Keeps again what was pruned and has other weights now, as after `set_weights` or `load_weights`."""
    kept = np.asarray(ops.convert_to_numpy(mask.kept))
    mask.kept.assign(kept | (weights_of(kernel) != 0))


def prune(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    zeros: int | None = None,
    threshold: float | None = None,
    pattern: Pattern = Elements(),
    criterion: Criterion = magnitude,
    scope: Scope = "layer",
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
) -> Sparsity:
    """Sets weights of a model to zero, in place, and keeps them there in every later training.

    How much is cut is said in one of three ways, or by the pattern where that is `NofM`. What was pruned before and is
    still zero goes first, so a larger sparsity cuts more of the same; what a lower one frees, training can change
    again. The exact number is cut also where scores are equal: the later ones in memory go.

    Averages of weights (`use_ema=True`) are taken before constraints apply: train with the callback `KeepZeros()` then.
    A model that holds this one as a part and was trained before must be compiled again: only then it sees the masks.
    The zeros take as much room and time as other numbers, unless what runs the model knows better: files shrink when
    they are compressed, `distill.cost.sizes` says by how much.

    Args:
        model: a built model, or a `distill.Distiller`, whose student is pruned.
        sparsity: share of units that are zero afterwards, 0 <= sparsity < 1; rounded to the nearest number, but at
            least one stays.
        zeros: number of units that are zero afterwards, >= 0.
        threshold: units with a score below it go: with the defaults, weights of a smaller magnitude.
        pattern: the units: `Elements()`, `Blocks(shape)` or `NofM(keep, of)`.
        criterion: says which stay, by a score each: `magnitude`, or another of `distill.pruning.criteria`.
        scope: where units compete, and what `sparsity` and `zeros` count: "layer", each kernel for itself; "global",
            all kernels together; "output", for each output of a kernel the weights of its own.
        include: which layers, see `find_kernels`; all if not given.
        exclude: which not.

    Returns:
        The zeros of each kernel, and which weights were left alone and why; `print` it.

    Raises:
        ValueError: not one way of saying how much, or a number out of range; a criterion's scores fit their kernels
            not; whatever `find_kernels` refuses. Nothing is changed.
    """
    require_choice(pattern, criterion, scope)
    amount = _amount(pattern, sparsity, zeros, threshold)
    target = pruned_part(model)
    kernels = fitting(find_kernels(target, include, exclude), pattern)
    chosen = choose(target, kernels.found, pattern, criterion, amount, scope)
    for kernel, mask, kept in zip(kernels.found, attach_masks(target, kernels.found), chosen, strict=True):
        mask.set(kernel.variable, kept)
    forget_traces(model)
    return sparsity_of(kernels)


def keep_zeros(
    model: keras.Model,
    *,
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
) -> Sparsity:
    """Keeps every weight that is zero now at zero in later training, as after loading a pruned model from a file.

    Args:
        model: a built model, or a `distill.Distiller`, whose student is meant.
        include: which layers, see `find_kernels`; all if not given.
        exclude: which not.

    Returns:
        The zeros of each kernel.

    Raises:
        ValueError: a kernel is all zero: nothing of it could ever train; see `find_kernels` for others.
    """
    target = pruned_part(model)
    kernels = find_kernels(target, include, exclude)
    keep_zeros_of(target, kernels.found)
    forget_traces(model)
    return sparsity_of(kernels)


def keep_zeros_of(model: keras.Model, kernels: Sequence[Kernel]) -> None:
    """Keeps at zero what is zero in these kernels."""
    kept = [weights_of(kernel) != 0 for kernel in kernels]
    if zero := [kernel.name for kernel, mask in zip(kernels, kept, strict=True) if not mask.any()]:
        raise ValueError(
            f"Zeros are kept where something else is left to train. Received: {', '.join(zero)}, all of whose weights "
            "are zero. Exclude such layers."
        )
    for kernel, mask, mine in zip(kernels, attach_masks(model, kernels), kept, strict=True):
        mask.set(kernel.variable, mine)


def strip_masks(model: keras.Model) -> keras.Model:
    """Takes the masks off again: the zeros stay until something trains them.

    Files need it not: masks are never saved with a model.

    Args:
        model: a model, or a `distill.Distiller`, whose student is meant.

    Returns:
        The same model.
    """
    for variable in pruned_part(model).variables:  # also those of layers that have been quantized since, say
        if isinstance(variable.constraint, Mask):
            variable.constraint = variable.constraint.before
    forget_traces(model)
    return model


def measure_sparsity(
    model: keras.Model,
    *,
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
) -> Sparsity:
    """Counts the zeros of a model's kernels, whoever made them.

    Args:
        model: a built model, or a `distill.Distiller`, whose student is meant.
        include: which layers, see `find_kernels`; all if not given.
        exclude: which not.

    Returns:
        The zeros of each kernel; `print` it.

    Raises:
        ValueError: see `find_kernels`.
    """
    return sparsity_of(find_kernels(pruned_part(model), include, exclude))


def pruned_part(model: keras.Model) -> keras.Model:
    """What is pruned of a model: a Distiller's student, else the model itself."""
    return model.student if isinstance(model, Distiller) else model


def forget_traces(model: keras.Model) -> None:
    """Has the training step compiled anew: one that was traced before has the constraints of then."""
    for part in {id(m): m for m in (model, pruned_part(model))}.values():
        if isinstance(part, keras.Model) and part.train_function is not None:
            part.make_train_function(force=True)  # not None: `fit` may be running


def fitting(kernels: Kernels, pattern: Pattern) -> Kernels:
    """The kernels that can be cut by a pattern; the others are skipped with a reason."""
    reasons = {kernel.name: pattern.unfit(kernel) for kernel in kernels.found}
    found = tuple(kernel for kernel in kernels.found if not reasons[kernel.name])
    if not found:
        raise ValueError(
            f"There is something to prune. Received: {pattern}, which fits no kernel: "
            f"{'; '.join(f'{name}: {reason}' for name, reason in reasons.items())}."
        )
    return Kernels(found, kernels.skipped | {name: reason for name, reason in reasons.items() if reason})


def choose(
    model: keras.Model,
    kernels: Sequence[Kernel],
    pattern: Pattern,
    criterion: Criterion,
    amount: Amount,
    scope: Scope,
) -> list[np.ndarray]:
    """The masks that a criterion and a pattern choose; nothing is changed."""
    scores: list[np.ndarray] = []
    found = list(criterion(model, kernels))
    if len(found) != len(kernels):
        raise ValueError(
            f"A criterion returns as many arrays as there are kernels. Received: {len(found)} for {len(kernels)}."
        )
    for kernel, given in zip(kernels, found, strict=True):
        score = np.asarray(given)
        score = score if score.dtype.kind == "f" else score.astype(np.float64)
        if score.shape != tuple(kernel.variable.shape):
            raise ValueError(
                f"A criterion gives each weight a score. Received: scores {score.shape} for {kernel.name} "
                f"{tuple(kernel.variable.shape)}."
            )
        gone = pruned_places(kernel)
        if gone is not None:
            score = np.where(gone, -np.inf, score)  # what is gone goes first
        scores.append(score)
    return pattern.masks(kernels, scores, amount, scope)


def require_choice(pattern: Any, criterion: Any, scope: Any) -> None:
    """Refuses what cannot choose weights, before any work."""
    if scope not in ("layer", "global", "output"):
        raise ValueError(f"Weights compete by 'layer', 'global' or 'output'. Received: scope={scope!r}.")
    if isinstance(pattern, type) or not (hasattr(pattern, "masks") and hasattr(pattern, "unfit")):
        raise TypeError(
            f"A pattern is Elements(), Blocks(shape) or NofM(keep, of). Received: pattern={pattern!r}."
        )
    if isinstance(pattern, Blocks) and scope == "output":
        raise ValueError("Blocks span several outputs. Received: scope='output'. Use 'layer' or 'global'.")
    if not callable(criterion) or criterion in _FACTORIES:
        raise TypeError(
            "A criterion is a function of a model and kernels, such as criteria.magnitude or criteria.random(0). "
            f"Received: criterion={criterion!r}."
        )


def kept_at(sparsity: float) -> Amount:
    """How many units stay: all but the share that is cut, at least one."""
    return lambda scores: max(1, scores.size - round(scores.size * sparsity))


def _amount(pattern: Pattern, sparsity: float | None, zeros: int | None, threshold: float | None) -> Amount:
    given = {"sparsity": sparsity, "zeros": zeros, "threshold": threshold}
    said = {name: value for name, value in given.items() if value is not None}
    if isinstance(pattern, NofM):
        if said:
            raise ValueError(
                f"{pattern} says itself how much is cut. Received: {said} as well. Leave it out."
            )
        return kept_at(pattern.sparsity)
    if len(said) != 1:
        raise ValueError(
            f"How much is cut is said once: by sparsity, zeros or threshold. Received: {said or 'none of them'}."
        )
    if sparsity is not None:
        return kept_at(require_sparsity(sparsity))
    if zeros is not None:
        if not is_whole(zeros) or zeros < 0:
            raise ValueError(f"zeros is a number of units >= 0. Received: zeros={zeros!r}.")
        return lambda scores: _without(scores.size, zeros)
    number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
    if threshold is None or not number or not np.isfinite(threshold):
        raise ValueError(f"The threshold is a number. Received: threshold={threshold!r}.")
    return lambda scores: int(np.count_nonzero(scores >= threshold))


def require_sparsity(sparsity: float) -> float:
    """A share of zeros that leaves something."""
    number = isinstance(sparsity, (int, float, np.number)) and not isinstance(sparsity, bool)
    if not number or not 0 <= sparsity < 1:
        raise ValueError(f"Sparsity is a share of zeros, 0 <= sparsity < 1. Received: sparsity={sparsity!r}.")
    return float(sparsity)


def _without(size: int, zeros: int) -> int:
    if zeros > size:
        raise ValueError(
            f"No more can be cut than there is. Received: zeros={zeros} where {size} compete. Use scope='global', or "
            "exclude small layers."
        )
    return size - zeros

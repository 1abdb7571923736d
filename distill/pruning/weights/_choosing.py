"""The choice of what to prune: scores, a pattern and an amount make masks."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from distill.pruning._numbers import is_number, require_sparsity, require_whole
from distill.pruning.weights import importance as importances
from distill.pruning.weights._kernels import Kernel, Kernels
from distill.pruning.weights._masks import pruned_places
from distill.pruning.weights._patterns import Amount, NofM, Pattern, Scope, require_scope
from distill.pruning.weights.importance import Importance

# These make an importance and are none themselves.
_FACTORIES = (
    importances.random,
    importances.snip,
    importances.taylor,
    importances.movement,
    importances.obd,
    importances.wanda,
)


def choose(
    model: keras.Model,
    kernels: Sequence[Kernel],
    pattern: Pattern,
    importance: Importance,
    amount: Amount,
    scope: Scope,
) -> list[np.ndarray]:
    """Returns the masks that an importance and a pattern choose. Changes nothing."""
    scores: list[np.ndarray] = []
    found = list(importance(model, kernels))
    if len(found) != len(kernels):
        raise ValueError(
            f"An importance must return one array per kernel. Received: {len(found)} arrays for {len(kernels)} kernels."
        )
    for kernel, given in zip(kernels, found, strict=True):
        score = np.asarray(given)
        score = score if score.dtype.kind == "f" else score.astype(np.float64)
        if score.shape != tuple(kernel.variable.shape):
            raise ValueError(
                f"An importance must return one score per weight. Received: scores of shape {score.shape} for "
                f"{kernel.name} of shape {tuple(kernel.variable.shape)}."
            )
        gone = pruned_places(kernel)
        if gone is not None:
            score = np.where(gone, -np.inf, score)  # what is pruned already goes first
        scores.append(score)
    return pattern.masks(kernels, scores, amount, scope)


def fitting(kernels: Kernels, pattern: Pattern) -> Kernels:
    """Returns the kernels that a pattern can prune; the others move to `skipped` with a reason."""
    reasons = {kernel.name: pattern.unfit(kernel) for kernel in kernels.found}
    found = tuple(kernel for kernel in kernels.found if not reasons[kernel.name])
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ValueError(f"{pattern} fits no kernel, so nothing can be pruned. {why}.")
    return Kernels(found, kernels.skipped | {name: reason for name, reason in reasons.items() if reason})


def require_choice(pattern: Pattern, importance: Importance, scope: Scope) -> None:
    """Raises ValueError or TypeError for arguments that cannot choose weights, before any work is done."""
    if isinstance(pattern, type) or not (hasattr(pattern, "masks") and hasattr(pattern, "unfit")):
        raise TypeError(
            f"pattern must be Elements(), Blocks(shape) or NofM(keep, of). Received: pattern={pattern!r}."
        )
    require_scope(scope, pattern)
    if not callable(importance) or importance in _FACTORIES:
        raise TypeError(
            "importance must be a function of a model and its kernels, such as importance.magnitude or "
            f"importance.random(0). Received: importance={importance!r}."
        )


def kept_at(sparsity: float) -> Amount:
    """Returns how many units stay at a sparsity: all but the share that is pruned, and at least one."""
    return lambda scores: max(1, scores.size - round(scores.size * sparsity))


def amount_of(pattern: Pattern, sparsity: float | None, zeros: int | None, threshold: float | None) -> Amount:
    """Returns how many units stay, as the arguments of `prune` say.

    Raises:
        ValueError: not exactly one of them is given, or a number is out of range.
    """
    given: dict[str, Any] = {"sparsity": sparsity, "zeros": zeros, "threshold": threshold}
    said = {name: value for name, value in given.items() if value is not None}
    if isinstance(pattern, NofM):
        if said:
            raise ValueError(
                f"{pattern} sets the sparsity itself, so sparsity, zeros and threshold must be left out. Received: "
                f"{said}."
            )
        return kept_at(pattern.sparsity)
    if len(said) != 1:
        raise ValueError(
            f"Exactly one of sparsity, zeros and threshold must be given. Received: {said or 'none of them'}."
        )
    if sparsity is not None:
        return kept_at(require_sparsity(sparsity))
    if zeros is not None:
        number = require_whole("zeros", zeros, 0)
        return lambda scores: _without(scores.size, number)
    if threshold is None or not is_number(threshold) or not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number. Received: threshold={threshold!r}.")
    return lambda scores: int(np.count_nonzero(scores >= threshold))


def _without(size: int, zeros: int) -> int:
    if zeros > size:
        raise ValueError(
            f"zeros must not exceed the number of units that compete. Received: zeros={zeros}, where {size} compete. "
            "Use scope='global', or exclude small layers."
        )
    return size - zeros

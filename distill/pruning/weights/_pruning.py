"""Pruning in one shot."""

import keras

from distill.pruning.weights._choosing import amount_of, choose, fitting, require_choice
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._masks import attach_masks, forget_traces, pruned_part
from distill.pruning.weights._patterns import Elements, Pattern, Scope
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._sparsity import Sparsity, sparsity_of
from distill.pruning.weights.importance import Importance, magnitude


def prune(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    zeros: int | None = None,
    threshold: float | None = None,
    pattern: Pattern = Elements(),
    importance: Importance = magnitude,
    scope: Scope = "layer",
    include: Selectors = None,
    exclude: Selectors = None,
) -> Sparsity:
    """Sets weights of a model to zero, in place, and keeps them at zero in all later training.

    Say how much to prune with exactly one of `sparsity`, `zeros` and `threshold`, or with the pattern alone if it is
    `NofM`. Weights that were pruned before and are still zero are pruned first. So a larger sparsity prunes the same
    weights and more, and a smaller one lets training change some of them again. The number of zeros is exact even if
    scores are equal: of equal scores, the later ones in memory are pruned.

    An optimizer with `use_ema=True` averages weights before constraints apply, so train with the callback `KeepZeros()`
    in that case. If another model contains this one and was trained before, compile that model again, or it will not
    see the masks. Zeros take as much memory and time as other numbers unless the runtime exploits them. Files shrink
    when you compress them; `distill.cost.sizes` tells by how much.

    Args:
        model: built model, or a `distill.Distiller`, in which case its student is pruned.
        sparsity: share of units that are zero afterwards, 0 <= sparsity < 1; rounded to the nearest number of units,
            but at least one unit stays.
        zeros: number of units that are zero afterwards, >= 0.
        threshold: score below which units are pruned; by default, the magnitude of a weight.
        pattern: the units that are pruned as a whole: `Elements()`, `Blocks(shape)` or `NofM(keep, of)`.
        importance: score of each weight; the highest scores are kept first. Pass `magnitude`, or another function from
            `distill.pruning.weights.importance`.
        scope: which units compete, and what `sparsity` and `zeros` count: "layer" for each kernel by itself, "global"
            for all kernels together, "output" for the weights of each output of a kernel.
        include: layers to prune, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.

    Returns:
        The zeros of each kernel, and the weights that were left alone, with the reasons. `print` shows a table.

    Raises:
        ValueError: there is not exactly one way of saying how much to prune, a number is out of range, scores do not
            fit their kernels, or `find_kernels` refuses the model or a selector. The model is then unchanged.
        TypeError: a pattern or an importance has the wrong type, or `find_kernels` refuses the model or a selector.

    Example:
    ```python
    from distill import pruning

    print(pruning.prune(model, 0.8))
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y)  # the zeros stay
    ```
    """
    require_choice(pattern, importance, scope)
    amount = amount_of(pattern, sparsity, zeros, threshold)
    target = pruned_part(model)
    kernels = fitting(find_kernels(target, include=include, exclude=exclude), pattern)
    chosen = choose(target, kernels.found, pattern, importance, amount, scope)
    for kernel, mask, kept in zip(kernels.found, attach_masks(target, kernels.found), chosen, strict=True):
        mask.set(kernel.variable, kept)
    forget_traces(model)
    return sparsity_of(kernels)

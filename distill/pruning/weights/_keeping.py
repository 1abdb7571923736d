"""Keeps zeros that a model already has while it trains."""

from collections.abc import Sequence

import keras

from distill.pruning.weights._kernels import Kernel, find_kernels, weights_of
from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._masks import attach_masks, forget_traces, kept_by, mask_of, pruned_part
from distill.pruning.weights._patterns import Elements
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._sparsity import Sparsity, sparsity_of


def keep_zeros(model: keras.Model, *, include: Selectors = None, exclude: Selectors = None) -> Sparsity:
    """Keeps every weight that is zero now at zero in all later training, for instance after loading a pruned model.

    Args:
        model: built model, or a `distill.Distiller`, in which case its student is used.
        include: layers whose zeros are kept, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.

    Returns:
        The zeros of each kernel.

    Raises:
        ValueError: a kernel is all zero, so nothing in it could ever train; or `find_kernels` refuses the model or a
            selector.
        TypeError: see `find_kernels`.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, 0.5)
    model.save("pruned.keras")
    loaded = keras.models.load_model("pruned.keras")
    print(pruning.keep_zeros(loaded))
    ```
    """
    target = pruned_part(model)
    kernels = find_kernels(target, include=include, exclude=exclude)
    keep_zeros_of(target, kernels.found)
    forget_traces(model)
    return sparsity_of(kernels)


def keep_zeros_of(model: keras.Model, kernels: Sequence[Kernel]) -> None:
    """Keeps the zeros of these kernels at zero."""
    kept = [weights_of(kernel) != 0 for kernel in kernels]
    if zero := [kernel.name for kernel, mask in zip(kernels, kept, strict=True) if not mask.any()]:
        raise ValueError(
            "A kernel must have a weight that is not zero, because nothing in it could train otherwise. Received: "
            f"{', '.join(zero)} with zeros alone. Leave these layers alone with exclude=."
        )
    for kernel, mask, mine in zip(kernels, attach_masks(model, kernels), kept, strict=True):
        mask.set(kernel.variable, mine)


class KeepZeros(MaskCallback):
    """Keeps weights at zero while a model trains with an optimizer that averages weights (`use_ema=True`).

    Weights that are pruned when training starts stay pruned; if the model has no masks, all zeros stay zero. With any
    other optimizer, `prune` and `keep_zeros` are enough by themselves. An optimizer with `use_ema=True` averages
    weights before constraints apply, and at the end of training the averages replace all weights, including the pruned
    ones. This callback sets those to zero again. The other callbacks that prune, and `iterative`, do this by
    themselves.

    Args:
        include: layers whose zeros are kept, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.
        log_layers: `True` also logs each kernel's share of zeros, as "sparsity/encoder/dense/kernel", besides
            "sparsity", the share in all kernels.

    Raises:
        ValueError: at the start of training, as for `keep_zeros`, or if the model is not compiled.
        TypeError: at the start of training, as for `find_kernels`.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, 0.8)
    model.compile(keras.optimizers.Adam(use_ema=True), loss="sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=[pruning.KeepZeros()])
    ```
    """

    def __init__(
        self, *, include: Selectors = None, exclude: Selectors = None, log_layers: bool = False
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels, and masks the zeros of a model that has no masks."""
        part = pruned_part(model)
        kernels = find_kernels(part, include=self._include, exclude=self._exclude)
        # Those that keep everything may be left of a call that failed.
        had_masks = any(mask is not None and not kept_by(mask).all() for mask in map(mask_of, kernels.found))
        super().set_model(model)
        if not had_masks:
            keep_zeros_of(part, self.kernels)

    def move(self, step: int) -> None:
        """Does nothing: the masks stay."""

"""Gradual pruning while a model trains."""

import warnings
from typing import Any

import numpy as np

from distill.pruning.weights._choosing import choose, kept_at, require_choice
from distill.pruning.weights._kernels import weights_of
from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._masks import kept_by, pruned_part
from distill.pruning.weights._patterns import Elements, NofM, Pattern, Scope
from distill.pruning.weights._schedules import Schedule, Timetable
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights.importance import Importance, magnitude


class GradualPruning(MaskCallback):
    """Prunes while a model trains, at the steps and to the sparsities of a schedule.

    Pruned weights stay at zero until the masks move, so they can come back only if the sparsity falls. (tfmot lets a
    pruned weight take one step before each update, so that it may win its place back.) The final sparsity is exactly
    the schedule's, even if a step was due inside the last `steps_per_execution`.

    Put this callback after `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list: both act when
    training ends, in that order, and the older weights that `EarlyStopping` restores have fewer zeros. Put it before
    loggers, because it adds "sparsity" to the logs.

    Files contain no masks. If training begins on a model of whose weights half or more are zeros that no mask keeps, a
    warning says so: let the schedule begin at step 1 with that sparsity, or resume with `BackupAndRestore`.

    Args:
        schedule: function step -> (whether the masks move, sparsity), with steps counted from 1: tfmot's
            `PolynomialDecay` or `ConstantSparsity` (also in `distill.pruning`), or any function of a Python int. With
            tfmot's schedules, `begin_step=0` and `frequency=100` mean steps 100, 200, …
        importance: score of each weight; the highest scores are kept first. See `prune`.
        pattern: the units that are pruned as a whole. With `NofM`, the schedule's sparsity must equal the pattern's.
        scope: which units compete: "layer", "global" or "output". See `prune`.
        include: layers to prune, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.
        log_layers: `True` also logs each kernel's share of zeros, as "sparsity/encoder/dense/kernel".

    Attributes:
        updates: for every change of the masks, its step and the sparsity of each kernel by name.

    Raises:
        ValueError: the schedule can never reach its target, such as a `PolynomialDecay` whose `end_step` is not
            `begin_step` plus a multiple of `frequency`; at the start of training, `find_kernels` refuses the model or a
            selector, or the model is not compiled.
        TypeError: an argument has the wrong type.

    Example:
    ```python
    from distill import pruning

    schedule = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=10, frequency=1)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=[pruning.GradualPruning(schedule)])
    ```

    References:
        Zhu, Gupta 2017, arXiv:1710.01878: the polynomial schedule.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        importance: Importance = magnitude,
        pattern: Pattern = Elements(),
        scope: Scope = "layer",
        include: Selectors = None,
        exclude: Selectors = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(pattern, include, exclude, log_layers)
        require_choice(pattern, importance, scope)
        self._timetable = Timetable(schedule)
        if isinstance(pattern, NofM):
            self._require_sparsity_of(pattern, self._timetable.target)
        self._importance = importance
        self._scope = scope
        self._warned = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the masks if this step, or one since the last look, is due."""
        if not self._warned and self.last_move == 0:
            # Raises now what the importance would otherwise raise at the first step that is due.
            self._importance(pruned_part(self.model), self.kernels)
        super().on_train_batch_begin(batch, logs)
        if not self._warned:
            self._warned = True
            self._warn_if_too_short()
            self._warn_of_zeros_that_train()

    def move(self, step: int) -> None:
        """Moves the masks if a step up to this one is due and has not been handled yet."""
        # After a restart, the restored state knows of later moves than this object does.
        sparsity = self._timetable.due(max(self.last_move, self._looked), step)
        self._looked = step
        if sparsity is None:
            return
        if isinstance(self._pattern, NofM):
            self._require_sparsity_of(self._pattern, sparsity)
        part = pruned_part(self.model)
        amount = kept_at(sparsity)
        chosen = choose(part, self.kernels, self._pattern, self._importance, amount, self._scope)
        self.set_masks(step, chosen)

    def on_train_end(self, logs: Any = None) -> None:
        """Handles steps that are still due, and zeroes again what averaging or restoring wrote."""
        super().on_train_end(logs)
        if self._seen and self.steps_done and self.last_move == 0 and self._timetable.last is None:
            warnings.warn(
                f"Nothing was pruned: {self._timetable.schedule!r} moved no masks at any step from 1 to "
                f"{self.steps_done}.",
                stacklevel=2,
            )

    @staticmethod
    def _require_sparsity_of(pattern: NofM, sparsity: float | None) -> None:
        if sparsity is not None and not np.isclose(sparsity, pattern.sparsity):
            raise ValueError(
                f"{pattern} sets the sparsity to {pattern.sparsity:g}, so the schedule must have the same. Received: a "
                f"schedule with sparsity {sparsity:g}. Use ConstantSparsity({pattern.sparsity:g}, …)."
            )

    def _warn_if_too_short(self) -> None:
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        end = self._timetable.last
        if steps and epochs and end is not None and end > self.steps_done + steps * epochs:
            warnings.warn(
                f"Pruning ends at step {end}, but this training ends by step {self.steps_done + steps * epochs}, short "
                "of the final sparsity. Train longer, or call fit again with the same callback.",
                stacklevel=2,
            )

    def _warn_of_zeros_that_train(self) -> None:
        values = [weights_of(kernel) for kernel in self.kernels]
        # A kernel with zeros alone was not pruned but initialized so.
        freed = sum(
            np.count_nonzero(kept_by(mask) & (w == 0))
            for mask, w in zip(self.masks, values, strict=True)
            if w.any()
        )
        size = sum(w.size for w in values)
        if freed >= size / 2:
            warnings.warn(
                f"Pruning begins with fewer zeros than the model has: {freed / size:.0%} of its weights are zero and "
                "train again, because files contain no masks. If this continues a pruning, let the schedule begin at "
                "step 1 with the sparsity that the model has, or resume with keras.callbacks.BackupAndRestore, which "
                "keeps masks and steps.",
                stacklevel=2,
            )

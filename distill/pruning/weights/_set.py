"""SET: sparse training that exchanges the smallest weights for others at random."""

from collections.abc import Sequence

import numpy as np

from distill.pruning.weights import _exchanges as exchanges
from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._masks import kept_by
from distill.pruning.weights._patterns import Elements
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._sparse_training import Distribution, Plan, require_trained


class SET(MaskCallback):
    """Sparse evolutionary training: from time to time, drops the smallest weights and adds as many others at random.

    Before the first step, a random choice of weights in each kernel is kept, as many as `sparsity` and `distribution`
    say. A model whose masks already keep these numbers keeps them. A loaded model has none: call `keep_zeros(model)`
    before `fit`, or training begins with new random masks, and a warning says so. At steps `frequency`, 2 ·
    `frequency`, … below `end_step`, before the step trains, the callback does two things in each kernel:

    - It sets the smallest `drop_fraction` of the weights, by magnitude, to zero, rounded to the nearest number.
    - It draws as many new weights from those that were already pruned; they start at 0. So a weight that is dropped
      stays away until the next exchange. If fewer weights are pruned, fewer are exchanged.

    The optimizer's memory of a new weight, such as its momentum, is set to 0. Every kernel has the same number of
    weights throughout; a new weight is 0 until a step trains it. If several steps are due at once, as with
    `steps_per_execution`, one exchange stands for all of them. No exchange happens when training ends.

    A draw depends only on the seed and the step. So a run that is resumed together with its optimizer, for example by
    `keras.callbacks.BackupAndRestore`, draws the same weights as a run that was never stopped.

    The paper drops the same share of the smallest positive and of the largest negative weights, starts new weights at
    random values, and exchanges weights at the end of every epoch. RigL's authors run SET as it is done here: new
    weights start at 0, and magnitudes are compared regardless of the sign.

    Put this callback after `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list: when older weights
    are restored, the masks move back with them.

    Args:
        sparsity: share of zeros in all kernels together, 0 <= sparsity < 1.
        frequency: steps from one exchange to the next, >= 1.
        end_step: step before which all exchanges happen, > `frequency`; for example, three quarters of the training.
        drop_fraction: share of a kernel's weights that is exchanged, 0 < drop_fraction < 1.
        distribution: how the zeros are shared among the kernels. "uniform" gives each kernel the same sparsity.
            "erdos-renyi" gives each a density proportional to the sum of its dimensions over their product, at most 1,
            which leaves small kernels denser. Either way, `sparsity` sets the number of zeros in all kernels together.
        seed: seed of the draws, an integer >= 0.
        include: layers to train sparse, in the forms that `find_kernels` takes; all by default. RigL's authors leave
            the first layer dense if the distribution is uniform.
        exclude: layers to leave alone, in the same forms.
        log_layers: `True` also logs each kernel's share of zeros, as "sparsity/encoder/dense/kernel".

    Attributes:
        updates: for every change of the masks, its step and the sparsity of each kernel by name.

    Raises:
        ValueError: a number is out of range, or the distribution is unknown; at the start of training, `find_kernels`
            refuses the model or a selector, the model is not compiled, or a kernel is frozen.

    Example:
    ```python
    from distill import pruning

    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=[pruning.SET(0.8, frequency=2, end_step=15, seed=0)])
    ```

    References:
        Mocanu et al. 2018, arXiv:1707.04780.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        frequency: int = 100,
        end_step: int,
        drop_fraction: float = 0.3,
        distribution: Distribution = "uniform",
        seed: int,
        include: Selectors = None,
        exclude: Selectors = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)
        self._plan = Plan(sparsity, frequency, end_step, drop_fraction, distribution, seed)

    def require_fit(self, kernels: Sequence[Kernel]) -> None:
        """Raises ValueError if a kernel is frozen."""
        require_trained(self.model, kernels)

    def move(self, step: int) -> None:
        """Draws the first masks, or makes the exchange that is due."""
        due = self._plan.follow(self, step)
        if due is None:
            return
        kept = [kept_by(mask) for mask in self.masks]
        free = [~mask for mask in kept]
        dropped = exchanges.smallest(self, kept, self._plan.drop_fraction, [mask.sum() for mask in free])
        rng = np.random.default_rng([self._plan.seed, due])
        grown = exchanges.largest([rng.random(mask.shape) for mask in kept], free, dropped)
        exchanges.exchange(self, step, kept, dropped, grown)

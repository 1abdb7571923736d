"""Pruning in rounds: train, prune, rewind the weights or the learning rate, train again."""

import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import keras
import numpy as np

from distill._types import Train
from distill.pruning._numbers import require_sparsity, require_whole
from distill.pruning.weights._choosing import choose, fitting, kept_at, require_choice
from distill.pruning.weights._kernels import Kernel, find_kernels
from distill.pruning.weights._mask_callback import updates_made
from distill.pruning.weights._masks import free_replaced, kept_by, mask_of, pruned_part
from distill.pruning.weights._patterns import Elements, NofM, Pattern, Scope
from distill.pruning.weights._pruning import prune
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._snapshots import Snapshot, Stop, last_learning_rate
from distill.pruning.weights._sparsity import Sparsity
from distill.pruning.weights.importance import Importance, magnitude

Rewind = Literal["weights", "learning rate"] | None


def iterative(
    model: keras.Model,
    train: Train,
    sparsities: Sequence[float],
    *,
    rewind: Rewind = "weights",
    to_step: int = 0,
    importance: Importance = magnitude,
    pattern: Pattern = Elements(),
    scope: Scope = "layer",
    include: Selectors = None,
    exclude: Selectors = None,
) -> list[Sparsity]:
    """Trains a model, then prunes it and trains it again for each of several sparsities.

    The first training makes T updates and prunes nothing new. Each round then prunes the trained weights, resets part
    of the state to where it was after `to_step` updates, and makes the remaining T − `to_step` updates. `rewind` says
    what is reset:

    - "weights": everything but the zeros: weights, statistics of BatchNormalization, random generators, the optimizer
      and its count of updates [1]. With `to_step=0` this is the lottery ticket [2].
    - "learning rate": the optimizer and its count, so that learning rate schedules run again, along with the schedules
      of a Distiller. The weights stay as trained [3].
    - `None`: nothing. The optimizer continues at the learning rate of the last update: fine-tuning.

    Weights that are zero after a round stay zero in all later rounds, and keep their mask afterwards.

    `train` determines how long the training is. Later rounds begin like the first training, with `fit`'s first epoch,
    and a callback stops them. So a learning rate must follow the step, as `keras.optimizers.schedules` do, and not the
    epoch, as a `LearningRateScheduler` does. What `train` measures after `fit` is the result of the round.

    Args:
        model: built and compiled model, or a `distill.Distiller`, in which case its student is pruned.
        train: function of (model, callbacks) that calls `model.fit` once, for the whole training, with these callbacks
            after its own. It must not compile the model. Its return value is not used.
        sparsities: sparsity of each round, ascending, each 0 <= sparsity < 1. To prune a fifth of what is left in each
            round: 0.2, 0.36, 0.488, …
        rewind: "weights", "learning rate" or `None`.
        to_step: number of updates after which to keep the state that rounds go back to, >= 0. With
            `steps_per_execution`, use a multiple of it. The state is then kept, and a round ends, at the first chance
            after that update, which is later only if an epoch's length is not a multiple of `steps_per_execution`.
        importance: score of each weight; the highest scores are kept first. See `prune`.
        pattern: the units that are pruned as a whole.
        scope: which units compete: "layer", "global" or "output". See `prune`.
        include: layers to prune, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.

    Returns:
        The zeros after the pruning of each round.

    Raises:
        ValueError: before any training, an argument does not fit, or `prune` would refuse it; after training, `train`
            made too few updates, did not pass on the callbacks, or compiled the model.
        TypeError: an argument has the wrong type.

    Example:
    ```python
    from distill import pruning

    def train(model, callbacks):
        model.fit(x, y, epochs=3, callbacks=callbacks)

    rate = keras.optimizers.schedules.CosineDecay(0.1, 1000)
    model.compile(keras.optimizers.SGD(rate), loss="sparse_categorical_crossentropy")
    pruning.iterative(model, train, [0.2, 0.36, 0.488], to_step=1)
    ```

    References:
        [1] Frankle et al. 2020, arXiv:1912.05671. [2] Frankle, Carbin 2019, arXiv:1803.03635.
        [3] Renda, Frankle, Carbin 2020, arXiv:2003.02389.
    """
    require_choice(pattern, importance, scope)
    shares = _require(model, train, sparsities, rewind, to_step, pattern)
    part = pruned_part(model)
    kernels = fitting(find_kernels(part, include=include, exclude=exclude), pattern).found
    _require_dense(kernels, shares[0])
    # Raises errors now that would otherwise come after the training.
    choose(part, kernels, pattern, importance, kept_at(shares[-1]), scope)
    snapshot = Snapshot(to_step, updates_made(model.optimizer))
    updates = _run(model, train, snapshot)
    if snapshot.made is None or updates <= snapshot.made:
        raise ValueError(
            "The first training must make more updates than to_step. Received: "
            f"to_step={to_step}, and {updates} updates. Pass the callbacks on to fit, and choose a smaller to_step or "
            "a longer training."
        )
    found = []
    with last_learning_rate(model) if rewind is None else nullcontext():
        for share in shares:
            found.append(
                prune(
                    model,
                    share,
                    pattern=pattern,
                    importance=importance,
                    scope=scope,
                    include=include,
                    exclude=exclude,
                )
            )
            if rewind is not None:
                snapshot.put_back(weights=rewind == "weights")
            for kernel in kernels:
                if mask := mask_of(kernel):
                    mask.apply(kernel.variable)
            stop = Stop(updates - snapshot.made, updates_made(model.optimizer), kernels)
            made = _run(model, train, stop)
            if not stop.seen or made >= stop.updates + model.steps_per_execution:
                raise ValueError(
                    f"Each round must make {stop.updates} updates, after which a callback stops it. Received: {made} "
                    f"updates{'' if stop.seen else ', none of which the callback saw'}. train must pass the callbacks "
                    "on to fit, and call it once."
                )
    return found


def _require(
    model: keras.Model,
    train: Train,
    sparsities: Sequence[float],
    rewind: Rewind,
    to_step: int,
    pattern: Pattern,
) -> list[float]:
    """Returns the sparsities, once all arguments have been checked."""
    if not callable(train):
        raise TypeError(f"train must be a function of a model and callbacks. Received: train={train!r}.")
    shares = [require_sparsity(share) for share in np.ravel(np.asarray(sparsities, object)).tolist()]
    if not shares or any(later <= sooner for sooner, later in itertools.pairwise(shares)):
        raise ValueError(
            "sparsities must be one or more numbers in ascending order, because each round prunes more than the one "
            f"before. Received: sparsities={sparsities!r}."
        )
    if rewind not in ("weights", "learning rate", None):
        raise ValueError(f"rewind must be 'weights', 'learning rate' or None. Received: rewind={rewind!r}.")
    if isinstance(pattern, NofM):
        raise ValueError(
            f"iterative needs a pattern that can have any sparsity. Received: {pattern}, which has one of its own. Use "
            "prune, then train."
        )
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer, because the optimizer is rewound. Received: "
            f"{model.name!r}, which is not compiled. Compile it first, not in train."
        )
    require_whole("to_step", to_step, 0)
    if to_step % model.steps_per_execution:
        raise ValueError(
            "to_step must be a multiple of steps_per_execution, because callbacks only run between executions. "
            f"Received: to_step={to_step}, steps_per_execution={model.steps_per_execution}."
        )
    return shares


def _require_dense(kernels: Sequence[Kernel], share: float) -> None:
    """Raises ValueError for kernels with more pruned weights than the first round prunes; frees replaced weights."""
    for kernel in kernels:
        mask = mask_of(kernel)
        if mask is None:
            continue
        free_replaced(kernel, mask)
        gone = int((~kept_by(mask)).sum())
        if gone > math.ceil(share * math.prod(kernel.variable.shape)):
            raise ValueError(
                "The first round must prune at least as many weights as are pruned already. Received: a first sparsity "
                f"of {share:g}, and {kernel.name}, in which {gone} weights are pruned. Call strip_pruning(model) first."
            )


def _run(model: keras.Model, train: Train, callback: keras.callbacks.Callback) -> int:
    """Trains with a callback, and returns how many updates the training made."""
    optimizer, began = model.optimizer, updates_made(model.optimizer)
    train(model, [callback])
    if model.optimizer is not optimizer:
        raise ValueError(
            "One optimizer must train all rounds. Received: a train that compiled the model. Compile it before."
        )
    return updates_made(model.optimizer) - began

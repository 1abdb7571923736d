"""Pruning in rounds: train, prune, rewind weights or learning rate, train again."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from distill._keras import iterations_of, learning_rate_of
from distill.pruning.weights._kernels import Kernel, Selector, find_kernels
from distill.pruning.weights._masks import (
    choose,
    fitting,
    forget_traces,
    free_replaced,
    kept_at,
    mask_of,
    prune,
    pruned_part,
    require_choice,
    require_sparsity,
)
from distill.pruning.weights._patterns import Elements, NofM, Pattern, Scope, is_whole
from distill.pruning.weights._sparsity import Sparsity
from distill.pruning.weights.criteria._weights import Criterion, magnitude

# Calls `model.fit(..., callbacks=[*own, *callbacks])` once.
Train = Callable[[keras.Model, list[keras.callbacks.Callback]], object]


def iterative(
    model: keras.Model,
    train: Train,
    sparsities: Sequence[float],
    *,
    rewind: Literal["weights", "learning rate"] | None = "weights",
    to_step: int = 0,
    criterion: Criterion = magnitude,
    pattern: Pattern = Elements(),
    scope: Scope = "layer",
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
) -> list[Sparsity]:
    """Trains a model, then prunes and trains it once for each of several sparsities.

    The first training makes T updates and prunes nothing new. Then, in each round, the trained weights are pruned,
    something of the training is put back to where it was after `to_step` updates, and training makes the other
    T − `to_step` updates. What is put back:

    - "weights": everything, but for the zeros: weights, BatchNormalization's statistics, random generators, the
      optimizer and its count of updates [1]. With `to_step=0` that is the lottery ticket [2].
    - "learning rate": the optimizer and its count, so that learning rate schedules run again, and a Distiller's
      schedules with them; the weights stay as trained [3].
    - `None`: nothing. The optimizer goes on, at the learning rate of the last update: fine-tuning.

    What is zero after one round stays zero in all later ones, and keeps its mask in the end.

    `train` says how long the training is. Later rounds begin like the first one, with `fit`'s first epoch, and a
    callback stops them; so a learning rate has to follow the step, as `keras.optimizers.schedules` do, not the epoch
    as a `LearningRateScheduler` does, and what `train` measures when `fit` is over is the round's result.

        def train(model, callbacks):
            model.fit(x, y, epochs=10, callbacks=callbacks)

        model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 1000)), "mse")
        iterative(model, train, [0.2, 0.36, 0.488], to_step=50)

    Args:
        model: a built and compiled model, or a `distill.Distiller`, whose student is pruned.
        train: (model, callbacks) -> anything; calls `model.fit` once, for the whole training, with these callbacks
            after its own. It does not compile.
        sparsities: of each round, ascending, 0 <= sparsity < 1. By a fifth of what is left: 0.2, 0.36, 0.488, …
        rewind: "weights", "learning rate" or `None`.
        to_step: updates of the weights after which the state is kept that is put back, >= 0. Under
            `steps_per_execution` a multiple of it; there, this state and the end of a round come at the first
            chance after their update, which is later only where an epoch is no multiple of it.
        criterion: which weights stay; see `prune`, as for what follows.
        pattern: what is cut as a whole.
        scope: where units compete.
        include: which layers; all if not given.
        exclude: which not.

    Returns:
        For each round the zeros that it was pruned to.

    Raises:
        ValueError: before any training, arguments that do not fit and whatever `prune` refuses; after it, a `train`
            that made too few updates, did not pass the callbacks on, or compiled the model.
        TypeError: `train` is no function.

    References:
        [1] Frankle et al. 2020, arXiv:1912.05671. [2] Frankle, Carbin 2019, arXiv:1803.03635.
        [3] Renda, Frankle, Carbin 2020, arXiv:2003.02389.
    """
    require_choice(pattern, criterion, scope)
    shares = _require(model, train, sparsities, rewind, to_step, pattern)
    part = pruned_part(model)
    kernels = fitting(find_kernels(part, include, exclude), pattern).found
    _require_dense(kernels, shares[0])
    # Refuses now what it would after training.
    choose(part, kernels, pattern, magnitude, kept_at(shares[-1]), scope)
    snapshot = _Snapshot(to_step, _iterations(model))
    updates = _run(model, train, snapshot)
    if snapshot.made is None or updates <= snapshot.made:
        raise ValueError(
            "Training goes on after the step that is gone back to, so it has more updates. Received: "
            f"to_step={to_step}, and {updates} updates. Pass the callbacks on to fit, and choose a smaller to_step or "
            "a longer training."
        )
    found = []
    with _last_learning_rate(model) if rewind is None else nullcontext():
        for share in shares:
            found.append(
                prune(
                    model,
                    share,
                    pattern=pattern,
                    criterion=criterion,
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
            stop = _Stop(updates - snapshot.made, _iterations(model))
            made = _run(model, train, stop)
            if not stop.seen or made >= stop.updates + model.steps_per_execution:
                raise ValueError(
                    f"A round has {stop.updates} updates, after which a callback stops it. Received: {made} updates"
                    f"{'' if stop.seen else ', of which the callback saw none'}. Have train pass the callbacks on to "
                    "fit, and call it once."
                )
    return found


def _require(
    model: keras.Model, train: Any, sparsities: Any, rewind: Any, to_step: Any, pattern: Pattern
) -> list[float]:
    """The sparsities, once everything fits."""
    if not callable(train):
        raise TypeError(f"train is a function of a model and callbacks. Received: train={train!r}.")
    shares = [require_sparsity(share) for share in np.ravel(np.asarray(sparsities, object)).tolist()]
    if not shares or any(later <= sooner for sooner, later in itertools.pairwise(shares)):
        raise ValueError(
            f"Each round prunes more than the one before. Received: sparsities={sparsities!r}. Give one sparsity or "
            "more, ascending."
        )
    if rewind not in ("weights", "learning rate", None):
        raise ValueError(
            f"What is rewound is 'weights', 'learning rate' or None. Received: rewind={rewind!r}."
        )
    if isinstance(pattern, NofM):
        raise ValueError(
            f"Rounds differ in sparsity. Received: {pattern}, which has one of its own. Use prune, then train."
        )
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"The optimizer is rewound, so the model has one. Received: {model.name!r}, which is not compiled. "
            "Compile it first, not in train."
        )
    if not is_whole(to_step) or to_step < 0:
        raise ValueError(f"to_step is a number of updates, >= 0. Received: to_step={to_step!r}.")
    if to_step % model.steps_per_execution:
        raise ValueError(
            "Training can be looked at between executions. Received: "
            f"to_step={to_step}, steps_per_execution={model.steps_per_execution}. Choose a multiple."
        )
    return shares


def _require_dense(kernels: Sequence[Kernel], share: float) -> None:
    """Refuses kernels that are pruned to more than the first round prunes; takes weights that were replaced as new."""
    for kernel in kernels:
        mask = mask_of(kernel)
        if mask is None:
            continue
        free_replaced(kernel, mask)
        gone = int((~np.asarray(ops.convert_to_numpy(mask.kept))).sum())
        if gone > math.ceil(share * math.prod(kernel.variable.shape)):
            raise ValueError(
                f"The first training comes before the first round's pruning. Received: {kernel.name}, of which {gone} "
                f"weights are pruned already, and a first sparsity of {share:g}. Call strip_pruning(model) first."
            )


def _run(model: keras.Model, train: Train, callback: keras.callbacks.Callback) -> int:
    """How many updates a training makes."""
    optimizer, began = model.optimizer, _iterations(model)
    train(model, [callback])
    if model.optimizer is not optimizer:
        raise ValueError(
            "One optimizer trains in all rounds. Received: a train that compiled the model. Compile it before."
        )
    return _iterations(model) - began


class _Snapshot(keras.callbacks.Callback):
    """Keeps the state of a training after some updates."""

    def __init__(self, to_step: int, began: int) -> None:
        super().__init__()
        self._to_step = to_step
        self._began = began
        self.made: int | None = None  # updates, once it is taken
        self._state: list[tuple[keras.Variable, np.ndarray]] = []
        self._optimizer: list[tuple[keras.Variable, np.ndarray]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Takes it, at the first batch after so many updates."""
        made = _iterations(self.model) - self._began
        if self.made is not None or made < self._to_step:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.made = made
        self._state = _values(self.model.variables)
        self._optimizer = _values(self.model.optimizer.variables)

    def put_back(self, weights: bool) -> None:
        """The optimizer's state, and the model's if wanted."""
        own = {id(variable) for variable in pruned_part(self.model).variables}
        for variable, value in self._state:
            # A Distiller's schedules follow a step of its own.
            if weights or (id(variable) not in own and variable.name == "step"):
                variable.assign(value)
        for variable, value in self._optimizer:
            variable.assign(value)


class _Stop(keras.callbacks.Callback):
    """Stops a training after some updates."""

    def __init__(self, updates: int, began: int) -> None:
        super().__init__()
        self.updates = updates
        self.seen = False
        self._began = began

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops it where they have been made."""
        self.seen = True
        if _iterations(self.model) - self._began >= self.updates:
            self.model.stop_training = True


@contextmanager
def _last_learning_rate(model: keras.Model) -> Iterator[None]:
    """Inside, a schedule of the learning rate stands still where it last was."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    schedule = learning_rate_of(optimizer)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        yield
        return
    last = ops.convert_to_numpy(
        schedule(iterations_of(optimizer) - 1)
    )  # batches, where gradients are accumulated
    optimizer.learning_rate = _Constant(float(last))
    try:
        yield
    finally:
        optimizer.learning_rate = schedule
        forget_traces(model)


class _Constant(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: Any) -> Any:
        return ops.convert_to_tensor(self.value, "float32")

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


def _values(variables: Sequence[keras.Variable]) -> list[tuple[keras.Variable, np.ndarray]]:
    return [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]


def _iterations(model: keras.Model) -> int:
    return int(ops.convert_to_numpy(model.optimizer.iterations))

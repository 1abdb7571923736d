"""Combines channel pruning with training: in rounds with a teacher, or after training that leaves few that matter."""

from collections.abc import Callable
from typing import Any, Unpack

import keras
import numpy as np
from keras import layers

from distill._keras import flatten_layers
from distill._replicas import own_scope
from distill._types import Train
from distill.pruning._numbers import is_whole
from distill.pruning.structured._channels import Options, prune_channels
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._recovery_losses import Recovering, losses_for
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.structured.importance import batch_norm_scale
from distill.training import Distiller


def shrink(
    model: keras.Model,
    train: Callable[[Distiller, list[keras.callbacks.Callback]], object],
    ratio: float | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency_ms: float | None = None,
    rounds: int = 3,
    losses: Any = None,
    student_loss_weight: float = 0.1,
    **options: Unpack[Options],
) -> keras.Model:
    """Prunes channels in rounds; after each round the smaller model learns from the original.

    ```python
    from distill import pruning


    def train(distiller, callbacks):
        distiller.compile("adam", "sparse_categorical_crossentropy")
        distiller.fit(x, y, epochs=5, callbacks=callbacks)


    small = pruning.shrink(model, train, 0.5)
    ```

    Each round keeps about the same share of what the previous round left.

    Args:
        model: trained original, as for `prune_channels`. It is the teacher in every round, and does not change.
        train: called once a round as `train(distiller, callbacks)`, with a `Distiller` and an empty list; it must
            compile and fit the distiller.
        ratio: share of the channels to remove by the end; see `prune_channels`.
        macs: instead of `ratio`, the multiply-adds to keep in the end; see `prune_channels`.
        parameters: instead of `ratio`, the parameters to keep in the end; see `prune_channels`.
        latency_ms: instead of `ratio`, the milliseconds that one example may take in the end; see `prune_channels`.
        rounds: number of rounds, >= 1.
        losses: distillation losses, as for `Distiller`. By default, each output gets the loss for its kind: `OutputMSE`
            if the original was compiled with a regression loss, or the output has one column that is not a
            probability; `BernoulliSoftTargets` if the output ends in sigmoid or the original was compiled with a binary
            cross-entropy; otherwise `SoftTargets`.
        student_loss_weight: weight of the loss on labels, as for `Distiller`. It is always passed, so the weights of a
            loss's `recipe` do not apply, and the losses' weight is 1 − this one.
        options: other arguments of `prune_channels`, such as importance, scope, round_to and exclude, but not ratios.

    Returns:
        The trained smaller model, compiled if the original is.

    Raises:
        TypeError: an option is unknown.
        ValueError: rounds is not an integer >= 1, ratios are given, `prune_channels` refuses an argument, or `losses`
            are left out, the outputs were taken for classes and `train` compiles with a regression loss.

    References:
        Molchanov et al. 2017, arXiv:1611.06440: pruning and training in turn.
    """
    if not is_whole(rounds) or rounds < 1:
        raise ValueError(f"rounds must be an integer >= 1. Received: {rounds=}.")
    if "ratios" in options:
        raise ValueError(
            "ratios would apply again in every round. Received: ratios. Use exclude, or write the rounds yourself."
        )
    _require_options("shrink", options)

    def learn(small: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        kind = Recovering if losses is None else Distiller
        compared = losses_for(model) if losses is None else losses
        train(kind(model, small, compared, student_loss_weight=student_loss_weight), callbacks)

    return prune_channels(
        model,
        ratio,
        macs=macs,
        parameters=parameters,
        latency_ms=latency_ms,
        rounds=rounds,
        train=learn,
        **options,
    )


def slim(
    model: keras.Model,
    train: Train,
    ratio: float | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    penalty: float = 1e-4,
    **options: Unpack[Options],
) -> keras.Model:
    """Network Slimming: trains with a penalty on the scales of BatchNormalization, removes the smallest, trains again.

    ```python
    from distill import pruning

    net = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(3),
        ]
    )
    x, y = np.random.normal(size=(64, 8)), np.random.randint(0, 3, 64)


    def train(model, callbacks):
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y, epochs=2, callbacks=callbacks)


    small = pruning.slim(net, train, 0.7)
    ```

    Args:
        model: model to start the first training from, as for `prune_channels`. It does not change: a copy is trained.
        train: called twice as `train(model, callbacks)`, with a model and an empty list; it must compile and fit the
            model. The second training has no penalty.
        ratio: share of the channels to remove; see `prune_channels`.
        macs: instead of `ratio`, the multiply-adds to keep; see `prune_channels`.
        parameters: instead of `ratio`, the parameters to keep; see `prune_channels`.
        penalty: factor of Σ|γ| over all scales, > 0; the paper uses 1e-4 on CIFAR and 1e-5 on ImageNet.
        options: other arguments of `prune_channels`. By default `scope` is "global" and `normalize` is `None`.

    Returns:
        The trained smaller model, compiled as `train` left it.

    Raises:
        TypeError: an option is unknown.
        ValueError: penalty is not > 0, a scale already has a regularizer, or `prune_channels` refuses an argument.
            Layers that no BatchNormalization follows have no score: exclude them.

    References:
        Liu et al. 2017, arXiv:1708.06519.
    """
    if not isinstance(penalty, (int, float, np.number)) or not 0 < penalty < np.inf:
        raise ValueError(f"penalty must be a finite number > 0. Received: {penalty=}.")
    _require_options("slim", options)
    # The paper compares the scales of all layers as they are.
    defaults: Options = {"importance": batch_norm_scale, "scope": "global", "normalize": None}
    pruned: Options = {**defaults, **options}

    def prune(one: keras.Model) -> keras.Model:
        return prune_channels(one, ratio, macs=macs, parameters=parameters, **pruned)

    prune(model)  # raises errors before any training
    structure = read(model, rules_with(options.get("rules")))
    with own_scope(model):
        copy = rebuild(structure, np.ones(structure.atoms.count, bool))
    _penalize(copy, float(penalty))
    train(copy, [])
    small = prune(copy)
    train(small, [])
    return small


def _require_options(name: str, options: Options) -> None:
    """Python would name `prune_channels`, which the caller did not call."""
    if unknown := [key for key in options if key not in Options.__annotations__]:
        raise TypeError(
            f"{name}() got an unexpected keyword argument {unknown[0]!r}. Besides its own, it takes those of "
            f"prune_channels: {', '.join(sorted(Options.__annotations__))}."
        )


def _penalize(model: keras.Model, penalty: float) -> None:
    """Puts L1 on the scales. It is part of no config, so the smaller model is built without it."""
    scales = [
        layer.gamma
        for layer in flatten_layers(model)
        if isinstance(layer, layers.BatchNormalization) and layer.gamma is not None
    ]
    if any(scale.regularizer is not None for scale in scales):
        raise ValueError(
            "slim puts its own penalty on the scales of BatchNormalization. Received: "
            f"{model.name!r}, where a scale already has a gamma_regularizer. Remove it."
        )
    for scale in scales:
        scale.regularizer = keras.regularizers.L1(penalty)

"""Channels go, and a model learns to do without them: in rounds, or after it was trained to have few that matter."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from distill._keras import flatten_layers
from distill.losses._logits import SoftTargets
from distill.pruning.structured._channels import prune_channels
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.structured.importance import batch_norm_scale
from distill.pruning.weights._patterns import is_whole
from distill.training._distiller import Distiller


def shrink(
    model: keras.Model,
    train: Callable[[Distiller], object],
    ratio: float | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    latency_ms: float | None = None,
    rounds: int = 3,
    losses: Any = None,
    student_loss_weight: float = 0.1,
    **options: Any,
) -> keras.Model:
    """Prunes channels in rounds; after each one what is left learns from the original.

        def train(distiller):
            distiller.compile("adam", "sparse_categorical_crossentropy")
            distiller.fit(x, y, epochs=5)

        small = pruning.shrink(model, train, macs=0.25)

    Each round leaves about the same share of what the one before left.

    Args:
        model: the trained original, as for `prune_channels`: the teacher of every round. It is left as it is.
        train: compiles a Distiller and fits it; called once a round.
        ratio: what goes by the end; see `prune_channels`.
        macs: instead, what stays in the end; see `prune_channels`.
        params: instead, what stays in the end; see `prune_channels`.
        latency_ms: instead, how long one example may take in the end; see `prune_channels`.
        rounds: how many, >= 1; the `steps` of `prune_channels`.
        losses: distillation losses, as for `Distiller`; `SoftTargets(4.0)` if not given.
        student_loss_weight: of the labels' loss, as for `Distiller`.
        options: more of `prune_channels`, such as importance, scope, round_to and keep.

    Returns:
        The small model, trained; compiled if the original was.

    Raises:
        ValueError: rounds is not an integer >= 1, `ratios` is given, or what `prune_channels` refuses.

    References:
        Molchanov et al. 2017, arXiv:1611.06440: pruning and training in turn.
    """
    if not is_whole(rounds) or rounds < 1:
        raise ValueError(f"An integer >= 1 says how many rounds there are. Received: rounds={rounds!r}.")
    if "ratios" in options:
        raise ValueError(
            "Shares of single layers would go in every round anew. Received: ratios. Use keep, or rounds of your own."
        )

    def learn(small: keras.Model) -> None:
        train(Distiller(model, small, losses or SoftTargets(4.0), student_loss_weight=student_loss_weight))

    goals: dict[str, Any] = {"ratio": ratio, "macs": macs, "params": params, "latency_ms": latency_ms}
    return prune_channels(model, **goals, **options, steps=rounds, after_step=learn)


def slim(
    model: keras.Model,
    train: Callable[[keras.Model], object],
    ratio: float | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    penalty: float = 1e-4,
    **options: Any,
) -> keras.Model:
    """Network Slimming: trains with a penalty on the scales of BatchNormalization, prunes the smallest, trains again.

        def train(model):
            model.compile("adam", "sparse_categorical_crossentropy")
            model.fit(x, y, epochs=10)

        small = pruning.slim(model, train, 0.7)

    Args:
        model: where the first training begins, as for `prune_channels`. It is left as it is: a copy is trained.
        train: compiles a model and fits it; called twice, the second time without the penalty.
        ratio: what goes; see `prune_channels`.
        macs: instead, what stays; see `prune_channels`.
        params: instead, what stays; see `prune_channels`.
        penalty: of Σ|γ| over all scales, > 0; the paper has 1e-4 on CIFAR, 1e-5 on ImageNet.
        options: more of `prune_channels`. If they are not given, `scope` is "global" and `normalize` is `None`.

    Returns:
        The small model, trained; compiled as `train` left it.

    Raises:
        ValueError: penalty is not > 0; the model has no BatchNormalization with a scale, or one whose scale is
            regularized already; what `prune_channels` refuses, as channels behind which there is none: `keep` them.

    References:
        Liu et al. 2017, arXiv:1708.06519.
    """
    if not isinstance(penalty, (int, float, np.number)) or not 0 < penalty < np.inf:
        raise ValueError(f"A penalty is a number > 0. Received: penalty={penalty!r}.")
    goals: dict[str, Any] = {"ratio": ratio, "macs": macs, "params": params}
    # The paper compares the scales of all layers as they are.
    pruned = {"importance": batch_norm_scale, "scope": "global", "normalize": None, **goals, **options}
    prune_channels(model, **pruned)  # refuses now what it would after training
    structure = read(model, rules_with(options.get("rules")))
    copy = rebuild(structure, np.ones(structure.atoms.count, bool))
    _penalize(copy, float(penalty))
    train(copy)
    small = prune_channels(copy, **pruned)
    train(small)
    return small


def _penalize(model: keras.Model, penalty: float) -> None:
    """L1 on the scales, which is in no config: what is built anew from the model has none."""
    scales = [
        layer.gamma
        for layer in flatten_layers(model)
        if isinstance(layer, layers.BatchNormalization) and layer.gamma is not None
    ]
    if any(scale.regularizer is not None for scale in scales):
        raise ValueError(
            f"Scales have one penalty. Received: {model.name!r}, where a gamma_regularizer is given. Leave it out."
        )
    for scale in scales:
        scale.regularizer = keras.regularizers.L1(penalty)

"""Removes channels, neurons and heads from a model, and returns a smaller model of the same kind."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import keras
import numpy as np

from distill._models import require_model
from distill._replicas import own_scope
from distill._types import Arrays, Train
from distill._untouched import same_randomness
from distill.cost import Lengths
from distill.pruning._numbers import is_whole
from distill.pruning.structured._call import Rule
from distill.pruning.structured._compiling import compile_settings, compile_with
from distill.pruning.structured._costs import macs_of, milliseconds, parameters_of
from distill.pruning.structured._explanation import without_rules
from distill.pruning.structured._goals import Goal, goals_of_rounds, only_one
from distill.pruning.structured._groups import Group, find_groups
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._scoring import Importance, Normalization, Reduction, score_atoms
from distill.pruning.structured._selection import Choice, Scope
from distill.pruning.structured._selectors import own_ratios, without
from distill.pruning.structured._structure import Structure
from distill.pruning.structured._targets import reach, reach_latency, score_per_ms
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import Proof, prove
from distill.pruning.structured.importance import l2
from distill.pruning.weights._kernels import Selector


class Options(TypedDict, total=False):
    """The options of `prune_channels` that `shrink` and `slim` pass on."""

    importance: Importance
    reduce: Reduction
    normalize: Normalization
    scope: Scope
    round_to: int | None
    exclude: Selector | Sequence[Selector]
    exact: bool
    rules: Mapping[type, Rule] | None
    verify: bool | Proof | Arrays
    lengths: Lengths


def prune_channels(
    model: keras.Model,
    ratio: float | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency_ms: float | None = None,
    importance: Importance = l2,
    reduce: Reduction = "mean",
    normalize: Normalization = "mean",
    scope: Scope = "local",
    round_to: int | None = None,
    exclude: Selector | Sequence[Selector] = (),
    ratios: Mapping[Selector, float] | None = None,
    rounds: int = 1,
    train: Train | None = None,
    exact: bool = True,
    rules: Mapping[type, Rule] | None = None,
    verify: bool | Proof | Arrays = False,
    lengths: Lengths = None,
) -> keras.Model:
    """Returns a smaller model without the least important channels of the given one, which does not change.

    Channels that an addition, a grouped convolution or anything else ties together are removed together. The smaller
    model computes what the original computes with the removed channels set to zero. It still needs training, ideally
    with the original as its teacher; `shrink` does both.

    The new model has no masks from `prune` (`keep_zeros(new)` finds their zeros again). It also lacks whatever a
    subclass of Functional or Sequential adds.

    Args:
        model: built Functional or Sequential model, possibly with nested models.
        ratio: share of the channels to remove, 0 < ratio < 1: of each group, or of all groups with scope="global".
        macs: instead of `ratio`, the multiply-adds with kernels to keep: a share of them if < 1, else their number.
            Products of two activations, which `cost.macs` also counts, are left out.
        parameters: instead of `ratio`, the parameters to keep: a share of them if < 1, else their number.
        latency_ms: instead of `ratio`, the milliseconds that one example may take, as `cost.latency` measures them with
            LiteRT on one thread of this machine. The search builds, exports and times about a dozen models. With
            scope="global" it times one more for each group, and channels compete by their score per millisecond.
        importance: how much channels matter; see `pruning.structured.importance`.
        reduce: how to combine a channel's scores from all weights that make or read it: "mean", "sum" or "max".
        normalize: what to divide a group's scores by before groups are compared, which only scope="global" does:
            their "mean" or "max"; `None` leaves the scores as they are.
        scope: "local" removes the same share of each group; "global" removes the lowest scores of all groups.
        round_to: the number of channels left is a multiple of this, which suits hardware, in groups with at least twice
            as many channels. `None` means 8, or 4, 2 or 1 if 8 cannot meet a target of macs, parameters or latency_ms.
        exclude: layers to leave alone: names, types or functions, as for `find_kernels`.
        ratios: layers -> share of their channels to remove, 0 <= share < 1, whatever the other layers lose. Without a
            target, the other layers keep all their channels.
        rounds: number of rounds in which to reach the target, each by about the same factor. Each round computes the
            importance anew. Rounds before the last come as near to their share as they can.
        train: called as `train(model, callbacks)` after each round, with the smaller model and an empty list. Before
            the first call, all rounds are tried without training, so that a target that cannot be reached raises an
            error at once; for latency_ms, only the last round is tried.
        exact: whether to keep all channels that LayerNormalization and similar layers average over. With `False` they
            can be removed, which changes the statistics of the others, so `verify` then finds a difference.
        rules: type of a layer or operation -> function of a `structured.Call` that says how it ties axes together. A
            rule does not apply to subclasses. Your rules take precedence over the library's.
        verify: whether to compare every tensor of the new model with the original's, in float64. `True` uses random
            examples. You can also pass examples, as for the model, or a `Proof`, which keeps the largest difference.
        lengths: for targets of macs and latency_ms, the sizes that the model leaves open, such as the length of a
            text: one number for all of them, or examples, as for the model, whose shapes give the sizes.

    Returns:
        The new model with copied weights: Functional or Sequential like the original, and compiled if the original is,
        with a fresh optimizer.

    Raises:
        ValueError: not exactly one of ratio, macs, parameters and latency_ms is given (none is needed with ratios), a
            value is out of range, a target cannot be met within 2 %, a ratio removes no channel, a selector fits no
            layer, nothing can be removed, the model has no graph, ratios are given with several rounds, or a layer, the
            optimizer or a metric cannot be made from its config.
        TypeError: the model, a target, a selector or importance has the wrong type.
        RuntimeError: `verify` finds a difference.

    Example:
        >>> from distill import pruning
        >>> hidden, head = keras.layers.Dense(64, "relu"), keras.layers.Dense(3)
        >>> net = keras.Sequential([keras.Input((8,)), hidden, head])
        >>> small = pruning.prune_channels(net, 0.5, verify=True)
        >>> small.layers[0].units
        32
    """
    require_model(model, "prune_channels")
    targets = {"ratio": ratio, "macs": macs, "parameters": parameters, "latency_ms": latency_ms}
    alone = bool(ratios) and all(value is None for value in targets.values())
    what, target = ("ratios", 0.0) if alone else only_one(targets)
    if round_to is not None and (not is_whole(round_to) or round_to < 1):
        raise ValueError(f"round_to must be None or an integer >= 1. Received: {round_to=}.")
    if scope not in ("local", "global"):
        raise ValueError(f"scope must be 'local' or 'global'. Received: {scope=}.")
    if reduce not in ("mean", "sum", "max"):
        raise ValueError(f"reduce must be 'mean', 'sum' or 'max'. Received: {reduce=}.")
    if normalize not in ("mean", "max", None):
        raise ValueError(f"normalize must be 'mean', 'max' or None. Received: {normalize=}.")
    if not is_whole(rounds) or rounds < 1:
        raise ValueError(f"rounds must be an integer >= 1. Received: {rounds=}.")
    if what == "ratio" and not 0 < target < 1:
        raise ValueError(
            f"ratio, the share of channels to remove, must be between 0 and 1. Received: {ratio=}."
        )
    if not target > 0 and not alone:
        raise ValueError(
            f"{what}, which says what to keep, must be more than 0. Received: {what}={target!r}."
        )
    if rounds > 1 and ratios:
        raise ValueError(
            f"ratios would apply again in every round. Received: ratios and {rounds=}. Leave one of them out."
        )
    if not callable(importance):
        raise TypeError(
            "importance must be a function of distill.pruning.structured.importance, such as importance.l2, or one of "
            f"your own. Received: importance={importance!r}."
        )
    settings = _Settings(importance, reduce, normalize, scope, exclude, ratios, exact, rules, verify, lengths)
    goals = goals_of_rounds(model, Goal(what, target, round_to), int(rounds), rules, lengths)
    asked = f"{what}={ratios or target!r}"
    if train is not None:
        # Raises all errors that it can before anything is trained.
        rehearsal = settings._replace(importance=l2, reduce="mean", normalize="mean", verify=False)
        _cut(model, goals[-1], rehearsal)
        if what != "latency_ms":
            smaller = functools.reduce(lambda one, goal: _cut(one, goal, rehearsal), goals, model)
            _require_change(model, smaller, what, asked)
    new = model
    for goal in goals:
        new = _cut(new, goal, settings)
        if train is not None:
            train(new, [])
    _require_change(model, new, what, asked)
    return new


class _Settings(NamedTuple):
    """The arguments of `prune_channels` that hold for every round."""

    importance: Importance
    reduce: Reduction
    normalize: Normalization
    scope: Scope
    exclude: Selector | Sequence[Selector]
    ratios: Mapping[Selector, float] | None
    exact: bool
    rules: Mapping[type, Rule] | None
    verify: bool | Proof | Arrays
    lengths: Lengths


def _require_change(model: keras.Model, new: keras.Model, what: str, asked: str) -> None:
    if what in ("ratio", "ratios") and new.count_params() == model.count_params():
        raise ValueError(
            f"{asked} removes no channel of {model.name!r}, because the numbers of channels left are rounded. Use a "
            "larger ratio or round_to=1."
        )


def _cut(model: keras.Model, goal: Goal, settings: _Settings) -> keras.Model:
    """One round of `prune_channels`; the seeds that new layers draw leave the random generators as they were."""
    with own_scope(model), same_randomness():
        return _smaller(model, goal, settings)


def _smaller(model: keras.Model, goal: Goal, settings: _Settings) -> keras.Model:
    compiling = compile_settings(model)
    rules = rules_with(settings.rules)
    counted = goal.what == "macs"
    structure = read(model, rules, exact=settings.exact, counted=counted, lengths=settings.lengths)
    groups = find_groups(structure)
    removable = without(structure, [group for group in groups if group.atoms.size > 1], settings.exclude)
    if not removable:
        why = "; ".join(f"{group.name}: {group.locked or 'excluded'}" for group in groups)
        raise ValueError(
            f"Nothing in {model.name!r} can be removed: {why or 'no layer makes channels that are known'}."
            f"{without_rules(structure.unknown)}"
        )
    kept = _chosen(structure, removable, goal, settings)
    new = rebuild(structure, kept)
    if settings.verify is not False:
        given = settings.verify
        proof = given if isinstance(given, Proof) else Proof(None if given is True else given)
        prove(structure, kept, new, rules, proof, exact=settings.exact)
    compile_with(compiling, model, new)
    return new


def _chosen(structure: Structure, groups: Sequence[Group], goal: Goal, settings: _Settings) -> np.ndarray:
    """(atoms,) bool, which atoms stay."""
    scores = score_atoms(structure, groups, settings.importance, settings.reduce, settings.normalize)
    own = own_ratios(structure, groups, settings.ratios)
    multiples = (8, 4, 2, 1) if goal.round_to is None else (goal.round_to,)
    choices = [Choice(structure, groups, scores, settings.scope, multiple, own) for multiple in multiples]
    if goal.what in ("ratio", "ratios"):
        return choices[0].keep(choices[0].counts(goal.target))
    if goal.what == "latency_ms":

        def measure(keep: np.ndarray) -> float:
            return milliseconds(rebuild(structure, keep), settings.lengths)

        if settings.scope == "global":
            per_ms = score_per_ms(choices[-1], measure)
            choices = [dataclasses.replace(choice, scores=per_ms) for choice in choices]
        return reach_latency(choices, measure, goal)
    count = macs_of(structure, settings.lengths) if goal.what == "macs" else parameters_of(structure)
    return reach(choices, count, goal)

"""Takes channels, neurons and heads out of a model: a smaller model of the same kind comes out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from distill.cost import latency
from distill.pruning.structured._compiling import compile_settings, compile_with
from distill.pruning.structured._costs import macs_of, parameters_of
from distill.pruning.structured._groups import Group, find_groups
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._selection import (
    Choice,
    Scope,
    reach,
    reach_latency,
    score_per_ms,
)
from distill.pruning.structured._structure import Structure
from distill.pruning.structured._tracing import Rule, read
from distill.pruning.structured._verification import Proof
from distill.pruning.structured.importance import Importance, Normalization, Reduction, l2, score_atoms
from distill.pruning.weights._kernels import Selector, as_selectors, fits
from distill.pruning.weights._patterns import is_whole


def prune_channels(
    model: keras.Model,
    ratio: float | None = None,
    *,
    macs: float | None = None,
    params: float | None = None,
    latency_ms: float | None = None,
    importance: Importance = l2,
    reduce: Reduction = "mean",
    normalize: Normalization = "mean",
    scope: Scope = "local",
    round_to: int | None = None,
    keep: Selector | Sequence[Selector] = (),
    ratios: Mapping[Selector, float] | None = None,
    steps: int = 1,
    after_step: Callable[[keras.Model], object] | None = None,
    exact: bool = True,
    rules: Mapping[type, Rule] | None = None,
    verify: Any = False,
) -> keras.Model:
    """A smaller model without the least important channels of this one, which is left as it is.

    Channels that an addition, a grouped convolution or anything else ties together go together. What stays computes
    what it did when the others were zero. The new model is not trained: do so, with the old one as the teacher.

    Left behind are masks of `prune` (`keep_zeros(new)` takes their zeros again), and what a subclass of a Functional or
    Sequential model adds to it.

    Args:
        model: Functional or Sequential, possibly with such models nested, built.
        ratio: share of the channels that goes, 0 < ratio < 1; of each group, or of all with scope "global".
        macs: instead of it, the multiply-adds with kernels that stay: a share of them if < 1, else how many. What
            `cost.macs` counts besides, products of two activations, is left out.
        params: instead of it, the parameters that stay: a share of them if < 1, else how many.
        latency_ms: instead of it, how long one example may take, in milliseconds, by `cost.latency`: LiteRT on one
            thread of this machine. A dozen models are built, exported and timed to find it; with scope "global" one
            more for each group, and channels compete by their score per millisecond that they cost.
        importance: says how much channels matter; see `importance`.
        reduce: what a channel's scores on all the weights that make or read it come to: their "mean", "sum" or "max".
        normalize: what a group's scores are divided by before groups are compared, which is what scope "global" does:
            their "mean" or "max"; `None` leaves them as they are.
        scope: "local": each group gives the same share; "global": the lowest scores go wherever they are.
        round_to: numbers of channels that stay are multiples of it, for the hardware's sake, in groups of twice as many
            or more. `None` is 8, or where a target of macs, params or latency_ms cannot be met so, 4, 2 or 1.
        keep: layers whose channels stay: names, types or functions, as for `find_kernels`.
        ratios: selector of layers -> share of their channels that goes, whatever is asked of the others; of which
            nothing goes if nothing is asked.
        steps: in how many steps, each by about the same factor, the target is reached; before each, importance is found
            anew for what is left. Steps before the last come as near to theirs as they can.
        after_step: called with what each step leaves, such as to train it; see `shrink`. Before the first call it is
            tried whether all steps can be gone, but for those of latency_ms, of which the last is.
        exact: whether what LayerNormalization and its like average over stays. Without, their statistics change.
        rules: for types of layers and operations, by exact type, what ties their axes; they come before our own.
        verify: whether every tensor of the new model is compared with the old one's, in float64: `True` on random
            examples, or on these, given as to the model; a `Proof` keeps the largest difference.

    Returns:
        The new model with copied weights, Functional or Sequential as before, compiled if the old one was; the
        optimizer starts afresh.

    Raises:
        ValueError: none or several of ratio, macs, params and latency_ms are given without ratios, or one is out of
            range; a target cannot be met within 2 %; by a ratio, nothing would go; a selector fits no layer; nothing
            can be cut; the model has no graph; both ratios and steps are given; the optimizer or a metric does not come
            out of its own config.
        RuntimeError: `verify` found a difference.
    """
    targets = {"ratio": ratio, "macs": macs, "params": params, "latency_ms": latency_ms}
    alone = bool(ratios) and all(value is None for value in targets.values())
    ((what, target),) = [("ratios", 0.0)] if alone else _only_one(targets)
    if round_to is not None and (not is_whole(round_to) or round_to < 1):
        raise ValueError(
            f"Channels that stay are rounded to a multiple of an integer >= 1. Received: {round_to=}."
        )
    if scope not in ("local", "global"):
        raise ValueError(f"Channels compete by 'local' or 'global'. Received: scope={scope!r}.")
    if reduce not in ("mean", "sum", "max"):
        raise ValueError(f"Scores are reduced to their 'mean', 'sum' or 'max'. Received: reduce={reduce!r}.")
    if normalize not in ("mean", "max", None):
        raise ValueError(f"Scores are divided by their 'mean' or 'max'. Received: normalize={normalize!r}.")
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"An integer >= 1 says how many steps there are. Received: steps={steps!r}.")
    if what == "ratio" and not 0 < target < 1:
        raise ValueError(f"The share of channels that goes lies between 0 and 1. Received: ratio={target!r}.")
    if not target > 0 and not alone:
        raise ValueError(f"What stays of a model is more than 0. Received: {what}={target!r}.")
    if steps > 1 and ratios:
        raise ValueError(
            f"Shares of single layers would go in every step anew. Received: ratios and {steps=}. Leave one out."
        )
    cut = functools.partial(_cut, scope=scope, keep=keep, ratios=ratios, exact=exact, rules=rules)
    goals = _goals(model, what, target, int(steps), round_to, rules)
    asked = f"{what}={ratios or target!r}"
    if after_step is not None:
        # What is refused is refused before anything was trained.
        rehearse = functools.partial(cut, importance=l2, reduce="mean", normalize="mean", verify=False)
        rehearse(model, goals[-1])
        if what != "latency_ms":
            _require_change(model, functools.reduce(rehearse, goals, model), what, asked)
    new = model
    for goal in goals:
        new = cut(new, goal, importance=importance, reduce=reduce, normalize=normalize, verify=verify)
        if after_step is not None:
            after_step(new)
    _require_change(model, new, what, asked)
    return new


def _require_change(model: keras.Model, new: keras.Model, what: str, asked: str) -> None:
    if what in ("ratio", "ratios") and new.count_params() == model.count_params():
        raise ValueError(
            f"Something goes. Received: {asked}, by which nothing of {model.name!r} does: numbers of channels are "
            "rounded. Ask for more, or for round_to=1."
        )


class _Goal(NamedTuple):
    """What one step is to reach.

    Attributes:
        what: "ratio", "ratios", "macs", "params" or "latency_ms".
        target: of it.
        round_to: see `prune_channels`.
        least: where the target cannot be met, the nearest is taken that costs as much as this; `None` refuses.
    """

    what: str
    target: float
    round_to: int | None
    least: float | None = None


def _goals(
    model: keras.Model,
    what: str,
    target: float,
    steps: int,
    round_to: int | None,
    rules: Mapping[type, Rule] | None,
) -> list[_Goal]:
    """What each step is to reach, each by the same factor."""
    if what in ("ratio", "ratios"):
        # Rounded in every step, small groups would come back to where they were.
        ratio = 1 - (1 - target) ** (1 / steps)
        return [*[_Goal(what, ratio, 1)] * (steps - 1), _Goal(what, ratio, round_to)]
    if what == "latency_ms":
        whole = latency(model).median_ms if steps > 1 else target
    else:
        structure = read(model, rules_with(rules))
        count = macs_of(structure) if what == "macs" else parameters_of(structure)
        whole = count(np.ones(structure.atoms.count, bool))
        target = target * whole if target < 1 else target
    towards = [whole * (target / whole) ** (i / steps) for i in range(1, steps)]
    return [*(_Goal(what, one, round_to, least=target) for one in towards), _Goal(what, target, round_to)]


def _cut(
    model: keras.Model,
    goal: _Goal,
    *,
    importance: Importance,
    reduce: Reduction,
    normalize: Normalization,
    scope: Scope,
    keep: Selector | Sequence[Selector],
    ratios: Mapping[Selector, float] | None,
    exact: bool,
    rules: Mapping[type, Rule] | None,
    verify: Any,
) -> keras.Model:
    """One step of `prune_channels`."""
    compiling = compile_settings(model)
    known = rules_with(rules)
    structure = read(model, known, exact=exact)
    found = find_groups(structure)
    cuttable = _without(structure, [group for group in found if group.atoms.size > 1], keep)
    if not cuttable:
        why = "; ".join(f"{group.name}: {group.locked or 'kept'}" for group in found[:8])
        raise ValueError(
            f"There is something to prune. Received: {model.name!r}, of which nothing is: {why}."
        )
    scores = score_atoms(structure, cuttable, importance, reduce, normalize)
    own = _own_ratios(structure, cuttable, ratios)
    choices = [
        Choice(structure, cuttable, scores, scope, multiple, own)
        for multiple in ((8, 4, 2, 1) if goal.round_to is None else (goal.round_to,))
    ]
    if goal.what in ("ratio", "ratios"):
        kept = choices[0].keep(choices[0].counts(goal.target))
    elif goal.what == "latency_ms":

        def measure(keep: np.ndarray) -> float:
            return latency(rebuild(structure, keep)).median_ms

        if scope == "global":
            per_ms = score_per_ms(choices[-1], measure)
            choices = [dataclasses.replace(choice, scores=per_ms) for choice in choices]
        kept = reach_latency(choices, measure, goal.target, goal.least)
    else:
        count = macs_of(structure) if goal.what == "macs" else parameters_of(structure)
        kept = reach(choices, count, goal.target, goal.what, goal.least)
    new = rebuild(structure, kept)
    if verify is not False:
        proof = verify if isinstance(verify, Proof) else Proof(None if verify is True else verify)
        proof.find(structure, kept, new, known)
    compile_with(compiling, model, new)
    return new


def _only_one(targets: Mapping[str, float | None]) -> list[tuple[str, float]]:
    given = [(name, value) for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"How much goes is said by one of {', '.join(targets)}. Received: {dict(given) or 'none of them'}."
        )
    ((name, value),) = given
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is a number. Received: {value!r}.")
    return given


def _fitting(structure: Structure, groups: Sequence[Group], selector: Selector) -> list[int]:
    """Positions of the groups that layers which a selector means make or scale channels of."""
    meant = [path for path, layer in structure.operations.items() if fits(selector, path, layer)]
    if not meant:
        raise ValueError(
            f"A selector fits at least one layer. Received: {selector!r}, which fits none of "
            f"{structure.model.name!r}. Its layers: {', '.join(structure.operations)}."
        )
    own = np.zeros(structure.atoms.count, bool)
    for slot in structure.slots:
        # What holds for a layer holds for those inside.
        inside = any(slot.path == path or slot.path.startswith(f"{path}/") for path in meant)
        if inside and slot.role != "input":
            own[structure.atoms.of[slot.labels]] = True
    return [i for i, group in enumerate(groups) if own[group.atoms].any()]


def _without(structure: Structure, groups: list[Group], keep: Selector | Sequence[Selector]) -> list[Group]:
    left = {i for selector in as_selectors("keep", keep) for i in _fitting(structure, groups, selector)}
    return [group for i, group in enumerate(groups) if i not in left]


def _own_ratios(
    structure: Structure, groups: Sequence[Group], ratios: Mapping[Selector, float] | None
) -> dict[int, float]:
    found: dict[int, float] = {}
    for selector, ratio in (ratios or {}).items():
        if not isinstance(ratio, (int, float, np.number)) or not 0 <= ratio < 1:
            raise ValueError(
                f"The share of channels that goes is at least 0 and less than 1. Received: {ratio!r} for {selector!r}."
            )
        (checked,) = as_selectors("ratios", selector)
        found.update(dict.fromkeys(_fitting(structure, groups, checked), float(ratio)))
    return found

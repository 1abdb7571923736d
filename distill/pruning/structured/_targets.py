"""Searches for a choice of channels that gives a model a certain cost or latency."""

from collections.abc import Callable, Sequence

import numpy as np

from distill.pruning.structured._costs import Cost
from distill.pruning.structured._goals import Goal
from distill.pruning.structured._selection import TOLERANCE, Choice

_LEAST_SAVED = 1e-3  # share of the whole time; a measurement cannot tell less


def reach(choices: Sequence[Choice], cost: Cost, goal: Goal) -> np.ndarray:
    """What stays so that the model meets a goal within 2 %, by the first choice that can.

    Args:
        choices: choices to try in turn.
        cost: cost of what stays.
        goal: what to reach.

    Returns:
        (atoms,) bool, which atoms stay.

    Raises:
        ValueError: no choice reaches the target; the message says what can be reached.
    """
    target, least = goal.target, goal.least
    fewest, most = (cost(choices[-1].keep(choices[-1].counts(ratio))) for ratio in (1.0, 0.0))
    if not fewest * (1 - TOLERANCE) <= target <= most * (1 + TOLERANCE):
        raise ValueError(
            f"Only {goal.what} from {fewest:,} to {most:,} can be reached. Received: {goal.asked}."
        )
    seen = [fewest, most]
    near = most, np.ones(choices[0].structure.atoms.count, bool)

    def seeing(kept: np.ndarray) -> int:
        nonlocal near
        found = cost(kept)
        seen.append(found)
        if least is not None and found >= least and abs(found - target) < abs(near[0] - target):
            near = found, kept
        return found

    for choice in choices:
        kept = choice.keep(choice.nearest(seeing, target))
        if abs(cost(kept) - target) <= TOLERANCE * target:
            return kept
    if least is not None:
        return near[1]
    below, above = _around(seen, target)
    nearest = "nearest" if all(choice.few for choice in choices) else "nearest found"
    raise ValueError(
        f"The target must be met within {TOLERANCE:.0%}, which no choice of channels does. Received: "
        f"{goal.asked}; the {nearest} are {below:,} and {above:,}. Ask for one of them, or use a smaller "
        "round_to if you gave one."
    )


def reach_latency(
    choices: Sequence[Choice],
    measure: Callable[[np.ndarray], float],
    goal: Goal,
) -> np.ndarray:
    """What stays so that the measured time meets a goal within 2 %. Measurements are expensive and inexact.

    Args:
        choices: choices to try in turn.
        measure: function of what stays that returns the milliseconds that such a model takes.
        goal: milliseconds to reach.

    Returns:
        (atoms,) bool, which atoms stay.

    Raises:
        ValueError: no ratio reaches the target; the message says what can be reached.
    """
    target, least = goal.target, goal.least
    fastest, slowest = (measure(choices[-1].keep(choices[-1].counts(ratio))) for ratio in (1.0, 0.0))
    if not fastest * (1 - TOLERANCE) <= target <= slowest * (1 + TOLERANCE):
        raise ValueError(
            f"Only latencies from {fastest:.3g} to {slowest:.3g} ms can be reached. Received: {goal.asked}."
        )
    times = [fastest, slowest]
    near = slowest, np.ones(choices[0].structure.atoms.count, bool)
    for choice in choices:
        low, high, seen = 0.0, 1.0, set[tuple[int, ...]]()
        for _ in range(12):
            middle = (low + high) / 2
            counts = tuple(choice.counts(middle))
            if counts in seen:
                break
            seen.add(counts)
            kept = choice.keep(counts)
            found = measure(kept)
            if abs(found - target) <= TOLERANCE * target:
                return kept
            times.append(found)
            if least is not None and found >= least and abs(found - target) < abs(near[0] - target):
                near = found, kept
            low, high = (middle, high) if found > target else (low, middle)
    if least is not None:
        return near[1]
    below, above = _around(times, target)
    raise ValueError(
        f"The target must be met within {TOLERANCE:.0%}, which no choice of channels did. Received: "
        f"{goal.asked}; the nearest were {below:.3g} and {above:.3g} ms. Ask for one of them, use a smaller "
        "round_to if you gave one, or try again when the machine is idle."
    )


def score_per_ms(choice: Choice, measure: Callable[[np.ndarray], float]) -> np.ndarray:
    """(atoms,) scores, each divided by the milliseconds that one channel of its group costs.

    The cost of a group's channels is measured with half of them removed. Keeping the highest scores per millisecond
    then comes near the best total score for a given time.
    """
    scores = choice.scores.copy()
    whole = measure(np.ones(choice.structure.atoms.count, bool))
    sizes = [group.atoms.size for group in choice.groups]
    for i, group in enumerate(choice.groups):
        half = group.atoms.size // 2
        saved = whole - measure(choice.keep([*sizes[:i], half or 1, *sizes[i + 1 :]]))
        # Noise can make the smaller model seem slower; a cost is never below zero.
        scores[group.atoms] /= max(saved, whole * _LEAST_SAVED) / max(group.atoms.size - half, 1)
    return scores


def _around(seen: Sequence[float], target: float) -> tuple[float, float]:
    """The nearest values below and above the target."""
    below = max((one for one in seen if one <= target), default=min(seen))
    return below, min((one for one in seen if one >= target), default=max(seen))

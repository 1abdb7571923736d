"""The amount that a model is pruned to, and how it is divided over rounds."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from distill.cost import Lengths
from distill.pruning.structured._call import Rule
from distill.pruning.structured._costs import macs_of, milliseconds, parameters_of
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read


class Goal(NamedTuple):
    """What one round has to reach.

    Attributes:
        what: "ratio", "ratios", "macs", "parameters" or "latency_ms".
        target: value to reach.
        round_to: as for `prune_channels`.
        least: if the target cannot be met, take the nearest model that costs at least this much; `None` refuses
            instead.
        share: the share of the whole, if the target was given as a share.
    """

    what: str
    target: float
    round_to: int | None
    least: float | None = None
    share: float | None = None

    @property
    def asked(self) -> str:
        """The target in words, for errors."""
        if self.what == "latency_ms":
            return f"latency_ms={self.target:g}"
        number = f"{self.target:,.0f}" if self.target >= 10 else f"{self.target:.3g}"
        return f"{self.what}={number if self.share is None else f'{self.share:g}, which is {number}'}"


def only_one(targets: Mapping[str, float | None]) -> tuple[str, float]:
    """Name and value of the only target that is given.

    Raises:
        ValueError: none or several are given.
        TypeError: it is not a number.
    """
    given = [(name, value) for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of {', '.join(targets)} must be given. Received: {dict(given) or 'none of them'}."
        )
    ((name, value),) = given
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number. Received: {value!r}.")
    return name, value


def goals_of_rounds(
    model: keras.Model,
    last: Goal,
    rounds: int,
    rules: Mapping[type, Rule] | None,
    lengths: Lengths = None,
) -> list[Goal]:
    """What each round has to reach so that all of them remove the same share.

    Args:
        model: original model.
        last: goal of the last round.
        rounds: number of rounds.
        rules: rules of the user's own.
        lengths: the sizes that the model leaves open.

    Raises:
        ValueError: multiply-adds are asked for and are not known.
    """
    what, target, round_to = last[:3]
    share = None
    if what in ("ratio", "ratios"):
        # If every round rounded, small groups would return to the size they had.
        ratio = 1 - (1 - target) ** (1 / rounds)
        return [*[Goal(what, ratio, 1)] * (rounds - 1), Goal(what, ratio, round_to)]
    if what == "latency_ms":
        whole = milliseconds(model, lengths) if rounds > 1 else target
    else:
        structure = read(model, rules_with(rules), counted=what == "macs", lengths=lengths)
        count = macs_of(structure, lengths) if what == "macs" else parameters_of(structure)
        whole = count(np.ones(structure.atoms.count, bool))
        share = target if target < 1 else None
        target = target * whole if target < 1 else target
    towards = [whole * (target / whole) ** (i / rounds) for i in range(1, rounds)]
    last = Goal(what, target, round_to, share=share)
    return [*(Goal(what, one, round_to, least=target) for one in towards), last]

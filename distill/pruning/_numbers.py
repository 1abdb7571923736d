"""Checks of the numbers that pruning is given."""

import numpy as np


def is_whole(number: object) -> bool:
    """Whether it is an integer, Python's or numpy's, and not a bool."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def is_number(number: object) -> bool:
    """Whether it is a real number, Python's or numpy's, and not a bool; NaN and infinity are numbers too."""
    return isinstance(number, (int, float, np.number)) and not isinstance(number, bool)


def require_whole(name: str, number: int, least: int) -> int:
    """Returns the argument `name` as an int; raises ValueError unless it is an integer >= `least`."""
    if not is_whole(number) or number < least:
        raise ValueError(f"{name} must be an integer >= {least}. Received: {name}={number!r}.")
    return int(number)


def require_sparsity(sparsity: float) -> float:
    """Returns a sparsity as a float; raises ValueError unless it is a share of zeros that leaves something."""
    if not is_number(sparsity) or not 0 <= sparsity < 1:
        raise ValueError(
            f"sparsity must be a share of zeros, 0 <= sparsity < 1. Received: sparsity={sparsity!r}."
        )
    return float(sparsity)

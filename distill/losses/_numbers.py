"""Checks of the numbers that constructors are given."""

import math
from numbers import Integral, Real
from typing import Any


def require_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Returns `value` as a float; raises ValueError unless it is a finite number in [low, high]."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        rule = f"a finite number >= {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {rule}. Received: {name}={value!r}.")
    return float(value)


def require_count(name: str, value: Any) -> int:
    """Returns `value` as an int; raises ValueError unless it is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1. Received: {name}={value!r}.")
    return int(value)

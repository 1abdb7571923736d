"""What goes to the sinks: numbers, plain values, and their JSON."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from keras import ops


def numbers_of(name: str, value: Any) -> dict[str, float]:
    """Returns the numbers of a metric by name; numbers from an array have their positions in the name."""
    try:
        array = np.asarray(ops.convert_to_numpy(value) if ops.is_tensor(value) else value)
        if array.dtype.kind in "cmMSU":
            raise TypeError
        return {
            "/".join([name, *map(str, position)]): float(number) for position, number in np.ndenumerate(array)
        }
    except (TypeError, ValueError):
        raise TypeError(
            f"A metric must be a number or an array of numbers. Received: {name!r} = {value!r}. "
            "Log numbers that are computed from it instead."
        ) from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested dictionaries by their path, such as "test/accuracy", without those that are `None`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found


def dumps(value: Mapping[str, Any]) -> bytes:
    """JSON of plain values, including numpy values and paths.

    Raises:
        TypeError: a value is not plain.
    """
    return json.dumps(value, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        "config, summary and tables must hold plain values: numbers, strings, lists, dicts. "
        f"Received: {value!r}. Give its name or its settings instead."
    )

"""Numbers as they are shown to people."""

from typing import NamedTuple


class Quantity(NamedTuple):
    """A number and its text.

    Attributes:
        value: the number, or `None` if it is unknown.
        text: the number as it is shown, with its unit.
    """

    value: float | None
    text: str


def count_text(value: int | None) -> str:
    """A count, such as "1,234"."""
    return "unknown" if value is None else f"{value:,}"


def bytes_text(value: int | None) -> str:
    """A number of bytes, such as "1.2 kB"."""
    if value is None:
        return "unknown"
    power = min(3, max(0, len(str(value)) - 1) // 3)
    return f"{value / 1000**power:.{min(power, 1)}f} {('B', 'kB', 'MB', 'GB')[power]}"


def compared(one: Quantity, base: Quantity) -> str:
    """The text of a quantity, and its share of another one."""
    if one.value is None or not base.value:
        return f"{one.text}{'':>8}"
    return f"{one.text}  {one.value / base.value:>6.1%}"

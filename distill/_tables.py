"""Plain text tables."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], alignments: str) -> list[str]:
    """The lines of a table whose columns are as wide as their cells.

    Args:
        rows: cells of each row; the header comes first.
        alignments: "<" or ">" for each column.

    Returns:
        One line for each row, without spaces at its end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{to}{width}}" for cell, to, width in zip(row, alignments, widths, strict=True)
        ).rstrip()
        for row in rows
    ]

"""Plain text tables."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], alignments: str) -> list[str]:
    """Lines of a table whose columns are as wide as what they hold.

    Args:
        rows: cells of each row, the header's first.
        alignments: "<" or ">" for each column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{to}{width}}" for cell, to, width in zip(row, alignments, widths, strict=True)
        ).rstrip()
        for row in rows
    ]

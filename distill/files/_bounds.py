"""How much a file may make of itself."""

# Weights hardly compress; those of a network pruned to a few percent do, tenfold.
MOST_EXPANSION = 100
ALWAYS_ALLOWED = 2**20


def require_proportion(declared: int, held: int, name: str) -> None:
    """Raises ValueError unless `declared` bytes of memory can honestly come out of a file of `held` bytes."""
    if declared > MOST_EXPANSION * held + ALWAYS_ALLOWED:
        raise ValueError(
            f"A file holds what it declares, compressed at most {MOST_EXPANSION} times. Received: {name} with {held:,} "
            f"bytes, which declares {declared:,}. Nothing was allocated."
        )

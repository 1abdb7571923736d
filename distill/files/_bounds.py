"""Bounds on the memory that a file may ask for."""

# Weights hardly compress. Those of a network pruned to a few percent compress tenfold.
MOST_EXPANSION = 100
ALWAYS_ALLOWED = 2**20


def require_proportion(declared: int, held: int, name: str) -> None:
    """Raise ValueError if a file of `held` bytes declares more than it can honestly hold.

    Args:
        declared: bytes of memory that loading would take.
        held: bytes that are in the file.
        name: name of the file in the error.
    """
    if declared > MOST_EXPANSION * held + ALWAYS_ALLOWED:
        raise ValueError(
            f"A file may declare at most {MOST_EXPANSION} times the bytes that it holds. Received: {name} with "
            f"{held:,} bytes, which declares {declared:,}. Nothing was allocated."
        )

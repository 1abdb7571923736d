"""Bounds on the memory that a file may ask for."""

# Weights hardly compress. Those of a network pruned to a few percent compress tenfold.
MOST_EXPANSION = 100
ALWAYS_ALLOWED = 2**20
# Text takes many times its bytes as JSON or words. Keras stores it in archives as it is.
MOST_TEXT = 2**22


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


def require_stored(text: int, held: int, name: str) -> None:
    """Raise ValueError if an archive of `held` bytes hides more text in them than Keras would.

    Args:
        text: bytes of the architecture and of the words that would be unpacked.
        held: bytes that are in the archive.
        name: name of the archive in the error.
    """
    if text > max(held, MOST_TEXT):
        raise ValueError(
            f"Architectures and words of more than {MOST_TEXT:,} bytes must be stored in an archive as they are, as "
            f"Keras does. Received: {name} with {held:,} bytes, where they would unpack to {text:,}. Nothing was "
            "unpacked. If you trust its writer, unzip it, and load the folder."
        )

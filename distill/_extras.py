"""Packages that an extra of distill brings: the error where one is missing says which extra to install."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed(what: str, extra: str) -> Iterator[None]:
    """Around imports: names the extra to install if a package is missing.

    Args:
        what: what cannot be done without them; it begins the error.
        extra: name of the extra in pyproject.toml.

    Raises:
        ImportError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{what} needs the extra {extra!r}. Received: no {error.name} to import. "
            f'Run: pip install "distill[{extra}]"',
            name=error.name,
        ) from error

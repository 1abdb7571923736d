"""Keeps what TensorFlow's and LiteRT's C++ code writes to standard error out of the user's terminal."""

import contextlib
import os
import threading
from collections.abc import Iterator

_STANDARD_ERROR = 2
_lock = threading.Lock()
_inside = 0  # blocks that run now, in all threads
_kept = -1  # a copy of the descriptor, while there are any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops standard error within the block: reports of progress there, and errors that exceptions repeat.

    Blocks may be nested and run in several threads: the first to begin redirects, the last to end restores.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _kept
    with _lock:
        _inside += 1
        if _inside == 1:
            try:
                _kept = os.dup(_STANDARD_ERROR)
            except OSError:  # the process has none
                _kept = -1
                return
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STANDARD_ERROR)
            os.close(nowhere)


def _leave() -> None:
    global _inside, _kept
    with _lock:
        _inside -= 1
        if _inside == 0 and _kept >= 0:
            os.dup2(_kept, _STANDARD_ERROR)
            os.close(_kept)
            _kept = -1

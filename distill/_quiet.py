"""Keeps what TensorFlow's and LiteRT's C++ code writes to standard error out of the user's terminal.

It imports nothing of `distill`, whose import is one of the things to be quiet.
"""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

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


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Drops what C++ code writes to standard error within the block; what Python writes, such as warnings, is seen.

    TensorFlow 2.21 writes notices while it is imported, whatever `TF_CPP_MIN_LOG_LEVEL` says. After the block it
    reports fatal errors alone, unless the variable says otherwise; 0 shows everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0" or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept, nowhere, shown = os.dup(_STANDARD_ERROR), os.open(os.devnull, os.O_WRONLY), sys.stderr
    # Loggers that are made within the block keep this stream, so it stays open.
    stream = os.fdopen(os.dup(kept), "wb")
    sys.stderr = io.TextIOWrapper(stream, shown.encoding, shown.errors, line_buffering=True)
    os.dup2(nowhere, _STANDARD_ERROR)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, _STANDARD_ERROR)
        os.close(kept)
        sys.stderr = shown


def is_command() -> bool:
    """Whether the `distill` command is what this process runs, and not a program that uses the library."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # until the module is found
        return "distill" in sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]
    return Path(program).stem == "distill"

"""The `distill` command, which does not show what TensorFlow says when it starts.

TensorFlow 2.21 writes notices to standard error while it is imported, whatever `TF_CPP_MIN_LOG_LEVEL` says. Importing
anything of `distill` imports it, so what holds them back stands beside the library, which itself leaves them alone.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator


def main() -> int:
    """Runs the command that the command line names; returns its exit status."""
    with unheard():
        from distill import command
    return command.main()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Drops what C++ code writes to standard error within the block; what Python writes, such as warnings, is seen.

    After it TensorFlow reports fatal errors alone, unless `TF_CPP_MIN_LOG_LEVEL` says otherwise; 0 shows everything.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0" or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    kept, nowhere, shown = os.dup(2), os.open(os.devnull, os.O_WRONLY), sys.stderr
    # Loggers that are made within the block keep this stream, so it stays open.
    sys.stderr = io.TextIOWrapper(
        os.fdopen(os.dup(kept), "wb"), shown.encoding, shown.errors, line_buffering=True
    )
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr = shown


if __name__ == "__main__":
    sys.exit(main())

"""Write files and folders whole or not at all."""

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a draft that replaces `path` at the end of the block.

    The draft lies in the same folder, so that a rename suffices, and has the same ending, by which Keras chooses the
    format. Whatever happens before the rename (an error, a full disk, a kill) leaves the file as it was. Only a kill
    leaves the draft too: a hidden file whose name ends in that of `path`.

    Args:
        path: path to the file. If it is a link, the file that it points to is replaced.

    Yields:
        Path to the draft.

    Example:
        >>> with replacing("result.json") as draft:
        ...     draft.write_text("{}")
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        yield draft
        _to_disk(draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    _to_disk(target.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, for a folder. An existing folder takes two renames.

    An error leaves the old folder. So does a kill, unless it comes between the renames: then nothing is at `path`, and
    the old and the new folder lie beside it, whole, in a hidden folder whose name begins with that of `path`.

    Args:
        path: path to the folder. If it is a link, the folder that it points to is replaced.

    Yields:
        Path to the draft.
    """
    path = Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as beside:
        draft, old = Path(beside, path.name), Path(beside, "old")
        yield draft
        for part in draft.rglob("*"):
            _to_disk(part)
        try:
            if path.is_dir():
                path.rename(old)
            draft.rename(path)
        except BaseException:
            if old.is_dir() and not path.exists():
                old.rename(path)
            raise
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder. What is in it is whole anyway.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)

"""Read `.keras` files: zip archives of an architecture, weights and assets such as vocabularies."""

import contextlib
import io
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from distill.files._bounds import require_proportion, require_stored

SIGNATURE = b"PK"


class Members(NamedTuple):
    """Members of a `.keras` archive.

    Attributes:
        config: architecture, as JSON.
        metadata: writer of the file, as JSON.
        weights: content of an HDF5 file.
        assets: folder with whatever is not an array, such as vocabularies; `None` if there is nothing.
    """

    config: bytes
    metadata: bytes
    weights: io.BytesIO
    assets: str | None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Members]:
    """Read an archive. Its assets lie in a temporary folder within the block.

    Raises:
        ValueError: the file is truncated or damaged, is not a Keras file, would unpack to far more than it holds, or
            has a member that would be written outside the temporary folder.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"This .keras file is truncated or damaged. Received: {path}: {error}. Copy or download it again."
            ) from error
        names = archive.namelist()
        for name in names:
            if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
                raise ValueError(
                    f"Members of a .keras file must lie inside it. Received: {path} with {name!r}, which leads "
                    "elsewhere."
                )
        sizes, held = [(item.filename, item.file_size) for item in archive.infolist()], path.stat().st_size
        require_proportion(sum(size for _, size in sizes), held, str(path))
        require_stored(sum(size for name, size in sizes if name != "model.weights.h5"), held, str(path))
        if not {"config.json", "model.weights.h5"} <= set(names):
            raise ValueError(
                "A .keras file must contain config.json and model.weights.h5. Received: "
                f"{path}, a zip archive of {names[:5]}."
            )
        try:
            inside = [name for name in names if name.startswith("assets/") and not name.endswith("/")]
            assets = stack.enter_context(tempfile.TemporaryDirectory()) if inside else None
            for name in inside:
                file = Path(assets or "", *PurePosixPath(name).parts[1:])
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(name))
            metadata = archive.read("metadata.json") if "metadata.json" in names else b"{}"
            weights = io.BytesIO(archive.read("model.weights.h5"))
            members = Members(archive.read("config.json"), metadata, weights, assets)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"This .keras file is damaged. Received: {path}: {error}. Copy or download it again."
            ) from error
        yield members

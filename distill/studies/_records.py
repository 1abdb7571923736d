"""Files that are written whole or not at all, and the facts that a reader needs to repeat a run."""

import contextlib
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from distill._atomic import replacing

_PACKAGES = ("distill", "keras", "tensorflow", "numpy", "tensorflow-datasets", "wandb", "scipy")


def environment(code: Path | None = None) -> dict[str, Any]:
    """Returns package versions, git commit, machine and time.

    Args:
        code: folder of the code whose commit is recorded; by default that of this package.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "versions": versions,
        "git_commit": _git_commit(code or Path(__file__).parent),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git_commit(folder: Path) -> str | None:
    """The commit of the code in a folder, with "-dirty" appended if files differ from it; `None` outside git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all; raises ValueError for NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")

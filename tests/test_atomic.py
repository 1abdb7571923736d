"""Files are replaced as a whole or not at all, whenever the writer is killed."""

import contextlib
import errno
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from distill import _atomic
from distill._atomic import replacing

ATOMIC = Path(__file__).parents[1] / "distill" / "_atomic.py"

KILLED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
replacing = runpy.run_path(sys.argv[1])["replacing"]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
with replacing(sys.argv[2]) as draft, draft.open("wb", buffering=0) as file:
    for _ in range(100):
        file.write(b"new" * 100)
print("done")
"""


@pytest.mark.parametrize("at", [0, 1, 15_000, 29_700, 30_000])
def test_a_kill_at_any_byte_leaves_the_old_file_or_the_new(tmp_path, at):
    path = tmp_path / "file"
    path.write_text("old")
    command = [sys.executable, "-I", "-c", KILLED, str(ATOMIC), str(path), str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout == "done\n") == (at == 30_000)
    assert path.read_text() == ("new" * 10_000 if at == 30_000 else "old")


def test_the_new_file_is_whole_on_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "rename", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (events.append(name), real(*args))[1]
        )
    replacing = runpy.run_path(str(ATOMIC))["replacing"]
    with replacing(tmp_path / "file") as draft:
        draft.write_text("new")
        assert draft.parent == tmp_path
        assert draft.name.endswith(".file")
    assert events == ["fsync", "replace", "fsync"]


def test_an_error_leaves_the_old_file_and_a_link_stays_one(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    with contextlib.suppress(ZeroDivisionError), replacing(tmp_path / "link") as draft:
        draft.write_text(str(1 / 0))
    assert (tmp_path / "real").read_text() == "old"
    with replacing(tmp_path / "link") as draft:
        draft.write_text("new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_file_system_that_cannot_sync_a_folder_is_fine(tmp_path, monkeypatch):
    sync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        sync(descriptor)

    monkeypatch.setattr(_atomic.os, "fsync", only_files)
    with replacing(tmp_path / "file") as draft:
        draft.write_text("new")
    assert (tmp_path / "file").read_text() == "new"

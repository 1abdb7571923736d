"""What the commands put into the environment that they share, with a Python that only writes down what it was asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Says how it was called; "fail" beside its calls makes an install fail, as one does that is cut off.
PYTHON = """#!/usr/bin/env bash
log={log}
case "$*" in
  -c*) exit 0 ;;
  --version) echo Python 3.11 ;;
  "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "venv" >>"$log" ;;
  "-m pip --version") exit 0 ;;
  "-m pip install"*) echo "${{@: -1}}" >>"$log"; [ ! -e "$log.fail" ] ;;
  *) echo "command $*" ;;
esac
"""


class Clone:
    """A clone on a machine with nothing but a Python."""

    def __init__(self, folder):
        self.root, self.log = folder / "clone", folder / "log"
        (self.root / "scripts").mkdir(parents=True)
        for name in (
            "pyproject.toml",
            "constraints.txt",
            "scripts/environment.sh",
            "scripts/compare",
            "scripts/inspect",
        ):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "scripts/all").write_text('source "$(dirname "$0")/environment.sh"\necho ran "$@"\n')
        (folder / "bin").mkdir()
        fake = folder / "bin/python3"
        fake.write_text(PYTHON.format(log=self.log))
        fake.chmod(0o755)
        self.path = f"{fake.parent}:{os.environ['PATH']}"

    def run(self, script, *options):
        """(exit status, what was installed, what was said)."""
        self.log.write_text("")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", self.root / "scripts" / script, *options],
            env={**os.environ, "PATH": self.path},
            capture_output=True,
            text=True,
            check=False,
        )
        installed = [line.replace(str(self.root), "") for line in self.log.read_text().splitlines()]
        return done.returncode, installed, done.stderr


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_a_command_installs_what_it_runs_and_says_so_before(clone):
    status, installed, said = clone.run("compare", "--smoke")
    assert (status, installed) == (0, ["venv", "[experiments]"])
    assert "MB to download" in said.splitlines()[0]
    assert clone.run("compare") == (0, [], "")


def test_compiled_files_are_kept_where_none_may_lie_beside_sources(clone, monkeypatch):
    (clone.root / "scripts/cache").write_text(
        'source "$(dirname "$0")/environment.sh"\n'
        'echo "${PYTHONDONTWRITEBYTECODE-unset} ${PYTHONPYCACHEPREFIX-unset}" >&2\n'
    )
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert clone.run("cache")[2].splitlines()[-1] == f"unset {clone.root}/.venv/compiled"
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    assert clone.run("cache")[2] == "unset unset\n"


def test_a_command_that_needs_more_adds_it(clone):
    small = clone.run("compare")[2]
    status, installed, said = clone.run("all", "dev", "--what-is-no-extra")
    assert (status, installed) == (0, ["[dev,experiments]"])
    assert megabytes(said) < megabytes(small)
    for script in ("all", "compare"):
        assert clone.run(script) == (0, [], "")
    assert clone.run("inspect")[1] == ["[dev,experiments,onnx]"]
    assert clone.run("all")[1] == []


def megabytes(said):
    return int(said.split(" MB to download")[0].split()[-1])


def test_what_was_cut_off_is_finished(clone):
    clone.run("compare")
    Path(f"{clone.log}.fail").touch()
    status, installed, _ = clone.run("all")
    assert (status, installed) == (1, ["[dev,experiments]"])
    Path(f"{clone.log}.fail").unlink()
    # Nobody knows what a cut off install has left: the smaller set is installed too.
    assert clone.run("compare")[1] == ["[experiments]"]
    assert clone.run("all")[1] == ["[dev,experiments]"]
    (clone.root / ".venv/bin/python").unlink()  # an environment that was cut off itself
    (clone.root / ".venv/installed").unlink()
    assert clone.run("compare")[1] == ["venv", "[experiments]"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_other_versions_are_installed(clone, name):
    clone.run("all")
    with (clone.root / name).open("a") as file:
        file.write("# another version\n")
    assert clone.run("compare")[1] == ["[experiments]"]
    assert clone.run("all")[1] == ["[dev,experiments]"]
    (clone.root / name).write_bytes((ROOT / name).read_bytes())
    Path(f"{clone.log}.fail").touch()
    assert clone.run("compare")[0] == 1
    Path(f"{clone.log}.fail").unlink()
    with (clone.root / name).open("a") as file:
        file.write("# another version\n")
    assert clone.run("all")[1] == ["[dev,experiments]"]  # half of it may be of the first version


def test_without_a_python_it_says_which(clone, tmp_path):
    fake = tmp_path / "bin/python3"
    fake.write_text('#!/usr/bin/env bash\n[ "$1" = --version ] && echo Python 3.9.1\n')
    for name in ("python3.11", "python3.12", "python3.13"):
        shutil.copy(fake, tmp_path / "bin" / name)
    status, installed, said = clone.run("compare")
    assert (status, installed) == (1, [])
    assert "distill needs Python 3.11, 3.12 or 3.13. Found: Python 3.9.1." in said


def test_what_is_installed_for_a_command_is_not_for_what_it_starts(clone, monkeypatch):
    (clone.root / "scripts/starts").write_text('source "$(dirname "$0")/environment.sh"\nenv >&2\n')
    monkeypatch.setenv("extras", "experiments docs")
    status, installed, said = clone.run("starts")
    assert (status, installed[-1]) == (0, "[docs,experiments]")
    assert "PATH=" in said
    assert "extras=" not in said

"""What `scripts/build` makes: the library and nothing else, which works where there is no clone."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from distill import studies

ROOT = Path(__file__).parents[2]


def test_a_wheel_holds_the_library_and_nothing_else(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = {name.partition("/")[0] for name in names} - {"distill"}
        described = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        points = archive.read(f"{info}/entry_points.txt").decode().split()
    library = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "distill").rglob("*")
        if path.suffix in {".css", ".js", ".py"} or path.name == "py.typed"
    }
    assert {name for name in names if name.startswith("distill/")} == library
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert {name for name in names if not name.startswith("distill/")} == {f"{info}/{one}" for one in about}
    assert points == ["[console_scripts]", "distill", "=", "distill.command:main"]
    # No version is shut out that is not known to break.
    for needed in map(Requirement, described.get_all("Requires-Dist")):
        assert {one.operator for one in needed.specifier} <= {">=", "!="}, str(needed)


class Environment(NamedTuple):
    folder: Path
    wheel: Path

    def run(self, *command, cwd=None):
        """What a command of this environment prints, in a folder of its own and without ours."""
        variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))
        }
        done = subprocess.run(
            [self.folder / "bin" / command[0], *map(str, command[1:])],
            cwd=cwd or self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def install(self, *what):
        options = ("--quiet", "--no-compile", "--constraint", ROOT / "constraints.txt")
        self.run("python", "-m", "pip", "install", *options, *what)


def environment(folder, wheel):
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return Environment(folder, wheel)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment with the wheel and what it depends on; 2 GB, which are gone afterwards."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([ROOT / "scripts/build", folder / "dist"], check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    found = environment(folder / "venv", wheel)
    found.install(wheel)
    yield found
    shutil.rmtree(folder)


@pytest.fixture
def with_extra(bare, tmp_path):
    """The function that makes an environment over the bare one, and adds an extra as its error says."""

    def add(extra):
        found = environment(tmp_path / "venv", bare.wheel)
        sites = [
            Path(one.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
            for one in (found, bare)
        ]
        (sites[0] / "below.pth").write_text(f"import site; site.addsitedir('{sites[1]}')\n")
        found.install("--no-deps", "--ignore-installed", bare.wheel)  # so that its commands are here too
        found.install(f"distill[{extra}]")
        return found

    yield add
    shutil.rmtree(tmp_path)


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def use(environment, folder, *extras):
    shutil.copy(ROOT / "tests/uses.py", folder)
    assert environment.run("python", "uses.py", *extras, cwd=folder).endswith("used\n")


@pytest.mark.slow
def test_the_wheel_is_enough(bare, empty):
    version = re.search(r'^version = "(.*?)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[1]
    assert bare.run("distill", "--version") == f"distill {version}\n"
    assert str(ROOT) not in bare.run("python", "-c", "import distill; print(distill.__file__)")
    use(bare, empty)
    assert "Zeros" in bare.run("distill", "inspect", "student.keras", cwd=empty)


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["litert", "onnx", "tfmot"])
def test_each_extra_alone(with_extra, empty, extra):
    use(with_extra(extra), empty, extra)


@pytest.mark.slow
def test_studies_and_the_readme(with_extra, empty):
    environment = with_extra("experiments")
    use(environment, empty, "experiments")
    compared = environment.run(
        "distill", "compare", "teacher.keras", "student.tflite", "--test", "test.npz", cwd=empty
    )
    assert "| student.tflite − teacher.keras |" in compared
    readme = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (empty / "ten_lines.py").write_text(readme[0])
    assert "val_accuracy" in environment.run("python", "ten_lines.py", cwd=empty)
    study = re.search(r"```python\n(.*?)```", inspect.getdoc(studies.Study), flags=re.DOTALL)[1]
    (empty / "own_study.py").write_text(textwrap.dedent(study))
    options = ["--smoke", "--seeds", "1", "--jobs", "1", "--wandb", "disabled"]
    assert "Smoke run" in environment.run("python", "own_study.py", *options, cwd=empty)

"""What a release says of itself, what it needs, and what each missing extra says."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import distill
from tests.sources import ROOT, imported, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
EXTRA_ROOMS = (
    "distill.data",
    "distill.studies",
)  # they say so; other rooms import extras where they use them


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert distill.__version__ == metadata.version("distill")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    assert newest == ("Unreleased" if "dev" in version else version)


@cache
def distributions():
    """The distributions of what can be imported here, by its name."""
    found = metadata.packages_distributions()  # reads thousands of files
    return {package: {canonicalize_name(name) for name in names} for package, names in found.items()}


def test_the_core_declares_what_it_imports():
    names = {canonicalize_name(Requirement(one).name) for one in PROJECT["dependencies"]}
    brought = closure(["distill[dev]"])
    used = set()
    for module, path in modules("distill").items():
        if module.startswith(EXTRA_ROOMS):
            continue
        for package in {source.split(".")[0] for source, _ in imported(path)}:
            if package in sys.stdlib_module_names or package == "distill":
                continue
            found = distributions().get(package, {package})
            assert found & (names | brought | {"protobuf", "jax", "ray", "torch"}), (module, package)
            used |= found
    assert names - used == set(), "no dependency of the core: nothing there imports it"
    assert {"tensorflow-model-optimization", "ai-edge-litert", "matplotlib"} & names == set()


def test_studies_need_the_extra_that_their_commands_install():
    brought = closure(["distill[experiments]"])
    for module, path in modules("experiments").items():
        for package in {source.split(".")[0] for source, _ in imported(path)}:
            if package not in sys.stdlib_module_names and package not in ("distill", "experiments"):
                assert distributions().get(package, {package}) & brought, (module, package)


def closure(requirements):
    """Distributions that pip would install for these, as the metadata of what is installed here say."""
    found, left = set(), [Requirement(one) for one in requirements]
    while left:
        one = left.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in found:
            continue
        found.add(key)
        if one.name == "distill":
            needs = [*PROJECT["dependencies"], *(need for extra in one.extras for need in EXTRAS[extra])]
        else:
            try:
                needs = metadata.requires(one.name) or []
            except metadata.PackageNotFoundError:  # for another system
                continue
        left += [
            need
            for need in map(Requirement, needs)
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("", *one.extras))
        ]
    return {name for name, _ in found}


# As if nothing else were installed: packages of other distributions cannot be imported.
ALONE = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
runpy.run_path(USES, run_name="__main__")
"""


@pytest.mark.parametrize(
    "extra",
    [
        None,
        *(
            pytest.param(extra, marks=pytest.mark.slow)
            for extra in ("experiments", "litert", "onnx", "ray", "text", "tfmot")
        ),
    ],
)
def test_each_extra_is_enough_for_what_it_brings(extra, tmp_path):
    allowed = closure([f"distill[{extra}]" if extra else "distill"]) | {"distill", "setuptools"}
    refused = {package for package, names in distributions().items() if not names & allowed}
    assert {"pytest", "hypothesis"} <= refused
    program = f"REFUSED, USES = {refused}, {str(ROOT / 'tests/uses.py')!r}\n{ALONE}"
    done = subprocess.run(
        [sys.executable, "-c", program, *([extra] if extra else [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("used\n")

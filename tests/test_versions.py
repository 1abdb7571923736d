"""Versions of Keras: which are tested, and what an import says under another."""

import re
import runpy
import subprocess
import sys
import tomllib
import warnings

import keras
import pytest

from distill import _versions
from tests.sources import ROOT

IMPORT = """
import warnings
import keras
keras.__version__ = "3.16.0"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import distill
    import distill.losses
    import distill
for warning in caught:
    if "Keras" in str(warning.message):
        print(warning.category.__name__, warning.filename, warning.message)
"""


@pytest.mark.slow
def test_an_untested_version_is_said_once_where_it_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(
        "UserWarning <string> distill is tested with Keras 3.13 to 3.15. Found: Keras 3.16.0. "
    )
    assert 'install "keras==3.15.*"' in line


@pytest.mark.parametrize("version", ["3.16.0", "3.12.4", "4.0.dev1", "3.1", "3.150.0"])
def test_other_versions_are_untested(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    with pytest.warns(UserWarning, match=rf"Found: Keras {re.escape(version)}\. "):
        runpy.run_path(_versions.__file__)


@pytest.mark.parametrize(
    "version", [f"{minor}.{patch}" for minor in _versions.TESTED for patch in ("0", "2", "1rc1")]
)
def test_of_a_tested_version_nothing_is_said(version, monkeypatch):
    monkeypatch.setattr(keras, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(_versions.__file__)


def test_the_oldest_tested_version_is_the_oldest_that_may_be_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (allowed,) = (needed for needed in project["dependencies"] if re.match(r"keras\b", needed))
    minors = [int(version.removeprefix("3.")) for version in _versions.TESTED]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert allowed == f"keras>=3.{minors[0]}"  # later ones only warn

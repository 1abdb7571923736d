"""A study in one file is read as the study in its directory."""

import dataclasses
import json

import pytest

from distill import studies
from tests.studies.made_up import write_study


def test_all_but_the_histories_is_there(tmp_path):
    whole = studies.read(write_study(tmp_path / "run"))
    small = studies.read(studies.condense(tmp_path / "run", tmp_path / "small.json"))
    assert all(cell.history for arm in whole.arms for cell in arm.cells)
    arms = tuple(
        dataclasses.replace(arm, cells=tuple(dataclasses.replace(cell, history=()) for cell in arm.cells))
        for arm in whole.arms
    )
    assert small == dataclasses.replace(whole, arms=arms)


def test_cells_are_in_the_order_of_their_seeds(tmp_path):
    folder = write_study(tmp_path / "run", seeds=3)
    study = json.loads((folder / "study.json").read_text())
    for arm in study["arms"]:
        arm["cells"].reverse()
    (folder / "study.json").write_text(json.dumps(study))
    kept = json.loads(studies.condense(folder, tmp_path / "small.json").read_text())
    assert [[cell["seed"] for cell in arm["cells"]] for arm in kept["arms"]] == 7 * [[0, 1, 2]]


def test_each_cell_has_a_line_of_its_own(tmp_path):
    path = studies.condense(write_study(tmp_path / "run", seeds=2), tmp_path / "small.json")
    assert sum('"seed": ' in line and '"test": ' in line for line in path.read_text().splitlines()) == 14


def test_a_broken_study_is_refused_and_nothing_written(tmp_path):
    folder = write_study(tmp_path / "run")
    (folder / "cells" / "alone-seed3" / "result.json").unlink()
    with pytest.raises(studies.BrokenStudyError, match="alone-seed3"):
        studies.condense(folder, tmp_path / "small.json")
    assert not (tmp_path / "small.json").exists()


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"A condensed study is a \.json file\. Received: .*small"):
        studies.condense(write_study(tmp_path / "run"), tmp_path / "small")


def test_a_condensed_study_that_is_broken_is_named(tmp_path):
    path = studies.condense(write_study(tmp_path / "run"), tmp_path / "small.json")
    path.write_text(path.read_text().replace('"nll": ', '"nil": '))
    with pytest.raises(studies.BrokenStudyError, match=r"small\.json"):
        studies.read(path)


def test_settings_and_code_are_kept_and_compared(tmp_path):
    folders = []
    for name, rate in (("a", 0.1), ("b", 0.2)):
        folder = write_study(tmp_path / name)
        for path in folder.glob("cells/*/"):
            (path / "config.json").write_text(json.dumps({"config": {"settings": {"rate": rate}}}))
        folders.append(studies.condense(folder, tmp_path / f"{name}.json"))
    whole, small = studies.read(tmp_path / "a"), studies.read(folders[0])
    assert (
        small.arm("alone").cells[0].config
        == whole.arm("alone").cells[0].config
        == {"settings": {"rate": 0.1}}
    )
    assert studies.tables.settings(small) == studies.tables.settings(whole)
    with pytest.raises(ValueError, match="the same settings and code in all of them"):
        studies.read(*folders)
    old = json.loads(folders[1].read_text())
    for arm in old["arms"]:
        for cell in arm["cells"]:
            del cell["config"]
    folders[1].write_text(json.dumps(old))
    notes = studies.read(*folders).notes
    assert sum("record the settings and code of alone, so" in note for note in notes) == 1


def test_a_report_of_a_condensed_study_needs_a_directory(tmp_path):
    small = studies.condense(write_study(tmp_path / "run", seeds=2), tmp_path / "small.json")
    with pytest.raises(ValueError, match=r"needs a directory.*small\.json' and no out. Name one"):
        studies.report.write(small)
    assert studies.report.write(small, out=tmp_path / "report").read_text().startswith("<!DOCTYPE html>")

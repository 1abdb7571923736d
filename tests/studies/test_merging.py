"""Runs of one study on several machines, read as one."""

import json

import pytest

from distill import command, studies
from distill.studies import report
from tests.studies.made_up import LAST, write_study


def part(folder, *, arms=tuple(LAST), seeds=range(8), configs=None, code="1a2b", data=None, **changes):
    """A run of the made-up study with some of its arms and seeds."""
    write_study(folder, **changes)
    raw = json.loads((folder / "study.json").read_text())
    raw["declared"] = {"comparisons": raw["comparisons"], "primary": raw["primary"][:1]}
    raw["primary"] = raw["primary"][:1]
    raw["arms"] = [arm for arm in raw["arms"] if arm["name"] in arms]
    for arm in raw["arms"]:
        arm["cells"] = [arm["cells"][seed] for seed in seeds]
        for cell in arm["cells"]:
            settings = {"rate": (configs or {}).get(arm["name"], 0.1)}
            config = {"settings": settings, "code": code, "needs": {"x": cell}}
            config |= {} if data is None else {"data": data}
            (folder / cell / "config.json").write_text(json.dumps({"config": config}))
    for kind in ("comparisons", "primary"):
        raw[kind] = [pair for pair in raw[kind] if set(pair) <= set(arms)]
    (folder / "study.json").write_text(json.dumps(raw))
    return folder


def test_other_seeds_and_other_arms_make_one_study(tmp_path):
    one = part(tmp_path / "a", arms=("teacher", "alone"), seeds=range(8))
    two = part(tmp_path / "b", arms=("teacher", "distilled"), seeds=range(4), command="on b")
    three = part(tmp_path / "c", arms=("distilled",), seeds=range(4, 7), command="on c", git_commit="abc")
    found = studies.read(one, two, three)
    assert {arm.name: arm.seeds for arm in found.arms} == {
        "teacher": list(range(8)),
        "alone": list(range(8)),
        "distilled": list(range(7)),
    }
    # No single run had both of its arms.
    assert studies.read(one).comparisons == studies.read(two).comparisons == ()
    assert found.comparisons == found.primary == (("alone", "distilled"),)
    (judged,) = studies.judge(found)
    assert judged.seeds == tuple(range(7))
    assert judged.differences == pytest.approx((LAST["distilled"] - LAST["alone"])[:7])
    assert found.command.splitlines() == ["scripts/compare --seeds 8", "on b", "on c"]
    assert "The runs are of different commits: none, abc." in found.notes
    page = report.html(found)
    assert "Not every arm has all 8 seeds: distilled lacks 7." in page
    assert "on c" in page


def test_arms_without_a_seed_in_common_are_not_compared(tmp_path):
    one = part(tmp_path / "a", arms=("alone",), seeds=range(4))
    two = part(tmp_path / "b", arms=("distilled",), seeds=range(4, 8))
    found = studies.read(one, two)
    assert [arm.name for arm in found.arms] == ["alone", "distilled"]
    assert found.comparisons == found.primary == ()


def test_settings_were_chosen_as_the_first_run_says(tmp_path):
    tuning = json.loads((write_study(tmp_path / "made") / "study.json").read_text())["tuning"]
    other = [{**tuning[0], "chosen": {"temperature": 2.0}}]
    one = part(tmp_path / "a", arms=("distilled",), tuning=tuning)
    two = part(tmp_path / "b", arms=("distilled",), tuning=other)
    assert [one.chosen for one in studies.read(one, two).tuning] == [{"temperature": 4.0}]
    assert [one.chosen for one in studies.read(two, one).tuning] == [{"temperature": 2.0}]


def test_latencies_are_of_one_machine_and_cells_of_the_first(tmp_path):
    one = part(tmp_path / "a", arms=("teacher", "alone"))
    two = part(tmp_path / "b", arms=("teacher", "distilled"))
    times = {"median": 1.0, "low": 0.9, "high": 1.1}
    for folder, timed in ((one, ["teacher"]), (two, ["teacher", "distilled"])):
        raw = json.loads((folder / "study.json").read_text())
        (folder / "study.json").write_text(json.dumps(raw | {"latency_ms": dict.fromkeys(timed, times)}))
    result = two / "cells/teacher-seed3/result.json"
    other = json.loads(result.read_text())
    other["test"]["accuracy"] = 0.5
    result.write_text(json.dumps(other))
    found = studies.read(one, two)
    assert list(found.latency_ms) == ["teacher"]
    assert "No latency is shown of distilled" in "".join(found.notes)
    assert found.arm("teacher").values(studies.ACCURACY) == pytest.approx(LAST["teacher"])
    assert "Several runs trained teacher with seed 3, to other scores" in "".join(found.notes)
    assert studies.read(two, one).arm("teacher").values(studies.ACCURACY)[3] == 50


def test_what_is_no_run_of_the_same_is_refused(tmp_path):
    one = part(tmp_path / "a", arms=("teacher", "alone"))
    other = part(tmp_path / "b", arms=("alone",), configs={"alone": 0.2})
    with pytest.raises(ValueError, match=r"arm 'alone' as .*0\.1.* and as .*0\.2.*Run it again"):
        studies.read(one, other)
    changed = part(tmp_path / "c", arms=("alone",), code="3c4d")
    with pytest.raises(ValueError, match=r"arm 'alone' as .*1a2b.* and as .*3c4d"):
        studies.read(one, changed)
    for changes, message in (({"study": "other"}, "one name"), ({"smoke": True}, "one value of smoke")):
        with pytest.raises(ValueError, match=message):
            studies.read(one, part(tmp_path / message, arms=("alone",), **changes))
    with pytest.raises(studies.BrokenStudyError, match="nothing"):
        studies.read(one, tmp_path / "nothing")


@pytest.mark.slow
def test_the_command_writes_the_report_of_several_runs(tmp_path, capsys):
    one = part(tmp_path / "a", arms=("teacher", "alone"))
    two = part(tmp_path / "b", arms=("distilled",))
    assert command.main(["report", str(one), str(two)]) == 1
    assert "Received: 2 directories and no out." in capsys.readouterr().err
    assert command.main(["report", str(one), str(two), "--out", str(tmp_path / "both")]) == 0
    shown = capsys.readouterr().out
    assert "distilled is better than alone" in shown
    assert f"Report: {tmp_path / 'both' / 'report.html'}" in shown.replace("\n", "")
    assert not (one / "report.html").exists()
    beside = tmp_path / "both" / "report"
    content = json.loads((beside / "report.json").read_text())
    assert content["pareto"]["macs"]["front"] == ["distilled", "teacher"]
    assert content["verdicts"][0]["verdict"] == "better"
    lines = (beside / "seeds.csv").read_text().splitlines()
    assert lines[0] == "arm,seed,split,measure,value"
    row = next(line for line in lines if line.startswith("distilled,3,test,accuracy %,"))
    assert float(row.rpartition(",")[2]) == pytest.approx(LAST["distilled"][3])
    arms = (beside / "arms.csv").read_text().splitlines()
    assert float(arms[1].split(",")[1]) == pytest.approx(LAST["teacher"].mean())
    assert {path.suffix for path in beside.iterdir()} == {".csv", ".json", ".png", ".svg"}


def test_runs_on_other_data_are_not_merged(tmp_path):
    """Or arms that were trained on one set would be compared with arms that were trained on another."""
    one = part(tmp_path / "a", arms=("alone",), data={"dataset": "digits"})
    two = part(tmp_path / "b", arms=("distilled",), data={"dataset": "mnist5k"})
    with pytest.raises(ValueError, match=r"one setting of the data. Received: .*digits.* and .*mnist5k"):
        studies.read(one, two)
    same = part(tmp_path / "c", arms=("distilled",), data={"dataset": "digits"})
    assert studies.read(one, same).comparisons == (("alone", "distilled"),)


def test_notes_on_what_another_run_has_are_left_out(tmp_path):
    gone = ["The arm distilled was never finished, and is left out.", "Kept."]
    one = part(tmp_path / "a", arms=("teacher", "alone"), notes=gone, machine="x86_64, 2 cores")
    two = part(tmp_path / "b", arms=("teacher", "distilled"), machine="arm64, 8 cores")
    found = studies.read(one, two)
    assert "Kept." in found.notes
    assert gone[0] not in found.notes
    assert found.extra["machine"] == "x86_64, 2 cores; arm64, 8 cores"
    assert gone[0] in studies.read(one).notes


def test_costs_beside_the_report_are_those_of_all_seeds(tmp_path):
    folder = part(tmp_path / "a", arms=("teacher", "alone"))
    sizes = []
    (cells,) = [
        one["cells"]
        for one in json.loads((folder / "study.json").read_text())["arms"]
        if one["name"] == "alone"
    ]
    for number, path in enumerate(folder / cell / "result.json" for cell in cells):
        raw = json.loads(path.read_text())
        raw["cost"]["parameters"] += number
        sizes.append(raw["cost"]["parameters"])
        path.write_text(json.dumps(raw))
    report.write(folder)
    content = json.loads((folder / "report" / "report.json").read_text())
    (alone,) = [arm for arm in content["arms"] if arm["name"] == "alone"]
    assert alone["cost"]["parameters"] == pytest.approx(sum(sizes) / len(sizes))
    assert len(set(sizes)) > 1

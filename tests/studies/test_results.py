"""Reading a finished study, and what is said of a broken one."""

import json

import pytest

from distill.studies import ACCURACY, AGREEMENT, NLL, BrokenStudyError, read, report
from tests.studies.made_up import LAST, SEEDS, scores, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(write_study(tmp_path_factory.mktemp("study")))


def test_read_returns_what_was_written(study):
    assert (study.name, study.title, study.smoke, study.git_commit) == (
        "compare",
        "Does it help?",
        False,
        None,
    )
    assert [arm.name for arm in study.arms] == list(LAST)
    assert study.comparisons[0] == ("alone", "distilled")
    arm = study.arm("distilled")
    assert (arm.label, arm.group) == ("distilled, T=4", "full labels")
    assert [cell.seed for cell in arm.cells] == list(range(SEEDS))
    assert arm.values(ACCURACY) == pytest.approx(LAST["distilled"])
    assert arm.values(NLL) == pytest.approx(4 - LAST["distilled"] / 25)
    assert study.arm("teacher").values(AGREEMENT) is None
    cell = arm.cells[3]
    assert (cell.epochs, cell.seconds) == (4, 9.0)
    assert cell.cost == {
        "parameters": 7402, "macs": 37 * 7402, "file_bytes": 30108, "nonzero": 6910, "gzip_bytes": 7000
    }  # fmt: skip
    assert [epoch["val_loss"] for epoch in cell.history] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert study.tuning[0].choices[1] == ({"temperature": 4.0}, 0.962)
    assert study.latency_ms["distilled"] == {"median": 0.0124, "low": 0.0118, "high": 0.0131}


def test_cells_are_paired_by_seed_whatever_their_order(tmp_path):
    write_study(tmp_path)
    raw = json.loads((tmp_path / "study.json").read_text())
    raw["arms"][3]["cells"].reverse()
    (tmp_path / "study.json").write_text(json.dumps(raw))
    assert read(tmp_path).arm("distilled").values(ACCURACY) == pytest.approx(LAST["distilled"])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_cells(folder, arm, **changes):
    """Leaves one cell of an arm, with changes."""
    raw = json.loads((folder / "study.json").read_text())
    for one in raw["arms"]:
        if one["name"] == arm:
            one["cells"] = one["cells"][:1]
            edit(folder / one["cells"][0] / "result.json", **changes)
    edit(folder / "study.json", **raw)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: (d / "study.json").unlink(),
            r"Received: \S*/study\.json, .*FileNotFoundError.*Run the study's",
        ),
        (lambda d: (d / "study.json").write_text("{"), r"/study\.json, .*JSONDecodeError"),
        (lambda d: (d / "study.json").write_text("[]"), r"/study\.json, .*TypeError"),
        (lambda d: edit(d / "study.json", arms=[{}]), r"/study\.json, .*KeyError: 'cells'"),
        (
            lambda d: edit(d / "study.json", comparisons=[["alone", "nobody"]], primary=[]),
            r"/study\.json, .*KeyError: 'nobody'",
        ),
        (
            lambda d: (d / "cells/alone-seed3/result.json").unlink(),
            r"/cells/alone-seed3/result\.json, .*NotFound",
        ),
        (
            lambda d: (d / "cells/alone-seed3/metrics.jsonl").unlink(),
            r"/alone-seed3/metrics\.jsonl, .*NotFound",
        ),
        (
            lambda d: (d / "cells/alone-seed3/metrics.jsonl").write_text('{"a": 1'),
            r"/alone-seed3/metrics\.jsonl",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", test={}),
            r"result\.json, .*'accuracy'",
        ),
        (
            lambda d: edit(
                d / "cells/alone-seed3/result.json",
                test=scores(90.0, 0.9) | {"nll": None},
            ),
            r"alone-seed3/result\.json, .*TypeError",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", cost={}),
            r"result\.json, .*KeyError: 'parameters'",
        ),
        (
            lambda d: edit_cells(d, "alone", seed=9),
            r"study\.json, .*alone has seeds \[9\], but distilled has \[0, 1, .*\]",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", arm="x"),
            r"study\.json, .*arm alone lists 8 .*'x'",
        ),
        (
            lambda d: edit(
                d / "cells/alone-seed3/result.json",
                dev=scores(float("nan"), 0.9),
            ),
            r"alone-seed3/result\.json, .*accuracy is nan",
        ),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, damage, message):
    folder = write_study(tmp_path)
    (folder / "report.html").write_text("older")
    damage(folder)
    with pytest.raises(BrokenStudyError, match=message):
        report.write(folder)
    assert (folder / "report.html").read_text() == "older"

"""What a study's cells record beside scores, and what a notebook shows of it."""

import json

import numpy as np
import pytest

from distill import studies
from distill.studies import metrics, tables
from distill.studies._details import MOST, Confusion, Reliability
from tests.studies.tiny import TAUGHT, run, splits, study_of, trained


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    return rng.normal(size=(200, 4)) * 2, rng.normal(size=(200, 4)) * 2, rng.integers(4, size=200)


def test_bins_of_confidence_are_those_of_the_calibration_error(answers):
    logits, _, labels = answers
    found = Reliability.of(logits, labels)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for index, (examples, right, sure) in enumerate(
        zip(found.examples, found.right, found.confidence, strict=True)
    ):
        rows = (p.max(1) > index / 15) & (p.max(1) <= (index + 1) / 15)
        assert examples == rows.sum()
        assert right == (p.argmax(1) == labels)[rows].sum()
        assert sure == pytest.approx(p.max(1)[rows].sum(), abs=1e-5)
    gaps = np.abs(np.array(found.right) - found.confidence)
    assert gaps.sum() / 200 == pytest.approx(metrics.expected_calibration_error(logits, labels), abs=1e-6)
    twice = found + found
    assert twice.examples == tuple(2 * one for one in found.examples)
    assert twice.confidence == pytest.approx([2 * one for one in found.confidence])


def test_confusion_counts_pairs_of_classes(answers, monkeypatch):
    teacher, own, _ = answers
    found = Confusion.of(teacher, own)
    assert (found.classes, found.left_out) == (4, 0)
    counts = {(a, b): count for a, b, count in found.pairs}
    for a in range(4):
        for b in range(4):
            assert counts.get((a, b), 0) == np.sum((teacher.argmax(1) == a) & (own.argmax(1) == b))
    assert [one[2] for one in found.pairs] == sorted(counts.values(), reverse=True)
    agreed = sum(count for (a, b), count in counts.items() if a == b)
    assert agreed / 200 == metrics.agreement(teacher, own)
    assert {(a, b): count for a, b, count in (found + found).pairs} == {
        one: 2 * counts[one] for one in counts
    }
    monkeypatch.setattr("distill.studies._details.MOST", 3)
    few = Confusion.of(teacher, own)
    assert few.pairs == found.pairs[:3]
    assert few.left_out == 200 - sum(count for *_, count in few.pairs)
    assert (few + few).left_out == 2 * few.left_out
    assert MOST == 1000


def test_a_study_records_them_and_its_report_shows_them(here, tmp_path):
    study = study_of(*TAUGHT, (trained, {"needs": "teacher"}))
    study.compare("taught", "trained")
    found = run(study, tmp_path)
    x, y = splits(0)[2]
    cell = found.arm("taught").cells[1]
    logits = x @ np.array([[0, 1.1], [0, 0.5]])
    assert cell.reliability == Reliability.of(logits, y)
    assert cell.confusion == Confusion.of(x @ np.array([[0, 9], [0, 0.5]]), logits)
    assert [(layer.kind, layer.width, layer.parameters, layer.nonzero) for layer in cell.layers] == [
        ("Dense", 2, 6, 2)
    ]
    assert found.arm("teacher").cells[0].confusion is None
    assert cell.config["settings"] == {"slope": 1.0, "sure": True}
    page = (tmp_path / "tiny" / "report.html").read_text()
    for heading in ("Calibration", "Against the teacher", "Layers", "How to repeat it"):
        assert f"<h2>{heading}</h2>" in page
    assert (tmp_path / "tiny" / "report" / "confusion-taught.png").is_file()
    assert "taught,1.0,true" in (tmp_path / "tiny" / "report" / "settings.csv").read_text()
    # A notebook shows the study, its verdicts and its tables.
    assert found._repr_html_().count("<svg") == 1
    assert found._repr_html_().count("<table") == 3
    assert "taught − trained" in studies.judge(found)._repr_html_()
    assert tables.scores(found)._repr_html_().startswith('<div class="scroll"><table><caption>Test scores')


def test_measures_of_other_kinds_record_no_classes(here, tmp_path):
    study = study_of((trained, {}), name="other", metrics=[studies.ACCURACY], seeds=1)
    (cell,) = run(study, tmp_path).arms[0].cells
    assert cell.reliability is cell.confusion is None
    raw = json.loads(next(tmp_path.glob("other/cells/*/result.json")).read_text())
    assert not {"reliability", "confusion"} & set(raw)

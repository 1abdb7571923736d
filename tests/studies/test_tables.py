"""What the tables of a study hold."""

import numpy as np
import pytest

from distill.studies import judge, read, report, statistics, summary, tables
from tests.studies.made_up import COMPARISONS, LAST, row, terminal, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(write_study(tmp_path_factory.mktemp("study")))


@pytest.mark.parametrize(
    "rendered", [lambda study: terminal(study, 140), summary.markdown], ids=["rich", "markdown"]
)
def test_tables_hold_the_numbers(study, rendered):
    text = rendered(study)
    accuracy = np.array(LAST["distilled"])
    deviation = np.sqrt(np.sum((accuracy - accuracy.mean()) ** 2) / 7)
    name, shown, nll, ece, agreement = row(text, "distilled")
    assert name == "distilled"
    assert "mean ± standard deviation over 8 seeds" in text
    assert shown == f"{accuracy.mean():.2f} ± {deviation:.2f}"
    assert nll == f"{4 - accuracy.mean() / 25:.3f} ± {deviation / 25:.3f}"
    assert ece == f"{25 - accuracy.mean() / 4:.1f} ± {deviation / 4:.1f}"
    assert agreement == "97.00 ± 0.00"
    assert row(text, "teacher")[-1] == "–"
    costs = text[text.index("latency") :]
    assert row(costs, "teacher") == ["teacher", "216k", "–", "7.99M", "864 kB", "–", "1.23 ms (1.10–1.50)"]
    assert row(costs, "distilled") == [
        "distilled",
        "7.40k",
        "6.91k",
        "274k",
        "30.1 kB",
        "7.00 kB",
        "12.4 µs (11.8–13.1)",
    ]
    assert row(costs, "alone")[-1] == "–"
    compared = text[text.index("verdict") :].replace("&lt;", "<")  # as Markdown shows it
    first = judge(study)[0]
    assert row(compared, "distilled − alone") == [
        "distilled − alone", "+1.07", f"{first.adjusted.low:+.2f} to {first.adjusted.high:+.2f}", "<0.001", "0.008",
        "better", f"{statistics.detectable(first.raw.deviation, 8, comparisons=5):.2f}",
    ]  # fmt: skip
    assert "distilled-unlabelled is worse than pseudo-labels" in text.replace("\\-", "-")
    assert "no difference shown between smoothing and alone" in text
    for words in ("read once", "mean ± standard deviation", "Holm"):
        assert words in text


def test_other_measures_and_tuning(study):
    grid = tables.other_measures(study)
    assert len(grid.rows) == 2 * len(COMPARISONS)
    assert grid.rows[0][:3] == ("distilled − alone", "NLL (nats)", "-0.043")
    assert grid.rows[5][:3] == ("distilled − alone", "ECE (points)", "-0.3")
    assert {r[-1] for r in grid.rows} == {"better", "worse", "not shown"}
    assert tables.tuning(study).rows == (
        ("distilled", "temperature = 2.0", "95.10", ""),
        ("distilled", "temperature = 4.0", "96.20", "chosen"),
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (7402, "7.40k"),
        (21_640, "21.6k"),
        (215_946, "216k"),
        (4.1e9, "4.10G"),
    ],
)
def test_counts_are_short(number, text):
    assert tables.count(number) == text


def test_a_litert_file_is_compared_with_the_first_file(tmp_path):
    study = read(write_study(tmp_path, litert_bytes={"teacher": 400_000, "distilled": 30_000}))
    grid = tables.shipped(study)
    assert [row[0] for row in grid.rows] == ["teacher", "distilled"]
    assert grid.rows[0][2:] == ("400 kB", "1.0", "1.23 ms (1.10–1.50)", "1.0")
    assert grid.rows[1][2:] == ("30.0 kB", "13.3", "12.4 µs (11.8–13.1)", "99.6")
    assert grid.rows[1][1] == next(row[1] for row in tables.scores(study).rows if row[0] == "distilled")
    for text in (report.html(study), summary.markdown(study), terminal(study, 100)):
        assert "LiteRT files, timed on one thread" in text
    assert tables.shipped(read(write_study(tmp_path / "none"))) is None


def test_numbers_of_numpy_are_plain_numbers():
    assert repr(tables.Number("half", np.mean([0.0, 1.0])).value) == "0.5"

"""The charts of a study: what they draw, and what is said of it."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from distill.studies import CellResult, charts, plots, prices, read
from distill.studies import _curves as drawn_curves
from distill.studies import _labels as labels
from distill.studies import _trade as trade
from tests.studies.made_up import CONFUSED, LAST, LAYERS, RELIABLE, SEEDS, with_cells, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sizes = {"litert_bytes": {"teacher": 900_000, "distilled": 30_000, "alone": 30_000, "smoothing": 40_000}}
    return write_study(tmp_path_factory.mktemp("study"), **sizes)


@pytest.fixture(scope="module")
def study(folder):
    return read(folder)


def layers_of(picture, mark):
    return [one for one in picture.spec["layer"] if one["mark"]["type"] == mark]


def test_an_arm_is_dominated_by_arms_that_score_as_well_for_as_little(study):
    macs, size, latency = prices(study)
    assert [one.kind for one in (macs, size, latency)] == ["MACs", "bytes", "latency"]
    # All but the teacher cost the same, and are in this order.
    better = sorted(list(LAST)[1:], key=lambda arm: -LAST[arm].mean())
    found = {one.arm.name: one.dominated_by for one in macs.arms}
    assert found["teacher"] == found["distilled"] == ()
    assert found["alone-120"] == tuple(better[:-1])
    assert [one.arm.name for one in macs.front] == ["distilled", "teacher"]
    assert {one.arm.name: one.dominated_by for one in size.arms} == {
        "teacher": (),
        "alone": ("distilled",),
        "smoothing": ("distilled",),
        "distilled": (),
    }
    assert "LiteRT" in size.about
    assert [(one.cost, one.low, one.high) for one in latency.arms] == [
        (1.2345, 1.1, 1.5),
        (0.0124, 0.0118, 0.0131),
    ]


def test_a_difference_that_is_not_shown_dominates_only_for_less(study):
    alone = study.arm("alone")
    scores = np.array(alone.values(study.measures[0])) / 100
    lucky = [
        dataclasses.replace(cell, test=cell.test | {"accuracy": float(score)})
        for cell, score in zip(alone.cells, scores + np.resize([0.02, -0.019], len(scores)), strict=True)
    ]
    other = dataclasses.replace(alone, name="lucky", cells=tuple(lucky))
    for size, expected in ((9, ("lucky",)), (10, ()), (11, ())):
        two = dataclasses.replace(study, arms=(alone, other), litert_bytes={"alone": 10, "lucky": size})
        found = next(kind for kind in prices(two) if kind.kind == "bytes")
        assert [one.dominated_by for one in found.arms] == [expected, ()]
    for high, expected in (
        (0.89, ("lucky",)),
        (1.0, ()),
    ):  # faster by the median, but by more than the noise?
        timed = {"alone": times(1.0, 0.9, 1.1), "lucky": times(0.88, 0.85, high)}
        *_, latency = prices(dataclasses.replace(study, arms=(alone, other), latency_ms=timed))
        assert [one.dominated_by for one in latency.arms] == [expected, ()]


def times(median, low, high):
    return {"median": median, "low": low, "high": high}


@pytest.mark.parametrize(
    ("timed", "dominated"),
    [
        (
            {"alone": times(1.0, 0.9, 1.1), "distilled": times(1.05, 1.0, 1.2)},
            {"alone"},
        ),  # as fast, and better
        ({"alone": times(1.0, 0.9, 1.1), "distilled": times(1.3, 1.2, 1.4)}, set()),
        ({"distilled": times(1.0, 0.9, 1.1), "teacher": times(0.5, 0.4, 0.6)}, {"distilled"}),
    ],
)
def test_times_whose_quartiles_overlap_are_equal(study, timed, dominated):
    *_, latency = prices(dataclasses.replace(study, latency_ms=timed))
    assert {one.arm.name for one in latency.arms if one.dominated_by} == dominated


def test_the_lowest_error_dominates_where_lower_is_better(study):
    lower = dataclasses.replace(study.measures[0], lower_is_better=True)
    macs = prices(dataclasses.replace(study, measures=(lower, *study.measures[1:])))[0]
    assert [one.arm.name for one in macs.front] == ["alone-120"]


def test_an_arm_is_shown_to_be_better_by_the_seeds_that_both_have(study):
    """Scores depend on the seed more than on the arm, so that only pairs tell; the better arm has lost two."""
    alone = study.arm("alone")
    steep = [
        dataclasses.replace(cell, test=cell.test | {"accuracy": 0.9 + 0.01 * cell.seed})
        for cell in alone.cells
    ]
    behind = [
        dataclasses.replace(
            cell, test=cell.test | {"accuracy": cell.test["accuracy"] - 0.0001 * (1 + cell.seed)}
        )
        for cell in steep
    ]
    one = dataclasses.replace(alone, name="one", cells=tuple(behind))
    other = dataclasses.replace(alone, name="other", cells=tuple(steep[2:]))
    two = dataclasses.replace(study, arms=(one, other), litert_bytes={"one": 10, "other": 10})
    found = next(kind for kind in prices(two) if kind.kind == "bytes")
    assert [priced.dominated_by for priced in found.arms] == [("other",), ()]


def test_equal_arms_do_not_dominate_each_other(study):
    twice = dataclasses.replace(study.arm("alone"), name="again")
    two = dataclasses.replace(study, arms=(study.arm("alone"), twice), litert_bytes={}, latency_ms={})
    assert [one.dominated_by for kind in prices(two) for one in kind.arms] == [()] * 4


def test_every_chart_is_drawn_without_a_browser(study, tmp_path):
    pictures = charts.every(study)
    assert [one.name for one in pictures] == [
        *("pareto-macs", "pareto-bytes", "pareto-latency", "forest", "forest-1"),
        *("curves-score", "curves-loss", "curves-score-1", "curves-loss-1"),
    ]
    for picture in (pictures[0], pictures[3], pictures[5]):
        assert picture.svg.startswith("<svg")
        assert "currentColor" in picture.svg
        assert f'id="{picture.name}-' in picture.svg  # ids of several pictures are apart
        assert picture._repr_html_().startswith("<figure><svg")
        picture.save(tmp_path / "one.svg")
        kept = (tmp_path / "one.svg").read_text()
        assert "currentColor" not in kept
        assert "var(" not in kept
        assert "#1b1b1f" in kept
    pictures[0].save(tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"saved as \.svg or \.png. Received: one\.pdf"):
        pictures[0].save("one.pdf")


def test_the_picture_of_costs_holds_means_and_intervals(study):
    macs = charts.pareto(study)[0]
    (points,) = layers_of(macs, "point")
    rows = {row["arm"]: row for row in points["data"]["values"]}
    distilled = LAST["distilled"]
    half = 2.364624 * distilled.std(ddof=1) / math.sqrt(SEEDS)  # t, 7 degrees of freedom
    # Percentages lie far apart, so the axis is that of the error.
    assert rows["distilled"]["score"] == pytest.approx(100 - distilled.mean())
    assert rows["distilled"]["low"] == pytest.approx(100 - distilled.mean() + half)
    assert rows["distilled"]["shown_score"].startswith(
        f"{distilled.mean():.2f} ({distilled.mean() - half:.2f} to"
    )
    assert (rows["distilled"]["front"], rows["alone"]["front"]) == (True, False)
    assert rows["alone"]["spoken"].endswith("MACs 274k, dominated by distilled, smoothing")
    assert "alone by distilled" in macs.caption
    assert "logarithmic in the error" in macs.caption
    close = dataclasses.replace(study, arms=tuple(study.arm(name) for name in ("alone", "distilled")))
    linear = charts.pareto(close)[0]
    assert layers_of(linear, "point")[0]["data"]["values"][-1]["score"] == pytest.approx(distilled.mean())
    assert "logarithmic in the error" not in linear.caption


def test_arms_of_equal_cost_stand_side_by_side(study):
    macs, size, _ = charts.pareto(study)
    drawn = marks(macs, "point")
    xs = sorted(x for x, _ in drawn.values())
    steps = np.diff(xs[:-1])  # the students cost the same
    assert len(xs) == len(LAST) > 3
    np.testing.assert_allclose(steps, steps[0])
    assert 5 < steps[0] <= 9
    (points,) = layers_of(macs, "point")
    rows = {row["arm"]: row for row in points["data"]["values"]}
    assert rows["teacher"]["aside"] == 0
    assert sum(row["aside"] for row in rows.values()) == pytest.approx(0)
    upright, level = layers_of(macs, "rule")
    for layer in (upright, level):  # the bars of an arm, and what is joined, go with it
        assert layer["mark"]["xOffset"] == points["mark"]["xOffset"]
    assert level["mark"]["x2Offset"] == points["mark"]["xOffset"]
    for layer in (*layers_of(macs, "line"), *layers_of(macs, "text")):
        assert layer["mark"]["xOffset"] == points["mark"]["xOffset"]
    bars = re.findall(
        r'<line transform="translate\(([\d.]+),[\d.]+\)" x2="0" y2="-[\d.]+" stroke="#', macs.svg
    )
    np.testing.assert_allclose(sorted(map(float, bars)), xs)
    assert "side by side" in macs.caption
    # Of the sizes, two are equal; times have bars.
    moved = {row["arm"] for row in layers_of(size, "point")[0]["data"]["values"] if row["aside"]}
    assert moved == {"alone", "distilled"}
    equal = {arm: times(1.0, 0.9, 1.1) for arm in ("alone", "distilled")}
    *_, latency = charts.pareto(dataclasses.replace(study, latency_ms=equal))
    assert not any(row["aside"] for row in layers_of(latency, "point")[0]["data"]["values"])
    assert "side by side" not in latency.caption


def test_arms_that_stand_side_by_side_do_so_on_a_phone_too(study):
    macs = charts.pareto(study)[0]
    narrow = dataclasses.replace(macs, spec=macs.spec | {"width": 300})
    wide, close = (np.diff(sorted(x for x, _ in marks(one, "point").values())[:-1]) for one in (macs, narrow))
    asides = sorted(
        row["aside_narrow"] for row in layers_of(macs, "point")[0]["data"]["values"] if row["aside"]
    )
    np.testing.assert_allclose(close, np.diff(asides))
    assert 0 < close[0] < wide[0]


def test_names_are_placed_beside_where_arms_stand(study, monkeypatch):
    seen = []

    def place(points, names, **kwargs):
        seen.append(dict(zip(names, points, strict=True)))
        return labels.place(points, names, **kwargs)

    monkeypatch.setattr(trade, "place", place)
    rows = {row["arm"]: row for row in layers_of(charts.pareto(study)[0], "point")[0]["data"]["values"]}
    for points, key in zip(seen, ("aside", "aside_narrow"), strict=False):  # of MACs, the first
        apart = points["alone"][0] - points["distilled"][0]
        assert apart == pytest.approx(rows["alone"][key] - rows["distilled"][key])
        assert apart != 0


def test_many_arms_of_equal_cost_stay_in_the_picture():
    asides = trade._asides([20.0] * 5 + [300.0] + [560.0] * 3, 560)
    np.testing.assert_allclose(asides, [-18, -9, 0, 9, 18, 0, 0, 0, 0])
    np.testing.assert_allclose(trade._asides([4.0] * 5, 560), [-4, -2, 0, 2, 4])
    many = trade._asides([280.0] * 73, 560)
    np.testing.assert_allclose(np.diff(many), 1)
    # Costs that are about equal keep their order; those further away are left alone.
    np.testing.assert_allclose(trade._asides([101.0, 100.0, 103.5], 560), [4, -4, 0])


def marks(picture, kind):
    """The places of the marks that have a description, by what they describe first."""
    found = re.findall(
        rf'aria-label="([^":]*):[^"]*"[^>]*aria-roledescription="{kind}" transform="translate\(([^,]*),([^)]*)\)',
        picture.svg,
    )
    return {name: (float(x), float(y)) for name, x, y in found}


def test_names_of_points_hide_neither_points_nor_names():
    points = [(100, 100), (104, 108), (200, 100), (100, 92), (395, 5)]
    names = ["first", "second", "third", "fourth", "at the edge"]
    found = labels.place(points, names, width=400, height=200)
    boxes = []
    for (x, y), name, label in zip(points, names, found, strict=True):
        assert label.free
        long = labels.LETTER * len(name)
        left = x + label.dx - {"left": 0, "right": long, "center": long / 2}[label.align]
        box = (left, y + label.dy - labels.LINE / 2, left + long, y + label.dy + labels.LINE / 2)
        assert 0 <= box[0] <= box[2] <= 400
        assert not any(box[0] < px < box[2] and box[1] < py < box[3] for px, py in points)
        for other in boxes:
            assert box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]
        boxes.append(box)
    crowd = labels.place([(200, 100)] * 30, [f"name {i}" for i in range(30)], width=400, height=200)
    assert 1 <= sum(label.free for label in crowd) < 30


def test_names_of_points_cross_bars_only_where_they_must():
    """Two points in one place at the left edge, with upright bars: the second name goes to a corner, not across."""
    points, names, bar = [(44, 100), (44, 100)], ["alone", "distilled"], (43, 60, 45, 140)
    first, second = labels.place(points, names, width=400, height=200, bars=[bar])
    assert (first.dx, first.dy, first.align) == (9, 0, "left")
    assert (second.dx, second.dy, second.align) == (9, -labels.LINE, "left")
    everywhere = (0, 0, 400, 200)
    assert labels.place(points, names, width=400, height=200, bars=[everywhere])[0].free


def test_comparisons_are_drawn_with_their_seeds(study):
    first, second = charts.forest(study)
    assert (first.title, second.title) == ("full labels", "120 labels")
    points = layers_of(first, "point")
    dots = [
        row["difference"] for row in points[0]["data"]["values"] if row["comparison"] == "distilled − alone"
    ]
    np.testing.assert_allclose(dots, LAST["distilled"] - LAST["alone"])
    row = points[1]["data"]["values"][0]
    assert (row["comparison"], row["verdict"]) == ("distilled − alone", "better")
    assert row["difference"] == pytest.approx(1.07)
    one = dataclasses.replace(
        study, arms=tuple(dataclasses.replace(a, cells=a.cells[:1]) for a in study.arms)
    )
    rows = layers_of(charts.forest(one)[0], "point")[1]["data"]["values"]
    assert {(row["low"], row["interval"]) for row in rows} == {(None, "–")}
    assert charts.forest(one)[0].svg


def test_curves_are_of_the_epochs_that_all_seeds_have(study):
    values = drawn_curves.history(study.arm("alone"), "val_accuracy")
    assert values.shape == (SEEDS, 4)
    np.testing.assert_allclose(values[:, 3], LAST["alone"] / 100 - 0.1 / 4)
    assert drawn_curves.history(study.arm("alone"), "unknown") is None
    short = with_cells(
        study, alone=lambda c: dataclasses.replace(c, history=c.history[:3]) if c.seed == 2 else c
    )
    np.testing.assert_allclose(drawn_curves.history(short.arm("alone"), "val_accuracy"), values[:, :3])
    score = charts.curves(short)[0]
    assert score.arms == ("teacher", "alone", "smoothing", "distilled")
    rows = [row for row in layers_of(score, "line")[0]["data"]["values"] if row["arm"] == "alone"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    np.testing.assert_allclose([row["mean"] for row in rows], 100 * values.mean(0)[:3], rtol=1e-5)


def test_what_has_no_curve_has_no_picture_and_long_ones_are_thinned(study):
    silent = dict.fromkeys(list(LAST)[4:], lambda cell: dataclasses.replace(cell, history=()))
    assert [one.name for one in charts.curves(with_cells(study, **silent))] == ["curves-score", "curves-loss"]

    def longer(cell: CellResult):
        history = tuple({"val_accuracy": 0.5, "val_loss": math.nan if e < 5 else 1.0} for e in range(1000))
        return dataclasses.replace(cell, history=history)

    long = charts.curves(with_cells(study, **dict.fromkeys(LAST, longer)))
    rows = [row for row in layers_of(long[0], "line")[0]["data"]["values"] if row["arm"] == "alone"]
    assert [row["epoch"] for row in rows] == list(range(5, 1001, 5))
    assert "Every 5th epoch is drawn." in long[0].caption
    json.dumps([picture.spec for picture in long], allow_nan=False)  # NaN has no place in JSON


def test_what_cells_record_of_their_models_is_drawn_over_all_seeds(study):
    def recorded(cell):
        return dataclasses.replace(cell, reliability=RELIABLE, confusion=CONFUSED, layers=LAYERS)

    known = with_cells(study, alone=recorded, distilled=recorded)
    (diagram,) = charts.reliability(known)
    assert diagram.arms == ("alone", "distilled")
    rows = layers_of(diagram, "point")[0]["data"]["values"]
    assert [(row["arm"], row["examples"]) for row in rows] == [
        *(("alone", 32), ("alone", 48), ("distilled", 32), ("distilled", 48))
    ]
    assert (rows[0]["sure"], rows[0]["right"]) == (pytest.approx(90), pytest.approx(75))
    matrices = charts.confusion(known)
    assert [one.title for one in matrices] == ["alone", "distilled"]
    cells = layers_of(matrices[0], "rect")[0]["data"]["values"]
    assert [(row["teacher"], row["own"], row["examples"], row["depth"]) for row in cells] == [
        (0, 0, 40, 0.0), (1, 1, 24, 0.0), (2, 1, 16, 1.0),
    ]  # fmt: skip
    (bars,) = charts.layers(known)  # one, since both are alike
    assert bars.title == "alone, distilled"
    assert [row["said"] for row in layers_of(bars, "bar")[0]["data"]["values"]] == [
        "16 wide, 50% zeros",
        "10 wide",
    ]
    # What one seed lacks is not known of the arm.
    lost = with_cells(known, alone=lambda c: dataclasses.replace(c, reliability=None) if c.seed else c)
    assert charts.reliability(lost)[0].arms == ("distilled",)
    assert charts.reliability(study) == charts.confusion(study) == charts.layers(study) == []


def test_colours_are_seen_on_white_and_on_dark_pages():
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    for color in (*plots.PALETTE, *plots.VERDICTS.values()):
        for page in ("#ffffff", "#17171a"):
            low, high = sorted(map(luminance, (color, page)))
            assert (high + 0.05) / (low + 0.05) >= 3, (color, page)  # WCAG 2.2, 1.4.11


def test_what_costs_nothing_stands_at_the_left(study):
    """A baseline that repeats its input has no multiply-adds, and no place on a logarithmic axis."""
    arms = tuple(
        dataclasses.replace(
            arm, cells=tuple(dataclasses.replace(cell, cost={**cell.cost, "macs": 0}) for cell in arm.cells)
        )
        if arm.name == "alone"
        else arm
        for arm in study.arms
    )
    macs = charts.pareto(dataclasses.replace(study, arms=arms))[0]
    rows = {row["arm"]: row for row in layers_of(macs, "point")[0]["data"]["values"]}
    least = min(row["cost"] for name, row in rows.items() if name != "alone")
    assert 0 < rows["alone"]["cost"] == rows["alone"]["cost_low"] < least
    assert "MACs 0" in rows["alone"]["spoken"]

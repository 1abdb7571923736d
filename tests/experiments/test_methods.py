"""The study of all methods: its cells, published settings and table, and a smoke run."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from scipy import stats

from distill import SoftTargets, data
from distill.studies import (
    CLASSIFICATION,
    ArmResult,
    CellResult,
    StudyResult,
    Surroundings,
    Tuning,
    read,
)
from experiments._networks import normalized_cnn
from experiments.methods import losses, report, schemes, study
from experiments.methods.__main__ import main
from experiments.methods.config import Methods
from experiments.methods.task import Task

STUDY = Methods()
BY_NAME = {method.name: method for method in study.METHODS}
SEEDS = tuple(range(5))


def made(name, setting=0.0, seed=3, dataset="mnist1d"):
    return study.student_cell(STUDY, dataset, BY_NAME[name], setting=setting, seed=seed, lenders=SEEDS)


def test_cells_of_a_seed_share_all_but_the_method():
    alone = dataclasses.asdict(made("alone").config)
    for name in BY_NAME:
        changed = {key for key, value in dataclasses.asdict(made(name).config).items() if value != alone[key]}
        assert changed <= {"method", "teachers", "assistant"}, name
    assert made("kd").config.teachers == (study.teacher_cell(STUDY, "mnist1d", 3).name,)
    lenders = [study.teacher_cell(STUDY, "mnist1d", seed).name for seed in (3, 4, 0)]
    assert made("three-teachers").config.teachers == tuple(lenders)
    assert made("assistant").config.assistant == STUDY.assistant
    assert not set(study.TUNING_SEEDS) & set(range(1000))


def test_every_method_has_as_many_trials():
    assert {len(method.trials) for method in study.METHODS} == {3}
    assert set(report.BASELINES) <= set(BY_NAME)


@pytest.fixture(scope="module")
def task():
    """Makes tasks on digits, with a teacher that has learned nothing."""
    splits = data.load("digits")
    teacher = normalized_cnn(
        STUDY.teacher, input_shape=splits.input_shape, classes=splits.num_classes, name="teacher"
    )

    def of(name):
        one = made(name, BY_NAME[name].trials[1])
        return Task(one, splits, [teacher], None, Surroundings())

    return of


# The papers of these use no labels, or give both half the weight; here students learn from labels too.
BESIDE_LABELS = ("logit-mse", "hard-labels", "jsd", "reverse-kl")
LABEL_WEIGHTS = {
    0.1: ("kd", *BESIDE_LABELS, "standardized-kd", "mlkd", "ctkd"),
    1.0: ("dkd", "dist", "hint", "attention", "vid", "nst", "ofd", "similarity", "rkd", "pkt"),
}


@pytest.mark.parametrize(
    "name",
    [m.name for m in study.METHODS if m.family in ("logits", "features", "relations") and m.name != "crd"],
)
def test_the_middle_of_the_trials_is_the_published_weight(name, task):
    loss = losses.loss_of(task(name))
    recipe = SoftTargets.recipe if name in BESIDE_LABELS else loss.recipe
    low, published, high = BY_NAME[name].trials
    assert published == recipe["distillation_weight"]
    assert (10 * low, high / 10) == pytest.approx((published, published))


@pytest.mark.parametrize(("label_weight", "names"), LABEL_WEIGHTS.items())
def test_the_labels_weigh_what_the_published_cells_have(label_weight, names, task):
    for name in names:
        one = task(name)
        distiller = losses.distiller(one.teachers[0], one.network(), losses.loss_of(one), weight=3.0)
        assert (distiller.student_loss_weight, distiller.distillation_weight) == pytest.approx(
            (label_weight, 3)
        )


def test_decoupled_distillation_warms_up_for_a_twelfth_of_the_training(task):
    one = task("dkd")
    weight = losses.weight_of(one)
    batches = math.ceil(int(one.splits.train.cardinality()) / one.config.batch_size)
    steps = batches * one.config.epochs
    assert [float(weight(step)) for step in (0, steps / 24, steps / 12, steps)] == pytest.approx(
        [0, one.setting / 2, one.setting, one.setting]
    )
    assert losses.weight_of(task("kd")) == task("kd").setting


def test_an_unknown_method_is_no_soft_target(task):
    unknown = task("kd")
    config = dataclasses.replace(unknown.config, method="kdd")
    unknown = dataclasses.replace(unknown, cell=dataclasses.replace(unknown.cell, config=config))
    with pytest.raises(ValueError, match="No method has the name 'kdd'"):
        losses.loss_of(unknown)


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 1)], ids=str)
def test_teacher_and_student_have_layers_of_the_same_names(shape):
    networks = [
        normalized_cnn(n, input_shape=shape, classes=10, name="n") for n in (STUDY.teacher, STUDY.student)
    ]
    names = [
        {layer.name for layer in network.layers if not layer.name.startswith("input")} for network in networks
    ]
    assert {"norm0", "relu0", "norm1", "relu1", "embedding", "logits"} <= names[1] <= names[0]
    maps = [network.get_layer("relu1").output.shape for network in networks]
    assert maps[0][:3] == maps[1][:3]
    assert [network.output_shape for network in networks] == [(None, 10)] * 2


def spread(seed, mean):
    return (mean + np.random.default_rng(seed).normal(size=5)).tolist()


def found_cell(arm, seed, accuracy):
    scores = {
        epoch: {"accuracy": accuracy / 100, "nll": 1.0, "ece": 0.1, "agreement": None}
        for epoch in ("last", "selected")
    }
    costs = {"parameters": 10, "macs": 10, "file_bytes": 10}
    return CellResult(arm, seed, 0, 1, 1.0, scores, scores, costs, ())


@pytest.fixture
def finished():
    """A study of two data sets, in which "better" is four points above alone, and "worse" four points below."""
    means = {"teacher": 99, "alone": 90, "smoothing": 91, "kd": 90, "better": 94, "worse": 86}
    values = {(d, m): spread(i, mean) for i, (m, mean) in enumerate(means.items()) for d in ("one", "two")}
    arms = tuple(
        ArmResult(
            f"{d}-{m}", m, "", d, tuple(found_cell(f"{d}-{m}", s, v) for s, v in enumerate(values[d, m]))
        )
        for d in ("one", "two")
        for m in means
    )
    tuning = tuple(Tuning(a.name, (({"weight": 0.9}, 0.5),), {"weight": 0.9}) for a in arms[1:3])
    fields = {
        "title": "T",
        "question": "Q?",
        "command": "c",
        "created": "now",
        "versions": {},
        "git_commit": None,
    }
    return values, StudyResult(
        name="methods",
        smoke=False,
        notes=("n",),
        arms=arms,
        comparisons=(),
        measures=CLASSIFICATION,
        primary=(),
        tuning=tuning,
        latency_ms={},
        **fields,
    )


def test_the_table_holds_paired_differences_to_each_baseline(finished):
    values, found = finished
    rows = report.rows(found)
    assert [(row.dataset, row.method) for row in rows[:3]] == [
        ("one", "teacher"),
        ("one", "alone"),
        ("one", "smoothing"),
    ]
    better = next(row for row in rows if (row.dataset, row.method) == ("two", "better"))
    for baseline, difference in zip(report.BASELINES, better.differences, strict=True):
        paired = np.subtract(values["two", "better"], values["two", baseline])
        half = stats.t.ppf(0.975, 4) * paired.std(ddof=1) / math.sqrt(5)
        np.testing.assert_allclose(
            [difference.difference, difference.low, difference.high],
            [paired.mean(), paired.mean() - half, paired.mean() + half],
        )
    assert rows[0].differences == (None, None, None)
    assert rows[1].differences[0] is None
    grid = report.table(rows)
    assert [row for row in grid.rows if len(row) == 1] == [("one",), ("two",)]
    assert grid.rows[2][:3] == ("alone", "0.9", f"{np.mean(values['one', 'alone']):.2f}")
    assert grid.rows[1][1] == "–"


def test_the_findings_count_intervals_on_either_side(finished):
    _, found = finished
    tried = tuple(({"weight": weight}, 0.5) for weight in (0.1, 1.0, 10.0))
    tunings = [Tuning(f"arm{w}", tried, {"weight": w}) for w in (0.1, 0.1, 0.1, 1.0, 10.0, 10.0)]
    said = report.findings(report.rows(found), tunings)
    assert said[0] == "one, compared with alone: of 4 intervals, 1 above 0 (better) and 1 below (worse)."
    assert len(said) == 7
    assert (
        "the same number of trials: 3. Of 6 choices, 3 are the lowest value tried and 2 the highest"
        in said[-1]
    )


def test_the_forest_draws_each_method_on_each_data_set(finished):
    _, found = finished
    svg = report.forest(report.rows(found))
    assert svg.startswith("<svg")
    for text in ("one better +", "two worse -"):
        assert text in svg


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--trials", "4"], "--trials must lie between 1 and 3"),
        (["--methods", "kdd"], "Received: --methods kdd"),
        (["--datasets", "digits", "digits"], "none twice. Received: --datasets digits digits"),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ],
    ids=str,
)
def test_impossible_options_are_refused_before_any_work(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.rglob("cells"))


@pytest.mark.slow
def test_a_smoke_run_ends_in_a_table_and_a_forest(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--smoke", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    study_dir = tmp_path / "methods-smoke"
    assert "Smoke run" in output
    lines = [line.split() for line in output.splitlines()]
    assert all(
        [name, "–"] == line[:2] for name in ("teacher", "ensemble") for line in lines if line[:1] == [name]
    )
    assert ["born-again", "0.9"] in [line[:2] for line in lines]
    found = read(study_dir)
    assert [arm.name.removeprefix("digits-") for arm in found.arms] == [
        "teacher", "alone", "smoothing", "kd", "born-again", "ensemble"
    ]  # fmt: skip
    assert "<svg" in (study_dir / "report.html").read_text()
    raw = json.loads((study_dir / "study.json").read_text())
    generations, ensemble = (study_dir / raw["arms"][i]["cells"][0] for i in (4, 5))
    stages = sorted(path.name for path in (generations / "stages").iterdir())
    assert stages == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]
    # The ensemble is the mean of the generations, and the last generation is the student.
    x, y = data.arrays(data.load("digits").test)
    together = keras.models.load_model(ensemble / "student.keras").predict(x, verbose=0)
    accuracy = json.loads((ensemble / "result.json").read_text())["test"]["last"]["accuracy"]
    assert np.mean(together.argmax(axis=1) == y) == pytest.approx(accuracy)
    last = keras.models.load_model(generations / "student.keras")
    stage = normalized_cnn(STUDY.student, input_shape=(8, 8, 1), classes=10, name="network2")
    stage.load_weights(generations / "stages" / "2.weights.h5")
    np.testing.assert_allclose(last.predict(x, verbose=0), stage.predict(x, verbose=0), rtol=1e-5, atol=1e-6)

    # After a stop in the third generation, the first two are kept, and the third comes out the same.
    written = {path: path.stat().st_mtime_ns for path in (generations / "stages").iterdir()}
    before = json.loads((generations / "result.json").read_text())
    (generations / "result.json").unlink()
    (generations / "stages" / "2.weights.h5").unlink()
    assert main(["--smoke", "--out", str(tmp_path)]) == 0
    for path, moment in written.items():
        assert (path.stat().st_mtime_ns == moment) == (path.name != "2.weights.h5")
    after = json.loads((generations / "result.json").read_text())
    for result in (before, after):
        del result["seconds"], result["cost"]["gzip_bytes"]  # a file contains the time at which it was saved
    assert before == after


def test_methods_of_several_teachers_are_tuned_with_as_many():
    tuned = study.student_cell(
        STUDY, "digits", BY_NAME["three-teachers"], setting=0.9, seed=1001, lenders=study.TUNING_TEACHERS
    )
    assert len(set(tuned.config.teachers)) == 3
    with pytest.raises(ValueError, match="3 teachers borrows.*--seeds 2"):
        study.check(dataclasses.replace(STUDY, seeds=2))


@pytest.mark.parametrize("name", ["born-again", "assistant"])
def test_the_network_that_is_measured_starts_as_all_students_of_its_seed(name, task, tmp_path, monkeypatch):
    one = task(name)
    config = dataclasses.replace(one.config, assistant=STUDY.assistant, dataset="digits")
    one = dataclasses.replace(one, directory=tmp_path, cell=dataclasses.replace(one.cell, config=config))
    makers = []
    monkeypatch.setattr(schemes.training, "chain", lambda listed, train, **kwargs: makers.extend(listed))
    schemes.chain(one)
    keras.utils.set_random_seed(one.cell.seed)
    alone = one.network().get_weights()
    last, before = makers[-1]().get_weights(), makers[0]().get_weights()
    assert all(map(np.array_equal, last, alone))
    assert not np.array_equal(before[0], alone[0])

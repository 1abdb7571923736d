"""The main study: what its arms see and start from, and a smoke run of all of them."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
from pathlib import Path

import keras
import numpy as np
import pytest

from distill import cost, studies
from distill._untouched import same_randomness
from distill.studies import _pools as pools
from experiments import compare

ARMS = compare.study.design.arms
PUBLISHED = Path(__file__).parents[2] / "docs" / "studies" / "compare.json"
STUDENTS = [
    "alone", "distilled", "few_alone", "few_distilled", "few_pseudo", "alone_plain", "distilled_plain",
    "distilled_standardized", "alone_longer", "distilled_longer", "three_teachers",
]  # fmt: skip

# One of each kind of network and loss; the slow test below runs all arms.
KINDS = ["teacher", "distilled", "zeros", "teacher_int8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    x = np.random.default_rng(0).random((240, 8, 8, 1)).astype("float32")
    split = x, np.arange(240) % 10
    return studies.Run(
        seed=3,
        train=split,
        dev=split,
        callbacks=[],
        directory=tmp_path_factory.mktemp("run"),
        smoke=False,
        _files={},
    )


@pytest.fixture(scope="module")
def trained(run):
    """What each arm gives to `fit`, in place of training: (model, (x, y), how), by arm."""
    with pytest.MonkeyPatch.context() as patch:
        return made_by_arms(run, patch)


def made_by_arms(run, patch):
    seen = {}
    networks = {
        name: compare.cnn(network, run)
        for name, network in (*((name, compare.TEACHER) for name in compare.TEACHERS), ("deep", compare.DEEP))
    }

    def fit(model, examples, run, **how):
        seen[arm] = model, examples, how

    patch.setattr(compare, "fit", fit)

    def model(self, name):
        with same_randomness():  # as when a model is loaded
            return keras.models.clone_model(networks[name])

    patch.setattr(studies.Run, "model", model)
    patch.setattr(compare, "record_answers", lambda *_: None)
    patch.setattr(compare, "recorded_answers", lambda run, arm: run.model(arm))
    patch.setattr(compare.studies, "logits", lambda model, x: np.eye(10)[np.full(len(x), 7)])
    for arm, declared in ARMS.items():
        if "int8" not in arm:
            keras.utils.set_random_seed(3)
            made = declared.function(run, **declared.settings)
            seen[arm] = *seen[arm], made
    return seen


def test_pairs_differ_in_the_teacher_alone(trained):
    """Same initial weights, images, steps and movements; as many settings to choose from."""
    for baseline, arm in (
        ("alone", "distilled"),
        ("few_pseudo", "few_distilled"),
        ("alone_plain", "distilled_plain"),
        ("alone", "distilled_standardized"),
        ("alone_longer", "distilled_longer"),
        ("distilled", "three_teachers"),
    ):
        (_, (x, _), how, one), (_, (same, _), as_well, other) = trained[baseline], trained[arm]
        np.testing.assert_array_equal(x, same)
        assert {**how, "callbacks": ()} == as_well
        assert all(map(np.array_equal, one.get_weights(), other.get_weights()))
        assert len(ARMS[arm].trials) == len(ARMS[baseline].trials) == 4
    for arm in ("few_alone", "few_distilled"):
        assert trained[arm][2]["epochs"] == compare.SHORT
        assert len(trained[arm][1][0]) == 240
    assert {name for name, arm in ARMS.items() if arm.tune} == {
        *STUDENTS, "zeros", "channels", "channels_labels",
    }  # fmt: skip
    tuned = [arm for arm in ARMS.values() if arm.tune]
    assert {len(arm.trials) for arm in tuned} == {4}
    assert all(arm.settings in [arm.settings | trial for trial in arm.trials] for arm in tuned)
    assert set(compare.study.design.primary) == {
        ("alone", "distilled"),
        ("few_alone", "few_distilled"),
    }


def test_few_labels(trained, run):
    seen = compare.labelled(run)
    assert len(set(seen)) == compare.LABELS
    assert np.bincount(run.train[1][seen]).tolist() == [compare.LABELS // 10] * 10
    assert set(seen) != set(compare.labelled(dataclasses.replace(run, seed=4)))
    _, (x, y), *_ = trained["few_alone"]
    np.testing.assert_array_equal(x[: compare.LABELS], run.train[0][seen])
    np.testing.assert_array_equal(y.argmax(axis=1), np.resize(run.train[1][seen], 240))
    _, (_, y), *_ = trained["few_pseudo"]
    expected = np.full(240, 7)
    expected[seen] = run.train[1][seen]
    np.testing.assert_array_equal(y.argmax(axis=1), expected)
    distiller = trained["few_distilled"][0]
    assert distiller.student_loss_weight == 0


def test_rivals_start_as_what_is_left_of_their_teacher(trained, run):
    teacher, student = (cost.macs(compare.cnn(one, run)) for one in (compare.TEACHER, compare.STUDENT))
    sizes = {arm: cost.macs(made) for arm, (*_, made) in trained.items()}
    assert {sizes[arm] for arm in STUDENTS} == {student}
    assert sizes["zeros"] == sizes["zeros_80"] == sizes["teacher"] == teacher
    assert len(trained["zeros"][2]["callbacks"]) == 1
    assert (
        sizes["channels"] == sizes["channels_labels"] == pytest.approx(compare.CHANNELS * teacher, rel=0.02)
    )
    (*_, labels, by_labels), (*_, soft, by_teacher) = trained["channels_labels"], trained["channels"]
    assert {**labels, "callbacks": ()} == soft
    assert all(map(np.array_equal, by_labels.get_weights(), by_teacher.get_weights()))
    convolution = 4 * 9 * 32 * 32
    assert sizes["deep"] == teacher + 4 * convolution
    assert (sizes["deep"] - sizes["layers"]) / convolution in (2, 3, 4)  # convolutions, or blocks of two


def test_three_teachers_are_different_networks(trained):
    weights = [trained[name][-1].get_weights()[0] for name in compare.TEACHERS]
    assert not any(np.array_equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    distiller = trained["three_teachers"][0]
    assert len(distiller.teacher) == 3


@pytest.mark.slow
def test_the_teacher_of_unmoved_images_is_asked_once_and_teaches_the_same(run, monkeypatch):
    """To the bit, or but for last bits where a processor rounds an answer otherwise at another place in a batch."""
    run = dataclasses.replace(run, smoke=True)
    keras.utils.set_random_seed(3)
    compare.teacher(run).save(run.directory / "model.keras")
    needing = dataclasses.replace(run, _files={"teacher": run.directory / "model.keras"})

    def student():
        keras.utils.set_random_seed(3)
        return compare.distilled_plain(needing).get_weights()

    with monkeypatch.context() as patch:
        patch.setattr(compare, "recorded_answers", studies.Run.model)
        live = student()
    monkeypatch.setattr(studies.Run, "model", None)
    for one, other in zip(live, student(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_data_of_other_than_ten_classes_are_refused(monkeypatch):
    loaded = dataclasses.replace(compare.data.load("digits"), num_classes=12)
    monkeypatch.setattr(compare.data, "load", lambda name: loaded)
    with pytest.raises(ValueError, match="takes images of ten classes. Received: birds, of 12"):
        compare.images(0, "birds")


def test_a_smoke_run_of_each_kind_of_arm(run, tmp_path, monkeypatch):
    """In this process; what becomes of a run that was killed is in tests/studies/test_faults.py."""
    monkeypatch.setattr(pools, "workers", lambda *_, **__: pools.InThisProcess())
    found = compare.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=KINDS,
        data={"dataset": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == KINDS
    folder = tmp_path / "compare-digits-smoke"
    of = {arm.name: arm.cells[0] for arm in found.arms}
    assert {name for name, cell in of.items() if cell.test["agreement"] is None} == {
        name for name in KINDS if not ARMS[name].needs
    }
    student = compare.cnn(compare.STUDENT, run)
    assert of["distilled"].cost["parameters"] == student.count_params()
    # The file has the student's weights, and neither an optimizer nor a teacher.
    student.save(tmp_path / "student.keras")
    assert abs(of["distilled"].cost["file_bytes"] - (tmp_path / "student.keras").stat().st_size) < 600
    assert set(found.latency_ms) == set(found.litert_bytes) == set(KINDS)
    assert found.litert_bytes["teacher_int8"] < found.litert_bytes["teacher"]
    assert of["teacher_int8"].test["agreement"] > 0.9
    assert found.litert_bytes["zeros"] < 0.5 * found.litert_bytes["teacher"]  # its zeros are left out
    kernels = sum([3 * 3 * 16, 3 * 3 * 16 * 32, 128 * 64, 64 * 10])
    zeros = of["zeros"].cost
    assert zeros["parameters"] == of["teacher"].cost["parameters"]
    assert zeros["nonzero"] == kernels - round(0.95 * kernels) + 16 + 32 + 64 + 10
    assert zeros["gzip_bytes"] < 0.4 * of["teacher"].cost["gzip_bytes"]
    assert "<svg" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cell_is_the_same_in_a_process_of_its_own_and_after_others(tmp_path, monkeypatch):
    def results(folder):
        compare.study.run(
            out=folder,
            smoke=True,
            seeds=1,
            arms="all",
            data={"dataset": "digits"},
            surroundings=studies.Surroundings(wandb="disabled"),
        )
        cells = sorted((folder / "compare-digits-smoke" / "cells").iterdir())
        assert len(cells) == len(ARMS)
        for cell in cells:
            result = json.loads((cell / "result.json").read_text())
            del result["seconds"]
            yield cell.name, result, (cell / "metrics.jsonl").read_text()

    monkeypatch.setattr(pools, "workers", lambda *_, **__: pools.InThisProcess())
    after_others = list(results(tmp_path / "here"))

    def fresh(*_, **__):
        spawn = multiprocessing.get_context("spawn")
        return concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1)

    monkeypatch.setattr(pools, "workers", fresh)
    assert list(results(tmp_path / "fresh")) == after_others


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_other_seeds_give_the_same_verdicts(tmp_path):
    """The verdicts are golden, and that intervals agree; digits differ by processor and by version."""
    golden = {(one.baseline, one.arm): one for one in studies.judge(studies.read(PUBLISHED)) if one.primary}
    found = compare.study.run(
        out=tmp_path, first_seed=100, surroundings=studies.Surroundings(wandb="disabled")
    )
    judged = [one for one in studies.judge(found) if one.primary]
    assert len(judged) == len(golden) == 2
    for one in judged:
        before = golden[one.baseline, one.arm]
        assert one.adjusted.verdict == before.adjusted.verdict
        assert max(one.adjusted.low, before.adjusted.low) < min(one.adjusted.high, before.adjusted.high)

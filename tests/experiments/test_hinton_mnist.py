"""The repetition of Hinton et al. 2015: jitter, the digit that is left out, its bias, and a smoke run."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.hinton_mnist import cell, study
from experiments.hinton_mnist.__main__ import main
from experiments.hinton_mnist.config import ON_DEV, ON_TEST, TRAINED, Hinton, Learner


@pytest.mark.slow
def test_the_smoke_run_ends_in_a_table_beside_the_papers_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["--smoke", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Smoke run" in shown
    for number in ("67", "146", "74", "206", "133", "109", "14"):
        assert number in shown.split()
    study_dir = tmp_path / "hinton_mnist-smoke"
    assert (study_dir / "report.html").read_text().count("<td>146</td>") == 1
    results = {
        result["arm"]: result
        for result in (json.loads(path.read_text()) for path in study_dir.glob("cells/*/result.json"))
    }
    assert set(results) == {"teacher", "alone", "distilled", "omitted-distilled", "omitted-alone"}
    for arm, result in results.items():
        errors = result["errors"]
        assert set(errors) == ({TRAINED, ON_DEV, ON_TEST} if arm.startswith("omitted") else {TRAINED})
        assert errors[TRAINED]["bias"] == 0
        for split, examples in (("dev", 500), ("test", 1500)):
            assert len(errors[TRAINED][split]) == 10
            right = result[split]["last"]["accuracy"] * examples
            assert sum(errors[TRAINED][split]) == pytest.approx(examples - right)
        if arm.startswith("omitted"):
            assert sum(errors[ON_DEV]["dev"]) <= sum(errors[TRAINED]["dev"])
            assert sum(errors[ON_TEST]["test"]) <= min(
                sum(errors[name]["test"]) for name in (TRAINED, ON_DEV)
            )
    assert sum(results["teacher"]["errors"][TRAINED]["test"]) < 1200  # it learns: chance is 1,350


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--omitted", "10"], "digit from 0 to 9"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--student-loss-weight", "1.5"], "--student-loss-weight must lie in [0, 1]"),
        (["--student.epochs", "0"], "--student.epochs must be at least 1"),
        (["--teacher.units", "0"], "--teacher.units must be at least 1"),
        (["--teacher.dropout", "1"], "below 1"),
        (["--student.learning-rate", "0"], "--student.learning-rate must be above 0"),
        (["--teacher.jitter", "-1"], "--teacher.jitter must be at least 0"),
    ],
)
def test_impossible_options_are_refused_before_any_work(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_missing_files_are_an_error_that_says_how_to_get_them(tmp_path, capsys):
    folders = ["--out", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]
    assert main([*folders, "--manual-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "load never downloads" in shown
    assert "train-images-idx3-ubyte.gz" in shown


def test_every_field_can_be_set_from_the_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Hinton):
        prefix = {"teacher": "teacher.units", "student": "student.units", "surroundings": "manual_dir"}
        assert f"--{prefix.get(field.name, field.name).replace('_', '-')}" in shown


def test_the_students_of_a_seed_share_all_but_what_is_compared():
    options = Hinton()
    assert options.student == Learner(
        800, options.student.epochs, options.student.learning_rate
    )  # no regularization
    cells = {arm.name: study.student_cell(options, arm, 1) for arm in study.student_arms(options)}
    alone = dataclasses.asdict(cells["alone"].config)
    changed = {
        name: {key: value for key, value in dataclasses.asdict(one.config).items() if value != alone[key]}
        for name, one in cells.items()
    }
    assert changed["alone"] == {}
    assert changed["distilled"] == {"teacher": study.teacher_cell(options, 1).name}
    assert changed["omitted-alone"] == {"omitted": 3}
    assert changed["omitted-distilled"] == {**changed["distilled"], "omitted": 3}
    assert cells["distilled"].config.temperature == 20


def test_no_image_of_the_omitted_digit_is_shown():
    x = np.arange(50, dtype="float32").reshape(50, 1, 1, 1)
    y = np.arange(50) % 10
    kept = cell.without(3, (x, y))
    shown = list(cell.batches(kept, Learner(4, 1, 0.1), batch_size=8, seed=0).as_numpy_iterator())
    images, labels = (np.concatenate(parts) for parts in zip(*shown, strict=True))
    assert len(images) == 45
    assert 3 not in labels
    np.testing.assert_array_equal(images.ravel() % 10, labels)
    assert all(part is whole for part, whole in zip(cell.without(None, (x, y)), (x, y), strict=True))


def epochs_of(seed):
    """Returns two epochs of jittered images with one bright pixel each, in the order of the images."""
    x = np.zeros((64, 9, 9, 1), "float32")
    x[:, 4, 4, 0] = np.arange(1, 65)
    shown = cell.batches((x, np.arange(64)), Learner(4, 1, 0.1, jitter=2), batch_size=16, seed=seed)
    epochs = []
    for _ in range(2):
        images, labels = (np.concatenate(parts) for parts in zip(*shown.as_numpy_iterator(), strict=True))
        epochs.append(images[np.argsort(labels)])
    return np.stack(epochs)


def test_jitter_shifts_by_at_most_two_pixels_and_keeps_the_content():
    images = epochs_of(0)
    assert images.shape == (2, 64, 9, 9, 1)
    np.testing.assert_array_equal(images.sum(axis=(2, 3, 4)), [np.arange(1, 65)] * 2)
    _, _, rows, columns, _ = np.nonzero(images)
    assert set(rows - 4) == set(columns - 4) == {-2, -1, 0, 1, 2}
    assert len(set(zip(rows, columns, strict=True))) > 15  # of 25, since the two directions are independent


def test_jitter_is_drawn_anew_each_epoch_and_is_the_same_for_the_same_seed():
    images = epochs_of(0)
    assert not np.array_equal(images[0], images[1])
    np.testing.assert_array_equal(images, epochs_of(0))
    assert not np.array_equal(images, epochs_of(1))


def test_what_jitter_shifts_in_is_black():
    images = np.ones((200, 5, 6, 1), "float32")
    shifted = np.asarray(cell.jittered(images, pixels=2, key=[3, 4]))
    assert shifted.shape == images.shape
    assert set(np.unique(shifted)) == {0, 1}
    heights, widths = shifted.any(axis=2).sum(axis=1).ravel(), shifted.any(axis=1).sum(axis=1).ravel()
    assert set(heights) == {3, 4, 5}
    assert set(widths) == {4, 5, 6}


def errors(logits, labels, digit, bias):
    raised = np.array(logits, "float64")
    raised[:, digit] += bias
    return int((raised.argmax(axis=1) != labels).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_bias_has_the_fewest_errors_that_any_bias_can_have(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 200)
    logits = (rng.normal(size=(200, 10)) + 2 * np.eye(10)[labels]).astype("float32")
    logits[:, 3] -= 3
    bias = cell.best_bias(logits, labels, digit=3)
    found = errors(logits, labels, 3, bias)
    assert bias > 0
    assert found <= min(errors(logits, labels, 3, tried) for tried in np.arange(-10, 10, 0.01))
    assert found < errors(logits, labels, 3, 0.0)


@pytest.mark.parametrize(("labels", "sign"), [([0, 1, 2], -1), ([3, 3, 3], 1)])
def test_a_digit_that_is_never_or_always_right(labels, sign):
    logits = np.array([[2, 0, 0, 1], [0, 2, 0, 3], [0, 0, 2, 2]], "float32")
    bias = cell.best_bias(logits, np.array(labels), digit=3)
    assert sign * bias > 0
    assert errors(logits, np.array(labels), 3, bias) == 0


def test_the_networks_have_the_published_layers():
    teacher = cell.dense_net(Hinton().teacher, input_shape=(28, 28, 1), classes=10)
    student = cell.dense_net(Hinton().student, input_shape=(28, 28, 1), classes=10)
    assert teacher.count_params() == 785 * 1200 + 1201 * 1200 + 1201 * 10
    assert student.count_params() == 785 * 800 + 801 * 800 + 801 * 10
    assert sum("Dropout" in type(layer).__name__ for layer in teacher.layers) == 2
    assert not any("Dropout" in type(layer).__name__ for layer in student.layers)

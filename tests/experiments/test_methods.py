"""The study of all methods: what each arm trains with, how networks start, and a smoke run."""

import dataclasses

import keras
import numpy as np
import pytest

import distill
from distill import studies
from distill._untouched import same_randomness
from experiments import methods
from experiments._networks import normalized_cnn

pytestmark = pytest.mark.slow

ARMS = methods.study.design.arms
# The papers of these use no labels, or give both half the weight; here students learn from labels too, as in kd.
AS_KD = (
    "kd",
    "logit_mse",
    "hard_labels",
    "jsd",
    "reverse_kl",
    "ctkd",
    "three_teachers",
    "born_again",
    "assisted",
)
PUBLISHED = {
    **dict.fromkeys(AS_KD, (0.1, 0.9)),
    **dict.fromkeys(("standardized_kd", "mlkd"), (0.1, 9.0)),
    **dict.fromkeys(("vid", "ofd", "rkd", "mutual"), (1.0, 1.0)),
    "dkd": (1.0, 0.0),  # before its warm-up
    **dict.fromkeys(("function_matching", "unlabelled"), (0.0, 1.0)),
    "dist": (1.0, 2.0),
    "hint": (1.0, 100.0),
    "attention": (1.0, 1000.0),
    "nst": (1.0, 50.0),
    "similarity": (1.0, 3000.0),
    "pkt": (1.0, 30000.0),
    "crd": (1.0, 0.8),
}


def small(network, name="student"):
    return normalized_cnn(network, input_shape=(40, 1), classes=10, name=name)


SEED = 3


@pytest.fixture(scope="module")
def fitted():
    """What each arm would train on 130 series, and how, by name; finished models are new ones."""
    seen, kinds = {}, {"teacher": methods.TEACHER, "assistant": methods.ASSISTANT}
    seen["asked"], seen["read"], seen["recorded"] = [], [], []

    def model(_, name):
        seen["asked"].append(arm)
        with same_randomness():
            keras.utils.set_random_seed(99)
            return small(kinds.get(name.partition("_")[0], methods.STUDENT), name)

    x = np.random.default_rng(0).normal(size=(130, 40, 1)).astype("float32")
    split = x, np.arange(130) % 10
    run = studies.Run(seed=SEED, train=split, dev=split, callbacks=[], directory=None, smoke=False, _files={})
    seen["run"] = run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies.Run, "model", model)
        patch.setattr(methods, "fit", lambda model, run, **how: seen.update({arm: (model, how)}) or model)
        patch.setattr(methods, "record_answers", lambda *_: seen["recorded"].append(arm))
        patch.setattr(
            methods, "recorded_answers", lambda run, name: seen["read"].append(arm) or run.model(name)
        )
        for arm, declared in ARMS.items():
            if arm != "ensemble":
                keras.utils.set_random_seed(SEED)
                declared.function(run, **declared.settings)
    return seen


def test_every_arm_has_its_published_weights_and_starts_as_the_others(fitted):
    keras.utils.set_random_seed(SEED)
    start = small(methods.STUDENT).get_weights()
    found = {}
    for name in ARMS.keys() - {"ensemble"}:
        model, _ = fitted[name]
        if isinstance(model, distill.Distiller):
            found[name] = model.student_loss_weight, model.distillation_weight
        network = getattr(model, "students", [getattr(model, "student", model)])[0]
        alike = all(map(np.array_equal, network.get_weights(), start))
        assert alike == (ARMS[name].group != methods.TEACHERS), name
        assert network.count_params() == small(
            methods.TEACHER if name.startswith("teacher") else
            methods.ASSISTANT if name == "assistant" else methods.STUDENT
        ).count_params()  # fmt: skip
    assert {name: pytest.approx(weights) for name, weights in PUBLISHED.items()} == {
        name: weights for name, weights in found.items() if ARMS[name].group != methods.TEACHERS
    }


def test_decoupled_distillation_warms_up_for_a_twelfth_of_the_training(fitted, monkeypatch):
    assert fitted["dkd"][0].distillation_weight == 0.0  # at step 0
    monkeypatch.setattr(methods, "taught", lambda run, loss, factor, **how: (factor, how))
    x = np.zeros((130, 40, 1))
    run = studies.Run(
        seed=SEED, train=(x, x), dev=(x, x), callbacks=[], directory=None, smoke=False, _files={}
    )
    assert methods.dkd(run, factor=2.0) == (2.0, {"warmup": 3 * methods.EPOCHS / 12})


def test_what_students_see(fitted):
    for name in ("crd", "kd"):
        inputs, labels = next(iter(fitted[name][1]["given"]))
        assert inputs.ids.shape == labels.shape == (64,)
        plain, same = next(iter(methods.batches(fitted["run"])))
        np.testing.assert_array_equal(inputs.inputs, plain)
        np.testing.assert_array_equal(labels, same)
    for name in ("unlabelled", "function_matching"):
        assert len(next(iter(fitted[name][1]["given"]))) == 1
    assert fitted["alone"][1]["decay"] == 0.0
    y, logits = np.array([3]), np.arange(10.0, dtype="float32")[None]
    probabilities = np.full(10, 0.01) + 0.9 * (np.arange(10) == 3)
    expected = -(probabilities * (logits[0] - np.log(np.exp(logits[0]).sum()))).sum()
    assert float(fitted["smoothing"][1]["loss"](y, logits)) == pytest.approx(expected, rel=1e-5)


def test_teachers_are_not_run_where_their_cells_recorded_what_a_loss_reads(fitted):
    """Maps of features are not recorded, nor what is answered to mixed examples."""
    run = [name for name in fitted["asked"] if name not in fitted["read"]]
    assert set(run) == {"hint", "attention", "vid", "nst", "ofd", "similarity", "function_matching"}
    assert set(fitted["recorded"]) == {name for name, arm in ARMS.items() if arm.group == methods.TEACHERS}


@pytest.mark.parametrize("name", ["kd", pytest.param("crd", marks=pytest.mark.slow)])
def test_students_of_recorded_answers_are_those_of_the_teacher(name, tmp_path, monkeypatch):
    """130 series, in batches of 64, 64 and 2.

    They are shuffled, so on some processors live answers are recorded but for their last bits.
    """
    x = np.random.default_rng(0).normal(size=(130, 40, 1)).astype("float32")
    split, file = (x, np.arange(130) % 10), tmp_path / "model.keras"
    run = studies.Run(
        seed=SEED, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=True, _files={}
    )
    keras.utils.set_random_seed(SEED)
    methods.teacher(run).save(file)
    needing = dataclasses.replace(run, _files={"teacher": file})

    def student():
        keras.utils.set_random_seed(SEED)
        return ARMS[name].function(needing).get_weights()

    with monkeypatch.context() as patch:
        patch.setattr(methods, "recorded_answers", studies.Run.model)
        live = student()
    monkeypatch.setattr(studies.Run, "model", None)
    recorded = student()
    fresh = small(methods.STUDENT).get_weights()
    moved = max(np.abs(one - other).max() for one, other in zip(live, fresh, strict=True))
    assert moved > 1e-3
    for one, other in zip(live, recorded, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3 * moved)


def test_every_method_tries_three_settings_and_is_compared_with_the_student_alone():
    compared = [name for name, arm in ARMS.items() if arm.group != methods.TEACHERS and name != "alone"]
    assert methods.study.design.comparisons == [("alone", name) for name in compared]
    assert methods.study.design.primary == [
        ("alone", name) for name in ("kd", "similarity", "three_teachers")
    ]
    default = methods.study.design.only(None)
    assert set(default.arms) == {"teacher", "teacher_2", "teacher_3", "alone", "smoothing", *methods.PRIMARY}
    assert {len(ARMS[name].trials) for name in ("alone", *compared) if name != "ensemble"} == {3}
    for name in compared:
        arm = ARMS[name]
        assert all(arm.settings[setting] in values for setting, values in arm.tune.items()), name


@pytest.mark.slow
def test_a_smoke_run_of_several_generations(here, tmp_path):
    found = methods.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=["kd", "mutual", "crd", "ensemble", "alone"],
        data={"dataset": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    folders = {
        name: next(tmp_path.glob(f"methods-digits-smoke/cells/{name}-seed0-*"))
        for name in ("ensemble", "generation_1", "generation_2", "born_again")
    }
    x = np.random.default_rng(0).uniform(size=(20, 8, 8, 1)).astype("float32")
    together, *members = (
        keras.models.load_model(folder / "model.keras").predict(x, verbose=0) for folder in folders.values()
    )
    softmax = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in members]
    np.testing.assert_allclose(together, np.mean(softmax, axis=0), rtol=1e-4, atol=1e-6)
    assert found.primary == (("alone", "kd"),)
    assert found.arm("ensemble").cells[0].epochs == 0

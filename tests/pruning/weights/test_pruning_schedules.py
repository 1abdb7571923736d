"""Schedules: tfmot's, which are imported on use, and functions of the step."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend import BACKEND
from pruned_nets import compiled, zeros_of

from distill import pruning
from distill.pruning import GradualPruning, NofM
from distill.pruning.weights._schedules import Timetable, tfmot_schedule

if BACKEND != "tensorflow":
    pytest.skip("tfmot is TensorFlow", allow_module_level=True)

ROOT = Path(__file__).parents[3]


def test_tfmots_schedules(batch):
    polynomial, constant = pruning.PolynomialDecay, pruning.ConstantSparsity
    model, callback = compiled(), GradualPruning(polynomial(0.1, 0.75, 1, 13, power=3, frequency=4))
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    rises = {step: 0.75 + (0.1 - 0.75) * (1 - (step - 1) / 12) ** 3 for step in (1, 5, 9, 13)}
    assert [step for step, _ in callback.updates] == list(rises)
    found = [values["hidden/kernel"] for _, values in callback.updates]
    np.testing.assert_allclose(found, [round(48 * s) / 48 for s in rises.values()], rtol=1e-12)
    model, callback = compiled(), GradualPruning(constant(0.5, 0, frequency=6))
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.updates] == [6, 12]
    assert zeros_of(model) == [24, 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda polynomial, constant: polynomial(0.0, 0.8, 0, 950, frequency=100),
        lambda polynomial, constant: polynomial(0.0, 0.8, 0, 0, frequency=100),
        lambda polynomial, constant: polynomial(0.0, 0.8, 5, 100, frequency=100),
        lambda polynomial, constant: constant(0.8, 0, end_step=50, frequency=100),
    ],
)
def test_a_schedule_that_never_reaches_its_target_is_refused(make):
    with pytest.raises(ValueError, match="which never reaches its final sparsity"):
        GradualPruning(make(pruning.PolynomialDecay, pruning.ConstantSparsity))


def test_a_training_that_ends_too_early_says_so(batch):
    polynomial = pruning.PolynomialDecay
    with pytest.warns(UserWarning, match="Pruning ends at step 20, but this training ends by step 5"):
        compiled().fit(
            *batch,
            batch_size=8,
            verbose=0,
            callbacks=[GradualPruning(polynomial(0.0, 0.8, 0, 20, frequency=2))],
        )


def test_each_step_is_looked_at_once(batch):
    asked = []

    def schedule(step):
        asked.append(step)
        return step == 2, 0.5

    compiled().fit(*batch, batch_size=8, epochs=4, verbose=0, callbacks=[GradualPruning(schedule)])
    assert sorted(set(asked)) == list(range(1, 21))
    assert len(asked) <= 21


def test_a_schedule_that_is_none_and_one_that_contradicts_its_pattern():
    with pytest.raises(TypeError, match="schedule must be a function of the step. Received: schedule=0.8"):
        GradualPruning(0.8)
    with pytest.raises(ValueError, match="sets the sparsity to 0.5, so the schedule must have the same"):
        GradualPruning(pruning.PolynomialDecay(0.0, 0.8, 0, 10, frequency=1), pattern=NofM(2, 4))
    with pytest.raises(TypeError, match="Only a Keras 3 model or layer has kernels to prune"):
        pruning.prune(None, 0.5)


def test_tfmots_final_sparsity_is_taken_exactly():
    third = pruning.ConstantSparsity(1 / 3, 1)
    timetable = Timetable(third)
    assert timetable.due(0, 1) == 1 / 3


def test_constant_sparsity_within_its_steps_and_at_its_frequency():
    constant = tfmot_schedule("ConstantSparsity")
    due = {
        step: bool(constant(0.5, 100, 200, 10)(step)[0]) for step in (90, 99, 100, 109, 110, 111, 200, 210)
    }
    assert [step for step, is_due in due.items() if is_due] == [100, 110, 200]
    forever = constant(0.5, 0, -1, 10)
    assert [(bool(due), float(share)) for due, share in map(forever, (10**4, 10**8))] == [(True, 0.5)] * 2


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("ConstantSparsity", (0.5, -1, 1000)),
        ("ConstantSparsity", (0.5, 10, -5)),
        ("ConstantSparsity", (0.5, 10, 5)),
        ("ConstantSparsity", (0.5, 10, 1000, 0)),
        ("ConstantSparsity", (1.0, 0)),
        ("ConstantSparsity", (-0.001, 0)),
        ("PolynomialDecay", (0.4, 0.8, 10, -1)),
        ("PolynomialDecay", (0.2, 1.0, 0, 10)),
    ],
)
def test_schedules_refuse(name, numbers):
    with pytest.raises(ValueError, match="should|must|can"):
        tfmot_schedule(name)(*numbers)


def test_schedules_have_two_names():
    with pytest.raises(AttributeError, match="tfmot's schedules are PolynomialDecay and ConstantSparsity"):
        tfmot_schedule("PruningSchedule")


IMPORT = """
import os, sys
import distill
before = dict(os.environ)
from distill.pruning.weights._schedules import tfmot_schedule
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow_model_optimization", "tf_keras")]
assert not loaded, loaded
schedule = tfmot_schedule("PolynomialDecay")(0.0, 0.8, 0, 1000)
assert "tensorflow_model_optimization" in sys.modules
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
import keras, tensorflow as tf
assert tf.keras.__version__ == keras.__version__, tf.keras.__version__
assert tf.keras.Model is keras.Model
assert tfmot_schedule("PolynomialDecay") is type(schedule)
"""


@pytest.mark.slow
def test_tfmot_is_imported_on_use_and_leaves_no_trace():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert done.returncode == 0, done.stderr

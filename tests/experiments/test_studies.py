"""All studies: finished run directories stay valid, and a worker sees the same classes as its parent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from experiments.compare.config import Compare

from experiments.batch_size import study as batch_size
from experiments.batch_size.config import BatchSize
from experiments.compare import study as compare
from experiments.hinton_mnist import study as hinton_mnist
from experiments.hinton_mnist.config import Hinton
from experiments.methods import study as methods
from experiments.methods.config import Methods

ROOT = Path(__file__).parents[2]


def cells_of_compare():
    options = Compare()
    teacher = compare.teacher_cell(options, 0)
    students = [compare.student_cell(options, arm, 0) for arm in compare.student_arms(options)]
    return [teacher, compare.deep_cell(options, 0), *students, compare.int8_cell(teacher)]


def cells_of_batch_size():
    options = BatchSize()
    wanted = (("alone", "constant", 64), ("distilled", "scaled", 1024), ("alone", "constant", 8))
    arms = [batch_size.student_arm(options, *one) for one in wanted]
    return [batch_size.teacher_cell(options, 0), *(batch_size.student_cell(options, arm, 0) for arm in arms)]


def cells_of_hinton_mnist():
    options = Hinton()
    arms = hinton_mnist.student_arms(options)
    return [
        hinton_mnist.teacher_cell(options, 0),
        *(hinton_mnist.student_cell(options, arm, 1) for arm in arms),
    ]


def cells_of_methods():
    options = Methods()
    names = ("alone", "kd", "three-teachers", "assistant", "born-again")
    chosen = {method.name: method for method in methods.METHODS}
    students = [
        methods.student_cell(
            options, "mnist5k", chosen[name], setting=chosen[name].trials[1], seed=0, lenders=range(5)
        )
        for name in names
    ]
    return [methods.teacher_cell(options, "mnist1d", 0), *students, methods.ensemble_cell(students[-1])]


# Names from commit af0e9a4, before studies became folders. Whoever has such directories need not train again.
NAMES = {
    cells_of_compare: [
        "teacher-seed0-e50fcb4d",
        "deep-seed0-d492d536",
        "alone-seed0-bcd0b298",
        "smoothing-seed0-7446648e",
        "distilled-seed0-cea19a48",
        "pruned-seed0-b0d6b8c1",
        "channels-seed0-13a8d7b1",
        "layers-seed0-6413e43b",
        "few-alone-seed0-b0ec2bf2",
        "few-hard-seed0-3c3c8982",
        "few-soft-seed0-53ee5d34",
        "teacher-int8-seed0-65f4f07c",
    ],
    cells_of_batch_size: [
        "teacher-seed0-e50fcb4d",
        "alone-64-seed0-bcd0b298",
        "distilled-1024-scaled-seed0-5af33825",
        "alone-8-constant-seed0-ce609f54",
    ],
    cells_of_hinton_mnist: [
        "teacher-seed0-d1a7d60d",
        "alone-seed1-7387a2cf",
        "distilled-seed1-f2e61033",
        "omitted-distilled-seed1-7547191a",
        "omitted-alone-seed1-a8bcb3ba",
    ],
    cells_of_methods: [
        "mnist1d-teacher-seed0-2e111a3f",
        "mnist5k-alone-seed0-1ca4ec8c",
        "mnist5k-kd-seed0-9bc4b95b",
        "mnist5k-three-teachers-seed0-dc46bdd2",
        "mnist5k-assistant-seed0-f2e72ca1",
        "mnist5k-born-again-seed0-f64220ce",
        "mnist5k-ensemble-seed0-5c2513ab",
    ],
}


@pytest.mark.parametrize(("made", "names"), NAMES.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_finished_run_directories_stay_valid(made, names):
    assert [cell.name for cell in made()] == names


@pytest.mark.slow
def test_a_worker_sees_the_class_of_config_that_its_parent_sees(tmp_path):
    """Under `python -m`, a class that is defined in the main module would be another class in the worker."""
    studies = ("batch_size", "methods")  # the others are made in the same way
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.seen_by_a_worker", str(tmp_path), *studies],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    config = {study: f"experiments.{study}.config" for study in studies}
    config["batch_size"] = "experiments.compare.config"  # its cells are trained as those of compare
    assert done.stdout.splitlines() == [f"{study} True {config[study]}" for study in studies]

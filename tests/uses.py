"""What a user does with distill and with each extra, in an empty folder: python uses.py EXTRA...

Those extras must be enough for what they bring, and the error of what others bring must name the extra to install.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import distill
from distill import cache, command, cost, pruning

x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
y = (x[:, 0] > 0).astype("int64")


def net(width):
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(width, "relu")(inputs)))


def core():
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("adam", loss=loss, metrics=["accuracy"])
    distiller.fit(x, y, epochs=1, verbose=0)
    distiller.save("student.keras")
    teacher.save("teacher.keras")
    np.savez("test.npz", x=x, y=y)
    assert distill.load_model("student.keras").count_params() == student.count_params()
    distill.export(student, "saved")
    assert pruning.prune_channels(teacher, 0.5, verify=True).count_params() < teacher.count_params()
    assert command.main(["inspect", "student.keras"]) == 0
    assert command.main(["inspect", "saved"]) == 0


def litert_export():
    distill.export(student, "student.tflite")
    assert command.main(["inspect", "student.tflite", "--latency"]) == 0


def litert_latency():
    cost.latency(student, runs=2)


def onnx():
    distill.export(student, "student.onnx")
    assert command.main(["inspect", "student.onnx", "--latency"]) == 0


def tfmot():
    assert pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)


def data():
    from distill import data

    for name in ("digits", "mnist1d", "mnist5k"):
        assert data.load(name, data_dir="data").num_classes == 10


def text():
    from distill import data

    assert len(data.load_text("kjv").train) > 3_000_000


def studies():
    from distill import studies

    test = (x, y)
    assert (
        studies.compare_models({"teacher": teacher, "student": student}, test, resamples=100).examples == 64
    )


def ray():
    from distill import studies

    with studies.Ray().workers(Path(".")) as cluster:
        assert cluster.submit(sum, [1, 2]).result() == 3
    numbers = np.arange(6.0).reshape(3, 2)
    answers = cache.record_on_ray(lambda: (np.negative, numbers), "on_ray", workers=1)
    np.testing.assert_array_equal(answers.look_up([2, 0])["output"], [[-4, -5], [0, -1]])


def plot():
    cost.profile(student).plot()


def tracking():
    from distill.tracking import Tracker

    with Tracker("run", wandb="offline", tensorboard=True) as tracker:
        tracker.log({"loss": 1.0}, step=0)


def error_of(use):
    """The error that says that something must be installed, or nothing."""
    try:
        use()
    except ImportError as error:
        return str(error)
    return ""


LITERT = (litert_export, litert_latency)
EXPERIMENTS = (data, studies, plot, tracking, tfmot, *LITERT)
BROUGHT = {
    "experiments": EXPERIMENTS,
    "litert": LITERT,
    "onnx": (onnx,),
    "ray": (*EXPERIMENTS, ray),
    "text": (*EXPERIMENTS, text),
    "tfmot": (tfmot,),
}
ALWAYS = {tracking}  # what is missing is left out there, and reported

if __name__ == "__main__":
    teacher, student = net(8), net(4)
    core()
    there = ALWAYS.union(*(BROUGHT[extra] for extra in sys.argv[1:]))
    for use in {use: None for uses in BROUGHT.values() for use in uses}:
        error = error_of(use)
        missing = BROUGHT.keys() - set(sys.argv[1:])
        named = [extra for extra in missing if error.endswith(f'pip install "distill[{extra}]"')]
        assert bool(named) == (use not in there), f"{use.__name__}: {error}"
        assert named or not error, f"{use.__name__}: {error}"
    print("used")

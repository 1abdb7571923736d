"""Tiny models and data for all tests; every test starts from the same seed."""

import collections
import contextlib
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The suite tests values on the CPU, wherever it runs.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
# Tests run in two processes on two cores: more threads, of these or of what they start, only wait for one another.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import pytest
import tensorflow as tf

LONG = {
    "test_multiworker",
    "test_pages",
    "test_compare_study",
    "test_replicas",
    "test_study",
    "test_study_examples",
    "test_examples",
}
CLASSES = 3
FEATURES = 6


@pytest.hookimpl(tryfirst=True)  # before cases are chosen by their marks
def pytest_collection_modifyitems(items):
    """Files with long tests come first, so that no process is left with one at the end; sweeps are made short."""
    items.sort(key=lambda item: item.path.stem not in LONG)
    cases = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep") is not None:
            cases[item.path, item.originalname].append(item)
    for found in cases.values():
        (kept,) = found[0].get_closest_marker("sweep").args
        always = evenly(len(found), kept)
        for i, item in enumerate(found):
            if i not in always:
                item.add_marker(pytest.mark.slow)


def evenly(count, kept):
    """So many of the numbers below count, the first and the last among them."""
    return {round(i * (count - 1) / max(kept - 1, 1)) for i in range(kept)}


def pytest_collection_finish():
    """What imports have made is there for good: no collection of garbage need walk over it again."""
    gc.collect()
    gc.freeze()
    # Traced functions are made of many small objects, few of them garbage. clear_session collects it after each file.
    gc.set_threshold(200_000, 50, 1000)


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(7)


@pytest.fixture(autouse=True, scope="session")
def _untuned_iterators():
    """Iterators of tf.data end at once: with autotune, each waits up to 0.1 s for a thread that tunes it."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    begin = tf.data.Dataset.__iter__

    def begin_untuned(dataset):
        options = tf.data.Options()
        options.autotune.enabled = False
        return begin(dataset.with_options(options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "__iter__", begin_untuned)
        yield


@pytest.fixture(autouse=True, scope="module")
def _cleared():
    yield
    keras.backend.clear_session()  # after each file: it takes longer than most tests
    gc.freeze()  # what is left is there for good too; Keras' next collections would walk over ever more of it


def dense_net(width, *, activation="softmax", name=None, batch_norm=False, classes=CLASSES):
    """6 features -> width -> classes; layers are named hidden and head."""
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(width, activation="relu", name="hidden")(inputs)
    if batch_norm:
        x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation, name="head")(x), name=name)


@pytest.fixture
def teacher():
    return dense_net(16, name="teacher")


@pytest.fixture
def student():
    return dense_net(4, name="student")


@pytest.fixture
def batch():
    """40 examples (x, y) that a linear model can learn."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, FEATURES)).astype("float32")
    y = (x[:, 0] > 0).astype("int64") + (x[:, 1] > 0)
    return x, y


@pytest.fixture
def products():
    """Counts the multiply-adds of a model: those with weights, those of two activations."""
    from distill import cost

    def count(model):
        found = cost.calls_of(model).products
        assert cost.macs(model) == found.weights + found.activations
        return tuple(found)

    return count


@pytest.fixture
def here(monkeypatch):
    """Cells of studies run in this process, as in a notebook: a process of their own takes seconds to start."""
    from distill.studies import _execution, _pools

    here = contextlib.nullcontext(_pools.InThisProcess())
    monkeypatch.setattr(_execution, "pool_of", lambda *_, **__: here)


@pytest.fixture
def bare(monkeypatch):
    """Studies train and judge, but write neither LiteRT files nor a report, which take longer than tiny cells."""
    from distill.studies import _execution

    monkeypatch.setattr(_execution, "_shipped", lambda *_: ({}, {}, []))
    monkeypatch.setattr(_execution.report, "write", lambda _: None)


@pytest.fixture
def deterministic():
    """TensorFlow's operations give the same bits each time, for one test."""
    from tensorflow.python.framework import config  # only here it can be switched off

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()

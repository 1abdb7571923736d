"""Every way to feed and run a training step gives the loss, and the student, that numpy expects."""

import keras
import numpy as np
import pytest
from backend import BACKEND, only_on
from conftest import dense_net
from distilling import CE, assert_logs, compiled, expected_loss, twin
from keras import layers

from distill import Distiller, SoftTargets

WEIGHTS = np.random.default_rng(0).uniform(size=40).astype("float32")


class Batches(keras.utils.PyDataset):
    """Sixteen examples at a time; the last batch has eight."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = tuple(array[16 * index : 16 * (index + 1)] for array in self.arrays)
        return part if len(part) > 1 else part[0]


def as_data(kind, *arrays):
    """What `fit` takes, in batches of 16, 16 and 8."""
    if kind == "PyDataset":
        return (Batches(*arrays),), {}
    if kind == "generator":
        batches = Batches(*arrays)
        endless = (batches[i % 3] if len(arrays) > 1 else (batches[i % 3],) for i in range(10**6))
        return (endless,), {"steps_per_epoch": 3}
    if kind == "tf.data":
        import tensorflow as tf

        arrays = arrays if len(arrays) > 1 else arrays[0]
        return (tf.data.Dataset.from_tensor_slices(arrays).batch(16),), {}
    x, *rest = arrays
    labels = {"y": rest[0]} if rest else {}
    return (x,), {**labels, **({"sample_weight": rest[1]} if len(rest) > 1 else {}), "batch_size": 16}


def history_of(distiller, data, epochs=1):
    arguments, kwargs = data
    history = distiller.fit(*arguments, **kwargs, epochs=epochs, verbose=0, shuffle=False).history
    return {key: values[0] for key, values in history.items()}


KINDS = pytest.mark.parametrize("kind", ["numpy", "tf.data", "PyDataset", "generator"])


@KINDS
@pytest.mark.parametrize("parts", ["x", "x y", "x y weight"])
@pytest.mark.sweep(2)
def test_every_source_of_data(teacher, student, batch, kind, parts):
    x, y = batch
    arrays = (x, y, WEIGHTS)[: len(parts.split())]
    labelled = len(arrays) > 1
    expected = expected_loss(
        student.get_weights(),
        teacher,
        x,
        y,
        w=0.1 if labelled else 0.0,
        sample_weight=WEIGHTS if len(arrays) > 2 else 1.0,
    )
    distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=None if labelled else 0.0)
    compiled(distiller, keras.optimizers.SGD(0.0), metrics=None, loss=CE if labelled else None)
    if not labelled:
        del expected["student_loss"]
    assert_logs(history_of(distiller, as_data(kind, *arrays)), expected)


def test_some_examples_have_labels(teacher, student, batch):
    """Examples without a label have weight 0: the student's loss leaves them out, distillation does not."""
    x, y = batch
    labelled = (np.arange(40) % 4 == 0).astype("float32")
    terms = expected_loss(student.get_weights(), teacher, x, y)
    weighted = expected_loss(student.get_weights(), teacher, x, y, sample_weight=labelled)
    feature = keras.distillation.FeatureDistillation("mse")
    distiller = Distiller(
        teacher,
        student,
        [SoftTargets(4.0), feature],
        distillation_loss_weights=[1.0, 0.0],
        weigh_distillation=False,
    )
    compiled(distiller, keras.optimizers.SGD(0.0))
    logs = history_of(distiller, as_data("numpy", x, np.where(labelled > 0, y, 0), labelled))
    assert_logs(
        logs,
        {
            "student_loss": weighted["student_loss"],
            "soft_targets": terms["soft_targets"],
            "loss": 0.5 * weighted["student_loss"] + 0.5 * terms["soft_targets"],
        },
    )


def test_class_weight_may_stay_with_the_students_loss(teacher, student, batch):
    x, y = batch
    terms = expected_loss(student.get_weights(), teacher, x, y)
    weighted = expected_loss(student.get_weights(), teacher, x, y, sample_weight=np.array([3.0, 0.0, 0.5])[y])
    distiller = Distiller(teacher, student, SoftTargets(4.0), weigh_distillation=False)
    compiled(distiller, keras.optimizers.SGD(0.0))
    history = distiller.fit(x, y, class_weight={0: 3.0, 1: 0.0, 2: 0.5}, verbose=0).history
    expected = {"student_loss": weighted["student_loss"], "soft_targets": terms["soft_targets"]}
    assert_logs({key: history[key][0] for key in expected}, expected)


def trained(teacher, start, data, optimizer=None, **kwargs):
    student = twin(start)
    distiller = compiled(
        Distiller(teacher, student, SoftTargets(4.0)), optimizer or keras.optimizers.Adam(0.01), **kwargs
    )
    logs = history_of(distiller, data, epochs=2)
    return student.get_weights(), logs


def assert_same_weights(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


@KINDS
@pytest.mark.sweep(1)
def test_every_source_of_data_trains_the_same_student(teacher, student, batch, kind):
    reference, _ = trained(teacher, student, as_data("numpy", *batch))
    assert_same_weights(trained(teacher, student, as_data(kind, *batch))[0], reference)


def test_gradient_accumulation_is_a_step_of_the_mean(teacher, student, batch):
    """Accumulating two batches of 20 gives the step of one batch of 40."""
    x, y = batch
    results = []
    for size, steps in ((40, None), (20, 2)):
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=steps)
        results.append(trained(teacher, student, ((x, y), {"batch_size": size}), optimizer)[0])
    assert_same_weights(*results)


def test_optimizer_ema(teacher, student, batch):
    """The student ends as the average of its weights after each step."""
    x, y = batch
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    averaged, _ = trained(teacher, student, ((x, y), {"batch_size": 20}), optimizer)
    plain = twin(student)
    distiller = compiled(Distiller(teacher, plain, SoftTargets(4.0)), keras.optimizers.SGD(0.1))
    average = None
    for _ in range(2):
        for part in (slice(0, 20), slice(20, 40)):
            distiller.train_on_batch(x[part], y[part])
            new = plain.get_weights()
            # Keras starts its average with the first step.
            average = new if average is None else [(a + b) / 2 for a, b in zip(average, new, strict=True)]
    assert_same_weights(averaged, average)


def test_on_batch_methods(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    expected = expected_loss(student.get_weights(), teacher, x, y)
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected)
    distiller.reset_metrics()  # as Keras does since 3.15
    tested = distiller.test_on_batch(x, y, return_dict=True)
    assert set(tested) == {"loss", "accuracy"}
    assert_logs(tested, {"loss": expected["student_loss"]})
    np.testing.assert_allclose(distiller.predict_on_batch(x), student.predict_on_batch(x))
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student.predict(x, verbose=0))


@pytest.mark.parametrize("kind", ["numpy", "tf.data", "PyDataset"])
@pytest.mark.sweep(1)
def test_validation_data_of_any_kind(teacher, student, batch, kind):
    x, y = batch
    (data, *_), kwargs = as_data(kind, x, y)
    validation = (x, y) if kind == "numpy" else data
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    history = distiller.fit(data, **kwargs, verbose=0, validation_data=validation, shuffle=False).history
    expected = student_loss = expected_loss(student.get_weights(), teacher, x, y)["student_loss"]
    assert_logs(
        {key: history[key][0] for key in ("val_loss", "student_loss")},
        {"val_loss": expected, "student_loss": student_loss},
    )


def test_statistics_move_once_a_step_and_not_in_evaluation(teacher, batch):
    x, y = batch
    student = dense_net(4, batch_norm=True)
    norm = student.get_layer("norm")
    kernel, bias = student.get_layer("hidden").get_weights()
    mean = np.maximum(x @ kernel + bias, 0).mean(axis=0)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    for step in range(1, 3):
        distiller.train_on_batch(x, y)
        moved = np.asarray(keras.ops.convert_to_numpy(norm.moving_mean))
        np.testing.assert_allclose(moved, mean * (1 - 0.99**step), rtol=1e-4, atol=1e-6)
    distiller.evaluate(x, y, verbose=0)
    distiller.predict(x, verbose=0)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm.moving_mean), moved)


@only_on("tensorflow", "jax", reason="Keras' torch trainer has no steps_per_execution")
def test_steps_per_execution_with_an_uneven_end(teacher, student, batch):
    reference, logs = trained(teacher, student, as_data("numpy", *batch))
    weights, grouped = trained(teacher, student, as_data("numpy", *batch), steps_per_execution=2)
    assert_same_weights(weights, reference)
    assert_logs(grouped, logs, rtol=1e-4)


class Statistic(layers.Layer):
    """Counts its calls with `training=True`."""

    def __init__(self):
        super().__init__()
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, inputs, training=None):
        if training:
            self.seen.assign_add(1.0)
        return inputs


def test_a_teacher_layer_without_a_training_argument_still_infers(student, batch):
    """`training=False` reaches inner layers even if the layers around them do not pass it on."""

    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Statistic()

        def call(self, inputs):
            return self.inner(inputs)

    inputs = keras.Input((6,))
    teacher = keras.Model(inputs, layers.Dense(3, activation="softmax")(Block()(inputs)))
    compiled(Distiller(teacher, student, SoftTargets(4.0))).fit(*batch, verbose=0)
    assert (
        float(
            teacher.layers[1].inner.seen.numpy()
            if BACKEND == "tensorflow"
            else teacher.layers[1].inner.seen.value
        )
        == 0
    )

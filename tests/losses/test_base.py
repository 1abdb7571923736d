"""The base class of all losses: names, and what a subclass must implement."""

import keras
import numpy as np
import pytest
from backend import as_numpy
from keras import ops

from distill import Hint, SoftTargets
from distill.losses import DistillationLoss


@pytest.mark.parametrize("name", [5, "", "a b", "a/b", "3d"])
def test_names_must_serve_in_logs(name):
    with pytest.raises(ValueError, match="key in the logs: it must start with a letter"):
        SoftTargets(4.0, name=name)


def test_base_class_asks_for_call():
    with pytest.raises(NotImplementedError, match="must implement call"):
        DistillationLoss(name="mine")(np.zeros((2, 2)), np.zeros((2, 2)))


def test_a_loss_of_ones_own_needs_no_constructor():
    @keras.saving.register_keras_serializable(package="tests")
    class AbsoluteDifference(DistillationLoss):
        same_shape = True

        def call(self, teacher, student):
            return ops.mean(ops.abs(student - teacher), axis=-1)

    loss = AbsoluteDifference()
    assert loss.name == "absolute_difference"
    assert (loss.head, loss.recipe, loss.needs_labels, loss.needs_ids) == (None, {}, False, False)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(AbsoluteDifference(name="a"))
    )
    assert again.name == "a"
    np.testing.assert_allclose(as_numpy(loss(np.zeros((2, 3)), np.ones((2, 3)))), 1.0)
    with pytest.raises(ValueError, match=r"AbsoluteDifference compares element by element.*the same shape"):
        loss(np.zeros((2, 3)), np.ones((2, 4)))


def test_a_loss_may_read_stages_of_several_shapes():
    class Stages(DistillationLoss):
        same_shape = True
        teacher_layer_name = student_layer_name = ("a", "b")

        def call(self, teacher, student):
            return sum(ops.mean(ops.square(s - t), axis=-1) for t, s in zip(teacher, student, strict=True))

    sides = [[value + np.zeros((2, 3)), value + np.zeros((2, 5))] for value in (0, 2)]
    np.testing.assert_allclose(as_numpy(Stages()(*sides)), 8.0)
    with pytest.raises(ValueError, match=r"the same shape\. Received: teacher \(2, 5\) and student \(2, 4\)"):
        Stages()(sides[0], [sides[1][0], np.zeros((2, 4))])


def test_a_reduced_value_is_refused():
    class Reduced(DistillationLoss):
        def call(self, teacher, student):
            return ops.mean(student - teacher)

    with pytest.raises(
        ValueError, match=r"one value per example.*Received: shape \(\) from Reduced for a batch of 2"
    ):
        Reduced()(np.zeros((2, 3)), np.ones((2, 3)))


def test_a_config_is_read_whatever_module_wrote_it():
    """Losses are registered, so that files written before a module moved still open."""
    saved = {
        "module": "distill.losses.logits",
        "class_name": "SoftTargets",
        "config": {"temperature": 3.0, "name": "soft"},
        "registered_name": "distill>SoftTargets",
    }
    loss = keras.saving.deserialize_keras_object(saved)
    assert (type(loss), loss.temperature, loss.name) == (SoftTargets, 3.0, "soft")


@pytest.mark.filterwarnings(
    "ignore:Layer 'reshape':UserWarning"
)  # that it destroys its mask, as it shall here
def test_the_mask_is_that_of_the_first_layer_that_has_one():
    """Whatever the order in which layers are listed."""
    inputs = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(10, 8, mask_zero=True)(inputs)
    without = keras.layers.Reshape((6, 8))(embedded)
    model = keras.Model(inputs, [without, keras.layers.LSTM(8, return_sequences=True)(embedded)])
    student = model(np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0]]))
    rng = np.random.default_rng(0)
    teacher = [rng.normal(size=(2, 6, 8)).astype("float32") for _ in range(2)]

    def hint(order):
        projectors = [keras.layers.Identity(), keras.layers.Identity()]
        loss = Hint(("a", "b"), ("a", "b"), projector=projectors)
        return float(loss([teacher[i] for i in order], [student[i] for i in order]))

    kept = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
    rows = [np.square(np.asarray(a) - b).mean(-1)[kept].mean() for a, b in zip(student, teacher, strict=True)]
    assert hint((0, 1)) == pytest.approx(hint((1, 0)), rel=1e-6)
    assert hint((0, 1)) == pytest.approx(np.sum(rows), rel=1e-5)

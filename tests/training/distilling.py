"""What the tests of the Distiller share: small models, and its loss in float64 numpy."""

import keras
import numpy as np
import pytest
import reference
from conftest import dense_net
from keras import layers, ops

from distill.losses import DistillationLoss

CE = "sparse_categorical_crossentropy"
LOGIT_CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# Keras warns, rightly, of a head that nothing trains.
one_head_idle = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")


def compiled(distiller, optimizer=None, **kwargs):
    """The Distiller, compiled with SGD of rate 0.1, cross-entropy and accuracy unless told otherwise."""
    kwargs = {"loss": CE, "metrics": ["accuracy"], **kwargs}
    distiller.compile(optimizer or keras.optimizers.SGD(0.1), **kwargs)
    return distiller


def twin(model):
    """A copy with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def array(tensor):
    """A tensor in float64."""
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def outputs_of(model, x):
    """What a model of one output returns, in float64."""
    return array(model(x))


def soft(teacher, student, temperature=4.0):
    """The oracle on the log-probabilities that two models return; log softmax is as good as any logits."""
    rows = [np.log(array(side)) for side in (teacher, student)]
    values = reference.soft_targets(*(side.reshape(-1, side.shape[-1]) for side in rows), temperature)
    return values.reshape(rows[0].shape[:-1])


def nets(*widths, activation=None, **kwargs):
    """`dense_net`s named net0, net1, …"""
    return [
        dense_net(width, name=f"net{i}", activation=activation, **kwargs) for i, width in enumerate(widths)
    ]


def forward(weights, x):
    """`dense_net`'s logits in float64."""
    hidden, hidden_bias, head, head_bias = (np.asarray(w, "float64") for w in weights)
    return np.maximum(x.astype("float64") @ hidden + hidden_bias, 0) @ head + head_bias


def expected_loss(weights, teacher, x, y, *, temperature=4.0, w=0.1, d=None, sample_weight=1.0):
    """The logs of a step with `SoftTargets(temperature)`: w · student loss + d · distillation, with d = 1 − w if None.

    By default w and d are the published weights of `SoftTargets`.
    """
    student_logits, teacher_logits = forward(weights, x), forward(teacher.get_weights(), x)
    cross_entropy = reference.cross_entropy([reference.softmax(row) for row in student_logits], y)
    softened = reference.soft_targets(teacher_logits, student_logits, temperature)
    d = 1 - w if d is None else d
    return {
        "loss": float(np.mean(sample_weight * (w * cross_entropy + d * softened))),
        "student_loss": float(np.mean(sample_weight * cross_entropy)),
        "soft_targets": float(np.mean(sample_weight * softened)),
    }


def assert_logs(logs, expected, **tolerance):
    """Compares the logs that are expected; others may be there too."""
    for key, value in expected.items():
        np.testing.assert_allclose(logs[key], value, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}, err_msg=key)


class Calls(layers.Layer):
    """Counts its calls in a variable, so that calls in compiled steps count too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        self.count.assign_add(1.0)
        return inputs


def counting_net(width, name):
    """6 features -> width -> 3 classes, with a layer "calls" that counts its calls."""
    inputs = keras.Input((6,))
    x = layers.Dense(width, activation="relu", name="hidden")(Calls(name="calls")(inputs))
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name=name)


class FeatureMSE(DistillationLoss):
    """The plainest loss on layers: mean squared difference of two layers of one width."""

    def __init__(self, teacher_layer_name, student_layer_name, name="feature_mse"):
        super().__init__(name=name)
        self.teacher_layer_name, self.student_layer_name = teacher_layer_name, student_layer_name

    def call(self, teacher, student):
        return ops.mean(ops.reshape(ops.square(student - teacher), (ops.shape(student)[0], -1)), axis=-1)

"""What a Distiller is given is checked before any work."""

import keras
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

from distill import BernoulliSoftTargets, Distiller, SoftTargets


class Unbuilt(keras.Model):
    def call(self, inputs):
        return inputs


def shared_hidden():
    one = dense_net(4)
    inputs = keras.Input((6,))
    return one, keras.Model(inputs, layers.Dense(3, activation="softmax")(one.get_layer("hidden")(inputs)))


def same():
    model = dense_net(4)
    return model, model


WRONG = {
    "other class counts": (
        lambda: (dense_net(16, classes=5), dense_net(4)),
        {},
        r"teacher \(None, 5\) and student \(None, 3\)",
    ),
    "one object": (same, {}, "must be two models"),
    "shared variables": (shared_hidden, {}, "must not share variables.*2 shared"),
    "teacher unbuilt": (lambda: (Unbuilt(name="raw"), dense_net(4)), {}, "'raw' without weights"),
    "teacher unbuilt sequential": (
        lambda: (keras.Sequential([layers.Dense(3)]), dense_net(4)),
        {},
        "without weights",
    ),
    "teacher no model": (lambda: ("teacher", dense_net(4)), {}, "A teacher must be a trained keras.Model"),
    "student no model": (lambda: (dense_net(16), "student"), {}, "student must be a keras.Model"),
    "no loss": (None, {"distillation_losses": None}, "at least one distillation loss"),
    "empty losses": (None, {"distillation_losses": []}, "at least one distillation loss"),
    "a name for a loss": (None, {"distillation_losses": "kl_divergence"}, "Received: 'kl_divergence'"),
    "a plain Keras loss": (
        None,
        {"distillation_losses": keras.losses.KLDivergence()},
        r"goes to compile\(loss",
    ),
    "taken name": (None, {"distillation_losses": SoftTargets(1.0, name="loss")}, "taken in the logs"),
    "mixed heads": (
        None,
        {"distillation_losses": [SoftTargets(), BernoulliSoftTargets()]},
        "either softmax or sigmoid",
    ),
    "too many weights": (None, {"distillation_loss_weights": [1.0, 2.0]}, "for 1 distillation loss"),
    "negative weight": (None, {"distillation_loss_weights": -1.0}, "soft_targets_weight must be"),
    "student weight above 1": (
        None,
        {"student_loss_weight": 1.5},
        "student_loss_weight must be a number from 0 to 1",
    ),
    "student weight below 0": (None, {"student_loss_weight": -0.1}, "student_loss_weight must be"),
    "student weight nan": (None, {"student_loss_weight": float("nan")}, "student_loss_weight must be"),
    "student weight text": (None, {"student_loss_weight": "0.5"}, "student_loss_weight must be"),
    "distillation weight negative": (None, {"distillation_weight": -2}, "distillation_weight must be"),
    "from_logits number": (None, {"from_logits": (1, None)}, "from_logits must be None, True or False"),
    "from_logits text": (None, {"from_logits": "yes"}, "from_logits must be None, True or False"),
    "sigmoid head": (
        lambda: (dense_net(16, activation="sigmoid"), dense_net(4)),
        {},
        "needs a softmax head.*ends in sigmoid",
    ),
    "relu head": (
        lambda: (dense_net(16), dense_net(4, activation="relu")),
        {},
        "must know where the model computes them",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_training(case):
    models, kwargs, message = WRONG[case]
    teacher, student = models() if models else (dense_net(16), dense_net(4))
    kwargs = {"distillation_losses": SoftTargets(4.0), **kwargs}
    with pytest.raises(ValueError, match=message):
        Distiller(teacher, student, **kwargs)


def test_a_class_in_place_of_a_loss(teacher, student):
    with pytest.raises(ValueError, match=r"Call it: SoftTargets\(\)"):
        Distiller(teacher, student, SoftTargets)


def test_a_distiller_is_no_student(teacher, student):
    with pytest.raises(ValueError, match=r"Pass its \.student"):
        Distiller(dense_net(16), Distiller(teacher, student, SoftTargets()), SoftTargets())


def test_weights_as_an_array(teacher, student):
    distiller = Distiller(
        teacher, student, [SoftTargets(1.0), SoftTargets(2.0)], distillation_loss_weights=np.array([1.0, 2.0])
    )
    assert distiller.distillation_loss_weights == (1.0, 2.0)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("distillation", {"distillation_weight": 1.0}),
        ("teacher_0", {}),
        ("student_loss_weight", {}),
    ],
)
def test_a_loss_named_like_a_setting_is_refused(teacher, student, name, kwargs):
    with pytest.raises(ValueError, match=r"twice. Give the distillation loss"):
        Distiller(teacher, student, SoftTargets(name=name), **kwargs)


def test_unknown_outputs_in_from_logits_are_refused(teacher, student):
    with pytest.raises(ValueError, match=r"from_logits for \['headd'\]"):
        Distiller(teacher, student, SoftTargets(), from_logits={"headd": False})


class OwnMetrics(keras.Model):
    def compute_metrics(self, *args):
        return {"mine": 1.0}


def test_a_student_with_its_own_metrics_is_refused(teacher):
    with pytest.raises(ValueError, match="its own compute_metrics, which would not run"):
        Distiller(teacher, OwnMetrics(), SoftTargets())


def test_layers_that_share_variables_with_the_student_are_refused():
    student = dense_net(4)
    with pytest.raises(ValueError, match="must not share variables"):
        Distiller(student.get_layer("head"), student, SoftTargets(4.0), from_logits=True)


def test_what_both_have_adapted_to_is_no_harm():
    """Training leaves the mean and variance of a Normalization alone, so teacher and student may share one."""
    x = np.random.default_rng(0).normal(5, 3, (40, 6)).astype("float32")
    shared = layers.Normalization()
    shared.adapt(x)
    inputs = keras.Input((6,))
    teacher, student = (keras.Model(inputs, layers.Dense(3)(shared(inputs))) for _ in range(2))
    distiller = Distiller(teacher, student, SoftTargets(2.0), from_logits=True, student_loss_weight=0)
    distiller.compile("sgd")
    before = [np.array(variable) for variable in shared.variables]
    distiller.fit(x, batch_size=20, verbose=0)
    for variable, value in zip(shared.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    other = keras.Model(inputs, teacher.layers[-1](shared(inputs)))
    with pytest.raises(ValueError, match="among them .*dense.*set_weights"):
        Distiller(teacher, other, SoftTargets(2.0), from_logits=True)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_a_student_with_its_own_step_is_refused():
    with pytest.raises(ValueError, match="OwnStep with its own train_step, which would not run"):
        Distiller(dense_net(16), OwnStep(), SoftTargets(4.0))


def test_other_input_sizes_are_refused_without_it():
    inputs = keras.Input((8,))
    teacher = keras.Model(inputs, layers.Dense(3, activation="softmax")(inputs), name="wide")
    with pytest.raises(ValueError, match=r"'wide' with inputs of shape \(None, 8\).*teacher_preprocessing"):
        Distiller(teacher, dense_net(4), SoftTargets(4.0))
    with pytest.raises(ValueError, match="teacher_preprocessing must be a function of a batch"):
        Distiller(teacher, dense_net(4), SoftTargets(4.0), teacher_preprocessing=255.0)

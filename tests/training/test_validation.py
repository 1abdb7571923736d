"""Distillation losses on validation data: the values, when they are there, and that nothing else changes."""

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from backend import BACKEND, as_numpy, only_on
from conftest import dense_net
from distilling import CE, array, compiled, counting_net, soft
from keras import layers, ops

from distill import Distiller, Hint, MutualLearning, SoftTargets
from distill.losses import (
    ContrastiveRepresentation,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    LogitMSE,
    OutputMSE,
    VariationalInformation,
)
from distill.training import Identified

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(13, 6)).astype("float32"), RNG.integers(0, 3, 13)  # the last batch is smaller
WEIGHT = RNG.uniform(size=13).astype("float32")


def noisy_net(width, name=None):
    """With layers that do something else in training."""
    inputs = keras.Input((6,))
    x = layers.Dense(width, "relu", name="hidden")(inputs)
    x = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(x), name=name)
    model.get_layer("norm").moving_mean.assign(RNG.normal(size=width))
    return model


def report(distiller, *data, **options):
    found = distiller.evaluate(*data, batch_size=4, verbose=0, return_dict=True, **options)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.sweep(1)
def test_the_values_are_those_of_the_whole_data(labelled, weight):
    if weight is not None and not labelled:
        pytest.skip("Keras drops weights without labels")
    teacher, student = noisy_net(8), noisy_net(4)
    values = {"soft_targets": soft(teacher(X), student(X), 2.0)}
    values["mse"] = np.square(array(teacher(X)) - array(student(X))).mean(axis=-1)
    distiller = Distiller(
        teacher,
        student,
        [SoftTargets(2.0), OutputMSE(name="mse")],
        distillation_loss_weights=[2.0, 3.0],
        student_loss_weight=0.25,
        distillation_weight=0.5,
        validate_teacher=True,
    )
    compiled(distiller)
    alone = keras.models.clone_model(student)
    alone.set_weights(student.get_weights())
    alone.compile(loss=CE, metrics=["accuracy"])
    expected = {name: (value if weight is None else weight * value).mean() for name, value in values.items()}
    if labelled:
        own = alone.evaluate(X, Y, sample_weight=weight, batch_size=4, verbose=0, return_dict=True)
        expected |= {name: float(value) for name, value in own.items()}
        found = report(distiller, X, Y, sample_weight=weight)
    else:
        expected["loss"] = 0.5 * (2.0 * expected["soft_targets"] + 3.0 * expected["mse"])
        found = report(distiller, X)
    assert found == pytest.approx(expected, rel=1e-5)


def test_weights_may_be_for_the_students_own_loss_alone(teacher, student):
    distiller = compiled(
        Distiller(teacher, student, SoftTargets(4.0), weigh_distillation=False, validate_teacher=True)
    )
    found = report(distiller, X, Y, sample_weight=WEIGHT)
    assert found["soft_targets"] == pytest.approx(soft(teacher(X), student(X)).mean(), rel=1e-5)


def unlabelled(teacher, student, losses=None, **options):
    distiller = Distiller(teacher, student, losses or SoftTargets(4.0), student_loss_weight=0, **options)
    distiller.compile(keras.optimizers.Adam(0.01))
    return distiller


@pytest.mark.parametrize("kind", ["arrays", "split", "data set", "labels that are not used"])
@pytest.mark.sweep(1)
def test_validation_in_fit(kind, teacher, student):
    distiller = unlabelled(teacher, student)
    held = X[:5]
    options = {
        "arrays": {"validation_data": (held, None)},
        "split": {"validation_split": 0.4},
        "labels that are not used": {"validation_data": (held, Y[:5])},
    }.get(kind)
    if options is None:
        tf = pytest.importorskip("tensorflow")
        options = {"validation_data": tf.data.Dataset.from_tensor_slices((held,)).batch(2)}
    history = distiller.fit(X, batch_size=8, verbose=0, **options).history
    assert set(history) == {"loss", "soft_targets", "val_loss", "val_soft_targets"}
    held = X[int(len(X) * 0.6) :] if kind == "split" else held
    last = soft(teacher(held), student(held)).mean()
    assert history["val_soft_targets"][-1] == pytest.approx(last, rel=1e-5)
    assert history["val_loss"] == history["val_soft_targets"]


@pytest.mark.parametrize("monitor", ["val_soft_targets", "val_loss"])
@pytest.mark.sweep(1)
def test_early_stopping_watches_it(monitor, teacher, student):
    distiller = unlabelled(teacher, student)
    distiller.optimizer.learning_rate = 0.0  # nothing improves
    stop = keras.callbacks.EarlyStopping(monitor, patience=1)
    assert len(distiller.fit(X, validation_data=(X, None), epochs=5, verbose=0, callbacks=[stop]).epoch) == 2
    distiller.optimizer.learning_rate = 0.1  # lower is better
    stop = keras.callbacks.EarlyStopping(monitor, patience=0, min_delta=1e-6)
    assert len(distiller.fit(X, validation_data=(X, None), epochs=4, verbose=0, callbacks=[stop]).epoch) == 4


def test_evaluate_in_its_other_forms(teacher, student):
    distiller = unlabelled(teacher, student)
    expected = soft(teacher(X), student(X)).mean()
    assert list(map(float, distiller.evaluate(X, verbose=0))) == pytest.approx([expected] * 2, rel=1e-5)
    on_batch = distiller.test_on_batch(X, return_dict=True)
    assert {name: float(value) for name, value in on_batch.items()} == pytest.approx(
        {"loss": expected, "soft_targets": expected}, rel=1e-5
    )


def test_the_teacher_runs_only_where_it_is_asked_for(student):
    teacher = counting_net(4, "teacher")
    seen = teacher.get_layer("calls").count

    def calls(validate, *data, metrics=("accuracy",), loss=CE):
        distiller = Distiller(
            teacher, student, SoftTargets(4.0), student_loss_weight=0, validate_teacher=validate
        )
        distiller.compile("sgd", loss, metrics=list(metrics), run_eagerly=True)
        before = float(as_numpy(seen))
        names = set(distiller.evaluate(*data, verbose=0, return_dict=True))
        return float(as_numpy(seen)) - before > 0, names

    if BACKEND == "jax":  # whose teachers are constants of the step: the layer cannot count there
        pytest.skip("a teacher's variables do not change on JAX")
    assert calls(None, X, Y) == (False, {"loss", "accuracy"})
    assert calls(False, X, Y) == (False, {"loss", "accuracy"})
    assert calls(True, X, Y) == (True, {"loss", "accuracy", "soft_targets"})
    assert calls(None, X) == (True, {"loss", "soft_targets"})
    assert calls(None, X, Y, metrics=(), loss=None) == (True, {"loss", "soft_targets"})
    assert calls(None, X, Y, loss=None) == (False, {"accuracy"})
    assert calls(True, X, Y, loss=None) == (True, {"loss", "accuracy", "soft_targets"})
    for data, options in (((X,), {}), ((X, Y), {"metrics": (), "loss": None})):
        with pytest.raises(
            ValueError, match="Evaluation and validation report.*validate_teacher=True, to report"
        ):
            calls(False, *data, **options)


class Stateful(DistillationLoss):
    """A loss whose projector normalizes by the batch, in training."""

    teacher_layer_name = student_layer_name = "hidden"

    def build(self, teacher, student):
        self.norm = layers.BatchNormalization()
        self.norm.build(student.shape)
        self.layers = [self.norm]

    def call(self, teacher, student):
        return ops.mean(ops.square(self.norm(student) - teacher), axis=-1)


def test_looking_changes_nothing():
    teacher, student = noisy_net(4), noisy_net(4)
    losses = [
        Stateful(),
        Hint("hidden", "hidden", projector=layers.BatchNormalization()),
        VariationalInformation("hidden", "hidden"),
        CurriculumTemperature(4),
        SoftTargets(lambda step: 2.0 + step),
        ContrastiveRepresentation(Y, "hidden", "hidden", negatives=4, width=4),
    ]
    distiller = compiled(Distiller(teacher, student, losses, validate_teacher=True))
    distiller.fit(Identified(X, np.arange(13)), Y, batch_size=4, verbose=0)
    state = [(v, as_numpy(v)) for model in (distiller, teacher) for v in model.variables]
    kept = {id(v) for metric in distiller.metrics for v in metric.variables}
    found = report(distiller, Identified(X, np.arange(13)), Y)
    assert "contrastive_representation" not in found  # it remembers the training examples
    assert {"stateful", "hint", "variational_information", "curriculum_temperature"} < set(found)
    for variable, value in state:
        if id(variable) not in kept:
            np.testing.assert_array_equal(as_numpy(variable), value, err_msg=variable.path)
    hidden = [as_numpy(keras.Model(m.input, m.get_layer("hidden").output)(X)) for m in (teacher, student)]
    for loss in losses[:2]:  # by the means of training, not those of the batch
        expected = np.square(as_numpy(loss.layers[0](hidden[1], training=False)) - hidden[0]).mean()
        assert found[loss.name] == pytest.approx(expected, rel=1e-4)
    temperature = losses[4].temperature
    assert found["soft_targets"] == pytest.approx(soft(teacher(X), student(X), temperature).mean(), rel=1e-4)
    assert report(distiller, X, Y) == found  # ids are not needed


def test_before_training_a_schedule_is_at_its_first_step(teacher, student):
    distiller = unlabelled(teacher, student, SoftTargets(lambda step: 2.0 + step))
    assert report(distiller, X)["soft_targets"] == pytest.approx(
        soft(teacher(X), student(X), 2.0).mean(), rel=1e-5
    )


def test_labels_for_losses_that_need_them(teacher, student):
    distiller = compiled(Distiller(teacher, student, DecoupledKD(), validate_teacher=True))
    rows = [np.log(array(model(X))) for model in (teacher, student)]
    found = report(distiller, X, Y)["decoupled_kd"]
    assert found == pytest.approx(reference.decoupled(*rows, Y).mean(), rel=1e-4)
    with pytest.raises(ValueError, match="DecoupledKD needs the label of each example"):
        report(unlabelled(teacher, student, DecoupledKD()), X)


def test_one_output_of_several(teacher):
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, "relu")(inputs)
    outputs = {name: layers.Dense(3, "softmax", name=name)(hidden) for name in ("a", "b")}
    student = keras.Model(inputs, outputs)
    distiller = unlabelled(teacher, student, {"a": SoftTargets(4.0), "b": SoftTargets(1.0)})
    answers = student(X)
    expected = {
        "a_soft_targets": soft(teacher(X), answers["a"], 4.0).mean(),
        "b_soft_targets": soft(teacher(X), answers["b"], 1.0).mean(),
    }
    found = report(distiller, X)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_peers_and_several_teachers():
    nets = [dense_net(4, name=f"net{i}") for i in range(3)]
    peers = MutualLearning(nets[:2], student_loss_weight=0.0)
    peers.compile("sgd")
    found = report(peers, X)
    assert found["net0_soft_targets"] == pytest.approx(soft(nets[1](X), nets[0](X), 1.0).mean(), rel=1e-5)
    distiller = unlabelled(nets[:2], nets[2], teacher_weights=[0.3, 0.7])
    each = [soft(nets[i](X), nets[2](X)).mean() for i in range(2)]
    assert report(distiller, X)["loss"] == pytest.approx(0.3 * each[0] + 0.7 * each[1], rel=1e-5)


def test_a_teacher_that_changed_is_seen(teacher, student):
    distiller = unlabelled(teacher, student)
    report(distiller, X)
    teacher.set_weights([w + 1.0 for w in teacher.get_weights()])
    expected = soft(teacher(X), student(X)).mean()
    assert report(distiller, X)["soft_targets"] == pytest.approx(expected, rel=1e-5)


def test_several_steps_in_one_execution(teacher, student):
    distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0)
    distiller.compile("sgd", steps_per_execution=2, jit_compile=BACKEND == "jax")
    assert report(distiller, X)["soft_targets"] == pytest.approx(
        soft(teacher(X), student(X)).mean(), rel=1e-5
    )


def test_a_teachers_preprocessing(student):
    teacher = keras.Sequential([keras.Input((3,)), layers.Dense(3, "softmax")])
    distiller = unlabelled(teacher, student, teacher_preprocessing=lambda x: x[:, ::2])
    assert report(distiller, X)["soft_targets"] == pytest.approx(
        soft(teacher(X[:, ::2]), student(X)).mean(), rel=1e-5
    )


def test_what_cannot_be_validated_is_refused(teacher, student):
    with pytest.raises(ValueError, match="validate_teacher must be True, False or None. Received: .*'yes'"):
        Distiller(teacher, student, SoftTargets(), validate_teacher="yes")
    loss = ContrastiveRepresentation(Y, "hidden", "hidden", negatives=4, width=4)
    with pytest.raises(ValueError, match="has no value on validation data.*'ContrastiveRepresentation'"):
        Distiller(teacher, student, loss, validate_teacher=True)
    distiller = unlabelled(teacher, student, loss)
    with pytest.raises(ValueError, match="has no value on others. Received: .'contrastive_representation'"):
        report(distiller, X)


@only_on("tensorflow", reason="tf.distribute is TensorFlow's")
def test_replicas_share_the_batches(teacher):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        student = dense_net(4)
        distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0)
        distiller.compile("sgd")
    assert report(distiller, X)["soft_targets"] == pytest.approx(
        soft(teacher(X), student(X)).mean(), rel=1e-5
    )


def test_penalties_of_a_losss_layers_are_no_part_of_it(teacher, student):
    penalized = layers.Dense(16, kernel_regularizer="l2", activity_regularizer="l2")
    distiller = Distiller(teacher, student, Hint("hidden", "hidden", projector=penalized))
    compiled(distiller)
    distiller.fit(X, Y, verbose=0)
    student.compile(loss=CE, metrics=["accuracy"])
    own = student.evaluate(X, Y, batch_size=4, verbose=0, return_dict=True)
    assert report(distiller, X, Y) == pytest.approx(own, rel=1e-5)


def test_it_can_be_turned_on_and_off_later(teacher, student):
    distiller = compiled(Distiller(teacher, student, SoftTargets(2.0)))
    assert "soft_targets" not in report(distiller, X, Y)
    distiller.validate_teacher = True
    assert report(distiller, X, Y)["soft_targets"] == pytest.approx(
        soft(teacher(X), student(X), 2.0).mean(), rel=1e-5
    )
    distiller.validate_teacher = None
    assert "soft_targets" not in report(distiller, X, Y)
    with pytest.raises(ValueError, match="validate_teacher must be True, False or None"):
        distiller.validate_teacher = "yes"


def test_labels_may_come_after_evaluations_without_them(teacher, student):
    distiller = unlabelled(teacher, student, LogitMSE())
    distiller.compile("adam", metrics=["accuracy"])
    distiller.fit(X, validation_data=(X, None), verbose=0)
    right = np.mean(as_numpy(student(X)).argmax(axis=1) == Y)
    assert report(distiller, X, Y)["accuracy"] == pytest.approx(right)
    fresh = unlabelled(teacher, student, LogitMSE())
    fresh.compile("adam", metrics=["accuracy"])
    fresh.test_on_batch(X)
    assert fresh.test_on_batch(X, Y, return_dict=True)["accuracy"] == pytest.approx(right)


def test_inputs_with_ids_may_be_validated_without_labels(teacher, student):
    """They are a pair, which Keras would take for inputs and labels."""
    distiller = unlabelled(teacher, student, LogitMSE())
    distiller.compile("adam", metrics=["accuracy"])
    data = Identified(X, np.arange(len(X)))
    found = distiller.fit(data, validation_data=data, batch_size=4, verbose=0).history
    assert found.keys() == {"loss", "logit_mse", "val_loss", "val_logit_mse"}
    assert report(distiller, data)["logit_mse"] == pytest.approx(found["val_logit_mse"][0], rel=1e-5)


@only_on("tensorflow", reason="tf.data")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
def test_data_sets_of_inputs_with_ids_have_no_labels(teacher, student):
    distiller = unlabelled(teacher, student, LogitMSE())
    distiller.compile("adam", metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices(Identified(X, np.arange(len(X)))).batch(4)
    found = distiller.fit(data, validation_data=data, verbose=0).history
    assert found.keys() == {"loss", "logit_mse", "val_loss", "val_logit_mse"}
    assert distiller.evaluate(data, return_dict=True, verbose=0).keys() == {"loss", "logit_mse"}


def test_weights_of_an_evaluation_without_labels_are_refused(teacher, student):
    distiller = unlabelled(teacher, student, LogitMSE())
    distiller.compile("adam")
    for look in (
        lambda: distiller.evaluate(X, sample_weight=np.ones(len(X)), verbose=0),
        lambda: distiller.fit(X, validation_data=(X, None, np.ones(len(X))), verbose=0),
    ):
        with pytest.raises(ValueError, match="sample_weight needs labels"):
            look()


def test_the_loss_of_an_output_may_not_be_called_as_a_term(teacher):
    inputs = keras.Input((6,))
    outputs = {name: layers.Dense(3, "softmax", name=name)(inputs) for name in ("student", "other")}
    both = keras.Model(inputs, outputs)
    distiller = Distiller(both, keras.models.clone_model(both), {"student": SoftTargets()})
    distiller.compile("adam", dict.fromkeys(outputs, "sparse_categorical_crossentropy"))
    with pytest.raises(ValueError, match=r"Received: \['student_loss'\]"):
        distiller.fit(X, dict.fromkeys(outputs, Y), verbose=0)

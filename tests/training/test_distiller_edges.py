"""Habits and mistakes of Keras users that once went wrong in silence or deep inside Keras."""

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, FLOAT64, as_numpy, only_on, value_and_gradients
from conftest import dense_net
from distilling import CE, assert_logs, compiled, expected_loss, forward
from keras import layers

from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses import DistillationLoss, OutputMSE


@pytest.mark.parametrize("validation", ["unlabelled", "nothing compiled"])
def test_validation_that_has_nothing_to_report_is_refused(teacher, student, batch, validation):
    """Otherwise `val_loss` would be 0 for ever, and EarlyStopping would believe it."""
    x, y = batch
    distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0)
    distiller.compile("adam", metrics=["accuracy"] if validation == "unlabelled" else None)
    data = (x,) if validation == "unlabelled" else (x, y)
    with pytest.raises(
        ValueError, match="Evaluation and validation report the student's own loss and metrics"
    ):
        distiller.fit(x, verbose=0, validation_data=data)


def test_sample_weight_without_labels_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    with pytest.raises(ValueError, match="Keras drops it without"):
        distiller.fit(batch[0], sample_weight=np.ones(len(batch[0])), verbose=0)


def test_a_term_named_like_a_metric_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0, name="accuracy")))
    with pytest.raises(ValueError, match=r"\['accuracy'\], both a term of the loss and a compiled metric"):
        distiller.fit(*batch, verbose=0)


def test_weights_loaded_into_a_distiller_without_a_loss_are_noticed(teacher, student, batch, tmp_path):
    first = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.5))
    first.fit(*batch, verbose=0)
    first.save_weights(tmp_path / "a.weights.h5")
    second = Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0)
    second.compile(keras.optimizers.SGD(0.1))
    second.load_weights(tmp_path / "a.weights.h5")
    assert second.student_loss_weight == 0.5
    with pytest.raises(ValueError, match="needs the student's own loss"):
        second.fit(*batch, verbose=0)


def test_compiling_again_forgets_the_earlier_loss(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    distiller.compile("sgd")
    assert set(distiller.fit(*batch, verbose=0).history) == {"loss", "soft_targets"}


def test_losses_and_metrics_by_output_name(teacher, student, batch):
    x, y = batch
    expected = expected_loss(student.get_weights(), teacher, x, y)
    distiller = compiled(
        Distiller(teacher, student, SoftTargets(4.0)), loss={"head": CE}, metrics={"head": ["accuracy"]}
    )
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected)


@pytest.mark.parametrize("floatx", [FLOAT64, "float16"])
def test_other_float_types_train(batch, floatx):
    keras.config.set_floatx(floatx)
    try:
        teacher, student = dense_net(16), dense_net(4)
        expected = expected_loss(student.get_weights(), teacher, *batch)
        logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(
            *batch, return_dict=True
        )
    finally:
        keras.config.set_floatx("float32")
    assert_logs(logs, expected, rtol=1e-5 if floatx == "float64" else 1e-2)


def token_net(width):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(width)(layers.Embedding(9, width, mask_zero=True)(inputs))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 1, 2]], "int32")


@pytest.mark.parametrize("from_logits", [None, False])
def test_masked_tokens_do_not_count(from_logits):
    teacher, student = token_net(8), token_net(3)
    kept = TOKENS.ravel() != 0
    logits = [
        np.log(as_numpy(net(TOKENS)).astype("float64").reshape(-1, 4)[kept]) for net in (teacher, student)
    ]
    expected = reference.soft_targets(*logits, 4.0).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0), from_logits=from_logits)
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)


def test_losses_of_keras_distillation_with_masked_students():
    teacher, student = token_net(8), token_net(3)
    expected = np.mean((as_numpy(teacher(TOKENS)) - as_numpy(student(TOKENS))) ** 2)
    distiller = Distiller(teacher, student, keras.distillation.FeatureDistillation("mse"))
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"feature_distillation": expected})


def test_a_quantized_teacher_teaches(student, batch):
    teacher = dense_net(16)
    for name in ("hidden", "head"):  # the whole model would warn that its input layer has no int8 form
        teacher.get_layer(name).quantize("int8")
    logits = [np.log(as_numpy(net(batch[0])).astype("float64")) for net in (teacher, student)]
    expected = reference.soft_targets(*logits, 4.0)
    logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(*batch, return_dict=True)
    assert_logs(logs, {"soft_targets": expected.mean()}, rtol=1e-4)


class Outputs(keras.Model):
    def __init__(self, names):
        super().__init__()
        self.dense, self.names = layers.Dense(3), names

    def call(self, inputs):
        return {name: self.dense(inputs) for name in self.names}


def test_a_subclassed_model_with_several_outputs_is_refused_unless_named(batch):
    teacher, student = Outputs("ab"), dense_net(4)
    teacher(batch[0])
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), from_logits=(True, None)))
    with pytest.raises(ValueError, match=r"one output of the teacher.*2 outputs, \['a', 'b'\]"):
        distiller.fit(*batch, verbose=0)


def test_an_only_output_needs_no_name(batch):
    teacher, student = Outputs("a"), dense_net(4)
    expected = reference.soft_targets(
        as_numpy(teacher(batch[0])["a"]), np.log(as_numpy(student(batch[0]))), 4.0
    ).mean()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), from_logits=(True, None)))
    assert_logs(distiller.train_on_batch(*batch, return_dict=True), {"soft_targets": expected}, rtol=1e-4)


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


def test_compute_loss_by_hand(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.train_on_batch(x, y)  # Keras builds the compiled loss
    expected = expected_loss(student.get_weights(), teacher, x, y)["loss"]
    for y_pred in (distiller(x, training=True), None):
        np.testing.assert_allclose(as_numpy(distiller.compute_loss(x, y, y_pred)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="must be what the Distiller returns"):
        distiller.compute_loss(x, y, student(x))


def test_a_step_traced_without_labels_is_not_used_when_they_count_again(teacher, student, batch, tmp_path):
    counting = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.5))
    counting.fit(*batch, verbose=0)
    counting.save_weights(tmp_path / "a.weights.h5")
    distiller = compiled(Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0))
    distiller.fit(batch[0], verbose=0)
    distiller.load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="needs labels"):
        distiller.fit(batch[0], verbose=0)


def listed(order, **kwargs):
    """A model whose outputs a and b come in a list."""
    inputs = keras.Input((6,))
    outputs = {name: layers.Dense(3, name=name)(inputs) for name in "ab"}
    return keras.Model(inputs, [outputs[name] for name in order], **kwargs)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of output b
def test_outputs_are_matched_by_name_before_position(batch):
    teacher, student = listed("ba"), listed("ab")
    student.get_layer("a").set_weights(teacher.get_layer("a").get_weights())
    distiller = Distiller(teacher, student, {"a": SoftTargets()}, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    loss = distiller.train_on_batch(batch[0], return_dict=True)["loss"]
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_an_output_name_that_stands_twice_is_refused():
    inputs = keras.Input((6,))
    student = keras.Model(inputs, listed("ab", name="m")(inputs))
    with pytest.raises(ValueError, match=r"outputs are \['m', 'm'\]. Use their positions"):
        Distiller(listed("ab"), student, {"m": SoftTargets()})


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


def test_settings_are_restored_by_name(teacher, student, tmp_path):
    losses = [SoftTargets(4.0), OutputMSE()]
    first = compiled(Distiller(teacher, student, losses, distillation_loss_weights=[2.0, 3.0]))
    first.save_weights(tmp_path / "a.weights.h5")
    loss = SoftTargets(1.0)
    second = compiled(Distiller(teacher, dense_net(4), [OutputMSE(), loss], student_loss_weight=0.5))
    second.load_weights(tmp_path / "a.weights.h5")
    assert second.distillation_loss_weights == (3.0, 2.0)
    assert loss.temperature == 4.0
    other = compiled(Distiller(teacher, dense_net(4), SoftTargets(1.0), student_loss_weight=0.5))
    with pytest.raises(ValueError, match=r"lacks \[\] and has \['output_mse_weight'\] in addition"):
        other.load_weights(tmp_path / "a.weights.h5")


class Projected(DistillationLoss):
    """Through a projector with everything that depends on training."""

    teacher_layer_name = student_layer_name = "hidden"

    def build(self, teacher, student):
        projector = keras.Sequential(
            [layers.Dense(teacher.shape[-1], activity_regularizer="l2"), layers.BatchNormalization()]
        )
        projector.build(student.shape)
        self.layers.append(projector)

    def call(self, teacher, student):
        return keras.ops.mean(keras.ops.square(self.layers[0](student) - teacher), axis=-1)


@only_on(
    "tensorflow",
    "torch",
    reason="Keras' JAX trainer drops what is passed to add_loss beside the model's call",
)
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of the head
def test_what_a_loss_trains_is_in_training_and_its_penalties_count(teacher, student, batch):
    loss = Projected(name="projected")
    distiller = Distiller(teacher, student, loss, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    dense, norm = loss.layers[0].layers
    hidden = np.maximum(batch[0] @ student.get_weights()[0] + student.get_weights()[1], 0)
    projected = hidden @ dense.get_weights()[0]
    logs = distiller.train_on_batch(batch[0], return_dict=True)
    np.testing.assert_allclose(
        as_numpy(norm.moving_mean), 0.01 * projected.mean(axis=0), rtol=1e-4, atol=1e-7
    )
    penalty = logs["loss"] - logs["projected"]
    np.testing.assert_allclose(penalty, 0.01 * np.square(projected).sum() / len(hidden), rtol=1e-3)


def test_a_loss_that_leaves_its_layers_unbuilt_is_refused(teacher, student):
    class Lazy(Projected):
        def build(self, teacher, student):
            self.layers.append(layers.Dense(4, name="lazy"))

    with pytest.raises(ValueError, match=r"build leaves \['lazy'\] without weights"):
        Distiller(teacher, student, Lazy(name="lazy"))


def test_one_answer_is_not_broadcast_to_all_examples(batch):
    teacher, student = dense_net(16, activation=None), dense_net(4, activation=None)
    distiller = Distiller(
        lambda x: teacher(x[:1]), student, SoftTargets(), from_logits=True, student_loss_weight=0
    )
    distiller.compile("sgd")
    with pytest.raises(Exception, match="(?i)reshape|must have the same batch size"):
        distiller.fit(batch[0], batch_size=8, verbose=0)


def test_sizes_of_one_are_sizes(teacher):
    inputs = keras.Input((None, None, 2))
    maps = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
    pooled = keras.Model(inputs, layers.Conv2D(3, 1)(layers.GlobalAveragePooling2D(keepdims=True)(inputs)))
    with pytest.raises(ValueError, match=r"the same shape.*teacher \(None, 1, 1, 3\)"):
        Distiller(pooled, maps, SoftTargets())


@only_on("tensorflow", "jax", reason="torch keeps a module that is assigned beside a property, to no effect")
def test_the_student_stays(teacher, student):
    with pytest.raises(AttributeError):
        Distiller(teacher, student, SoftTargets()).student = dense_net(4)


def test_unknown_outputs_in_from_logits_are_refused(teacher, student):
    with pytest.raises(ValueError, match=r"from_logits for \['headd'\]"):
        Distiller(teacher, student, SoftTargets(), from_logits={"headd": False})


@pytest.mark.parametrize("by_batch", [False, True])
def test_labels_may_come_after_steps_without(teacher, student, batch, by_batch):
    distiller = Distiller(teacher, student, SoftTargets(), student_loss_weight=0)
    distiller.compile("sgd", metrics=["accuracy"])
    distiller.fit(batch[0], verbose=0)
    if by_batch:
        assert "accuracy" in distiller.train_on_batch(*batch, return_dict=True)
    else:
        assert "accuracy" in distiller.fit(*batch, verbose=0).history


@pytest.mark.parametrize("loss", [SoftTargets(2.0), BernoulliSoftTargets(2.0)])
def test_logits_of_minus_infinity_are_classes_that_cannot_be(loss):
    teacher = np.array([[1.0, 2.0, -np.inf]], "float32")
    student = np.array([[0.5, -0.5, 1.0]], "float32")
    oracle = reference.soft_targets if isinstance(loss, SoftTargets) else reference.bernoulli_soft_targets
    expected = oracle(np.where(np.isinf(teacher), -1e6, teacher), student, 2.0).mean()
    value, (_, gradient) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@only_on("tensorflow", reason="numpy inputs of None are Keras' own on TensorFlow")
def test_an_optional_input_may_come_first(batch):
    def net(width):
        first, second = keras.Input((6,), optional=True), keras.Input((6,))
        return keras.Model(
            [first, second], layers.Dense(3, activation="softmax")(layers.Dense(width)(second))
        )

    teacher, student = net(16), net(4)
    distiller = compiled(Distiller(teacher, student, SoftTargets()))
    assert np.isfinite(distiller.fit([None, batch[0]], batch[1], verbose=0).history["loss"]).all()


@only_on("tensorflow", reason="jit_compile='auto' asks Keras' layers on TensorFlow")
def test_automatic_compilation_asks_the_teacher(teacher, student):
    def resolved(teacher):
        distiller = Distiller(teacher, student, SoftTargets(), from_logits=True)
        distiller._distribute_strategy = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
            return distiller._resolve_auto_jit_compile()

    assert resolved(dense_net(16))
    assert not resolved(lambda x: x[:, :3])


def test_a_teacher_of_unknown_shape_is_refused_with_the_way_out(student, batch):
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow has tensors of unknown shape")
    import tensorflow as tf

    distiller = Distiller(
        lambda x: tf.numpy_function(lambda a: a[:, :3], [x], tf.float32),
        student,
        SoftTargets(),
        from_logits=True,
    )
    with pytest.raises(ValueError, match=r"tf.ensure_shape"):
        compiled(distiller).fit(*batch, verbose=0)


@pytest.mark.skipif(BACKEND == "torch", reason="steps are not compiled on torch, so Python's own if works")
@pytest.mark.parametrize(
    "schedule", [lambda s: 4.0 if s < 3 else 2.0, lambda s: max(2.0, 8.0 - s), lambda s: np.exp(-s)]
)
def test_schedules_that_cannot_be_compiled_are_refused_at_once(schedule):
    with pytest.raises(ValueError, match=r"must compute with keras.ops"):
        SoftTargets(schedule)


class OwnMetrics(keras.Model):
    def compute_metrics(self, *args):
        return {"mine": 1.0}


def test_a_student_with_its_own_metrics_is_refused(teacher):
    with pytest.raises(ValueError, match="its own compute_metrics, which would not run"):
        Distiller(teacher, OwnMetrics(), SoftTargets())


def test_weights_of_outputs_without_labels():
    def forked():
        inputs = keras.Input((6,))
        return keras.Model(inputs, {name: layers.Dense(3, "softmax", name=name)(inputs) for name in "ab"})

    teacher, student = forked(), forked()
    x, y, weight = np.ones((8, 6), "float32"), np.arange(8) % 3, np.linspace(0, 1, 8)
    distiller = Distiller(teacher, student, {"a": SoftTargets(), "b": SoftTargets()})
    distiller.compile(keras.optimizers.SGD(0.0), loss={"a": CE})
    logs = distiller.train_on_batch(x, {"a": y}, sample_weight={"a": weight}, return_dict=True)
    taught, learned = teacher(x), student(x)
    rows = {
        name: reference.soft_targets(np.log(as_numpy(taught[name])), np.log(as_numpy(learned[name])), 4.0)
        for name in "ab"
    }
    assert_logs(
        logs,
        {"a_soft_targets": (weight * rows["a"]).mean(), "b_soft_targets": rows["b"].mean()},
        rtol=1e-4,
    )


def test_a_student_quantized_between_fits_goes_on(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets()), keras.optimizers.SGD(0.0))
    distiller.fit(*batch, verbose=0)
    student.get_layer("hidden").quantize("int8")
    compiled(distiller, keras.optimizers.SGD(0.0))
    expected = reference.soft_targets(
        forward(teacher.get_weights(), batch[0]), np.log(as_numpy(student(batch[0]))), 4.0
    ).mean()
    history = distiller.fit(*batch, batch_size=40, verbose=0).history
    np.testing.assert_allclose(history["soft_targets"][0], expected, rtol=1e-4)

"""Teachers: several of them, and those that come from other libraries."""

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, only_on
from conftest import dense_net
from distilling import FeatureMSE, array, assert_logs, compiled, expected_loss, forward, one_head_idle, soft
from keras import layers, ops

import distill
from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses import OutputMSE

RNG = np.random.default_rng(1)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.integers(3, size=12)


def learned(distiller):
    """The logged distillation loss and the student's gradient step."""
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    return logs[distiller._objective.terms[0].name], distiller.student.get_weights()


def several(loss, weights=None, mean=None, activation="softmax", count=3):
    teachers = [dense_net(16, activation=activation) for _ in range(count)]
    student = dense_net(4, activation=activation)
    distiller = Distiller(
        teachers, student, loss, student_loss_weight=0, teacher_weights=weights, teacher_mean=mean
    )
    distiller.compile(keras.optimizers.SGD(1.0))
    return distiller, [forward(t.get_weights(), X) for t in teachers], forward(student.get_weights(), X)


def softened(logits, temperature):
    return np.array([reference.softmax(row / temperature) for row in logits])


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 2.0]])
def test_the_losses_against_several_teachers_are_added_up(weights):
    distiller, teachers, student = several(SoftTargets(2.0), weights)
    per_teacher = [reference.soft_targets(teacher, student, 2.0).mean() for teacher in teachers]
    expected = np.dot([1 / 3] * 3 if weights is None else weights, per_teacher)
    np.testing.assert_allclose(learned(distiller)[0], expected, rtol=1e-5)
    assert [teacher.model.name for teacher in distiller.teacher] == [t.name for t in distiller.teacher]


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 0.5]])
def test_mean_logits(weights):
    distiller, teachers, student = several(SoftTargets(2.0), weights, "logits")
    mean = np.average(teachers, axis=0, weights=weights)
    expected = reference.soft_targets(mean, student, 2.0).mean()
    np.testing.assert_allclose(learned(distiller)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 0.0, 0.5]])
def test_mean_probabilities(weights):
    distiller, teachers, student = several(SoftTargets(2.0), weights, "probabilities")
    mean = np.average([softened(teacher, 2.0) for teacher in teachers], axis=0, weights=weights)
    expected = reference.soft_targets(2.0 * np.log(mean), student, 2.0).mean()
    np.testing.assert_allclose(learned(distiller)[0], expected, rtol=1e-5)


def test_mean_probabilities_of_labels():
    distiller, teachers, student = several(BernoulliSoftTargets(2.0), None, "probabilities", "sigmoid")
    mean = np.mean([1 / (1 + np.exp(-teacher / 2.0)) for teacher in teachers], axis=0)
    expected = reference.bernoulli_soft_targets(2.0 * np.log(mean / (1 - mean)), student, 2.0).mean()
    np.testing.assert_allclose(learned(distiller)[0], expected, rtol=1e-5)


def test_sum_and_mean_probabilities_teach_the_same_and_mean_logits_another():
    """The gradient of Σ wᵢ KL(pᵢ ‖ q) is that of KL(Σ wᵢ pᵢ ‖ q); their values differ by a constant."""
    start, results = None, {}
    for mean in (None, "probabilities", "logits"):
        keras.utils.set_random_seed(5)
        distiller, _, _ = several(SoftTargets(2.0), None, mean)
        start = distiller.student.get_weights() if start is None else start
        results[mean] = learned(distiller)
    for one, other in zip(results[None][1], results["probabilities"][1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert results[None][0] - results["probabilities"][0] > 1e-3
    assert (
        max(np.abs(a - b).max() for a, b in zip(results[None][1], results["logits"][1], strict=True)) > 1e-4
    )


def test_each_teacher_has_its_preprocessing():
    teachers, student = [dense_net(16), dense_net(16)], dense_net(4)
    expected = np.mean(
        [
            reference.soft_targets(
                forward(t.get_weights(), scale * X), forward(student.get_weights(), X), 4.0
            ).mean()
            for t, scale in zip(teachers, (1.0, -1.0), strict=True)
        ]
    )
    distiller = compiled(
        Distiller(teachers, student, SoftTargets(4.0), teacher_preprocessing=[None, ops.negative])
    )
    assert_logs(distiller.train_on_batch(X, Y, return_dict=True), {"soft_targets": expected})


def test_teacher_weights_may_change():
    distiller, teachers, student = several(SoftTargets(2.0))
    distiller.compile(keras.optimizers.SGD(0.0))
    learned(distiller)
    distiller.teacher_weights = [0.0, 0.0, 2.0]
    assert distiller.teacher_weights == (0.0, 0.0, 2.0)
    expected = 2.0 * reference.soft_targets(teachers[2], student, 2.0).mean()
    distiller.reset_metrics()
    np.testing.assert_allclose(learned(distiller)[0], expected, rtol=1e-5)


WRONG_TEACHERS = {
    "none": ([], {}, "needs a teacher"),
    "one with weights": (1, {"teacher_weights": [1.0]}, "need several teachers"),
    "one with a mean": (1, {"teacher_mean": "logits"}, "need several teachers"),
    "too few weights": (2, {"teacher_weights": [1.0]}, "for 2 teachers"),
    "negative": (2, {"teacher_weights": [1.0, -1.0]}, "teacher_1_weight must be a finite number >= 0"),
    "unknown mean": (2, {"teacher_mean": "probs"}, "Received: teacher_mean='probs'"),
    "no mean": (
        2,
        {"teacher_mean": "logits", "teacher_weights": [1.0, 1.0]},
        "must sum to 1. Received.*sum to 2",
    ),
    "mean of layers": (
        2,
        {"teacher_mean": "logits", "distillation_losses": FeatureMSE("hidden", "hidden")},
        "'feature_mse', which compares something else",
    ),
    "mean of outputs": (
        2,
        {"teacher_mean": "logits", "distillation_losses": OutputMSE()},
        "'output_mse', which compares something else",
    ),
    "schedule in a mean": (
        2,
        {"teacher_mean": "logits", "teacher_weights": [lambda step: 0.5, lambda step: 0.5]},
        "sum to 1 at every step",
    ),
    "preprocessings": (2, {"teacher_preprocessing": [None]}, "Received: 1 for 2 teachers"),
}


@pytest.mark.parametrize("case", WRONG_TEACHERS)
def test_wrong_teachers_are_refused_before_training(case):
    count, kwargs, message = WRONG_TEACHERS[case]
    teachers = count if isinstance(count, list) else [dense_net(16) for _ in range(count)]
    kwargs = {"distillation_losses": SoftTargets(4.0), **kwargs}
    with pytest.raises(ValueError, match=message):
        Distiller(teachers, dense_net(4), **kwargs)


def test_teacher_weights_of_a_mean_keep_their_sum():
    distiller, _, _ = several(SoftTargets(2.0), None, "logits")
    with pytest.raises(ValueError, match="sum to 1"):
        distiller.teacher_weights = [1.0, 1.0, 1.0]
    np.testing.assert_allclose(distiller.teacher_weights, [1 / 3] * 3)


def taught_by(teacher, from_logits, expected_logits, student=None):
    student = student or dense_net(4)
    expected = reference.soft_targets(expected_logits, forward(student.get_weights(), X), 4.0).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0), from_logits=(from_logits, None))
    logs = compiled(distiller).train_on_batch(X, Y, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)
    return distiller


@only_on("tensorflow", reason="tf_keras models are TensorFlow models")
def test_a_tf_keras_model_teaches(batch):
    import tf_keras

    teacher = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, activation="relu", input_shape=(6,)),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dropout(0.5),
            tf_keras.layers.Dense(3, activation="softmax"),
        ]
    )
    teacher.layers[1].set_weights([RNG.uniform(0.5, 1, size=8).astype("float32") for _ in range(4)])
    before = teacher.get_weights()
    taught_by(teacher, False, np.log(np.asarray(teacher(X, training=False), "float64")))
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match=r"'sequential.*', whose graph cannot be read"):
        Distiller(teacher, dense_net(4), SoftTargets(4.0))


@only_on("tensorflow", reason="tf_keras models are TensorFlow models")
def test_a_tf_keras_model_that_keras_3_cannot_hold_teaches_as_it_is():
    import tf_keras

    class Subclassed(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.head = tf_keras.layers.Dense(3)

        def call(self, x):
            return self.head(x)

    inputs = tf_keras.Input((6,))
    raw = tf_keras.Model(inputs, 2.0 * tf_keras.layers.Dense(3)(inputs))
    for teacher in (Subclassed(), raw):
        expected = np.asarray(teacher(X), "float64")
        with pytest.raises(
            ValueError, match=r"Keras' own classes.* As it is, the model can teach by its outputs"
        ):
            distill.load_model(teacher)
        taught_by(teacher, True, expected)


@only_on("tensorflow", reason="a SavedModel is a TensorFlow graph")
def test_a_saved_model_teaches(tmp_path):
    exported = dense_net(16)
    exported.export(tmp_path / "teacher", verbose=False)
    teacher = layers.TFSMLayer(str(tmp_path / "teacher"), call_endpoint="serve")
    distiller = taught_by(teacher, False, np.log(array(exported(X))))
    assert distiller.teacher.model is teacher


@only_on("tensorflow", reason="a SavedModel is a TensorFlow graph")
def test_a_saved_model_of_tf_keras_answers_with_a_dictionary(tmp_path):
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(6,))])
    model.export(str(tmp_path / "teacher"))
    taught_by(
        layers.TFSMLayer(str(tmp_path / "teacher"), call_endpoint="serving_default"), True, model(X).numpy()
    )


def test_keras_hub_backbones_teach_and_learn():
    import keras_hub

    def classifier(filters):
        backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[3],
            stackwise_num_filters=[64, 2 * filters],
            stackwise_num_blocks=[1, 1],
            stackwise_num_strides=[1, 2],
            block_type="basic_block",
            image_shape=(16, 16, 3),
        )
        x = layers.GlobalAveragePooling2D()(backbone.output)
        return keras.Model(backbone.input, layers.Dense(3, activation="softmax")(x))

    teacher, student = classifier(8), classifier(4)
    images = RNG.normal(size=(4, 16, 16, 3)).astype("float32")
    before = teacher.get_weights()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    taught, training = array(teacher(images)), array(student(images, training=True))
    expected = reference.soft_targets(np.log(taught), np.log(training), 4.0).mean()
    logs = distiller.train_on_batch(images, Y[:4], return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-3)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@one_head_idle
@pytest.mark.slow
def test_keras_hub_language_backbones():
    import keras_hub

    def backbone(hidden):
        return keras_hub.models.BertBackbone(
            vocabulary_size=20,
            num_layers=2,
            num_heads=2,
            hidden_dim=hidden,
            intermediate_dim=16,
            max_sequence_length=12,
            dropout=0.0,
        )

    teacher, student = backbone(8), backbone(8)
    tokens = RNG.integers(1, 20, size=(4, 12))
    inputs = {"token_ids": tokens, "segment_ids": 0 * tokens, "padding_mask": np.ones_like(tokens)}
    values = [array(net(inputs)["pooled_output"]) for net in (teacher, student)]
    distiller = Distiller(teacher, student, {"pooled_output": OutputMSE()}, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    logs = distiller.train_on_batch(inputs, return_dict=True)
    expected = np.square(values[0] - values[1]).mean()
    assert_logs(logs, {"pooled_output_output_mse": expected}, rtol=1e-4)
    hidden = FeatureMSE("transformer_layer_1", "transformer_layer_1")
    by_layer = Distiller(teacher, student, hidden, student_loss_weight=0)
    by_layer.compile(keras.optimizers.SGD(0.0))
    expected = np.square(
        array(teacher(inputs)["sequence_output"]) - array(student(inputs)["sequence_output"])
    ).mean()
    assert_logs(by_layer.train_on_batch(inputs, return_dict=True), {"feature_mse": expected}, rtol=1e-4)


def test_a_quantized_teacher_teaches(student, batch):
    teacher = dense_net(16)
    for name in ("hidden", "head"):  # the whole model would warn that its input layer has no int8 form
        teacher.get_layer(name).quantize("int8")
    logits = [np.log(array(net(batch[0]))) for net in (teacher, student)]
    expected = reference.soft_targets(*logits, 4.0)
    logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(*batch, return_dict=True)
    assert_logs(logs, {"soft_targets": expected.mean()}, rtol=1e-4)


def test_one_answer_is_not_broadcast_to_all_examples(batch):
    teacher, student = dense_net(16, activation=None), dense_net(4, activation=None)
    distiller = Distiller(
        lambda x: teacher(x[:1]), student, SoftTargets(), from_logits=True, student_loss_weight=0
    )
    distiller.compile("sgd")
    with pytest.raises(Exception, match="(?i)reshape|must have the same batch size"):
        distiller.fit(batch[0], batch_size=8, verbose=0)


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


def test_teacher_preprocessing_makes_the_teachers_inputs():
    """A teacher for 3 × 2 inputs in another unit, a student of flat ones."""
    inputs = keras.Input((3, 2))
    teacher = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(inputs)))
    student = dense_net(4)
    expected = soft(teacher(2.0 * X.reshape(-1, 3, 2)), student(X)).mean()
    distiller = Distiller(
        teacher,
        student,
        SoftTargets(4.0),
        teacher_preprocessing=lambda x: 2.0 * ops.reshape(x, (-1, 3, 2)),
    )
    compiled(distiller, keras.optimizers.SGD(0.0))
    assert_logs(distiller.train_on_batch(X, Y, return_dict=True), {"soft_targets": expected})


def test_a_teacher_that_fails_on_a_batch_is_named():
    def teacher(x):
        raise ValueError("inputs of another kind")

    distiller = Distiller(teacher, dense_net(4), SoftTargets(4.0), from_logits=(True, None))
    with pytest.raises(ValueError, match="inputs of another kind") as raised:
        compiled(distiller).fit(X, Y, verbose=0)
    assert "while running the teacher 'teacher'" in "".join(getattr(raised.value, "__notes__", []))


def test_a_function_teaches():
    kernel = RNG.normal(size=(6, 3)).astype("float32")
    student = dense_net(4)
    weights = student.get_weights()
    expected = expected_loss(weights, dense_net(4), X, Y)  # for the student's own loss
    logits = np.log(array(student(X)))
    expected["soft_targets"] = reference.soft_targets(X @ kernel, logits, 4.0).mean()
    expected["loss"] = 0.1 * expected["student_loss"] + 0.9 * expected["soft_targets"]
    distiller = Distiller(lambda x: x @ kernel, student, SoftTargets(4.0), from_logits=(True, None))
    assert_logs(compiled(distiller).train_on_batch(X, Y, return_dict=True), expected)


def test_a_function_must_say_what_it_returns():
    with pytest.raises(ValueError, match=r"whose graph cannot be read.*from_logits=True"):
        Distiller(lambda x: x, dense_net(4), SoftTargets(4.0))
    with pytest.raises(ValueError, match="Layers can only be read in Functional and Sequential"):
        Distiller(lambda x: x, dense_net(4), FeatureMSE("hidden", "hidden"))
    with pytest.raises(ValueError, match=r"A teacher must be a trained keras.Model.*Received: 5"):
        Distiller(5, dense_net(4), SoftTargets(4.0))


def test_a_layer_teaches_in_inference():
    teacher = keras.layers.Pipeline([layers.Dropout(0.9), layers.Dense(3)])
    teacher(X)
    student = dense_net(4)
    expected = reference.soft_targets(
        array(teacher(X, training=False)), np.log(array(student(X))), 4.0
    ).mean()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), from_logits=(True, None)))
    assert_logs(distiller.train_on_batch(X, Y, return_dict=True), {"soft_targets": expected})

"""Every kind of model on either side: structures, heads, sizes, types, and teachers that are no Keras models."""

import keras
import numpy as np
import pytest
import reference
from conftest import dense_net
from distilling import CE, FeatureMSE, array, assert_logs, compiled, expected_loss, one_head_idle
from keras import layers, ops

from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses import OutputMSE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.integers(3, size=12)


def soft(teacher, student, temperature=4.0):
    """The oracle on the log-probabilities that two models return; log softmax is as good as any logits."""
    rows = [np.log(array(side)) for side in (teacher, student)]
    values = reference.soft_targets(*(side.reshape(-1, side.shape[-1]) for side in rows), temperature)
    return values.reshape(rows[0].shape[:-1])


# --- several inputs and outputs -----------------------------------------------------------------------


def forked(width, structure, names=("digit", "parity")):
    """Two softmax heads, of 3 and 2 classes, on one hidden layer."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="relu", name="hidden")(inputs)
    heads = [
        layers.Dense(classes, activation="softmax", name=name)(hidden)
        for name, classes in zip(names, (3, 2), strict=True)
    ]
    return keras.Model(
        inputs, dict(zip(names, heads, strict=True)) if structure is dict else structure(heads)
    )


def as_structure(structure, digit, parity):
    return {"digit": digit, "parity": parity} if structure is dict else structure([digit, parity])


@one_head_idle
@pytest.mark.parametrize(
    ("structure", "by"),
    [(list, "name"), (list, "position"), (tuple, "name"), (tuple, "position"), (dict, "name")],
)
def test_a_loss_a_weight_or_none_for_each_output(structure, by):
    teacher, student = forked(16, structure), forked(4, structure)
    digit, parity = ("digit", "parity") if by == "name" else (0, 1)
    y = as_structure(structure, Y, Y % 2)
    taught, learned = (list(m(X).values()) if structure is dict else m(X) for m in (teacher, student))
    cold, warm = soft(taught[0], learned[0], 1.0).mean(), soft(taught[1], learned[1], 2.0).mean()
    cross_entropy = [
        reference.cross_entropy(array(p), label).mean() for p, label in zip(learned, (Y, Y % 2), strict=True)
    ]
    word = "" if by == "name" else "output_"
    both = Distiller(
        teacher,
        student,
        {digit: SoftTargets(1.0), parity: [SoftTargets(2.0)]},
        distillation_loss_weights={parity: [0.25]},
        student_loss_weight=0.5,
    )
    both.compile(keras.optimizers.SGD(0.0), loss=as_structure(structure, CE, CE))
    logs = both.train_on_batch(X, y, return_dict=True)
    assert_logs(
        logs,
        {
            f"{word}{digit}_soft_targets": cold,
            f"{word}{parity}_soft_targets": warm,
            "student_loss": sum(cross_entropy),
            "loss": 0.5 * sum(cross_entropy) + 0.5 * (cold + 0.25 * warm),
        },
    )
    one = Distiller(teacher, student, {digit: None, parity: SoftTargets(2.0)}, student_loss_weight=0)
    one.compile(keras.optimizers.SGD(0.0))
    assert_logs(one.train_on_batch(X, return_dict=True), {f"{word}{parity}_soft_targets": warm, "loss": warm})


def test_weights_of_examples_go_by_output():
    teacher, student = forked(16, dict), forked(4, dict)
    weights = {"digit": RNG.uniform(size=12), "parity": RNG.uniform(size=12)}
    taught, learned = teacher(X), student(X)
    expected = {
        f"{name}_soft_targets": (weights[name] * soft(taught[name], learned[name])).mean()
        for name in ("digit", "parity")
    }
    distiller = Distiller(teacher, student, {name: SoftTargets(4.0) for name in weights})
    distiller.compile(keras.optimizers.SGD(0.0), loss={"digit": CE, "parity": CE})
    y = {"digit": Y, "parity": Y % 2}
    assert_logs(distiller.train_on_batch(X, y, sample_weight=weights, return_dict=True), expected)


def test_a_loss_on_a_layer_takes_one_weight_per_example_whatever_the_outputs():
    teacher, student = forked(4, dict), forked(4, dict)
    weights = RNG.uniform(size=12).astype("float32")
    hidden = [np.maximum(X @ m.get_weights()[0] + m.get_weights()[1], 0) for m in (teacher, student)]
    expected = (weights * np.square(hidden[0] - hidden[1]).mean(axis=-1)).mean()
    distiller = Distiller(teacher, student, FeatureMSE("hidden", "hidden"))
    distiller.compile(keras.optimizers.SGD(0.0), loss={"digit": CE, "parity": CE})
    y = {"digit": Y, "parity": Y % 2}
    history = distiller.fit(X, y, sample_weight=weights, verbose=0, shuffle=False).history
    assert_logs({"feature_mse": history["feature_mse"][0]}, {"feature_mse": expected})


def test_a_teacher_of_one_output_may_teach_several_of_the_students():
    teacher, student = dense_net(16), forked(4, dict, names=("early", "late"))
    inputs = keras.Input((6,))
    both = student(inputs)
    student = keras.Model(inputs, {"early": both["early"], "late": layers.Dense(3, "softmax")(both["late"])})
    learned = student(X)
    distiller = Distiller(
        teacher, student, {"early": SoftTargets(4.0), "late": SoftTargets(4.0)}, student_loss_weight=0
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    assert_logs(
        distiller.train_on_batch(X, return_dict=True),
        {f"{name}_soft_targets": soft(teacher(X), learned[name]).mean() for name in learned},
    )


@pytest.mark.parametrize("structure", [list, tuple, dict])
def test_several_inputs(structure):
    def net(width):
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        inputs = {"a": a, "b": b} if structure is dict else structure([a, b])
        hidden = layers.Dense(width, activation="relu")(layers.Concatenate()([a, layers.Rescaling(2.0)(b)]))
        return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))

    teacher, student = net(16), net(4)
    x = {"a": X, "b": X[::-1]} if structure is dict else structure([X, X[::-1].copy()])
    expected = soft(teacher(x), student(x)).mean()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    history = distiller.fit(x, Y, batch_size=12, shuffle=False, verbose=0).history
    assert_logs({"soft_targets": history["soft_targets"][0]}, {"soft_targets": expected})


class Branching(keras.Model):
    """Subclassed, with logits in a structure."""

    def __init__(self, structure):
        super().__init__()
        self.digit, self.parity, self.structure = layers.Dense(3), layers.Dense(2), structure

    def call(self, inputs):
        return as_structure(self.structure, self.digit(inputs), self.parity(inputs))


@one_head_idle
@pytest.mark.parametrize("structure", [list, tuple, dict])
def test_subclassed_models_of_several_outputs(structure):
    teacher, student = Branching(structure), Branching(structure)
    key = "parity" if structure is dict else 1
    taught, learned = array(teacher(X)[key]), array(student(X)[key])
    distiller = Distiller(teacher, student, {key: SoftTargets(4.0)}, student_loss_weight=0, from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0))
    name = "parity_soft_targets" if structure is dict else "output_1_soft_targets"
    expected = reference.soft_targets(taught, learned, 4.0).mean()
    assert_logs(distiller.train_on_batch(X, return_dict=True), {name: expected})


WRONG_OUTPUTS = {
    "no such name": (
        {"digits": SoftTargets()},
        {},
        r"has no output 'digits'. Its outputs are \['digit', 'parity'\]",
    ),
    "none named": (SoftTargets(), {}, r"2 outputs, \['digit', 'parity'\]. Name the student's output"),
    "none at all": ({"digit": None}, {}, "at least one distillation loss"),
    "other structure of weights": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": [1.0]},
        "must be one too",
    ),
    "weight of no loss": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": {"parity": 1.0}},
        r"weights for \['parity'\], losses for \['digit'\]",
    ),
    "too many weights": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": {"digit": [1.0, 2.0]}},
        "for 1 distillation loss of output 'digit'",
    ),
    "negative position": ({-1: SoftTargets()}, {}, "positions from 0"),
    "output loss unnamed": (OutputMSE(), {}, "compares one output. Received: a teacher with outputs"),
    "two kinds of head": (
        {"digit": [SoftTargets(), BernoulliSoftTargets()]},
        {},
        "either softmax or sigmoid",
    ),
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_wrong_outputs_are_refused_before_training(case):
    losses, kwargs, message = WRONG_OUTPUTS[case]
    with pytest.raises(ValueError, match=message):
        Distiller(forked(16, dict), forked(4, dict), losses, **kwargs)


def test_a_teacher_without_that_output_is_refused():
    teacher = forked(16, dict, names=("a", "b"))
    with pytest.raises(ValueError, match=r"has no output 'digit'. Its outputs are \['a', 'b'\]"):
        Distiller(teacher, forked(4, dict), {"digit": SoftTargets()})


# --- other sizes, heads and types ---------------------------------------------------------------------


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


def test_other_input_sizes_are_refused_without_it():
    inputs = keras.Input((8,))
    teacher = keras.Model(inputs, layers.Dense(3, activation="softmax")(inputs), name="wide")
    with pytest.raises(ValueError, match=r"'wide' with inputs of shape \(None, 8\).*teacher_preprocessing"):
        Distiller(teacher, dense_net(4), SoftTargets(4.0))
    with pytest.raises(ValueError, match="teacher_preprocessing must be a function of a batch"):
        Distiller(teacher, dense_net(4), SoftTargets(4.0), teacher_preprocessing=255.0)


def test_a_teacher_that_fails_on_a_batch_is_named():
    def teacher(x):
        raise ValueError("inputs of another kind")

    distiller = Distiller(teacher, dense_net(4), SoftTargets(4.0), from_logits=(True, None))
    with pytest.raises(ValueError, match="inputs of another kind") as raised:
        compiled(distiller).fit(X, Y, verbose=0)
    assert "while running the teacher 'teacher'" in "".join(getattr(raised.value, "__notes__", []))


POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]


@pytest.mark.parametrize("teacher_policy", POLICIES)
@pytest.mark.parametrize("student_policy", POLICIES)
def test_any_precision_on_either_side(teacher_policy, student_policy):
    nets = []
    for width, policy in ((16, teacher_policy), (4, student_policy)):
        keras.config.set_dtype_policy(policy)
        try:
            nets.append(dense_net(width))
        finally:
            keras.config.set_dtype_policy("float32")
    teacher, student = nets
    # What the models should compute, by their own float32 weights.
    expected = expected_loss(student.get_weights(), teacher, X, Y)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    exact = (teacher_policy, student_policy) == ("float32", "float32")
    assert_logs(logs, expected, rtol=1e-5 if exact else 0.05, atol=1e-6 if exact else 0.02)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer) == (
        student_policy == "mixed_float16"
    )
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


def test_losses_on_layers_join_models_of_other_heads():
    teacher, student = dense_net(4, classes=7), dense_net(4, classes=3, activation=None)
    hidden = [np.maximum(X @ m.get_weights()[0] + m.get_weights()[1], 0) for m in (teacher, student)]
    expected = np.square(hidden[0] - hidden[1]).mean()
    distiller = Distiller(teacher, student, FeatureMSE("hidden", "hidden"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(distiller, keras.optimizers.SGD(0.0), loss=loss)
    assert_logs(distiller.train_on_batch(X, Y, return_dict=True), {"feature_mse": expected})


def test_layers_inside_nested_models():
    def net(head):
        backbone = keras.Sequential(
            [keras.Input((6,)), layers.Dense(5, name="block3"), layers.ReLU()], name="backbone"
        )
        inputs = keras.Input((6,))
        return keras.Model(
            inputs, layers.Dense(3, activation="softmax")(layers.Dense(head)(backbone(inputs)))
        )

    teacher, student = net(16), net(4)
    block = [X @ m.get_weights()[0] + m.get_weights()[1] for m in (teacher, student)]
    ours = Distiller(teacher, student, FeatureMSE("backbone/block3", "backbone/block3"))
    keras_feature = keras.distillation.FeatureDistillation("mse", "backbone/block3", "backbone/block3")
    for distiller, name in (
        (ours, "feature_mse"),
        (Distiller(teacher, student, keras_feature), "feature_distillation"),
    ):
        compiled(distiller, keras.optimizers.SGD(0.0))
        logs = distiller.train_on_batch(X, Y, return_dict=True)
        assert_logs(logs, {name: np.square(block[0] - block[1]).mean()})


def head_net(width, activation, units):
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(units, activation=activation)(hidden))


@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_binary_and_multi_label_heads(units, activation):
    teacher, student = head_net(16, activation, units), head_net(4, activation, units)
    outputs = [array(net(X)) for net in (teacher, student)]
    logits = [np.log(p / (1 - p)) for p in outputs] if activation else outputs
    expected = reference.bernoulli_soft_targets(*logits, 2.0).mean()
    y = RNG.integers(2, size=(12, units)).astype("float32")
    distiller = Distiller(teacher, student, BernoulliSoftTargets(2.0))
    distiller.compile(
        keras.optimizers.SGD(0.0), loss=keras.losses.BinaryCrossentropy(from_logits=activation is None)
    )
    logs = distiller.train_on_batch(X, y, return_dict=True)
    assert_logs(logs, {"bernoulli_soft_targets": expected}, rtol=1e-4)


def test_regression_heads():
    teacher, student = head_net(16, None, 2), head_net(4, None, 2)
    weights = RNG.uniform(size=12).astype("float32")
    expected = (weights * np.square(array(teacher(X)) - array(student(X))).mean(axis=-1)).mean()
    distiller = Distiller(teacher, student, OutputMSE())
    distiller.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=["mae"])
    y = RNG.normal(size=(12, 2)).astype("float32")
    logs = distiller.train_on_batch(X, y, sample_weight=weights, return_dict=True)
    assert_logs(logs, {"output_mse": expected})
    with pytest.raises(ValueError, match=r"the same shape.*teacher \(None, 3\) and student \(None, 2\)"):
        Distiller(head_net(16, None, 3), student, OutputMSE())


IMAGES = RNG.normal(size=(4, 5, 7, 2)).astype("float32")


def segmenter(width):
    inputs = keras.Input((5, 7, 2))
    hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(hidden))


@pytest.mark.parametrize("weighting", [None, "example", "pixel"])
def test_segmentation_maps(weighting):
    teacher, student = segmenter(16), segmenter(4)
    per_pixel = soft(teacher(IMAGES), student(IMAGES))
    weights = {
        None: np.ones((4, 1, 1)),
        "example": RNG.uniform(size=(4, 1, 1)),
        "pixel": RNG.uniform(size=(4, 5, 7)),
    }[weighting]
    expected = (weights * per_pixel).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    # Keras' own losses take no weight per example here; ours do. With the sparse one, torch 2.13 fails in Keras' step.
    loss = "categorical_crossentropy" if weighting != "example" else None
    distiller.student_loss_weight = 0.5 if loss else 0.0
    distiller.compile(keras.optimizers.SGD(0.0), loss=loss)
    sample_weight = {None: None, "example": weights[:, 0, 0], "pixel": weights}[weighting]
    y = np.eye(3, dtype="float32")[RNG.integers(3, size=(4, 5, 7))]
    logs = distiller.train_on_batch(IMAGES, y, sample_weight=sample_weight, return_dict=True)
    assert_logs(logs, {"soft_targets": expected})


TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 1, 2]], "int32")


def language_model(width):
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, width, mask_zero=True)(inputs)
    x = layers.Rescaling(20.0)(layers.GRU(width, return_sequences=True)(x))  # for logits of some size
    return keras.Model(inputs, layers.Dense(9)(x))


@pytest.mark.parametrize("weighting", [None, "token"])
def test_token_logits_with_masks(weighting):
    teacher, student = language_model(8), language_model(3)
    kept = (TOKENS != 0).astype("float64")
    weights = kept if weighting is None else kept * RNG.uniform(size=TOKENS.shape)
    rows = [array(net(TOKENS)).reshape(-1, 9) for net in (teacher, student)]
    per_token = reference.soft_targets(*rows, 4.0).reshape(TOKENS.shape)
    expected = (weights * per_token).sum() / kept.sum()
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    distiller.compile(
        keras.optimizers.SGD(0.0), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    sample_weight = None if weighting is None else weights.astype("float32")
    logs = distiller.train_on_batch(TOKENS, TOKENS, sample_weight=sample_weight, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)


# --- teachers that are no Keras models ----------------------------------------------------------------


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


def test_layers_that_share_variables_with_the_student_are_refused():
    student = dense_net(4)
    with pytest.raises(ValueError, match="must not share variables"):
        Distiller(student.get_layer("head"), student, SoftTargets(4.0), from_logits=True)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_a_student_with_its_own_step_is_refused():
    with pytest.raises(ValueError, match="OwnStep with its own train_step, which would not run"):
        Distiller(dense_net(16), OwnStep(), SoftTargets(4.0))


# --- models changed after the Distiller was made ------------------------------------------------------


def test_changes_to_the_student_count():
    teacher = dense_net(16)
    student = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(3, "softmax")])
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    student.pop()
    student.add(layers.Dense(3, "softmax", kernel_initializer="ones"))
    expected = soft(teacher(X), student(X)).mean()
    logs = compiled(distiller, keras.optimizers.SGD(0.0)).train_on_batch(X, Y, return_dict=True)
    assert_logs(logs, {"soft_targets": expected})


def test_models_gain_no_trace_of_a_distiller():
    teacher, student = dense_net(16), dense_net(4)
    before = [[len(layer._inbound_nodes) for layer in net.layers] for net in (teacher, student)]
    outbound = [[len(layer._outbound_nodes) for layer in net.layers] for net in (teacher, student)]
    compiled(Distiller(teacher, student, SoftTargets(4.0))).fit(X, Y, verbose=0)
    assert [[len(layer._inbound_nodes) for layer in net.layers] for net in (teacher, student)] == before
    assert [[len(layer._outbound_nodes) for layer in net.layers] for net in (teacher, student)] == outbound


# --- losses with a wrong shape ------------------------------------------------------------------------


class Scalar(FeatureMSE):
    def call(self, teacher, student):
        return ops.mean(ops.square(student - teacher))


def test_a_loss_that_returns_one_number_is_refused():
    distiller = compiled(Distiller(dense_net(4), dense_net(4), Scalar("hidden", "hidden")))
    with pytest.raises(ValueError, match=r"one value per example.*Received: shape \(\) from Scalar"):
        distiller.train_on_batch(X, Y)

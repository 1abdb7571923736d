"""Models whose channels come first: losses get maps, tokens and logits with the channels last, wherever they were."""

import inspect

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, as_numpy, as_tensor
from distilling import FeatureMSE, array, assert_logs, one_head_idle
from keras import layers, ops
from keras.src import backend

from distill import AttentionTransfer, BernoulliSoftTargets, Distiller, Hint, SoftTargets
from distill._graphs import functional_of, node_of
from distill.losses import (
    DIST,
    DecoupledKD,
    HardTargets,
    LogitMSE,
    NeuronSelectivity,
    OutputMSE,
    OverhaulDistillation,
    ProbabilisticTransfer,
    SimilarityPreserving,
    VariationalInformation,
    VirtualTeacher,
)
from distill.training import ensemble
from distill.training._channels import channel_axes

FIRST, LAST = ({"data_format": f"channels_{where}"} for where in ("first", "last"))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 5, 7)).astype("float32")  # channels, height and width differ


@pytest.fixture
def runs_on_a_cpu(monkeypatch):
    """TensorFlow has no convolution with channels first on a CPU: here it transposes."""
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    original = backend.nn.conv

    def conv(*args, **kwargs):
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        if arguments["data_format"] != "channels_first":
            return original(*args, **kwargs)
        arguments["inputs"] = tf.transpose(tf.convert_to_tensor(arguments["inputs"]), [0, 2, 3, 1])
        arguments["data_format"] = "channels_last"
        return tf.transpose(original(*bound.args, **bound.kwargs), [0, 3, 1, 2])

    monkeypatch.setattr(backend.nn, "conv", conv)


# --- which axis it is ---------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """A layer of a user's own, which says nothing itself."""

    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(4, 3, padding="same", **FIRST)

    def build(self, shape):
        self.conv.build(shape)

    def call(self, x):
        return ops.relu(self.conv(x))

    def compute_output_shape(self, shape):
        return self.conv.compute_output_shape(shape)


class Whole(keras.Model):
    """A model whose graph cannot be read."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.SeparableConv2D(4, 3, padding="same", **FIRST)

    def call(self, x):
        return self.conv(x)


def conv(x, channels=4, **options):
    return layers.Conv2D(channels, 3, padding="same", **{**FIRST, **options})(x)


def nested(make):
    inputs = keras.Input((3, 5, 7))
    return keras.Model(inputs, make(inputs))


def squeeze_excite(x):
    x = conv(x)
    scale = layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D(**FIRST)(x))
    return layers.Multiply()([layers.Reshape((4, 1, 1))(scale), x])


def by_config(x):
    keras.config.set_image_data_format("channels_first")
    try:
        return layers.Conv2D(4, 3)(x)
    finally:
        keras.config.set_image_data_format("channels_last")


def with_series(make, shape=(2, 3, 5, 7)):
    return lambda x: make(keras.Input(shape))


AXES = {
    "convolution": (conv, 1),
    "channels last": (lambda x: conv(x, data_format="channels_last"), 3),
    "nothing says": (lambda x: layers.ReLU()(x), 3),
    "by config": (by_config, 1),
    "separable": (lambda x: layers.SeparableConv2D(4, 3, **FIRST)(x), 1),
    "depthwise": (lambda x: layers.DepthwiseConv2D(3, **FIRST)(x), 1),
    "transposed": (lambda x: layers.Conv2DTranspose(4, 3, **FIRST)(x), 1),
    "pooling": (lambda x: layers.MaxPooling2D(**FIRST)(x), 1),
    "pooling with axes kept": (lambda x: layers.GlobalAveragePooling2D(keepdims=True, **FIRST)(x), 1),
    "up": (lambda x: layers.UpSampling2D(**FIRST)(x), 1),
    "padding": (lambda x: layers.ZeroPadding2D(1, **FIRST)(x), 1),
    "operation": (lambda x: ops.average_pool(x, 2, data_format="channels_first"), 1),
    "one dimension": (lambda x: layers.Conv1D(4, 3, **FIRST)(layers.Reshape((3, 35))(x)), 1),
    "three dimensions": (lambda x: layers.Conv3D(4, 1, **FIRST)(layers.Reshape((3, 5, 7, 1))(x)), 1),
    "norm": (lambda x: layers.BatchNormalization(axis=1)(conv(x)), 1),
    "norm of inputs": (lambda x: layers.GroupNormalization(3, axis=1)(x), 1),
    "activations": (lambda x: layers.Dropout(0.1)(ops.relu(layers.PReLU()(conv(x)))), 1),
    "residual": (lambda x: layers.Add()([x, conv(x, 3)]), 1),
    "concatenation": (lambda x: layers.Concatenate(axis=1)([conv(x), conv(x)]), 1),
    "squeeze and excite": (squeeze_excite, 1),
    "permuted": (lambda x: layers.Permute((2, 3, 1))(conv(x)), 3),
    "permuted half": (lambda x: layers.Permute((2, 1, 3))(conv(x)), 2),
    "permuted there": (lambda x: layers.Permute((3, 1, 2))(conv(x, data_format="channels_last")), 1),
    "transposed operation": (lambda x: ops.transpose(conv(x), (0, 3, 1, 2)), 2),
    "axis moved": (lambda x: ops.moveaxis(conv(x), 1, -1), 3),
    "axes swapped": (lambda x: ops.swapaxes(conv(x), 1, 3), 3),
    "rows joined": (lambda x: layers.Reshape((4, 35))(conv(x)), 1),
    "reshaped for a convolution": (lambda x: layers.Reshape((3, 7, 5))(x), 3),
    "mean over a width": (lambda x: ops.mean(conv(x), axis=-1), 1),
    "mean with axes kept": (lambda x: ops.max(conv(x), axis=(2, 3), keepdims=True), 1),
    "axis of size 1": (lambda x: ops.squeeze(conv(layers.MaxPooling2D((5, 1), **FIRST)(x)), 2), 1),
    "axis inserted": (lambda x: ops.expand_dims(conv(x), 1), 2),
    "model": (lambda x: layers.ReLU()(nested(conv)(x)), 1),
    "model that knows nothing": (lambda x: nested(layers.ReLU())(conv(x, 3)), 1),
    "model in a model": (lambda x: nested(lambda y: nested(conv)(y))(x), 1),
    "layer of one's own": (lambda x: layers.ReLU()(Block()(x)), 1),
    "model of one's own": (lambda x: Whole()(x), 1),
    "function": (lambda x: layers.Lambda(lambda y: 2 * y)(conv(x)), 1),
    "function that turns": (lambda x: layers.Lambda(lambda y: ops.transpose(y, (0, 2, 3, 1)))(conv(x)), 3),
    "dense": (lambda x: layers.Dense(4)(conv(x)), 3),
    "recurrent": (lambda x: layers.LSTM(6, return_sequences=True)(layers.Reshape((4, 35))(conv(x))), 2),
    "wrapped": (lambda x: layers.SpectralNormalization(layers.Conv2D(4, 3, **FIRST))(x), 1),
    "series of maps": (with_series(layers.TimeDistributed(layers.Conv2D(4, 3, **FIRST))), 2),
    "series of pooled maps": (with_series(layers.TimeDistributed(layers.MaxPooling2D(**FIRST))), 2),
    "recurrent convolution": (with_series(layers.ConvLSTM2D(4, 3, **FIRST)), 1),
    "recurrent convolution, series": (
        with_series(layers.ConvLSTM2D(4, 3, return_sequences=True, **FIRST)),
        2,
    ),
}


def inputs_of(output):
    node = node_of(output)
    while not node.is_input:
        node = node_of(node.input_tensors[-1])
    return node.outputs[0]


@pytest.mark.parametrize("case", AXES)
def test_the_axis_of_the_channels(case):
    make, axis = AXES[case]
    output = make(keras.Input((3, 5, 7)))
    model = keras.Model(inputs_of(output), output)
    found = channel_axes(functional_of(model))[id(model.outputs[0])]
    assert (len(output.shape) - 1 if found is None else found) == axis


def test_what_goes_into_a_convolution_has_its_channels_there():
    inputs = keras.Input((105,))
    reshaped = layers.Reshape((3, 5, 7))(inputs)
    model = keras.Model(inputs, conv(reshaped))
    axes = channel_axes(functional_of(model))
    assert axes[id(model.layers[1].output)] == 1


# --- what losses get ----------------------------------------------------------------------------------


def net(width, first=True, *, head=("linear", None), name=None):
    """A map "feat", pooled, and a head of 4 classes at each position; the same weights give the same function."""
    order = FIRST if first else LAST
    inputs = keras.Input((3, 5, 7) if first else (5, 7, 3))
    x = layers.Conv2D(width, 3, padding="same", name="feat", **order)(inputs)
    x = layers.AveragePooling2D((1, 2), name="pooled", **order)(layers.Activation("tanh", name="act")(x))
    x = layers.Conv2D(4, 1, activation=head[0], name="head", **order)(x)
    if head[1] is not None:
        x = head[1](1 if first else -1)(x)
    return keras.Model(inputs, x, name=name)


def features(model, *names):
    """The outputs of layers for X, in float32, with the channels last."""
    first = model.inputs[0].shape[1] == 3
    found = keras.Model(model.input, [model.get_layer(name).output for name in names])(
        X if first else np.moveaxis(X, 1, -1)
    )
    arrays = map(as_numpy, keras.tree.flatten(found))
    return [np.moveaxis(one, 1, -1) if first else one for one in arrays]


def last(array):
    return np.moveaxis(array, 1, -1)


def logs_of(teacher, student, loss, **options):
    y = options.pop("y", None)
    weight = options.pop("sample_weight", None)
    distiller = Distiller(teacher, student, loss, student_loss_weight=0, **options)
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.train_on_batch(X, y, sample_weight=weight, return_dict=True)


FEAT = ("feat", "feat")
ON_LAYERS = {
    "AttentionTransfer": lambda: AttentionTransfer(*FEAT),
    "AttentionTransfer of two": lambda: AttentionTransfer(("feat", "pooled"), ("act", "pooled")),
    "NeuronSelectivity": lambda: NeuronSelectivity(*FEAT),
    "Hint": lambda: Hint(*FEAT),
    "VariationalInformation": lambda: VariationalInformation(*FEAT),
    "OverhaulDistillation": lambda: OverhaulDistillation(-np.linspace(0.1, 0.8, 8), *FEAT),
    "SimilarityPreserving": lambda: SimilarityPreserving(*FEAT),
    "ProbabilisticTransfer": lambda: ProbabilisticTransfer(*FEAT),
}


@one_head_idle
@pytest.mark.parametrize("name", ON_LAYERS)
@pytest.mark.sweep(2)
def test_losses_on_layers_compare_channels(name, runs_on_a_cpu):
    loss = ON_LAYERS[name]()
    teacher, student = net(8), net(6)
    (value,) = [value for key, value in logs_of(teacher, student, loss).items() if key == loss.name]
    reads = (loss.teacher_layer_name, loss.student_layer_name)
    sides = [
        features(model, *(read if isinstance(read, tuple) else (read,)))
        for model, read in zip((teacher, student), reads, strict=True)
    ]
    expected = loss(*(side if isinstance(reads[0], tuple) else side[0] for side in sides))
    np.testing.assert_allclose(value, as_numpy(expected), rtol=1e-4)


@pytest.mark.parametrize("orders", [(True, False), (False, True)])
def test_a_teacher_may_have_another_order_than_its_student(orders, runs_on_a_cpu):
    teacher, student = (net(6, first) for first in orders)
    source, target = (1, -1) if student.inputs[0].shape[1] == 3 else (-1, 1)
    turn = {"teacher_preprocessing": lambda x: ops.moveaxis(x, source, target)}
    batch = X if source == 1 else last(X)
    losses = [FeatureMSE("feat", "feat"), SoftTargets(1.0), OutputMSE()]
    distiller = Distiller(teacher, student, losses, student_loss_weight=0, **turn)
    distiller.compile(keras.optimizers.SGD(0.0))
    (taught, p), (learned, q) = (features(model, "feat", "head") for model in (teacher, student))
    expected = {
        "feature_mse": np.square(taught - learned).mean(),
        "soft_targets": soft(p, q),
        "output_mse": np.square(p - q).mean(),
    }
    assert_logs(distiller.train_on_batch(batch, return_dict=True), expected, rtol=1e-4)


def soft(p, q, temperature=1.0):
    rows = [np.asarray(side, "float64").reshape(-1, side.shape[-1]) for side in (p, q)]
    return reference.soft_targets(*rows, temperature).mean()


HEADS = {
    "linear": (("linear", None), {}),
    "softmax layer": (("linear", lambda axis: layers.Softmax(axis=axis)), {}),
    "softmax operation": (("linear", lambda axis: lambda x: ops.softmax(x, axis=axis)), {}),
    "softmax and a cast": (
        ("linear", lambda axis: lambda x: layers.Activation("linear")(layers.Softmax(axis)(x))),
        {},
    ),
    "stated logits": (("linear", None), {"from_logits": True}),
    "stated probabilities": (
        ("linear", lambda axis: lambda x: layers.Softmax(axis)(x)),
        {"from_logits": False},
    ),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.sweep(2)
def test_heads_have_their_classes_where_the_channels_are(name, runs_on_a_cpu):
    head, options = HEADS[name]
    teacher, student = net(8, head=head), net(6, head=head)
    (p,), (q,) = (features(model, "head") for model in (teacher, student))
    losses = [SoftTargets(2.0), LogitMSE(), HardTargets()]
    logs = logs_of(teacher, student, losses, **options)
    rows = [np.asarray(side, "float64").reshape(-1, 4) for side in (p, q)]
    if options.get("from_logits") is False:
        rows = [row - row.mean(axis=-1, keepdims=True) for row in rows]
    expected = {
        "soft_targets": soft(p, q, 2.0),
        "logit_mse": np.square(rows[0] - rows[1]).mean(),
        "hard_targets": reference.hard_labels(*rows).mean(),
    }
    assert_logs(logs, expected, rtol=1e-4, atol=1e-5)


def test_sigmoid_heads(runs_on_a_cpu):
    teacher, student = net(8, head=("sigmoid", None)), net(6, head=("sigmoid", None))
    weight = RNG.uniform(size=(4, 5, 3)).astype("float32")
    rows = [
        np.log(one / (1 - one)).astype("float64")
        for model in (teacher, student)
        for one in features(model, "head")
    ]
    values = reference.bernoulli_soft_targets(*(row.reshape(-1, 4) for row in rows), 2.0).reshape(4, 5, 3)
    logs = logs_of(
        teacher, student, BernoulliSoftTargets(2.0), y=np.zeros((4, 4, 5, 3)), sample_weight=weight
    )
    assert_logs(logs, {"loss": (weight * values).mean()}, rtol=1e-4)


@pytest.mark.parametrize("kind", ["numbers", "column first", "column last", "one-hot"])
@pytest.mark.sweep(1)
def test_labels_have_the_layout_of_the_students_output(kind, runs_on_a_cpu):
    teacher, student = net(8), net(6)
    labels = RNG.integers(0, 4, (4, 5, 3))
    y = {
        "numbers": labels,
        "column first": labels[:, None],
        "column last": labels[..., None],
        "one-hot": np.moveaxis(np.eye(4)[labels], -1, 1),
    }[kind]
    (p,), (q,) = (features(model, "head") for model in (teacher, student))
    rows = [np.asarray(side, "float64").reshape(-1, 4) for side in (p, q)]
    expected = reference.decoupled(*rows, labels.ravel()).mean()
    assert_logs(logs_of(teacher, student, DecoupledKD(), y=y), {"loss": expected}, rtol=1e-4)


def test_dist_takes_rows_alone():
    """Logits of a pooled head are rows, whatever the maps were."""
    inputs = keras.Input((3, 5, 7))
    nets = [
        keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D(**FIRST)(inputs))) for _ in "ab"
    ]
    expected = reference.dist(*(array(model(X)) for model in nets), 1.0, 1.0, 1.0).mean()
    assert_logs(logs_of(*nets, DIST()), {"loss": expected}, rtol=1e-4)


def test_a_function_returns_its_channels_last(runs_on_a_cpu):
    teacher, student = net(8), net(6)
    (p,), (q,) = (features(model, "head") for model in (teacher, student))
    logs = logs_of(
        lambda x: ops.moveaxis(teacher(x), 1, -1), student, SoftTargets(1.0), from_logits=(True, None)
    )
    assert_logs(logs, {"loss": soft(p, q)}, rtol=1e-4)


class Difference(keras.distillation.DistillationLoss):
    """A loss of keras.distillation that looks at shapes."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        assert tuple(student_outputs.shape[1:]) == (4, 5, 3)
        return ops.mean(ops.abs(teacher_outputs - student_outputs))


def test_losses_of_keras_get_outputs_as_they_are(runs_on_a_cpu):
    teacher, student = net(8), net(6)
    expected = np.abs(as_numpy(teacher(X)) - as_numpy(student(X))).mean()
    assert_logs(logs_of(teacher, student, Difference()), {"loss": expected}, rtol=1e-4)


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        ("softmax", None),
        ("linear", lambda axis: layers.Softmax()),
        ("linear", lambda axis: layers.Softmax(2)),
    ],
)
def test_a_softmax_over_the_width_is_no_head_of_classes(head):
    with pytest.raises(ValueError, match=r"a softmax over axis [23] of .*whose channels are on axis 1. Use"):
        Distiller(net(8), net(6, head=head), SoftTargets())


def test_a_graph_that_cannot_be_read_is_not_guessed():
    whole = Whole(name="whole")
    whole(X)
    distiller = Distiller(net(8), whole, SoftTargets(), student_loss_weight=0, from_logits=(None, True))
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"'whole', a Whole .*channels_first' and an output of shape"):
        distiller.train_on_batch(X)
    inputs = keras.Input((3, 5, 7))  # the way out
    student = keras.Model(inputs, whole(inputs))
    distiller = Distiller(student, student_like(student), OutputMSE(), student_loss_weight=0)
    distiller.compile("sgd")
    distiller.train_on_batch(X)


def student_like(model):
    whole = Whole()
    inputs = keras.Input(model.inputs[0].shape[1:])
    return keras.Model(inputs, whole(inputs))


def test_a_projector_gets_channels_last():
    projector = layers.Conv2D(8, 1, **FIRST)
    with pytest.raises(ValueError, match=r"'conv2d.*' with data_format='channels_first'. Make it with"):
        Distiller(net(8), net(6), Hint(*FEAT, projector=projector))


# --- what else has classes on an axis -----------------------------------------------------------------


@pytest.mark.parametrize("head", [("linear", None), ("linear", lambda axis: layers.Softmax(axis=axis))])
def test_an_ensemble_of_models_with_channels_first(head, runs_on_a_cpu):
    members = [net(6, head=head, name=name) for name in "ab"]
    probabilities = [np.exp(features(model, "head")[0].astype("float64")) for model in members]
    expected = np.mean([p / p.sum(axis=-1, keepdims=True) for p in probabilities], axis=0)
    joined = ensemble(members)
    np.testing.assert_allclose(last(as_numpy(joined(X))), expected, rtol=1e-4)
    student = net(4)
    (q,) = features(student, "head")
    logs = logs_of(joined, student, SoftTargets(1.0))
    assert_logs(logs, {"loss": soft(np.log(expected), q)}, rtol=1e-4)


def test_members_have_their_classes_on_one_axis():
    inputs = keras.Input((4, 4, 4))
    members = [
        keras.Model(inputs, layers.Conv2D(4, 1, **order)(inputs), name=name)
        for order, name in ((FIRST, "a"), (LAST, "b"))
    ]
    with pytest.raises(ValueError, match=r"classes on one axis. Received: {'a': 1, 'b': 3}"):
        ensemble(members)


def test_the_virtual_teacher_takes_an_axis():
    logits, labels = RNG.normal(size=(2, 4, 5)).astype("float32"), RNG.integers(0, 4, (2, 5))
    wanted = VirtualTeacher(from_logits=True)(labels, last(logits))
    loss = VirtualTeacher(from_logits=True, axis=1)
    again = type(loss).from_config(loss.get_config())
    for y in (labels, labels[:, None], labels[..., None]):
        np.testing.assert_allclose(as_numpy(again(as_tensor(y), logits)), as_numpy(wanted), rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"labels of shape \(2, 5\), predictions of shape \(2, 4, 5\).*axis=1"
    ):
        VirtualTeacher(from_logits=True)(labels, logits)
    with pytest.raises(ValueError, match="other than 0"):
        VirtualTeacher(axis=0)
    with pytest.raises(ValueError, match="Received: axis=3"):
        VirtualTeacher(axis=3)(labels, logits)

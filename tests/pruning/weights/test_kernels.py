"""Which weights can be pruned."""

import keras
import pytest
from conftest import dense_net
from keras import layers

from distill import pruning
from distill.pruning import find_kernels


def found(layer, shape, **kwargs):
    """name -> (shape, input axes, channel axis) of the kernels of one layer."""
    layer.build(shape)
    return {
        kernel.name: (tuple(kernel.variable.shape), kernel.input_axes, kernel.channel_axis)
        for kernel in find_kernels(layer, **kwargs).found
    }


KNOWN = {
    "dense": (layers.Dense(5), (None, 3), {"kernel": ((3, 5), (0,), 0)}),
    "einsum": (
        layers.EinsumDense("abcd,cde->abe", output_shape=(None, 6)),
        (None, 2, 3, 4),
        {"kernel": ((3, 4, 6), (0, 1), 1)},
    ),
    "einsum of any rank": (
        layers.EinsumDense("...x,xy->...y", output_shape=(6,)),
        (None, 4),
        {"kernel": ((4, 6), (0,), 0)},
    ),
    "conv1d": (layers.Conv1D(5, 2), (None, 8, 3), {"kernel": ((2, 3, 5), (0, 1), 1)}),
    "conv2d": (layers.Conv2D(5, 2), (None, 8, 8, 3), {"kernel": ((2, 2, 3, 5), (0, 1, 2), 2)}),
    "conv3d": (layers.Conv3D(5, 2), (None, 8, 8, 8, 3), {"kernel": ((2, 2, 2, 3, 5), (0, 1, 2, 3), 3)}),
    "conv1d transposed": (layers.Conv1DTranspose(5, 2), (None, 8, 3), {"kernel": ((2, 5, 3), (0, 2), 2)}),
    "conv2d transposed": (
        layers.Conv2DTranspose(5, 2),
        (None, 8, 8, 3),
        {"kernel": ((2, 2, 5, 3), (0, 1, 3), 3)},
    ),
    "depthwise": (layers.DepthwiseConv2D(2), (None, 8, 8, 3), {"kernel": ((2, 2, 3, 1), (0, 1), None)}),
    "separable": (
        layers.SeparableConv2D(5, 2),
        (None, 8, 8, 3),
        {
            "depthwise_kernel": ((2, 2, 3, 1), (0, 1), None),
            "pointwise_kernel": ((1, 1, 3, 5), (0, 1, 2), 2),
        },
    ),
    "embedding": (layers.Embedding(7, 4), (None, 3), {"embeddings": ((7, 4), (), None)}),
    "lstm": (
        layers.LSTM(2),
        (None, 8, 3),
        {
            "lstm_cell/kernel": ((3, 8), (0,), 0),
            "lstm_cell/recurrent_kernel": ((2, 8), (0,), 0),
        },
    ),
    "gru": (
        layers.GRU(2),
        (None, 8, 3),
        {"gru_cell/kernel": ((3, 6), (0,), 0), "gru_cell/recurrent_kernel": ((2, 6), (0,), 0)},
    ),
    "simple rnn": (
        layers.SimpleRNN(2),
        (None, 8, 3),
        {
            "simple_rnn_cell/kernel": ((3, 2), (0,), 0),
            "simple_rnn_cell/recurrent_kernel": ((2, 2), (0,), 0),
        },
    ),
    "conv lstm": (
        layers.ConvLSTM2D(2, 3),
        (None, 4, 8, 8, 1),
        {"kernel": ((3, 3, 1, 8), (0, 1, 2), 2), "recurrent_kernel": ((3, 3, 2, 8), (0, 1, 2), 2)},
    ),
    "time distributed": (
        layers.TimeDistributed(layers.Dense(5, name="inner")),
        (None, 4, 3),
        {"inner/kernel": ((3, 5), (0,), 0)},
    ),
    "bidirectional": (
        layers.Bidirectional(layers.SimpleRNN(2, name="rnn")),
        (None, 4, 3),
        {
            f"{way}_rnn/simple_rnn_cell/{name}": (shape, (0,), 0)
            for way in ("forward", "backward")
            for name, shape in (("kernel", (3, 2)), ("recurrent_kernel", (2, 2)))
        },
    ),
}


@pytest.mark.parametrize(("layer", "shape", "expected"), KNOWN.values(), ids=KNOWN)
def test_the_kernels_of_a_layer(layer, shape, expected):
    assert {name.replace("_1", ""): value for name, value in found(layer, shape).items()} == expected


def test_the_kernels_of_attention_and_nothing_of_its_biases():
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=4)
    layer.build((None, 5, 6), (None, 5, 6))
    kernels = {k.name: (tuple(k.variable.shape), k.input_axes) for k in find_kernels(layer).found}
    assert kernels == {
        "query/kernel": ((6, 2, 4), (0,)),
        "key/kernel": ((6, 2, 4), (0,)),
        "value/kernel": ((6, 2, 4), (0,)),
        "attention_output/kernel": ((2, 4, 6), (0, 1)),
    }
    assert not find_kernels(layer).skipped


def nested():
    """A backbone with a dense layer, called twice, in a model with a head and a PReLU."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="backbone")
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(name="norm")(inner(inner(inputs)))
    x = layers.PReLU(name="prelu")(layers.Reshape((2, 2))(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))


def test_nested_and_shared_layers_come_once_and_norms_and_biases_never():
    kernels = find_kernels(nested())
    assert [kernel.name for kernel in kernels.found] == ["backbone/dense/kernel", "head/kernel"]
    assert kernels.skipped == {"prelu/alpha": "not a known kernel of PReLU"}


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("head", None, ["head"]),
        ("backbone", None, ["backbone/dense"]),
        ("backbone/*", None, ["backbone/dense"]),
        ("dense", None, ["backbone/dense"]),
        (["backbone", "he*"], None, ["backbone/dense", "head"]),
        (layers.Dense, "head", ["backbone/dense"]),
        (None, lambda layer: layer.name == "dense", ["head"]),
        (lambda layer: getattr(layer, "units", 0) == 3, None, ["head"]),
        (None, keras.Sequential, ["head"]),
    ],
)
def test_layers_are_chosen_by_name_type_or_rule(include, exclude, expected):
    kernels = find_kernels(nested(), include=include, exclude=exclude)
    assert [kernel.name for kernel in kernels.found] == [f"{name}/kernel" for name in expected]
    left = {"backbone/dense/kernel", "head/kernel"} - {kernel.name for kernel in kernels.found}
    assert set(kernels.skipped) - {"prelu/alpha"} == left


@pytest.mark.parametrize(
    ("include", "exclude", "error", "message"),
    [
        ("haed", None, ValueError, "Each selector must match at least one layer. Received: ['haed']"),
        (None, layers.LSTM, ValueError, "Each selector must match at least one layer"),
        (3, None, TypeError, "include must be layer names"),
        (None, [int], TypeError, "exclude must be layer names"),
        (None, lambda layer: True, ValueError, "can be pruned: backbone/dense/kernel: excluded"),
    ],
)
def test_selectors_that_cannot_be_meant(include, exclude, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[").replace("]", r"\]")):
        find_kernels(nested(), include=include, exclude=exclude)


def test_a_model_without_weights_and_one_without_kernels():
    with pytest.raises(ValueError, match="A model must be built before its kernels can be found"):
        find_kernels(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match="can be pruned: it has no kernels"):
        find_kernels(keras.Sequential([keras.Input((3,)), layers.BatchNormalization()]))


class Custom(keras.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")
        self.table = self.add_weight(shape=(5, 5), name="table")

    def call(self, x):
        return x @ self.matrix


class Prunable(Custom):
    def get_prunable_weights(self):
        return [self.matrix]


def test_layers_of_ones_own():
    model = keras.Sequential([keras.Input((4,)), Custom(name="unknown"), Prunable(name="known")])
    kernels = find_kernels(model)
    assert [(k.name, k.input_axes) for k in kernels.found] == [("known/matrix", (0,))]
    assert kernels.skipped == {
        "unknown/matrix": "not a known kernel of Custom",
        "unknown/table": "not a known kernel of Custom",
        "known/table": "not a known kernel of Prunable",
    }


def test_quantized_layers_and_those_with_lora_are_skipped():
    model = dense_net(8)
    model.get_layer("hidden").enable_lora(2)
    model.get_layer("head").quantize("int8")
    with pytest.raises(
        ValueError, match="hidden/kernel: Dense has LoRA enabled.*head/kernel: Dense is quantized"
    ):
        find_kernels(model)


def test_frozen_kernels_are_found():
    model = dense_net(8)
    model.trainable = False
    assert [kernel.name for kernel in find_kernels(model).found] == ["hidden/kernel", "head/kernel"]


class Tied(keras.Layer):
    """Multiplies with the table of an embedding."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["table"] = table  # not a layer of its own

    def call(self, x):
        return x @ self.table.embeddings.value

    def get_prunable_weights(self):
        return [self.table.embeddings]


def test_a_kernel_that_two_layers_share_may_be_excluded_in_one():
    inputs = keras.Input((2,), dtype="int32")
    table = layers.Embedding(6, 4, name="first")
    hidden = layers.Dense(6, name="dense")(table(inputs))
    model = keras.Model(inputs, Tied(table, name="second")(hidden))
    assert [k.name for k in find_kernels(model).found] == ["first/embeddings", "dense/kernel"]
    kernels = find_kernels(model, exclude="first")
    assert [k.name for k in kernels.found] == ["dense/kernel", "second/embeddings"]
    assert not kernels.skipped
    assert kernels.found[1].variable is table.embeddings


def test_a_wrapper_does_not_hide_the_layer_that_it_wraps():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SpectralNormalization(layers.Conv2D(4, 3, name="conv"), name="normed"),
        ]
    )
    assert [kernel.name for kernel in find_kernels(model).found] == ["normed/conv/kernel"]


def test_an_empty_list_includes_nothing(teacher):
    with pytest.raises(ValueError, match="Nothing in 'teacher' can be pruned: .*not included"):
        pruning.prune(teacher, 0.5, include=[])
    assert all((weights != 0).all() for weights in teacher.get_weights() if weights.ndim == 2)

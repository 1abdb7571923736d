"""One example is followed through custom layers, nested models and layers in layers, or the reason is said."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from distill import cost, quantization
from distill.cost import calls_of


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def counted_by_ones(model):
    """Products in a forward pass: with inputs and kernels of ones and no bias, each adds 1 to an output."""
    model.set_weights([np.ones(w.shape) for w in model.weights])
    (shape,) = [t.shape[1:] for t in model.inputs]
    return int(np.sum(model(np.ones((1, *shape), "float32"), training=False)))


class Raw(layers.Layer):
    """Works with weights of its own."""

    def __init__(self, function, *shapes, **options):
        super().__init__()
        self.kernels = [self.add_weight(shape=shape, initializer="ones") for shape in shapes]
        self.function = function
        self.options = options

    def call(self, inputs):
        return self.function(inputs, *self.kernels, **self.options)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6,), Raw(ops.matmul, (6, 5))),
        ((9, 8, 6), Raw(ops.conv, (3, 2, 6, 4), strides=2)),
        ((9, 8, 6), Raw(ops.depthwise_conv, (3, 2, 6, 2))),
        ((9, 8, 6), Raw(ops.conv_transpose, (3, 2, 4, 6), strides=3)),
    ],
)
def test_a_layer_of_ones_own_counts_what_its_call_does(shape, layer, products):
    model = sequential(shape, layer)
    assert products(model) == (counted_by_ones(model), 0)


def test_a_separable_convolution_in_a_layer_of_ones_own(products):
    layer = Raw(ops.separable_conv, (3, 2, 6, 2), (1, 1, 12, 4))
    assert products(sequential((9, 8, 6), layer)) == (7 * 7 * (3 * 2 * 12 + 12 * 4), 0)


def test_fourier_transforms_by_hand(products):
    """Of 4 × 8 numbers: 5 rounds of 16 complex products, of four real ones, across both axes; along one 3 or 2."""

    def transformed(function):
        return sequential((4, 8), Raw(lambda x: function((x, ops.zeros_like(x)))[0]))

    assert products(transformed(ops.fft2)) == products(transformed(ops.ifft2)) == (5 * 16 * 4, 0)
    assert products(transformed(ops.fft)) == (3 * 16 * 4, 0)


class Twice(layers.Dense):
    def call(self, inputs):
        return super().call(super().call(inputs))


class Block(layers.Layer):
    """Layers in a layer, a weight of its own, a look at itself, and all that a call should leave alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = [layers.Dense(4, name="first"), layers.Dense(4, name="second")]
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)
        self.gain = self.add_weight(name="gain", shape=(4,), initializer="ones")

    def call(self, inputs):
        self.calls.assign_add(1.0)
        first = self.inner[0](inputs)
        scores = ops.matmul(first, ops.transpose(first, (0, 2, 1)))
        return self.inner[1](ops.matmul(scores, inputs)) * self.gain


def test_subclasses_and_layers_in_layers_count_what_they_do(products):
    assert products(sequential((3,), Twice(3))) == (2 * 3 * 3, 0)
    inputs = keras.Input((5, 4))
    block = Block(name="block")
    model = keras.Model(inputs, block(block(inputs)))
    assert products(model) == (2 * 2 * 5 * 4 * 4, 2 * 2 * 5 * 5 * 4)
    assert [(call.path, type(call.operation).__name__) for call in calls_of(model).calls[:6]] == [
        ("block/first", "Dense"),
        ("block", "Transpose"),
        ("block", "Matmul"),
        ("block", "Matmul"),
        ("block/second", "Dense"),
        ("block", "Multiply"),
    ]


def test_counting_leaves_layers_in_layers_alone():
    inputs = keras.Input((5, 4))
    block = Block()
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3)(block(inputs), inputs))
    model(np.ones((1, 5, 4)))

    def state():
        nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model._flatten_layers()]
        return nodes, float(block.calls)

    before = state()
    cost.macs(model)
    assert state() == before


def test_a_nested_models_inputs_are_given_by_name():
    """In another order than the model has them."""
    one, other = keras.Input((3,), name="b"), keras.Input((5,), name="a")
    inner = keras.Model([one, other], [layers.Dense(2)(one), layers.Dense(7)(other)])
    narrow, wide = keras.Input((3,)), keras.Input((5,))
    model = keras.Model([narrow, wide], inner({"a": wide, "b": narrow}))
    assert cost.macs(model) == 3 * 2 + 5 * 7


class Queries(layers.Layer):
    """Attends from what it has learned."""

    def __init__(self):
        super().__init__()
        self.project = layers.Dense(4)
        self.learned = self.add_weight(shape=(1, 3, 6), name="learned")

    def build(self, input_shape):
        self.project.build(self.learned.shape)
        self.built = True

    def call(self, inputs):
        return ops.matmul(self.project(self.learned * 2.0), ops.transpose(inputs, (0, 2, 1)))


def test_what_a_kernel_does_with_learned_numbers_counts(products):
    assert products(sequential((5, 4), Queries())) == (3 * 6 * 4, 3 * 4 * 5)


class Residual(layers.Layer):
    """Holds a model, and a layer that nothing has built."""

    def __init__(self):
        super().__init__()
        self.net = sequential((4,), layers.Dense(4))
        self.add = layers.Add()

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return self.add([self.net(inputs), inputs])

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_model_in_a_layer_and_a_layer_that_is_not_built(products):
    assert products(sequential((4,), Residual())) == (4 * 4, 0)


class Odd(layers.Layer):
    """Keras can neither infer what it makes nor can its call be followed."""

    def call(self, inputs):
        return tf.square(inputs)

    def compute_output_spec(self, inputs):
        if inputs.shape[0] == 1:
            raise TypeError("no batch of one")
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_what_keras_cannot_infer_is_named():
    model = sequential((4,), Odd(name="odd"))
    with pytest.raises(
        ValueError, match="Received: odd of type Odd, whose output shape Keras cannot infer: no batch of one"
    ):
        cost.macs(model)
    profile = cost.profile(model)
    assert profile.macs is None
    assert "odd of type Odd" in profile.unknown[model.name]


@pytest.mark.parametrize("layer", [Queries(), Odd()])
def test_counting_leaves_keras_alone(layer):
    def state():
        return keras.Layer.__call__, keras.Operation.symbolic_call, keras.Variable.__mul__

    before = state()
    with contextlib.suppress(ValueError):
        calls_of(sequential((5, 4), layer))
    assert state() == before


def test_nested_and_shared_parts_count_once_per_call_at_the_size_of_that_call():
    head = sequential((None, None, 4), layers.Conv2D(2, 1))
    backbone_input = keras.Input((None, None, 3))
    backbone = keras.Model(backbone_input, layers.Conv2D(4, 3, padding="same")(backbone_input))
    inputs = keras.Input((8, 6, 3))
    large = backbone(inputs)
    small = layers.MaxPooling2D()(large)
    model = keras.Model(inputs, [head(large), head(inputs=small)])
    assert cost.macs(model) == 48 * 9 * 3 * 4 + (48 + 12) * 4 * 2


def test_dict_inputs_and_raw_operations():
    inputs = {key: keras.Input((4,), name=key) for key in "ab"}
    model = keras.Model(inputs, {"sum": layers.Dense(2)(inputs["a"] + keras.ops.relu(inputs["b"]))})
    assert cost.macs(model) == 4 * 2
    outer = {key: keras.Input((4,), name=key) for key in "ab"}
    assert cost.macs(keras.Model(outer, layers.Dense(3)(model(outer)["sum"]))) == 4 * 2 + 2 * 3


def test_layers_of_several_outputs_are_free_unless_they_have_weights():
    class Halves(layers.Layer):
        def call(self, inputs):
            return inputs[:, :2], inputs[:, 2:]

    inputs = keras.Input((4,))
    first, _ = Halves()(inputs)
    assert cost.macs(keras.Model(inputs, layers.Dense(3)(first))) == 2 * 3


def test_rows_folded_into_the_batch_are_counted():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.Dense(7)(keras.ops.reshape(inputs, (-1, 6))))
    assert cost.macs(model) == 5 * 6 * 7


class Unbranched(keras.Model):
    def __init__(self):
        super().__init__(name="unbranched")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class Hidden(layers.Layer):
    """Multiplies where nobody sees it."""

    def call(self, inputs):
        return tf.matmul(inputs, tf.ones((3, 2)))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Unbranched(), r"need a model's graph.*Received: unbranched of type Unbranched.*keras\.Input"),
        (keras.Sequential([layers.Dense(2)]), r"need a model's graph.*of type Sequential"),
        (
            sequential((None, 8, 1), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D()),
            r"sizes must be known\. Received: sequential\w* with shape \(None, 8, 1\)\. Give them with lengths=",
        ),
        (
            sequential((4, 4), Raw(ops.linalg.inv)),
            r"Received: raw\w* of type Inv, whose call cannot be followed",
        ),
        (
            sequential((4, 4), Raw(lambda x: ops.einsum("bij,bjk,bkl->bil", x, x, x))),
            r"for two operands: .*Received: 'bij,bjk,bkl->bil' in einsum",
        ),
        (
            sequential((4, 3), layers.TimeDistributed(Hidden(), name="each")),
            r"Received: each of type Hidden",
        ),
        (
            sequential((3,), Hidden(name="hidden")),
            r"never guessed\. Received: hidden of type Hidden, whose call cannot be followed",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        cost.macs(model)


def test_a_size_lost_inside_the_graph_is_refused():
    class Ragged(layers.Layer):
        def compute_output_shape(self, input_shape):
            return (input_shape[0], None, input_shape[-1])

        def call(self, inputs):
            return tf.identity(inputs)

    late = calls_of(sequential((4, 3), Ragged(), layers.Dense(2, name="late"))).calls[-1]
    assert late.products is None
    assert "Received: late with shape (1, None, 3)" in late.unknown


def test_a_fixed_batch_is_named_where_one_example_does_not_do():
    inputs = keras.Input(batch_shape=(8, 4))
    reshaped = ops.reshape(inputs, (8, 2, 2))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(reshaped)))
    with pytest.raises(ValueError, match="whose batch size is 8: .* without a batch size"):
        cost.macs(model)


def test_counting_leaves_the_model_alone():
    model = sequential((8, 8, 1), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3))
    before = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    cost.macs(model)
    assert (model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]) == before


def test_what_rounds_costs_nothing():
    stack = [layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU()]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    aware = quantization.quantize_aware(
        model, np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    )
    assert cost.macs(aware) == cost.macs(model) == 36 * 27 * 4 + 12

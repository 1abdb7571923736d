"""Multiply-adds: by hand, by running kernels of ones, and against published figures."""

import contextlib

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

# Keras exports no name for it.
from keras.src.applications import convnext

from distill import cost
from distill.cost._calls import calls_of, total


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def counted_by_ones(model):
    """Products in a forward pass: with inputs and kernels of ones and no bias, each adds 1 to an output."""
    model.set_weights([np.ones(w.shape) for w in model.weights])
    (shape,) = [t.shape[1:] for t in model.inputs]
    return int(np.sum(model(np.ones((1, *shape), "float32"), training=False)))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6,), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.EinsumDense("abc,cde->abde", (None, 2, 3))),
        ((5, 6), layers.EinsumDense("abc,bcd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,cd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,bcd->abd", (5, 3))),
        ((4, 5, 6), layers.EinsumDense("...x,xy->...y", (3,))),
        ((11, 6), layers.Conv1D(4, 3, strides=2, use_bias=False)),
        ((11, 6), layers.Conv1D(4, 3, groups=2, dilation_rate=3, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, (3, 2), strides=(2, 3), use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, groups=2, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, dilation_rate=2, use_bias=False)),
        ((5, 6, 7, 2), layers.Conv3D(3, 2, use_bias=False)),
        ((11, 6), layers.DepthwiseConv1D(3, strides=2, use_bias=False)),
        ((9, 8, 6), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)),
        ((9, 6), layers.Conv1DTranspose(4, 3, use_bias=False)),
        ((9, 8, 6), layers.Conv2DTranspose(4, (3, 2), strides=2, use_bias=False)),
        ((4, 5, 3, 2), layers.Conv3DTranspose(3, 2, use_bias=False)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value.name,
)
def test_macs_are_the_products_that_the_layer_does(shape, layer):
    model = sequential(shape, layer)
    assert cost.macs(model) == counted_by_ones(model)


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        # Products with the zeros of the padding count: output pixels × kernel × input channels × filters.
        ((9, 8, 6), layers.Conv2D(4, 3, strides=2, padding="same"), 5 * 4 * 9 * 6 * 4),
        ((9, 6), layers.Conv1D(4, 3, strides=2, padding="causal"), 5 * 3 * 6 * 4),
        ((9, 8, 6), layers.DepthwiseConv2D(3, padding="same"), 9 * 8 * 9 * 6),
        # Each depthwise product once, then a 1 × 1 convolution of 6 · 2 channels to 4.
        (
            (9, 8, 6),
            layers.SeparableConv2D(4, 3, strides=2, depth_multiplier=2),
            4 * 3 * (9 * 6 * 2 + 6 * 2 * 4),
        ),
        ((9, 6), layers.SeparableConv1D(4, 3), 7 * (3 * 6 + 6 * 4)),
        ((9, 8, 6), layers.Conv2DTranspose(4, 3, strides=2, padding="same"), 9 * 8 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2D(4, 3, data_format="channels_first"), 7 * 6 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2DTranspose(4, 3, data_format="channels_first"), 9 * 8 * 9 * 6 * 4),
    ],
)
def test_macs_by_hand(shape, layer, expected):
    assert cost.macs(sequential(shape, layer)) == expected


PLAIN = [
    layers.Rescaling(1 / 255),
    layers.Normalization(mean=0.0, variance=1.0),
    layers.Resizing(8, 8),
    layers.RandomFlip(),
    layers.BatchNormalization(center=False, scale=False),
    layers.BatchNormalization(scale=False),  # its call is another
    layers.GroupNormalization(2, center=False, scale=False),
    layers.LayerNormalization(),
    layers.RMSNormalization(),
    layers.UnitNormalization(),
    layers.PReLU(),
    layers.Activation("hard_silu"),
    layers.Activation("mish"),
    layers.UpSampling2D(interpolation="bilinear"),
    layers.MaxPooling2D(),
    layers.ZeroPadding2D(1),
    layers.Cropping2D(1),
    layers.Dropout(0.5),
    layers.SpatialDropout2D(0.5),
    layers.GaussianNoise(0.1),
    layers.Permute((3, 1, 2)),
    layers.Flatten(),
    layers.Softmax(),
    layers.RepeatVector(2),
    convnext.LayerScale(1e-6, 256),
]


def test_layers_without_kernels_are_free():
    assert cost.macs(sequential((8, 8, 4), *PLAIN)) == 0
    tokens = sequential((7,), layers.Embedding(10, 3), layers.GlobalAveragePooling1D(), layers.Dense(2))
    assert cost.macs(tokens) == 3 * 2


def products(model):
    """With weights, of activations."""
    found = total(calls_of(model).calls)
    assert cost.macs(model) == found.weights + found.activations
    return tuple(found)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # Five steps of three features; a kernel from the features and one from the four units, for each gate.
        (layers.SimpleRNN(4), 5 * (3 + 4) * 4),
        (layers.LSTM(4, return_sequences=True), 5 * (3 + 4) * 4 * 4),
        (layers.GRU(4), 5 * (3 + 4) * 4 * 3),
        (layers.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid"), 5 * (3 + 4) * 4 * 3),
        (layers.Bidirectional(layers.LSTM(4)), 2 * 5 * (3 + 4) * 4 * 4),
        (layers.TimeDistributed(layers.Dense(2)), 5 * 3 * 2),
        (
            layers.TimeDistributed(sequential((3,), layers.Dense(2), layers.Dense(7))),
            5 * (3 * 2 + 2 * 7),
        ),
    ],
)
def test_recurrent_layers_count_once_a_step(layer, expected):
    assert products(sequential((5, 3), layer)) == (expected, 0)


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # they take different ways through Keras
@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_hand(dropout, masked):
    query, value = keras.Input((7, 6)), keras.Input((5, 4))
    mask = {"attention_mask": np.ones((1, 7, 5), bool)} if masked else {}
    attended = layers.MultiHeadAttention(2, 3, value_dim=8, output_shape=9, dropout=dropout)(
        query, value, **mask
    )
    projected = 7 * 6 * (2 * 3) + 5 * 4 * (2 * 3) + 5 * 4 * (2 * 8) + 7 * (2 * 8) * 9
    assert products(keras.Model([query, value], attended)) == (projected, 2 * 7 * 5 * 3 + 2 * 7 * 5 * 8)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_a_causal_mask_hides_is_computed_all_the_same(dropout):
    inputs = keras.Input((7, 6))
    attended = layers.MultiHeadAttention(2, 3, dropout=dropout)(inputs, inputs, use_causal_mask=True)
    assert products(keras.Model(inputs, attended)) == (4 * 7 * 6 * (2 * 3), 2 * 2 * 7 * 7 * 3)


def test_grouped_attention_by_hand():
    """Four heads of queries share two of keys and values, which are compared with each."""
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.GroupQueryAttention(3, 4, 2)(inputs, inputs))
    projected = 5 * 6 * (4 * 3) + 2 * (5 * 6 * (2 * 3)) + 5 * (4 * 3) * 6
    assert products(model) == (projected, 2 * (4 * 5 * 5 * 3))


def test_a_mask_is_no_input_of_a_layer_over_time():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(layers.Masking()(inputs)))
    assert cost.macs(model) == 5 * 4 * 3


def test_attention_without_weights():
    inputs, other = keras.Input((5, 6)), keras.Input((7, 6))
    assert products(keras.Model([inputs, other], layers.Attention()([inputs, other]))) == (0, 2 * 5 * 7 * 6)
    assert products(keras.Model([inputs, other], layers.Dot(2)([inputs, other]))) == (0, 5 * 7 * 6)


@pytest.mark.parametrize(
    ("one", "other", "operation", "expected"),
    [
        ((3, 4), (4, 5), ops.matmul, 3 * 4 * 5),
        ((2, 3, 4), (4, 5), ops.matmul, 2 * 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.einsum("bij,bkj->bik", a, b), 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.einsum("bij,bkj->b", a, b), 3 * 4 * 5),
        ((2, 3, 4), (4, 5), lambda a, b: ops.einsum("...ij,...jk->...ik", a, b[:, None]), 2 * 3 * 4 * 5),
        ((3, 4), (3, 4), lambda a, b: ops.einsum("bij,bij", a, b), 3 * 4),
        ((3, 4), (3, 4), lambda a, b: ops.tensordot(a, b, axes=3), 3 * 4),
        ((3, 4), (4, 5), lambda a, b: ops.tensordot(a, b[0], axes=1), 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.tensordot(a, b, axes=[[0, 2], [0, 2]]), 3 * 4 * 5),
        ((3, 4), (5, 4), ops.inner, 3 * 4 * 5),
        ((4,), (4,), lambda a, b: ops.vdot(a[0], b[0]), 4),
        ((3, 4), (4,), lambda a, b: ops.dot(a, b[0]), 3 * 4),
        ((3, 4), (3, 4), lambda a, b: a * b + ops.sum(a), 0),
        ((5, 2, 4), (7, 2, 4), lambda a, b: ops.dot_product_attention(a, b, b), 2 * (2 * 5 * 7 * 4)),
    ],
)
def test_products_of_two_activations(one, other, operation, expected):
    inputs = [keras.Input(one), keras.Input(other)]
    assert products(keras.Model(inputs, operation(*inputs))) == (0, expected)


def test_a_constant_is_as_good_as_a_weight():
    inputs = keras.Input((3, 4))
    assert products(keras.Model(inputs, ops.matmul(inputs, np.ones((4, 5), "float32")))) == (3 * 4 * 5, 0)


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
def test_a_layer_of_ones_own_counts_what_its_call_does(shape, layer):
    model = sequential(shape, layer)
    assert products(model) == (counted_by_ones(model), 0)


def test_a_separable_convolution_in_a_layer_of_ones_own():
    layer = Raw(ops.separable_conv, (3, 2, 6, 2), (1, 1, 12, 4))
    assert products(sequential((9, 8, 6), layer)) == (7 * 7 * (3 * 2 * 12 + 12 * 4), 0)


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


def test_subclasses_and_layers_in_layers_count_what_they_do():
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


HUB = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 24}
SHARED_HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}
PROJECTIONS = 4 * 8 * 8
FEEDFORWARD = 2 * 8 * 24


@pytest.mark.parametrize(
    ("build", "steps", "weights", "activations"),
    [
        (
            lambda: keras_hub.models.BertBackbone(num_heads=2, max_sequence_length=8, **HUB),
            5,
            2 * 5 * (PROJECTIONS + FEEDFORWARD) + 8 * 8,
            2 * 2 * 5 * 5 * 8,
        ),
        (
            lambda: keras_hub.models.GPT2Backbone(num_heads=2, max_sequence_length=8, **HUB),
            5,
            2 * 5 * (PROJECTIONS + FEEDFORWARD),
            2 * 2 * 5 * 5 * 8,
        ),
        (
            lambda: keras_hub.models.LlamaBackbone(**SHARED_HEADS, **HUB),
            5,
            2
            * 5
            * (
                3 * 8 * 8 + 3 * 8 * 24
            ),  # keys and values together are as wide as queries; a third dense layer
            2 * 2 * 5 * 5 * 8,
        ),
        (
            lambda: keras_hub.models.ViTBackbone(
                image_shape=(16, 16, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=24
            ),
            17,
            16 * 4 * 4 * 3 * 8 + 2 * 17 * (PROJECTIONS + FEEDFORWARD),
            2 * 2 * 17 * 17 * 8,
        ),
    ],
    ids=["bert", "gpt2", "llama", "vit"],
)
def test_transformers_of_keras_hub_by_hand(build, steps, weights, activations):
    backbone = build()
    inputs = keras.tree.map_structure(
        lambda t: keras.Input([size or steps for size in t.shape[1:]], dtype=t.dtype, name=t.name),
        backbone.input,
    )
    assert products(keras.Model(inputs, backbone(inputs))) == (weights, activations)


def by_tensorflow(model, inputs):
    """Products in the graph that TensorFlow makes of a model: another count, which knows nothing of layers."""

    def spec(tensor):
        return tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype)

    run = tf.function(lambda given: model(given, training=False))
    graph = run.get_concrete_function(keras.tree.map_structure(spec, inputs)).graph
    operations = list(graph.get_operations())
    for name in {op.get_attr("f").name for op in operations if "PartitionedCall" in op.type}:
        operations += graph._get_function(name).graph.get_operations()
    found = 0
    for op in operations:
        shapes = [tuple(tensor.shape) for tensor in op.inputs]
        if op.type in ("MatMul", "BatchMatMulV2"):
            turned = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            found += np.prod(op.outputs[0].shape) * shapes[0][-2 if turned else -1]
        elif op.type == "Conv2D":
            found += np.prod(op.outputs[0].shape[:-1]) * np.prod(shapes[1])
        elif op.type == "Einsum" and len(shapes) == 2:
            terms = op.get_attr("equation").decode().split("->")[0].split(",")
            if set.intersection(*map(set, terms)) - {
                "."
            }:  # or the angles of rotary positions, which no input changes
                sizes = dict(zip("".join(terms), sum(shapes, ()), strict=True))
                found += np.prod(list(sizes.values()))
    return int(found)


SMALL = {"vocabulary_size": 20, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 24}
IMAGES = {"image_shape": (16, 16, 3), "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
SIDES = {
    "hidden_dim": 8,
    "intermediate_dim": 24,
    "num_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2,
    "layer_types": ["full_attention"],
}
# Hard to follow for one reason each.
HARD = {
    # cross attention; the class says what it makes by a rule that takes fewer arguments than its call
    "whisper": lambda models: models.WhisperBackbone(
        num_heads=2, max_encoder_sequence_length=8, max_decoder_sequence_length=8, num_mels=4, **SMALL
    ),
    # `None` among what layers return, and a weight times a tensor
    "t5": lambda models: models.T5Backbone(num_heads=2, **SMALL),
    # a size that Keras loses on the way
    "t5_gemma": lambda models: models.T5GemmaBackbone(
        20, **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in SIDES.items()}
    ),
    # tensorflow's own functions
    "deberta": lambda models: models.DebertaV3Backbone(
        num_heads=2, max_sequence_length=8, bucket_size=4, **SMALL
    ),
    # a nested layer that takes no `training`
    "dino_v3": lambda models: models.DINOV3Backbone(intermediate_dim=24, **IMAGES),
    # a layer that returns two tensors where its class says one
    "esm": lambda models: models.ESMBackbone(num_heads=2, **SMALL),
    # the number of axes as a tensor
    "roformer": lambda models: models.RoformerV2Backbone(num_heads=2, head_size=4, **SMALL),
    # attention of a learned query
    "siglip": lambda models: models.SigLIPVisionEncoder(intermediate_dim=24, **IMAGES),
}


@pytest.mark.filterwarnings(
    "ignore:Layer '(self|cross)_attention' .of type T5MultiHeadAttention"
)  # keras_hub's own
@pytest.mark.parametrize("name", HARD)
def test_layers_whose_sizes_keras_cannot_infer(name):
    backbone = HARD[name](keras_hub.models)
    steps = 8
    inputs = keras.tree.map_structure(
        lambda t: keras.Input([size or steps for size in t.shape[1:]], dtype=t.dtype, name=t.name),
        backbone.input,
    )
    assert cost.macs(keras.Model(inputs, backbone(inputs))) == by_tensorflow(backbone, inputs)


def test_attention_across_two_sequences_by_hand():
    """A decoder of 5 steps that looks at 7 of an encoder."""
    decoder = keras_hub.layers.TransformerDecoder(24, 2)
    inputs = [keras.Input((5, 8)), keras.Input((7, 8))]
    model = keras.Model(inputs, decoder(*inputs))
    weights = 5 * (PROJECTIONS + FEEDFORWARD) + (5 + 7) * 2 * 8 * 8
    assert products(model) == (weights, 2 * 5 * 5 * 8 + 2 * 5 * 7 * 8)


def test_fourier_transforms_by_hand():
    """Of 4 × 8 numbers: 5 rounds of 16 complex products, of four real ones, across both axes; along one 3 or 2."""

    def transformed(function):
        return sequential((4, 8), Raw(lambda x: function((x, ops.zeros_like(x)))[0]))

    assert products(transformed(ops.fft2)) == products(transformed(ops.ifft2)) == (5 * 16 * 4, 0)
    assert products(transformed(ops.fft)) == (3 * 16 * 4, 0)
    backbone = keras_hub.models.FNetBackbone(9, 1, hidden_dim=8, intermediate_dim=16, max_sequence_length=4)
    inputs = {key: keras.Input((4,), dtype="int32", name=key) for key in backbone.input}
    kernels = 4 * (8 * 8 + 8 * 16 + 16 * 8) + 8 * 8  # projection, feed-forward, and the pooled first step
    assert products(keras.Model(inputs, backbone(inputs))) == (kernels + 5 * 16 * 4, 0)


def test_disentangled_attention_by_hand():
    """Five steps and eight distances, which queries and keys see through the kernels of each other."""
    backbone = HARD["deberta"](keras_hub.models)
    inputs = {key: keras.Input((5,), dtype="int32", name=key) for key in backbone.input}
    found = products(keras.Model(inputs, backbone(inputs)))
    weights = 5 * (PROJECTIONS + FEEDFORWARD) + 8 * 2 * 8 * 8
    assert found == (weights, 2 * 5 * 5 * 8 + 2 * 5 * 8 * 8)


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


def test_what_a_kernel_does_with_learned_numbers_counts():
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


def test_a_model_in_a_layer_and_a_layer_that_is_not_built():
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
    with pytest.raises(ValueError, match="Received: odd of type Odd, of which it cannot: no batch of one"):
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


# Network -> arguments, what was published, in millions, and where. All count a multiply-add once, of convolutions and
# dense layers alone. [K] is the documentation of keras.applications (of MobileNetV2 that of tf.keras), [S] that of the
# TensorFlow models it was ported from, [T] torchvision's, whose networks are the same but for what is left out here:
# its ResNets have their strides elsewhere, and its EfficientNetB2 is fed other images.
PUBLISHED = {
    "MobileNet": ({"alpha": 0.75}, 325, "Howard et al. 2017, arXiv:1704.04861, table 6"),
    "MobileNetV2": ({}, 300, "[K], and Sandler et al. 2018, arXiv:1801.04381, table 4"),
    "EfficientNetB0": ({}, 386, "[T]; Tan and Le 2019, arXiv:1905.11946, table 2 rounds to 390"),
}
PUBLISHED_LARGE = {
    "ConvNeXtBase": ({}, 15_355, "[T]; Liu et al. 2022, arXiv:2201.03545, table 1 rounds to 15,400"),
    "ConvNeXtSmall": ({}, 8_684, "[T]; there 8,700"),
    "ConvNeXtTiny": ({}, 4_456, "[T]; there 4,500"),
    "DenseNet121": ({}, 2_834, "[T]"),
    "DenseNet169": ({}, 3_360, "[T]"),
    "DenseNet201": ({}, 4_291, "[T]"),
    "EfficientNetB1": ({}, 687, "[T]; table 2 of Tan and Le 700"),
    "EfficientNetB2": ({}, 1_000, "table 2 of Tan and Le"),
    "InceptionResNetV2": ({}, 13_200, "Zoph et al. 2018, arXiv:1707.07012, table 2"),
    "InceptionV3": ({}, 5_720, "Zoph et al., table 2"),
    "MobileNetV3Large": ({"input_shape": (224, 224, 3)}, 217, "[K]"),
    "NASNetMobile": ({}, 564, "[S], and Zoph et al., table 3"),
    "Xception": ({}, 8_380, "Zoph et al., table 2"),
    # Table 1 of He et al. 2015, arXiv:1512.03385, has 3,800 for ResNet50, of which 3,858 are counted here.
    "ResNet101": ({}, 7_600, "He et al., table 1"),
    "ResNet152": ({}, 11_300, "He et al., table 1"),
    "VGG16": ({}, 15_470, "[T]"),
    "VGG19": ({}, 19_632, "[T]; He et al., section 3.3: 19,600"),
}


def millions_of(name, arguments):
    return cost.macs(getattr(keras.applications, name)(weights=None, **arguments)) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_those_published(name):
    arguments, millions, _ = PUBLISHED[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_LARGE)
def test_macs_of_large_networks_are_those_published(name):
    arguments, millions, _ = PUBLISHED_LARGE[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)


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
            r"sizes must be known\. Received: sequential\w* with shape \(None, 8, 1\)\. Rebuild",
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
    with pytest.raises(ValueError, match="whose batches have 8: .* any batch"):
        cost.macs(model)


def test_counting_leaves_the_model_alone():
    model = sequential((8, 8, 1), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3))
    before = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    cost.macs(model)
    assert (model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]) == before

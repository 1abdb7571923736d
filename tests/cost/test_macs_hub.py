"""Multiply-adds of keras_hub's networks: by hand, and against TensorFlow's graph."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from distill import cost

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
@pytest.mark.sweep(1)
def test_transformers_of_keras_hub_by_hand(build, steps, weights, activations, products):
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
@pytest.mark.sweep(1)
def test_layers_whose_sizes_keras_cannot_infer(name):
    backbone = HARD[name](keras_hub.models)
    steps = 8
    inputs = keras.tree.map_structure(
        lambda t: keras.Input([size or steps for size in t.shape[1:]], dtype=t.dtype, name=t.name),
        backbone.input,
    )
    assert cost.macs(keras.Model(inputs, backbone(inputs))) == by_tensorflow(backbone, inputs)


def test_attention_across_two_sequences_by_hand(products):
    """A decoder of 5 steps that looks at 7 of an encoder."""
    decoder = keras_hub.layers.TransformerDecoder(24, 2)
    inputs = [keras.Input((5, 8)), keras.Input((7, 8))]
    model = keras.Model(inputs, decoder(*inputs))
    weights = 5 * (PROJECTIONS + FEEDFORWARD) + (5 + 7) * 2 * 8 * 8
    assert products(model) == (weights, 2 * 5 * 5 * 8 + 2 * 5 * 7 * 8)


def test_a_transformer_of_fourier_transforms_by_hand(products):
    backbone = keras_hub.models.FNetBackbone(9, 1, hidden_dim=8, intermediate_dim=16, max_sequence_length=4)
    inputs = {key: keras.Input((4,), dtype="int32", name=key) for key in backbone.input}
    kernels = 4 * (8 * 8 + 8 * 16 + 16 * 8) + 8 * 8  # projection, feed-forward, and the pooled first step
    assert products(keras.Model(inputs, backbone(inputs))) == (kernels + 5 * 16 * 4, 0)


def test_disentangled_attention_by_hand(products):
    """Five steps and eight distances, which queries and keys see through the kernels of each other."""
    backbone = HARD["deberta"](keras_hub.models)
    inputs = {key: keras.Input((5,), dtype="int32", name=key) for key in backbone.input}
    found = products(keras.Model(inputs, backbone(inputs)))
    weights = 5 * (PROJECTIONS + FEEDFORWARD) + 8 * 2 * 8 * 8
    assert found == (weights, 2 * 5 * 5 * 8 + 2 * 5 * 8 * 8)

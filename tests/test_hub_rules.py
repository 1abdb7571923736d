"""Structured pruning of keras_hub's backbones: transformer layers give of the width between their dense layers."""

import keras
import keras_hub
import numpy as np
import pytest

from distill import pruning

TOKENS = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 24}
HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}


def tokens():
    ids = np.arange(10).reshape(2, 5) % 20
    return {"token_ids": ids, "padding_mask": np.ones((2, 5), int)}


def segmented():
    return {**tokens(), "segment_ids": np.zeros((2, 5), int)}


def images():
    return np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")


CASES = {
    "bert": (lambda: keras_hub.models.BertBackbone(num_heads=2, max_sequence_length=8, **TOKENS), segmented),
    "gpt2": (lambda: keras_hub.models.GPT2Backbone(num_heads=2, max_sequence_length=8, **TOKENS), tokens),
    "f_net": (
        lambda: keras_hub.models.FNetBackbone(max_sequence_length=8, **TOKENS),
        lambda: {key: value for key, value in segmented().items() if key != "padding_mask"},
    ),
    "llama": (lambda: keras_hub.models.LlamaBackbone(**HEADS, **TOKENS), tokens),
    "mistral": (lambda: keras_hub.models.MistralBackbone(**HEADS, **TOKENS), tokens),
    "vit": (
        lambda: keras_hub.models.ViTBackbone(
            image_shape=(16, 16, 3), patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=24
        ),
        images,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_transformers_lose_width_between_their_dense_layers(name):
    build, inputs = CASES[name]
    model = build()
    rng = np.random.default_rng(0)
    dead = {}  # so that a cut changes nothing
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dense) and layer._kernel.shape == (24, 8):
            alive = rng.permutation(np.arange(24) < 12) if name != "vit" or not dead else dead[0]
            dead.setdefault(0, alive)
            layer._kernel.assign(layer._kernel.numpy() * alive[:, None])
    assert dead

    def by_reader(structure):
        for slot in structure.slots:
            if slot.role == "input" and slot.labels.size == 24:
                yield slot.labels, np.abs(slot.variable.numpy()).sum(1)

    given = inputs()
    small = pruning.prune_channels(model, 0.5, importance=by_reader, keep=_all_but_transformers, verify=given)
    assert small.count_params() < model.count_params()
    expected, found = (keras.tree.flatten(one(given)) for one in (model, small))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def _all_but_transformers(layer):
    return not type(layer).__name__.endswith(("Encoder", "Decoder"))


def test_backbones_of_convolutions_are_graphs():
    model = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 16],
        stackwise_num_blocks=[2, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    small = pruning.prune_channels(model, 0.5, round_to=1, verify=True)
    assert small.count_params() < model.count_params() / 2

"""Structured pruning of keras_hub's backbones: transformer layers give of the width between their dense layers."""

import keras
import keras_hub
import numpy as np
import pytest
from backend import since_keras
from keras_hub.src.models.llama.llama_decoder import LlamaTransformerDecoder

from distill import pruning
from distill.pruning.structured import _hub_rules as hub_rules
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read

WIDTH = 24  # between the dense layers
TOKENS = {"vocabulary_size": 20, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": WIDTH}
ENCODER = {**TOKENS, "num_heads": 2}
DECODER_HEADS = {"num_query_heads": 4, "num_key_value_heads": 2}
DECODER = {**TOKENS, **DECODER_HEADS}
VISION = {"image_shape": (16, 16, 3), "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
IMAGES = {**VISION, "intermediate_dim": WIDTH}
TEXTS = {**ENCODER, "embedding_dim": 8, "max_sequence_length": 5}
SIDES = {
    "hidden_dim": 8,
    "intermediate_dim": WIDTH,
    "num_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "layer_types": ["full_attention"],
}
BOTH_SIDES = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in SIDES.items()}


def two_towers(name):
    models = keras_hub.models
    vision, text = (getattr(models, f"{name}{kind}Encoder") for kind in ("Vision", "Text"))
    more = {} if name == "SigLIP" else {"projection_dim": 8}
    return getattr(models, f"{name}Backbone")(vision(**IMAGES), text(**TEXTS), **more)


CASES = {
    "bart": lambda models: models.BartBackbone(max_sequence_length=8, **ENCODER),
    "bert": lambda models: models.BertBackbone(max_sequence_length=8, **ENCODER),
    "bloom": lambda models: models.BloomBackbone(**ENCODER),
    "clip": lambda models: two_towers("CLIP"),
    "deberta": lambda models: models.DebertaV3Backbone(max_sequence_length=8, bucket_size=4, **ENCODER),
    "deit": lambda models: models.DeiTBackbone(**IMAGES),
    "dino_v2": lambda models: models.DINOV2Backbone(position_embedding_shape=(16, 16, 3), **IMAGES),
    "dino_v3": lambda models: models.DINOV3Backbone(**IMAGES),
    "dino_v3, gated": lambda models: models.DINOV3Backbone(use_gated_mlp=True, **IMAGES),
    "ed_rec": lambda models: models.EdRecBackbone(20, 1, 1, 8, WIDTH, 2),
    "esm": lambda models: models.ESMBackbone(**ENCODER),
    "f_net": lambda models: models.FNetBackbone(max_sequence_length=8, **TOKENS),
    "falcon": lambda models: models.FalconBackbone(num_attention_heads=2, **TOKENS),
    "gemma": lambda models: models.GemmaBackbone(head_dim=4, **{**DECODER, "intermediate_dim": 2 * WIDTH}),
    "gemma_3": lambda models: models.Gemma3Backbone(image_size=8, head_dim=4, **DECODER),
    "gemma_4": lambda models: models.Gemma4Backbone(image_size=8, head_dim=4, **DECODER),
    "gpt_neo_x": lambda models: models.GPTNeoXBackbone(rotary_percentage=0.5, **ENCODER),
    "llama": lambda models: models.LlamaBackbone(**DECODER),
    "meta_clip": lambda models: two_towers("MetaCLIP2"),
    "mistral": lambda models: models.MistralBackbone(**DECODER),
    "pali_gemma": lambda models: models.PaliGemmaBackbone(
        image_size=8,
        head_dim=4,
        vit_patch_size=4,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=2,
        vit_intermediate_dim=WIDTH,
        **{**DECODER, "intermediate_dim": 2 * WIDTH},
    ),
    "phi_3": lambda models: models.Phi3Backbone(**DECODER),
    "qwen": lambda models: models.QwenBackbone(**DECODER),
    "qwen_3": lambda models: models.Qwen3Backbone(head_dim=4, **DECODER),
    "roformer": lambda models: models.RoformerV2Backbone(head_size=4, **ENCODER),
    "siglip": lambda models: two_towers("SigLIP"),
    "smol_lm": lambda models: models.SmolLM3Backbone(
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True],
        layer_types=["full_attention"],
        mlp_bias=True,
        layer_norm_epsilon=1e-6,
        max_position_embeddings=8,
        rope_theta=1e4,
        partial_rotary_factor=1.0,
        **TOKENS,
    ),
    "t5": lambda models: models.T5Backbone(use_gated_activation=False, **ENCODER),
    "t5, gated": lambda models: models.T5Backbone(**ENCODER),
    "t5_gemma": lambda models: models.T5GemmaBackbone(vocabulary_size=20, **BOTH_SIDES),
    "vit": lambda models: models.ViTBackbone(mlp_dim=WIDTH, **VISION),
    "vit_det": lambda models: models.ViTDetBackbone(
        hidden_size=8,
        num_layers=2,
        intermediate_dim=WIDTH,
        num_heads=2,
        global_attention_layer_indices=[1],
        image_shape=(16, 16, 3),
        patch_size=4,
        num_output_channels=4,
        window_size=2,
    ),
    "whisper": lambda models: models.WhisperBackbone(
        num_mels=4, max_encoder_sequence_length=8, max_decoder_sequence_length=8, **ENCODER
    ),
}


# One of each kind: layers of their own for attention, masks, gates or positions. The others are like these.
ALWAYS = {"bert", "deberta", "esm", "f_net", "gemma_3", "llama", "qwen", "roformer", "vit_det"}


def examples(model):
    """Of five tokens, no padding."""
    rng = np.random.default_rng(0)

    def example(tensor):
        shape = [2, *(5 if size is None else size for size in tensor.shape[1:])]
        if "float" in tensor.dtype:
            return rng.normal(size=shape).astype("float32")
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        return rng.integers(0, 2 if "segment" in tensor.name else 5, shape)

    return keras.tree.map_structure(example, model._inputs_struct)


@pytest.mark.filterwarnings("ignore:Layer '.*' (looks like it|.* was passed an input with a mask)")
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in ALWAYS else pytest.mark.slow) for one in CASES]
)
@pytest.mark.sweep(3)
def test_transformers_lose_width_between_their_dense_layers(name):
    model = CASES[name](keras_hub.models)
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables:  # biases and scales too
            weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    dead = rng.permutation(np.arange(WIDTH) < WIDTH // 2)  # so that a cut changes nothing
    readers = _kernels(model, (WIDTH, 8))
    assert readers
    for kernel in readers:
        kernel.assign(kernel * dead[:, None])

    def by_reader(structure):
        for slot in structure.slots:
            if slot.role == "input" and slot.labels.size == WIDTH:
                yield slot.labels, np.abs(slot.variable.numpy()).sum(1)

    given = examples(model)
    small = pruning.prune_channels(
        model,
        0.5,
        importance=by_reader,
        exclude=_all_but_transformers,
        round_to=1,
        verify=False
        if name == "vit_det"
        else given,  # which has parts that are float32 whatever is asked for
    )
    assert len(_kernels(small, (WIDTH // 2, 8))) == len(readers)
    expected, found = (keras.tree.flatten(one(given)) for one in (model, small))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def _kernels(model, shape):
    return [one for one in model.weights if one.name == "kernel" and tuple(one.shape) == shape]


def _all_but_transformers(layer):
    return not isinstance(layer, keras.Model) and type(layer) not in hub_rules.hub_rules()


@since_keras("3.15", reason="an older Keras takes an older keras-hub")
def test_every_rule_is_of_a_layer_that_keras_hub_has():
    assert len(hub_rules.hub_rules()) == len(hub_rules._RULES)


@pytest.mark.parametrize("kind", [keras_hub.layers.TransformerEncoder, LlamaTransformerDecoder])
def test_width_that_an_activation_looks_across_stays(kind):
    heads = {"num_heads": 2} if kind is keras_hub.layers.TransformerEncoder else DECODER_HEADS
    inputs = keras.Input((5, 8))
    model = keras.Model(inputs, kind(intermediate_dim=WIDTH, activation="softmax", **heads)(inputs))
    (group,) = pruning.explain(model).groups
    assert group.atoms.size == 0
    assert "softmax reaches across this axis" in group.locked


def test_quantized_layers_stay():
    model = CASES["bert"](keras_hub.models)
    layer = model.get_layer("transformer_layer_0")
    assert "transformer_layer_0" in [group.name for group in pruning.explain(model).groups]
    layer._feedforward_output_dense.quantize("int8")
    assert "transformer_layer_0" not in [group.name for group in pruning.explain(model).groups]


def mobile_net():
    return keras_hub.models.MobileNetBackbone(
        stackwise_expansion=[[32, 32]],
        stackwise_num_blocks=[2],
        stackwise_num_filters=[[16, 16]],
        stackwise_kernel_size=[[3, 5]],
        stackwise_num_strides=[[2, 1]],
        stackwise_se_ratio=[[None, 0.5]],
        stackwise_activation=[["relu", "hard_swish"]],
        stackwise_padding=[[1, 2]],
        output_num_filters=16,
        depthwise_filters=16,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=16,
        squeeze_and_excite=0.5,
        image_shape=(16, 16, 3),
    )


@pytest.mark.slow
def test_inverted_residuals_lose_channels_in_runs_of_eight():
    model = mobile_net()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(np.abs(weight + rng.normal(0, 0.1, weight.shape)))  # variances are positive
    explained = {group.name: group for group in pruning.explain(model).groups}
    blocks = [group for name, group in explained.items() if name.startswith("block_")]
    assert [(group.atoms.size, group.multiple) for group in blocks] == [(4, 8), (4, 8)]
    given = examples(model)
    small = pruning.prune_channels(model, 0.5, exclude=_all_but_transformers, verify=given)
    first, second = (small.get_layer(group.name) for group in blocks)
    assert [first.conv1.filters, second.conv1.filters] == [16, 16]
    assert second.squeeze_excite.bottleneck_filters == 16
    assert small(given).shape == model(given).shape


def test_a_config_that_makes_other_weights_is_refused():
    model = keras_hub.models.MiTBackbone([1], 1, [1], [2], 0.0, [7], [4], (16, 16, 3), [8])
    structure = read(model, rules_with())
    with pytest.raises(
        ValueError, match="HierarchicalTransformerEncoder, whose config makes a layer with other"
    ):
        rebuild(structure, np.ones(structure.atoms.count, bool))


@pytest.mark.slow
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

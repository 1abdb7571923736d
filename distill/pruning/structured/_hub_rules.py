"""Rules of keras_hub layers that hide their graph: the width between their two or three dense layers can be cut.

Their heads stay, because keras_hub computes the width of a head from the number of heads.
"""

import operator
import sys
from collections.abc import Callable
from typing import Any

import keras

from distill._keras import kernel_variable
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tying import activate, is_quantized

# Names of activations that only keras_hub knows, and that work number by number.
_POSITIONWISE = ("gelu_approximate", "quick_gelu")


def hub_rules() -> dict[type, Rule]:
    """The rules of the layers that are imported: a model that has such layers has imported keras_hub."""
    found: dict[type, Rule] = {}
    for path, rule in _RULES.items():
        module, _, name = path.rpartition(".")
        kind = getattr(sys.modules.get(f"keras_hub.src.{module}"), name, None)  # versions of keras_hub differ
        if kind is not None:
            found[kind] = rule
    return found


def _width(
    key: str,
    makers: str,
    reader: str,
    *,
    activation: str = "",
    blocks: str = "",
    multiple: Callable[[Any], int] | None = None,
) -> Rule:
    """The rule of a transformer layer, or of an encoder with one setting for all its blocks.

    Args:
        key: key of the config that holds the width.
        makers: paths of the dense layers that make the width, two if one of them is a gate.
        reader: path of the dense layer that reads it.
        activation: path of the activation between them, unless it is the makers' own or fixed.
        blocks: attribute that lists the blocks of an encoder, from which the other paths start.
        multiple: function of a block: the config states this many times the width.
    """

    def rule(call: Call) -> list[Axes]:
        for block in getattr(call.operation, blocks) if blocks else [call.operation]:
            dense = [operator.attrgetter(path)(block) for path in makers.split()]
            function = operator.attrgetter(activation)(block) if activation else None
            times = multiple(block) if multiple else 1
            _between(call, key, dense, operator.attrgetter(reader)(block), function, times)
        return _residual(call)

    return rule


def _between(call: Call, key: str, makers: list[Any], reader: Any, activation: Any, times: int = 1) -> None:
    """Ties the channels that some dense layers make to those that another reads."""
    if any(is_quantized(dense) for dense in (*makers, reader)):
        call.lock_all("it is quantized or has LoRA enabled")
        return
    (hidden,) = call.weight(kernel_variable(reader), inputs=(0,))
    for dense in makers:
        (made,) = call.weight(kernel_variable(dense), outputs=(1,))
        call.unite(made, hidden)
        if dense.bias is not None:
            call.unite(call.weight(dense.bias, scales=(0,))[0], hidden)
        _activate(call, dense.activation, hidden)
    _activate(call, activation, hidden)
    call.edit(key, hidden, value=lambda size: size * times)


def _activate(call: Call, activation: Any, hidden: Axis) -> None:
    if activation not in _POSITIONWISE:
        activate(call, keras.activations.get(activation), (None, hidden))


def _residual(call: Call) -> list[Axes]:
    for variable in call.operation.weights:
        if variable.name == "kernel":
            call.multiplies(variable, call.output_shapes[0][1:-1])
    return call.lock_all("it adds its input to its output")


def _locked(reason: str) -> Rule:
    return lambda call: call.lock_all(reason)


def _if(setting: str, one: Rule, other: Rule) -> Rule:
    """One rule or the other, by a setting of the layer."""
    return lambda call: (one if getattr(call.operation, setting) else other)(call)


def _windowed(call: Call) -> list[Axes]:
    first, activation, last = call.operation.mlp_block.dense_net.layers
    _between(call, "intermediate_dim", [first], last, activation.activation)
    return _residual(call)


def _gemma4(call: Call) -> Axes | list[Axes]:
    layer = call.operation
    if layer.actual_intermediate_dim != layer.intermediate_dim:
        return call.lock_all("its width is twice what its config states")
    return _GEMMA(call)


def _inverted_residual(call: Call) -> list[Axes]:
    """The channels between the convolutions, in runs of 8, because keras_hub rounds to multiples of 8."""
    layer = call.operation
    (hidden,) = call.weight(kernel_variable(layer.conv1), outputs=(3,))
    call.groups(hidden, hidden.size // 8)
    (each,) = call.weight(kernel_variable(layer.conv2), scales=(3,))
    (read,) = call.weight(kernel_variable(layer.conv3), inputs=(2,))
    scaled = [*layer.batch_normalization1.weights, *layer.batch_normalization2.weights]
    if layer.squeeze_excite is not None:
        bottleneck = layer.squeeze_excite.bottleneck_filters
        reduce, expand = layer.squeeze_excite.conv_reduce, layer.squeeze_excite.conv_expand
        call.unite(call.weight(kernel_variable(reduce), inputs=(2,))[0], hidden)
        call.unite(call.weight(kernel_variable(expand), outputs=(3,))[0], hidden)
        scaled.append(expand.bias)
        call.edit("squeeze_excite_ratio", hidden, value=lambda size: bottleneck / size)
    for axis in (each, read, *(call.weight(variable, scales=(0,))[0] for variable in scaled)):
        call.unite(axis, hidden)
    for function in (layer.activation1, layer.activation2):
        activate(call, function.activation, (None, hidden))
    call.edit("expansion", hidden)
    channels_first = layer.conv1.data_format == "channels_first"
    before, after = (
        shape[2:] if channels_first else shape[1:3] for shape in (call.shapes[0], call.output_shapes[0])
    )
    for conv, pixels in ((layer.conv1, before), (layer.conv2, after), (layer.conv3, after)):
        call.multiplies(kernel_variable(conv), pixels)
    return call.lock_all("it may add its input to its output")


_FORWARD = "_feedforward_intermediate_dense", "_feedforward_output_dense"
_PLAIN = _width("intermediate_dim", *_FORWARD)
_GATED = _width(
    "intermediate_dim", f"{_FORWARD[0]} _feedforward_gate_dense", _FORWARD[1], activation="activation"
)
_GEMMA_DENSE = "gating_ffw gating_ffw_2", "ffw_linear"
_GEMMA = _width("intermediate_dim", *_GEMMA_DENSE)
_HALF_GEMMA = _width("intermediate_dim", *_GEMMA_DENSE, multiple=lambda layer: 2)
_CLIP = _width("intermediate_dim", "dense_1", "dense_2", activation="activation.activation")
_SIGLIP = _width("intermediate_dim", "mlp.fc1", "mlp.fc2")
_UP_DOWN = "mlp.gate_proj mlp.up_proj", "mlp.down_proj"
_T5_GEMMA = _width("intermediate_size", *_UP_DOWN, activation="mlp.hidden_activation")
_ED_REC = _width("intermediate_dim", *_UP_DOWN, activation="mlp.activation")
_ESM = _width("intermediate_size", "feedforward_intermediate_dense", "feedforward_output_dense")
_RESBLOCKS = _width("intermediate_dim", "mlp_dense_1", "mlp_dense_2", blocks="resblocks")

# By module and name: keras_hub exports no names for most of these layers.
_RULES: dict[str, Rule] = {
    "layers.modeling.f_net_encoder.FNetEncoder": _width(
        "intermediate_dim", "_intermediate_dense", "_output_dense"
    ),
    "layers.modeling.transformer_decoder.TransformerDecoder": _PLAIN,
    "layers.modeling.transformer_encoder.TransformerEncoder": _PLAIN,
    "models.blip2.blip2_qformer.QFormerLayer": _width(
        "intermediate_dim", "intermediate_dense", "output_dense"
    ),
    "models.bloom.bloom_decoder.BloomDecoder": _width(
        "intermediate_dim", "_mlp_intermediate_dense", "_mlp_output_dense"
    ),
    "models.clip.clip_layers.CLIPEncoderLayer": _CLIP,
    "models.deberta_v3.disentangled_attention_encoder.DisentangledAttentionEncoder": _PLAIN,
    "models.deit.deit_layers.DeiTEncoder": _width(
        "intermediate_dim", "mlp.dense", "output_layer.dense", blocks="encoder_layers"
    ),
    "models.dinov2.dinov2_layers.DINOV2Encoder": _if(
        "use_swiglu_ffn",
        _locked("it rounds the width of its gated layers"),
        _width("intermediate_dim", "mlp.fc1", "mlp.fc2", blocks="layers"),
    ),
    "models.dinov3.dinov3_layers.DINOV3Encoder": _if(
        "use_gated_mlp",
        _width("intermediate_dim", *_UP_DOWN, blocks="layers"),
        _width("intermediate_dim", "mlp.up_proj", "mlp.down_proj", blocks="layers"),
    ),
    "models.edrec.edrec_layers.EdRecDecoderBlock": _ED_REC,
    "models.edrec.edrec_layers.EdRecEncoderBlock": _ED_REC,
    "models.esm.esm_encoder.ESMEncoder": _ESM,
    "models.falcon.falcon_transformer_decoder.FalconTransformerDecoder": _width(
        "intermediate_dim", "dense_h_to_4h", "dense_4h_to_h"
    ),
    "models.gemma.gemma_decoder_block.GemmaDecoderBlock": _HALF_GEMMA,
    "models.gemma3.gemma3_decoder_block.Gemma3DecoderBlock": _width(
        "intermediate_dim", *_GEMMA_DENSE, multiple=operator.attrgetter("gate_dim_reduction")
    ),
    "models.gemma3.gemma3_vision_encoder.Gemma3VisionEncoderBlock": _RESBLOCKS,
    "models.gemma4.gemma4_decoder_block.Gemma4TextDecoderBlock": _gemma4,
    "models.gpt_neo_x.gpt_neo_x_decoder.GPTNeoXDecoder": _PLAIN,
    "models.llama.llama_decoder.LlamaTransformerDecoder": _GATED,
    "models.metaclip_2.metaclip_2_layers.MetaCLIP2EncoderLayer": _CLIP,
    "models.mistral.mistral_transformer_decoder.MistralTransformerDecoder": _GATED,
    "models.mobilenet.mobilenet_backbone.InvertedResidualBlock": _inverted_residual,
    "models.pali_gemma.pali_gemma_decoder_block.PaliGemmaDecoderBlock": _HALF_GEMMA,
    "models.pali_gemma.pali_gemma_vit.PaliGemmaVitEncoder": _RESBLOCKS,
    "models.phi3.phi3_decoder.Phi3Decoder": _width(
        "intermediate_dim",
        "feedforward_intermediate_dense feedforward_gate_dense",
        "feedforward_output_dense",
        activation="activation",
    ),
    "models.qwen.qwen_decoder.QwenTransformerDecoder": _GATED,
    "models.qwen3.qwen3_decoder.Qwen3TransformerDecoder": _GATED,
    "models.qwen3_5.qwen3_5_decoder.Qwen3_5TransformerDecoder": _GATED,
    "models.roformer_v2.roformer_v2_encoder.RoformerV2Encoder": _ESM,
    "models.siglip.siglip_layers.SigLIPEncoderLayer": _SIGLIP,
    "models.siglip.siglip_layers.SigLIPMultiHeadAttentionPooling": _SIGLIP,
    "models.smollm3.smollm3_layers.SmolLM3DecoderLayer": _width("intermediate_size", *_UP_DOWN),
    "models.t5.t5_transformer_layer.T5TransformerLayer": _if(
        "use_gated_activation",
        _width("intermediate_dim", "input_projector gate_projector", "output_projector"),
        _width("intermediate_dim", "input_projector", "output_projector"),
    ),
    "models.t5gemma.t5gemma_decoder.T5GemmaDecoderLayer": _T5_GEMMA,
    "models.t5gemma.t5gemma_encoder.T5GemmaEncoderLayer": _T5_GEMMA,
    "models.vit.vit_layers.ViTEncoder": _width(
        "mlp_dim", "mlp.dense_1", "mlp.dense_2", blocks="encoder_layers"
    ),
    "models.vit_det.vit_layers.WindowedTransformerEncoder": _windowed,
    "models.whisper.whisper_decoder.WhisperDecoder": _PLAIN,
    "models.whisper.whisper_encoder.WhisperEncoder": _PLAIN,
}

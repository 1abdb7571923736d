"""Transformer layers of keras_hub, which hide their graph: the width between their two dense layers can be cut.

Their heads stay: keras_hub computes a head's width from their number.
"""

import sys
from collections.abc import Sequence
from typing import Any

from distill.pruning.structured.labels import Axes
from distill.pruning.structured.structure import Call, Rule
from distill.pruning.structured.tying import activate


def hub_rules() -> dict[type, Rule]:
    """The rules, where keras_hub has been imported; a model that has its layers came by it."""
    if "keras_hub" not in sys.modules:
        return {}
    from keras_hub.layers import FNetEncoder, TransformerDecoder, TransformerEncoder

    # keras_hub exports no names for the layers of its backbones.
    from keras_hub.src.models.llama.llama_decoder import LlamaTransformerDecoder
    from keras_hub.src.models.mistral.mistral_transformer_decoder import MistralTransformerDecoder
    from keras_hub.src.models.vit.vit_layers import ViTEncoder

    return {
        FNetEncoder: _f_net,
        LlamaTransformerDecoder: _gated,
        MistralTransformerDecoder: _gated,
        TransformerDecoder: _plain,
        TransformerEncoder: _plain,
        ViTEncoder: _vision,
    }


def _plain(call: Call) -> list[Axes]:
    layer = call.operation
    _count_products(call)
    return _between(
        call, "intermediate_dim", [layer._feedforward_intermediate_dense], layer._feedforward_output_dense
    )


def _f_net(call: Call) -> list[Axes]:
    _count_products(call)
    return _between(
        call, "intermediate_dim", [call.operation._intermediate_dense], call.operation._output_dense
    )


def _gated(call: Call) -> list[Axes]:
    layer = call.operation
    _count_products(call)
    makers = [layer._feedforward_intermediate_dense, layer._feedforward_gate_dense]
    return _between(call, "intermediate_dim", makers, layer._feedforward_output_dense)


def _vision(call: Call) -> list[Axes]:
    _count_products(call)
    for block in call.operation.encoder_layers:  # one setting for all
        found = _between(call, "mlp_dim", [block.mlp.dense_1], block.mlp.dense_2)
    return found


def _between(call: Call, key: str, makers: Sequence[Any], reader: Any) -> list[Axes]:
    """Ties what some dense layers make to what another reads; all else stays."""
    (hidden,) = call.weight(reader._kernel, inputs=(0,))
    for dense in makers:
        (made,) = call.weight(dense._kernel, outputs=(1,))
        call.unite(made, hidden)
        if dense.bias is not None:
            call.unite(call.weight(dense.bias, scales=(0,))[0], hidden)
        if getattr(dense.activation, "__name__", "") != "gelu_approximate":  # keras_hub's own, of each number
            activate(call, dense.activation, (hidden,))
    call.edit(key, hidden)
    return call.lock_all("it adds its input to what it makes of it")


def _count_products(call: Call) -> None:
    for variable in call.operation.weights:
        if variable.name == "kernel":
            call.multiplies(variable, call.shapes[0][1:-1])

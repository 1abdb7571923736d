"""Pruning of whole channels, neurons and heads: a smaller model comes out, of the same kind.

    small = pruning.prune_channels(model, 0.5)

Every axis of every tensor and weight of a model's graph is labelled (`structure`, by `layer_rules` and
`operation_rules`); labels that a call ties together are one atom (`labels`), and atoms that the same weights make are a
group (`groups`). Scores (`importance`) and a target say which stay (`selection`), the graph is built anew with slices
of the weights (`rebuild`), and can be compared with the old one tensor by tensor (`verification`). Layers as a whole
go by measured harm (`depth`). Training in between is there too (`recovery`).
"""

from distill.pruning.structured import importance
from distill.pruning.structured._channels import prune_channels
from distill.pruning.structured._depth import output_change, prune_layers, removable_layers
from distill.pruning.structured._explanation import Channels, explain
from distill.pruning.structured._recovery import shrink, slim
from distill.pruning.structured._tracing import Call
from distill.pruning.structured._verification import Proof

__all__ = [
    "Call",
    "Channels",
    "Proof",
    "explain",
    "importance",
    "output_change",
    "prune_channels",
    "prune_layers",
    "removable_layers",
    "shrink",
    "slim",
]

"""Structured pruning: removes whole channels, neurons, heads and layers, and returns a smaller model of the same kind.

```python
from distill import pruning

print(pruning.explain(model))  # which channels can be removed, and why the others stay
small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.l1, verify=True)
print(pruning.removable_layers(model))  # what prune_layers can remove
```

How it works: the rules of layers and operations label every axis of every tensor and weight in a model's graph
(`_call`, `_tracing`, `_rules`). Labels that a call ties together form an atom (`_labels`), and atoms that the same
weights make form a group (`_groups`). Scores (`importance`, `_scoring`) and a target decide which atoms stay
(`_selection`, `_targets`). The graph is then rebuilt with slices of the weights (`_rebuild`, `_copying`), and can be
compared with the original tensor by tensor (`_verification`). Whole layers are chosen for removal by the harm that is
measured without them (`_depth`). `shrink` and `slim` combine pruning with training (`_recovery`).
"""

from distill.pruning.structured import importance
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._channels import prune_channels
from distill.pruning.structured._depth import output_change, prune_layers, removable_layers
from distill.pruning.structured._explanation import Channels, explain
from distill.pruning.structured._groups import Group
from distill.pruning.structured._recovery import shrink, slim
from distill.pruning.structured._structure import Slot, Structure
from distill.pruning.structured._verification import Proof

__all__ = [
    "Call",
    "Channels",
    "Group",
    "Proof",
    "Rule",
    "Slot",
    "Structure",
    "explain",
    "importance",
    "output_change",
    "prune_channels",
    "prune_layers",
    "removable_layers",
    "shrink",
    "slim",
]

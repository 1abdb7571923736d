"""All rules: those of Keras layers, of raw operations and of keras_hub layers, and the user's own."""

from collections.abc import Mapping

from distill.pruning.structured._attention_rules import ATTENTION_RULES
from distill.pruning.structured._call import Rule
from distill.pruning.structured._hub_rules import hub_rules
from distill.pruning.structured._kernel_rules import KERNEL_RULES
from distill.pruning.structured._layer_rules import LAYER_RULES
from distill.pruning.structured._operation_rules import OPERATION_RULES
from distill.pruning.structured._picking_rules import PICKING_RULES
from distill.pruning.structured._product_rules import PRODUCT_RULES
from distill.pruning.structured._sequence_rules import SEQUENCE_RULES
from distill.pruning.structured._shape_rules import SHAPE_RULES


def rules_with(own: Mapping[type, Rule] | None = None) -> dict[type, Rule]:
    """Type of a layer or operation -> its rule, the user's own before ours. A rule does not hold for subclasses."""
    return {
        **KERNEL_RULES,
        **LAYER_RULES,
        **SEQUENCE_RULES,
        **ATTENTION_RULES,
        **OPERATION_RULES,
        **SHAPE_RULES,
        **PICKING_RULES,
        **PRODUCT_RULES,
        **hub_rules(),
        **(own or {}),
    }

"""All rules: of layers, of raw operations, of keras_hub, and a user's."""

from collections.abc import Mapping

from distill.pruning.structured._hub_rules import hub_rules
from distill.pruning.structured._layer_rules import LAYER_RULES
from distill.pruning.structured._operation_rules import OPERATION_RULES
from distill.pruning.structured._tracing import Rule


def rules_with(own: Mapping[type, Rule] | None = None) -> dict[type, Rule]:
    """Our rules, and before them a user's."""
    return {**LAYER_RULES, **OPERATION_RULES, **hub_rules(), **(own or {})}

"""Compiles the smaller model as the original was compiled."""

from typing import Any

import keras

from distill import _keras
from distill.pruning.structured._configs import own_of


def compile_settings(model: keras.Model) -> dict[str, Any] | None:
    """The arguments that a model was compiled with, the optimizer and metrics as new copies; `None` if it was not.

    Raises:
        ValueError: the optimizer or a metric cannot be made from its own config.
    """
    if not model.compiled:
        return None
    settings = _keras.compile_settings(model)
    settings["optimizer"] = None if model.optimizer is None else _afresh(model.optimizer)
    for name in ("metrics", "weighted_metrics"):
        settings[name] = keras.tree.map_structure(
            lambda metric: _afresh(metric) if isinstance(metric, keras.Metric) else metric, settings.get(name)
        )
    return settings


def compile_with(settings: dict[str, Any] | None, old: keras.Model, new: keras.Model) -> None:
    """Compiles the new model with the settings of the old one; weights that did not decay do not decay."""
    if settings is None:
        return
    new.compile(**settings)
    if new.optimizer is None:
        return
    one, other = (getattr(model.optimizer, "inner_optimizer", model.optimizer) for model in (old, new))
    pairs = _paired(old.trainable_variables, new.trainable_variables)
    if staying := [target for source, target in pairs if not _keras.decays(one, source)]:
        other.exclude_from_weight_decay(var_list=staying)
    new.optimizer.build(new.trainable_variables)  # as Keras does, so that a saved model can be loaded


def _paired(
    old: list[keras.Variable], new: list[keras.Variable]
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Each weight with that which has its place; by their paths if layers are gone.

    Layers of a model that was loaded may have other paths than those of one that was built, and layers of nested models
    may share a path.
    """
    if [(one.name, len(one.shape)) for one in old] == [(one.name, len(one.shape)) for one in new]:
        return list(zip(old, new, strict=True))
    targets = {one.path: one for one in new}
    return [(one, targets[one.path]) for one in old if one.path in targets]


def _afresh(one: Any) -> Any:
    try:
        with keras.saving.CustomObjectScope(own_of(one)):
            return type(one).from_config(one.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "The smaller model is compiled as the original, so its optimizer and metrics must be made from their "
            f"configs. Received: {one.name!r}, a {type(one).__name__}, which cannot be made from its config. Implement "
            f"its get_config, or load the model with compile=False. Keras says: {error}"
        ) from error

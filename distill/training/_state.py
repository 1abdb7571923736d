"""What `save_weights` of a Distiller keeps besides the weights of the student and of its losses."""

from collections.abc import Mapping, MutableMapping, Sequence

import keras
import numpy as np
from keras import ops

from distill.training._objective import Objective


def save_state(objective: Objective, models: Sequence[keras.Layer], store: MutableMapping) -> None:
    """Saves the step, the settings, and the states of random generators, which Keras leaves out.

    Args:
        objective: the loss, with its step and settings.
        models: layers whose random generators are saved.
        store: arrays by name.
    """
    for name, variable in _variables(objective, models).items():
        store[name] = ops.convert_to_numpy(ops.convert_to_tensor(variable))


def load_state(objective: Objective, models: Sequence[keras.Layer], store: Mapping) -> None:
    """Restores what `save_state` saved, all of it or nothing.

    Raises:
        ValueError: the names differ, or a value is out of range.
    """
    variables, settings = _variables(objective, models), objective.settings()
    missing, unknown = sorted(set(variables) - set(store.keys())), sorted(set(store.keys()) - set(variables))
    if missing or unknown:
        raise ValueError(
            "The weights of a Distiller can only be loaded into one with the same losses, teachers and random layers. "
            f"Received: a file that lacks {missing} and has {unknown} in addition."
        )
    values = {name: float(np.asarray(store[name])) for name in settings}
    for name, setting in settings.items():
        if setting.schedule is None:
            setting.check(values[name])
    for name, setting in settings.items():
        setting.restore(values[name])
    for name, variable in variables.items():
        if name not in settings:
            variable.assign(store[name])


def _variables(objective: Objective, models: Sequence[keras.Layer]) -> dict[str, keras.Variable]:
    settings = {name: setting.variable for name, setting in objective.settings().items()}
    weights = {id(variable) for model in models for variable in model.weights}
    states = [
        variable
        for model in models
        for variable in model.variables
        if id(variable) not in weights and variable.name == "seed_generator_state"
    ]
    return {"step": objective.step, **settings, **{f"seed_{i}": state for i, state in enumerate(states)}}

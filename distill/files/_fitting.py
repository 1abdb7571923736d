"""Find which part of a file belongs to which part of a model: all of both, or a model inside one of them.

A backbone may be in the file of a whole model, and a student in a file that keeps the state of its training.
Conversely, the file of a backbone may be meant for a model that has the backbone as a layer.
"""

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import keras

from distill._keras import flatten_layers, own_variables, to_snake_case
from distill._types import Config
from distill.files._configs import complete, making_sense, understood
from distill.files._differences import Difference
from distill.files._layouts import LEGACY
from distill.files._matching import matched, matched_partly
from distill.files._parts import Parts, numbers_in
from distill.files._settings import setting_differences
from distill.files._stored import Stored


class Fit(NamedTuple):
    """Which weights of a model belong to which of a file.

    Attributes:
        model: the model, or a model in it.
        stored: the file, or a model in it.
        place: where in the file that is; "" for all of it.
        expected: parts of the model.
        pairs: place in the model -> place in the file, for what can be loaded.
        differences: points on which the rest disagrees.
    """

    model: keras.Model
    stored: Stored
    place: str
    expected: Parts
    pairs: dict[str, str]
    differences: list[Difference]

    @property
    def size(self) -> int:
        """How many numbers can be loaded."""
        return numbers_in({place: self.expected[place] for place in self.pairs})


def fitted(model: keras.Model, stored: Stored) -> Fit:
    """Match all of a model with all of a file, or with the one model whose training the file keeps.

    Raises:
        ValueError: several models in such a file would fit.
    """
    whole = _fit(model, stored)
    if not whole.differences or not stored.in_training:
        return whole
    inner = [_fit(model, one, place) for place, one in _models_in(stored)]
    fits = [fit for fit in inner if not fit.differences]
    return _one_of(fits, model) if fits else min([whole, *inner], key=lambda fit: len(fit.differences))


def fitted_partly(model: keras.Model, stored: Stored) -> Fit:
    """Match as `fitted` does, but only what agrees: in a model and a file, or in a model inside one of them.

    The differences then list the rest of both.

    Raises:
        ValueError: several models in the file, or several in the model, fit equally well.
    """
    whole = _fit(model, stored, partly=True)
    if not whole.differences:
        return whole
    from_part = [_fit(model, one, place, partly=True) for place, one in _models_in(stored)]
    into_part = [_fit(one, stored, partly=True) for one in _models_of(model)]
    most = max(fit.size for fit in (whole, *from_part, *into_part))
    if whole.size == most:
        return whole
    if fits := [fit for fit in into_part if fit.size == most]:
        best = min(fits, key=lambda fit: len(fit.differences))
        own = {id(variable) for variable in best.model.variables}
        if others := [fit.model.name for fit in fits if own.isdisjoint(map(id, fit.model.variables))]:
            raise ValueError(
                "It must be clear which weights of a model are meant; nothing was loaded. Received: "
                f"{stored.source} for {model.name!r}, of which it fits {', '.join([best.model.name, *others])}. Load "
                "it into one of these, such as model.get_layer(name)."
            )
        return best._replace(differences=best.differences + _beside(model, best.model))
    best = _one_of([fit for fit in from_part if fit.size == most], model)
    rest = {
        place: part
        for place, part in (stored.parts or {}).items()
        if place != best.place and not place.startswith(f"{best.place}/")
    }
    return best._replace(differences=best.differences + matched({}, rest)[1])


def _fit(model: keras.Model, stored: Stored, place: str = "", *, partly: bool = False) -> Fit:
    expected, found = stored.layout.parts_of(model), stored.parts or {}
    kinds = {to_snake_case(type(layer).__name__) for layer in flatten_layers(model)}
    pairs, differences = matched(expected, found, kinds)
    if partly and differences:
        pairs, differences = matched_partly(expected, found, kinds)
    named = {expected[here].name for here, there in pairs.items() if expected[here].name == found[there].name}
    settings = _setting_differences(model, stored, named)
    if partly:
        others = [f"{row.layer}/" for row in settings]
        # A layer with other settings keeps the weights of the layers in it; one that is called otherwise need not.
        own = tuple(f"{row.layer}/" for row in settings if row.what not in ("called on", "outputs"))
        pairs = {
            here: there
            for here, there in pairs.items()
            if not any(other.startswith(f"{expected[here].name}/") for other in others)
            and not f"{expected[here].name}/".startswith(own)
        }
    return Fit(model, stored, place, expected, pairs, differences + settings)


def _setting_differences(model: keras.Model, stored: Stored, named: Set[str | None]) -> list[Difference]:
    if stored.config is None:
        return []
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except NotImplementedError:
        return []  # the class of the model does not say what it consists of
    with making_sense(stored.source):
        return setting_differences(complete(config), understood(stored), named, stored.layout is LEGACY)


def _one_of(fits: Sequence[Fit], model: keras.Model) -> Fit:
    """The fit that takes the most from the file, if it is the only one."""
    inmost = [fit for fit in fits if not any(other.place.startswith(f"{fit.place}/") for other in fits)]
    named = [fit for fit in inmost if fit.stored.name == model.name]
    best = named if len(named) == 1 else inmost
    if len(best) > 1:
        raise ValueError(
            "It must be clear which weights of a file are meant; nothing was loaded. Received: "
            f"{fits[0].stored.source} for {model.name!r}, which fits {', '.join(repr(fit.place) for fit in best)} in "
            "it. Give the model the name of the one that you want."
        )
    return best[0]


def _models_of(model: keras.Model) -> Iterator[keras.Model]:
    """The models that a model has as layers."""
    for layer in flatten_layers(model, include_self=False):
        if isinstance(layer, keras.Model) and layer.built:
            yield layer


def _beside(model: keras.Model, part: keras.Model) -> list[Difference]:
    """The weights of a model that are not those of a model in it."""
    loaded = {id(variable) for variable in part.variables}
    return [
        Difference(layer.name, variable.name, str(tuple(variable.shape)), "missing")
        for layer in flatten_layers(model)
        for variable in own_variables(layer)
        if id(variable) not in loaded
    ]


def _models_in(stored: Stored) -> Iterator[tuple[str, Stored]]:
    """The models in a file, with their places."""
    config = None if stored.config is None else understood(stored)
    for place, name, layout, parts in stored.inside():
        assets = None if stored.assets is None else Path(stored.assets, place)
        yield (
            place,
            stored._replace(
                name=name,
                config=None if config is None else _config_at(config, place, name),
                version=keras.__version__,
                parts=parts,
                layout=layout,
                assets=str(assets) if assets is not None and assets.is_dir() else None,
                in_training=False,
            ),
        )


def _config_at(config: Config, place: str, name: str | None) -> Config | None:
    """The architecture of a layer by its place in the layout of Keras 3, or by its name in the older one."""
    found: Any = config
    steps = iter(place.split("/"))
    for step in steps:
        if place.isdecimal() or step == "layers":
            listed = found["config"].get("layers", [])
            named = {layer["config"].get("name"): layer for layer in listed}
            found = named.get(name) if place.isdecimal() else _numbered(listed).get(next(steps, ""))
        else:
            found = found["config"].get(step)
        if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
            return None
    return found


def _numbered(layers: Sequence[Config]) -> dict[str, Config]:
    """The layers of a model by the names that Keras 3 gives them in files of weights."""
    counts: dict[str, int] = {}
    found = {}
    for layer in layers:
        kind = to_snake_case(layer["class_name"])
        counts[kind] = number = counts.get(kind, -1) + 1
        found[f"{kind}_{number}" if number else kind] = layer
    return found

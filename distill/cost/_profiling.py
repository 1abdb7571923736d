"""Measures all costs of models at once."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras

from distill._models import require_model
from distill.cost._layers import layer_costs
from distill.cost._lengths import Lengths
from distill.cost._macs import calls_of
from distill.cost._memory import activations_of
from distill.cost._profile import Profile, Profiles
from distill.cost._runtimes import Runtime, require_runtimes
from distill.cost._storage import Sizes, keras_sizes, litert_sizes, parameters
from distill.cost._timing import in_turns, prepare


def profile(
    model: keras.Model,
    *,
    files: bool = False,
    latency: Sequence[Runtime] = (),
    runs: int = 200,
    lengths: Lengths = None,
) -> Profile:
    """Measures what a model costs.

    Args:
        model: built model.
        files: as for `profiles`.
        latency: as for `profiles`.
        runs: as for `profiles`.
        lengths: as for `profiles`.

    Returns:
        The costs.

    Raises:
        ImportError: ai-edge-litert is not installed, and `files` or a `LiteRT` latency is asked for.
        TypeError: latency is not a list of runtimes, or the model is not a Keras model.
        ValueError: the model is not built, or runs < 1.

    Example:
        >>> import keras
        >>> from distill import cost
        >>> model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3)])
        >>> cost.profile(model).macs
        48672
    """
    require_model(model, "cost.profile")
    found = profiles({model.name: model}, files=files, latency=latency, runs=runs, lengths=lengths)
    return found.profiles[model.name]


def profiles(
    models: Mapping[str, keras.Model],
    *,
    files: bool = False,
    latency: Sequence[Runtime] = (),
    runs: int = 200,
    lengths: Lengths = None,
) -> Profiles:
    """Measures what models cost: parameters and zeros, multiply-adds and memory by layer, bytes and latency.

    Numbers that cannot be known are left out with a reason, never guessed: the multiply-adds and memory of a model
    without a graph, and the bytes and latency of a model that LiteRT cannot hold.

    Args:
        models: name -> built model.
        files: whether to write the models to files to measure their sizes, as `sizes` does; this takes seconds.
        latency: runtimes to time the models in, such as `[LiteRT(threads=2), TFFunction(batch_size=32)]`; this takes
            seconds. By default nothing is timed.
        runs: number of timed runs in each runtime; the models take turns, as in `latencies`.
        lengths: the sizes that the models leave open, as for `macs`. Without lengths, the multiply-adds, memory and
            latency of a model with open sizes are unknown.

    Returns:
        The costs.

    Raises:
        ImportError: ai-edge-litert is not installed, and `files` or a `LiteRT` latency is asked for.
        TypeError: latency is not a list of runtimes, or a model is not a Keras model.
        ValueError: a model is not built, or runs < 1.

    Example:
        ```python
        from distill import cost

        print(cost.profiles({"teacher": teacher, "student": student}, latency=[cost.LiteRT()], runs=20))
        ```
    """
    if not isinstance(latency, (list, tuple)):
        raise TypeError(
            "latency must be a list of the runtimes to time models in, such as [cost.LiteRT()]. Received: "
            f"latency={latency!r}."
        )
    require_runtimes("latency", latency)
    for model in models.values():
        require_model(model, "cost.profiles")
    found = {name: _read(model, lengths) for name, model in models.items()}
    if files:
        found = {name: _with_sizes(profile, models[name]) for name, profile in found.items()}
    for runtime in latency:
        found = _timed(found, models, runtime, runs, lengths)
    return Profiles(found)


def _read(model: keras.Model, lengths: Lengths) -> Profile:
    """All costs that need no file and no timing."""
    count = parameters(model)
    unknown: dict[str, str] = {}
    calls = activations = macs = None
    try:
        calls = calls_of(model, lengths=lengths)
    except ValueError as error:
        unknown[model.name] = str(error)
    else:
        unknown = {call.path: call.unknown for call in calls.calls if call.products is None}
        macs = None if unknown else calls.products.total
        with contextlib.suppress(ValueError):  # a size is unknown
            activations = activations_of(calls)
    layers = layer_costs(model, None if calls is None else calls.calls)
    return Profile(
        model=model.name,
        parameters=count,
        trainable=sum(math.prod(weight.shape) for weight in model.trainable_weights),
        nonzero=sum(layer.nonzero for layer in layers),
        macs=macs,
        activations=activations,
        layers=layers,
        unknown=unknown,
        sizes=None,
        latencies={},
    )


def _with_sizes(profile: Profile, model: keras.Model) -> Profile:
    of_keras = keras_sizes(model)
    try:
        found = Sizes(*of_keras, *litert_sizes(model))
    except ValueError as error:
        unknown = profile.unknown | {"LiteRT": str(error)}
        return dataclasses.replace(profile, sizes=Sizes(*of_keras, None, None, None), unknown=unknown)
    return dataclasses.replace(profile, sizes=found)


def _timed(
    profiles: Mapping[str, Profile],
    models: Mapping[str, keras.Model],
    runtime: Runtime,
    runs: int,
    lengths: Lengths,
) -> dict[str, Profile]:
    prepared, reasons = {}, {}
    for name, model in models.items():
        try:
            prepared[name] = prepare(runtime, model, lengths)
        except ValueError as error:
            reasons[name] = {str(runtime): str(error)}
    times = in_turns(prepared, runs=runs)
    return {
        name: dataclasses.replace(
            profile,
            latencies=profile.latencies | {str(runtime): times.get(name)},
            unknown=profile.unknown | reasons.get(name, {}),
        )
        for name, profile in profiles.items()
    }

"""The losses by which a pruned model learns from the original, where the caller names none."""

from typing import Any, cast

import keras

from distill._graphs import functional_of, output_keys
from distill.losses import BernoulliSoftTargets, DistillationLoss, OutputMSE, SoftTargets
from distill.training import Distiller
from distill.training._heads import activation_of

# Names of losses and their functions, without underscores.
_REGRESSION = {
    *(
        "huber",
        "logcosh",
        "mae",
        "mape",
        "meanabsoluteerror",
        "meanabsolutepercentageerror",
        "meansquarederror",
    ),
    *("meansquaredlogarithmicerror", "mse", "msle", "poisson"),
}
_BINARY = {"bce", "binarycrossentropy", "binaryfocalcrossentropy"}


class Recovering(Distiller):
    """A Distiller whose losses were chosen for the caller, who may have meant others."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles, and checks that the loss on labels is for classes where the distillation loss is.

        Raises:
            ValueError: the loss on labels is for regression, but the outputs were taken for logits of classes.
        """
        super().compile(*args, **kwargs)
        chosen, given = losses_for(cast(Any, self.teacher).model), _by_output(self.student, self.loss)
        for key, loss in chosen.items() if isinstance(chosen, dict) else [(0, chosen)]:
            if isinstance(loss, SoftTargets) and _is(given[key], _REGRESSION):
                raise ValueError(
                    "A model of regression is compared by its outputs, not as logits of classes. Received: "
                    f"{self.student.name!r}, compiled with {given[key]!r}. Pass losses=distill.losses.OutputMSE()."
                )


def losses_for(model: keras.Model) -> DistillationLoss | dict[Any, DistillationLoss]:
    """A loss for each output of a model, by its head and by the loss that the model was compiled with."""
    compiled = _by_output(model, model.loss if model.compiled else None)
    losses = {key: _loss_for(model, i, compiled[key]) for i, key in enumerate(compiled)}
    return losses[0] if list(losses) == [0] else losses


def _by_output(model: keras.Model, loss: Any) -> dict[Any, Any]:
    """What was given as the loss on labels, by the key of the output that it is for."""
    graph = _graph_of(model)
    keys = output_keys(graph)
    if isinstance(loss, dict):
        return {
            key: loss.get(key, loss.get(name)) for key, name in zip(keys, graph.output_names, strict=True)
        }
    if len(keys) == 1:  # several losses may be for the only output
        return {keys[0]: loss}
    return dict(zip(keys, loss if isinstance(loss, list | tuple) else [loss] * len(keys), strict=True))


def _graph_of(model: keras.Model) -> keras.Model:
    """The graph of a model that is pruned; a Sequential's own `output` is only there once it was called."""
    graph = functional_of(model)
    return model if graph is None else graph


def _loss_for(model: keras.Model, position: int, compiled: Any) -> DistillationLoss:
    if _is(compiled, _REGRESSION):
        return OutputMSE()
    try:
        activation = activation_of(model, position)
    except ValueError:
        activation = ""  # SoftTargets says why
    if activation == "sigmoid" or _is(compiled, _BINARY):
        return BernoulliSoftTargets()
    return (
        OutputMSE()
        if activation == "linear" and _graph_of(model).outputs[position].shape[-1] == 1
        else SoftTargets(4.0)
    )


def _is(loss: Any, names: set[str]) -> bool:
    """Whether a loss, given as a name, a function or an object, or one of a list of losses, is one of these."""
    if isinstance(loss, list | tuple):
        return any(_is(one, names) for one in loss)
    kinds = [kind.__name__ for kind in type(loss).__mro__] if isinstance(loss, keras.losses.Loss) else []
    given = [loss] if isinstance(loss, str) else [*kinds, getattr(loss, "__name__", "")]
    return any(name.replace("_", "").lower() in names for name in given)

"""How much each weight matters: scores that decide which weights stay.

`magnitude` and `random` look at the weights alone. `snip`, `taylor` and `movement` use gradients of a loss on data,
`obd` its curvature, and `wanda` the inputs of the layers on data:

    from distill import pruning
    from distill.pruning.weights import importance

    pruning.prune(model, 0.8, importance=importance.magnitude)  # the default
    pruning.prune(model, 0.8, importance=importance.random(0))  # the baseline
    pruning.prune(model, 0.8, importance=importance.snip((x, y)))
    pruning.prune(model, 0.8, importance=importance.wanda(x), scope="output")

An importance is any function of a model and its kernels that returns an array of scores for each kernel.
"""

from distill.pruning.weights.importance._activations import wanda
from distill.pruning.weights.importance._curvature import obd
from distill.pruning.weights.importance._gradients import movement, snip, taylor
from distill.pruning.weights.importance._weights import Importance, magnitude, random

__all__ = ["Importance", "magnitude", "movement", "obd", "random", "snip", "taylor", "wanda"]

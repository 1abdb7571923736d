"""How much each weight matters: scores that decide which weights stay.

`magnitude` and `random` look at the weights alone. `snip`, `taylor` and `movement` look at gradients of a loss on data,
`obd` at its curvature, `wanda` at what layers receive on data:

    pruning.prune(model, 0.8, criterion=criteria.snip((x, y)))

Any function of a model and its kernels that returns an array of scores for each will do.
"""

from distill.pruning.weights.criteria._activations import wanda
from distill.pruning.weights.criteria._curvature import obd
from distill.pruning.weights.criteria._gradients import movement, snip, taylor
from distill.pruning.weights.criteria._weights import Criterion, magnitude, random

__all__ = ["Criterion", "magnitude", "movement", "obd", "random", "snip", "taylor", "wanda"]

"""Runs the torchvision twins for structured.py, in a process of their own: one order per line, one answer per line.

An order is JSON: {"do": "prune" or "run", "name": a torchvision network, "ratio": share of channels to remove}. The
answer to "prune" has the seconds that Torch-Pruning takes for a network that already exists; the answer to "run" has
those of one forward pass before and after, and the multiply-adds of both.
"""

import copy
import json
import sys
import time
import warnings

import torch

# A torchvision built for CUDA beside a torch built for the CPU lacks its own operators, which the networks do not need,
# and fails to register these two.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")

import torch_pruning  # noqa: E402
import torchvision  # noqa: E402

warnings.filterwarnings("ignore", "Unwrapped parameters detected")  # they are pruned correctly
torch.set_num_threads(1)
EXAMPLE = torch.randn(1, 3, 224, 224)
_networks = {}


def network(name):
    """A copy of a network with random weights, which is made once."""
    if name not in _networks:
        _networks[name] = getattr(torchvision.models, name)(weights=None).eval()
    return copy.deepcopy(_networks[name])


def prune(model, ratio):
    """Prunes by Torch-Pruning's own recipe: L2 norms of groups, the same share of each, without the classes."""
    classes = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1000]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.BasePruner(
        model, EXAMPLE, importance=importance, pruning_ratio=ratio, ignored_layers=classes
    )
    pruner.step()


def seconds(model):
    """The seconds of one forward pass on one thread."""
    start = time.perf_counter()
    with torch.inference_mode():
        model(EXAMPLE)
    return time.perf_counter() - start


def answer(order, pairs):
    """The answer to an order."""
    name, ratio = order["name"], order["ratio"]
    if order["do"] == "prune":
        model = network(name)
        start = time.perf_counter()
        prune(model, ratio)
        return {"seconds": time.perf_counter() - start}
    if name not in pairs:
        small = network(name)
        prune(small, ratio)
        macs = [torch_pruning.utils.count_ops_and_params(m, EXAMPLE)[0] for m in (network(name), small)]
        pairs[name] = network(name), small, macs
    whole, small, macs = pairs[name]
    return {"seconds": [seconds(whole), seconds(small)], "macs": macs}


def main():
    """Answers orders until there are no more."""
    pairs = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), pairs)), flush=True)


if __name__ == "__main__":
    main()

"""Times the pairs of distiller.py in plain PyTorch, in a process of its own; prints seconds by way as JSON.

The argument is JSON: {"pair": a name, "quick": bool, "rounds": int, "batch": int, "steps": int}.
"""

import json
import random
import sys
import time

import torch
from torch import nn
from torch.nn import functional

TEMPERATURE, WEIGHT = 4.0, 0.1


class Block(nn.Module):
    """Two convolutions beside a shortcut, as in the residual networks for 32 × 32 images."""

    def __init__(self, before, filters, stride):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        changes = stride > 1 or before != filters
        short = [nn.Conv2d(before, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)]
        self.short = nn.Sequential(*short) if changes else nn.Identity()

    def forward(self, x):
        """Adds the two."""
        return functional.relu(self.branch(x) + self.short(x))


def residual(depth, classes=100):
    """A residual network of 6n + 2 layers."""
    stack = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for stage, filters in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            stack.append(Block(before, filters, 2 if stage and not block else 1))
            before = filters
    return nn.Sequential(*stack, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def dense(units, features=784, classes=10):
    """A network of dense layers."""
    stack = []
    for width in units:
        stack += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(*stack, nn.Linear(features, classes))


class Transformer(nn.Module):
    """An encoder of text with one label."""

    def __init__(self, depth, width=128, vocabulary=8192, classes=20):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.embedding = nn.Embedding(vocabulary, width)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        """The logits."""
        return self.head(self.encoder(self.embedding(x)).mean(dim=1))


def networks(pair, quick):
    """Teacher, student, the shape of an example (`None` for words) and the number of classes."""
    if pair == "MLP":
        return dense((1200, 1200)), dense((800, 800)), (784,), 10
    if pair == "ResNet":
        return residual(8 if quick else 56), residual(8 if quick else 20), (3, 32, 32), 100
    if pair == "transformer":
        return Transformer(1 if quick else 6), Transformer(1 if quick else 2), None, 20
    raise SystemExit(f"There is no twin of the pair {pair!r} in PyTorch.")


def main(order):
    """Times the ways in turns; prints their seconds."""
    torch.manual_seed(0)
    teacher, student, shape, classes = networks(order["pair"], order["quick"])
    count = order["batch"] * order["steps"]
    x = torch.randint(8192, (count, 64)) if shape is None else torch.randn(count, *shape)
    y = torch.randint(classes, (count,))
    batches = list(zip(x.split(order["batch"]), y.split(order["batch"]), strict=True))
    teacher.eval()
    optimizer = torch.optim.Adam(student.parameters())

    def answer(part):
        with torch.inference_mode():
            return teacher(part)

    def train(part, labels, taught=None):
        learned = student(part)
        loss = functional.cross_entropy(learned, labels)
        if taught is not None:
            rows = [functional.log_softmax(one / TEMPERATURE, dim=-1) for one in (learned, taught)]
            soft = functional.kl_div(*rows, log_target=True, reduction="batchmean")
            loss = WEIGHT * loss + (1 - WEIGHT) * TEMPERATURE**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    ways = {
        "live": lambda part, labels: train(part, labels, answer(part).clone()),
        "student": train,
        "teacher": lambda part, labels: answer(part),
    }
    times = {name: [] for name in ways}
    for turn in range(order["rounds"] + 1):  # the first warms up
        for name in random.Random(turn).sample(list(ways), len(ways)):
            start = (time.perf_counter if order["clock"] == "wall" else time.process_time)()
            for batch in batches:
                ways[name](*batch)
            end = (time.perf_counter if order["clock"] == "wall" else time.process_time)()
            times[name].append(end - start)
    print(json.dumps({name: values[1:] for name, values in times.items()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""A made-up study on disk, for tests of reports."""

import dataclasses
import io
import json
import re

import numpy as np
import rich.console

from distill.studies import CLASSIFICATION, summary
from distill.studies._details import Confusion, LayerSize, Reliability

SEEDS = 8
MEASURES = [{key: value for key, value in vars(one).items() if key != "score"} for one in CLASSIFICATION]
# Test accuracies in percent, seed by seed.
NOISE = np.array([0.3, -0.1, 0.2, -0.4, 0.0, 0.1, -0.2, 0.1])
LAST = {
    "teacher": 98 + NOISE,
    "alone": 95 + NOISE,
    # Better than "alone" at p = .047, which is not enough among five comparisons.
    "smoothing": 95 + NOISE + np.array([0.3, 0.2, 0.4, 0.1, 0.5, 0.2, -0.1, -0.05]),
    "distilled": 96 + NOISE + 0.02 * np.arange(SEEDS),
    "alone-120": 77 + 4 * NOISE,
    "pseudo-labels": 94 + NOISE,
    "distilled-unlabelled": 93.5 + NOISE[::-1] / 4,
}
COMPARISONS = [
    ["alone", "distilled"],
    ["alone", "smoothing"],
    ["alone-120", "distilled-unlabelled"],
    ["pseudo-labels", "distilled-unlabelled"],
    ["smoothing", "alone"],
]


def scores(accuracy, agreement):
    wrong = 1 - accuracy / 100
    return {"accuracy": accuracy / 100, "nll": 4 * wrong, "ece": wrong / 4, "agreement": agreement}


def write_study(folder, *, seeds=SEEDS, epochs=4, **changes):
    """A made-up study: seven arms in two groups."""
    arms = []
    for name, last in LAST.items():
        cells = []
        for seed in range(seeds):
            cell = folder / "cells" / f"{name}-seed{seed}"
            cell.mkdir(parents=True)
            cells.append(str(cell.relative_to(folder)))
            epoch_lines = [
                {
                    "step": e,
                    "loss": 1.0,
                    "val_loss": 1 / (e + 1),
                    "val_accuracy": last[seed] / 100 - 0.1 / (e + 1),
                }
                for e in range(epochs)
            ]
            (cell / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epoch_lines))
            agreement = None if name == "teacher" else 0.97
            test = scores(last[seed], agreement)
            size = 216_000 if name == "teacher" else 7_402
            result = {
                "arm": name, "seed": seed, "epochs": epochs, "seconds": 9.0, "test": test,
                "dev": test, "cost": {"parameters": size, "macs": 37 * size, "file_bytes": 4 * size + 500},
            }  # fmt: skip
            if name == "distilled":
                result["cost"] |= {"nonzero": 6_910, "gzip_bytes": 7_000}
            (cell / "result.json").write_text(json.dumps(result))
        group = "120 labels" if name in list(LAST)[4:] else "full labels"
        arms.append(
            {
                "name": name,
                "label": f"{name}, T=4",
                "description": f"About {name}.",
                "group": group,
                "cells": cells,
            }
        )
    study = {
        "study": "compare",
        "title": "Does it help?",
        "question": "Is a distilled student better?",
        "command": "scripts/compare --seeds 8",
        "created": "2025-11-22T23:00:00+00:00",
        "versions": {"keras": "3.15.1"},
        "git_commit": None,
        "smoke": False,
        "notes": ["4,000 labels."],
        "arms": arms,
        "comparisons": COMPARISONS,
        "tuning": [
            {
                "arm": "distilled",
                "choices": [
                    {"settings": {"temperature": 2.0}, "dev": 0.951},
                    {"settings": {"temperature": 4.0}, "dev": 0.962},
                ],
                "chosen": {"temperature": 4.0},
            }
        ],
        "latency_ms": {
            "teacher": {"median": 1.2345, "low": 1.1, "high": 1.5, "runs": 200},
            "distilled": {"median": 0.0124, "low": 0.0118, "high": 0.0131, "runs": 200},
        },
    }
    study |= changes
    (folder / "study.json").write_text(
        json.dumps({"primary": study["comparisons"], "measures": MEASURES, **study})
    )
    return folder


def terminal(study, width):
    console = rich.console.Console(width=width, file=io.StringIO())
    console.print(summary.terminal(study))
    return console.file.getvalue()


def row(text, name):
    """Returns the cells of the first row that starts with the name."""
    (line, *_) = [line for line in text.splitlines() if re.match(rf"\|? *{re.escape(name)} *(  |\|)", line)]
    return [cell.strip() for cell in re.split(r" \| |  +", line.strip("| ")) if cell.strip()]


CONFUSED = Confusion(3, ((0, 0, 5), (1, 1, 3), (2, 1, 2)), 0)
LAYERS = (LayerSize("hidden", "Dense", 16, 1040, 520), LayerSize("logits", "Dense", 10, 170, 170))
RELIABLE = Reliability((0,) * 13 + (4, 6), (0,) * 13 + (3, 6), (0.0,) * 13 + (3.6, 5.7))


def with_cells(study, **changes):
    """The study with changes to the first cell of some arms, each a function of the cell."""

    def changed(arm):
        cells = tuple(changes.get(arm.name, lambda cell: cell)(cell) for cell in arm.cells)
        return dataclasses.replace(arm, cells=cells)

    return dataclasses.replace(study, arms=tuple(map(changed, study.arms)))

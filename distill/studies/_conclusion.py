"""What ends a study: settings chosen on dev, and study.json, from which reports are made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.studies._declarations import Arm, Cell
from distill.studies._measures import CLASSIFICATION, Measure
from distill.studies._reading import read_cell
from distill.studies._records import environment, write_json

# Settings that were tried for an arm, each with its cells.
Trials = Sequence[tuple[Mapping[str, Any], Sequence[Cell]]]


def choose(
    trials: Mapping[str, Trials], study_dir: Path, *, measures: Sequence[Measure] = CLASSIFICATION
) -> list[dict[str, Any]]:
    """Chooses the settings of each arm with the best mean score on dev.

    Args:
        trials: by arm, the settings that were tried, with their finished cells; of equal scores, the first is chosen.
        study_dir: path to the study's directory.
        measures: the study's measures; the first decides.

    Returns:
        For each arm a dictionary, as study.json holds it: "arm", "choices" (all settings with their score, "dev") and
        "chosen".
    """
    tuning, decides = [], measures[0]
    best = min if decides.lower_is_better else max
    for arm, tried in trials.items():
        choices: list[dict[str, Any]] = []
        for settings, cells in tried:
            finished = [read_cell(study_dir / cell.folder, measures) for cell in cells]
            # Study.arm refused what has no such score.
            score = sum(float(one.dev[decides.key]) for one in finished) / len(finished)  # type: ignore[arg-type, misc]
            choices.append({"settings": dict(settings), "dev": score})
        chosen = best(choices, key=lambda choice: choice["dev"])["settings"]
        tuning.append({"arm": arm, "choices": choices, "chosen": chosen})
    return tuning


def conclude(
    study_dir: Path,
    arms: Sequence[tuple[Arm, Sequence[Cell]]],
    *,
    study: str,
    title: str,
    question: str,
    command: str,
    smoke: bool,
    notes: Sequence[str] = (),
    measures: Sequence[Measure] = CLASSIFICATION,
    comparisons: Sequence[tuple[str, str]] = (),
    primary: Sequence[tuple[str, str]] | None = None,
    tuning: Sequence[Mapping[str, Any]] = (),
    latency_ms: Mapping[str, Mapping[str, float]] | None = None,
    litert_bytes: Mapping[str, int] | None = None,
    code: Path | None = None,
    **extra: Any,
) -> None:
    """Writes study.json, which `read` reads.

    Args:
        study_dir: path to the study's directory.
        arms: arms with their finished cells, in the order of the tables.
        study: name of the study.
        title: title of the report.
        question: question that the study answers.
        command: command that ran it.
        smoke: whether the run only checked that everything works.
        notes: what a reader must know.
        measures: ways in which the models were scored; arms are judged by the first.
        comparisons: pairs of baseline and arm, by name.
        primary: the comparisons that answer the question, ideally one to three. They are adjusted among themselves; the
            others are exploratory. `None` for all.
        tuning: what `choose` returned.
        latency_ms: what `latencies` returned.
        litert_bytes: size of the LiteRT file, by arm.
        code: folder of the study's code, whose git commit is recorded; by default that of this package.
        **extra: further content, which `StudyResult.extra` will hold; values that JSON can hold.
    """
    write_json(
        study_dir / "study.json",
        {
            "study": study,
            "title": title,
            "question": question,
            "command": command,
            "smoke": smoke,
            "notes": list(notes),
            "measures": [
                {key: value for key, value in vars(measure).items() if key != "score"} for measure in measures
            ],
            "comparisons": list(comparisons),
            "primary": list(comparisons if primary is None else primary),
            "tuning": list(tuning),
            "latency_ms": dict(latency_ms or {}),
            "litert_bytes": dict(litert_bytes or {}),
            **extra,
            "arms": [
                {
                    "name": arm.name,
                    "group": arm.group,
                    "label": arm.label,
                    "description": arm.description,
                    "cells": [str(cell.folder) for cell in cells],
                }
                for arm, cells in arms
            ],
            **environment(code),
        },
    )

"""The settings that an arm has to try, as a sweep of Weights & Biases."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from distill.studies._declared import Declared, Design
from distill.studies._execution import TUNING_SEEDS, Plan, execute_trial
from distill.studies._reading import read_cell
from distill.studies._records import write_text


def write_sweep(design: Design, arm: str, folder: Path, command: Sequence[str]) -> Path:
    """Writes the file from which `wandb sweep` makes a sweep of an arm's settings to try.

    The sweep is the grid that `tune` tries, each with the seeds that choose settings.

    Args:
        design: the study.
        arm: name of the arm.
        folder: folder for the file, which is called sweep-ARM.yaml.
        command: command of a trial, without the interpreter, with "${args_json}" where its settings go.

    Returns:
        The path to the file.

    Raises:
        ValueError: there is no such arm, or it has no settings to try.
    """
    import yaml

    declared, first = _declared(design, arm), design.metrics[0]
    if not declared.tune:
        raise ValueError(
            "The sweep of an arm is of its settings to try: declare it with tune={...}. "
            f"Received: {arm!r}, which has none."
        )
    content = {
        "project": os.environ.get("WANDB_PROJECT") or "distill",  # that of the runs
        "name": f"{design.name} {arm}",
        "program": command[0],
        "method": "grid",
        "metric": {
            "name": f"dev/{first.key}",
            "goal": "minimize" if first.lower_is_better else "maximize",
        },
        "parameters": {
            name: {"values": list(values)} for name, values in {**declared.tune, "seed": TUNING_SEEDS}.items()
        },
        "command": ["${env}", "${interpreter}", *command],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sweep-{arm}.yaml"
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def run_trial(design: Design, plan: Plan, arm: str, settings: str) -> str:
    """Runs one trial of an arm, as the agent of a sweep asks for it.

    It is the cell that `tune` would run, so neither repeats what the other has done.

    Args:
        design: the study.
        plan: how it is run.
        arm: name of the arm.
        settings: its settings, as far as they are not the defaults, and the seed, as a JSON object.

    Returns:
        What to print: the score on dev, by which settings are chosen.

    Raises:
        ValueError: there is no such arm, or these are not its settings and a seed.
    """
    declared = _declared(design, arm)
    try:
        given = dict(json.loads(settings))
        seed = given.pop("seed", TUNING_SEEDS[0])
    except (TypeError, ValueError):
        given, seed = {}, None
    if type(seed) is not int or seed < 0 or not set(given) <= set(declared.settings):
        raise ValueError(
            f"A trial of {arm} takes a JSON object with a whole seed from 0 and settings of the arm: "
            f"{', '.join(declared.settings) or 'none'}. Received: {settings}."
        )
    cell = execute_trial(design, plan, arm, given, seed)
    first = design.metrics[0]
    score = read_cell(plan.study_dir / cell.folder, design.metrics).dev[first.key]
    return f"{arm} with {json.dumps(given)}, seed {seed}: dev/{first.key} = {score}"


def _declared(design: Design, arm: str) -> Declared:
    if arm not in design.arms or "seed" in design.arms[arm].settings:
        raise ValueError(
            "A sweep is of one arm, which has no setting of its own called seed. "
            f"Received: {arm!r}; there are {', '.join(design.arms)}."
        )
    return design.arms[arm]

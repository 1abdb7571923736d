"""The cells of a study: what each depends on, and the work of one."""

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from distill import tracking
from distill.studies._code import code_of, file_of
from distill.studies._declarations import Cell, Surroundings
from distill.studies._declared import Design
from distill.studies._reading import model_file
from distill.studies._recording import tracker_of
from distill.studies._run import Run, settle
from distill.studies._runner import Work

# Arm -> the settings that were chosen for it.
Chosen = Mapping[str, Mapping[str, Any]]
# Makes the cell of an arm and a seed, with the settings that were chosen.
Make = Callable[[str, int, Chosen], Cell]


@dataclasses.dataclass(frozen=True)
class Config:
    """What a cell depends on besides its seed.

    Attributes:
        settings: settings of the arm.
        data: settings of the data.
        needs: arm -> name of its cell.
        code: digest of the functions.
        smoke: whether it only checks that everything works.
        policy: name of the dtype policy under which the study's file makes models.
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    needs: dict[str, str]
    code: str
    smoke: bool
    policy: str = "float32"


def files_of(cell: Cell, cells: Path) -> dict[str, Path]:
    """The models of the cells that one needs, by their arms."""
    return {name: model_file(cells / folder) for name, folder in cell.config.needs.items()}


def folder_of(design: Design) -> Path:
    """The folder of the study's code, or the working directory if there is no file."""
    return Path(file_of(design.data) or "").parent


def work_of(design: Design, surroundings: Surroundings, *, may_be_edited: bool) -> Work:
    """The work of a study's cells.

    Args:
        design: the study.
        surroundings: where metrics go.
        may_be_edited: whether workers import the study's files, which may have been edited since the run began. Those
            of Ray get functions that may come without their source, and cannot tell.
    """
    how = train_unless_edited if may_be_edited else train
    return functools.partial(how, design=design, surroundings=surroundings)


# Study -> arm -> digest of its code as this process imported it, before data or arms could change their variables.
_IMPORTED: dict[str, dict[str, str]] = {}


def train_unless_edited(
    cell: Cell, directory: Path, *, design: Design, surroundings: Surroundings
) -> dict[str, Any]:
    """Like `train`, but refuses if the study's files were edited before this process imported them.

    Raises:
        RuntimeError: the arm's code is not what it was when the run began.
    """
    if multiprocessing.parent_process() is None:  # cells run where the run began
        return train(cell, directory, design=design, surroundings=surroundings)
    if design.name not in _IMPORTED:
        _IMPORTED[design.name] = {name: _code(design, name) for name in design.arms}
    if _IMPORTED[design.name][cell.arm] != cell.config.code:
        raise RuntimeError(
            f"The code of a study must not change while it runs. Received: code of {cell.arm} that differs "
            "from when the run began, or uses a variable that differs from process to process, such as a time. Run the "
            "study again; what is finished stays."
        )
    return train(cell, directory, design=design, surroundings=surroundings)


def train(cell: Cell, directory: Path, *, design: Design, surroundings: Surroundings) -> dict[str, Any]:
    """Does the work of one cell: calls the arm's function, and scores what it returns."""
    arm, config = design.arms[cell.arm], cell.config
    train_split, dev, test = design.splits(cell.seed)
    files = files_of(cell, directory.parent)
    with tracker_of(cell, directory, surroundings, code=folder_of(design)) as tracker:
        run = Run(
            seed=cell.seed,
            train=train_split,
            dev=dev,
            callbacks=[tracking.EpochLogger(tracker)],
            directory=directory,
            smoke=config.smoke,
            _files=files,
        )
        # Seeded again, so that the arm does not depend on how many random numbers the data drew.
        keras.utils.set_random_seed(cell.seed)
        made = arm.function(run, **config.settings)
        return settle(
            made,
            cell=cell,
            directory=directory,
            dev=dev,
            test=test,
            teacher=files[arm.needs[0]] if arm.needs else None,
            needs=files,
            measures=design.metrics,
            tracker=tracker,
        )


def maker(design: Design, *, smoke: bool) -> Make:
    """A function that makes cells, with the code as it is now: a file may be edited while its study runs."""
    codes = {name: _code(design, name) for name in design.arms}
    policy = keras.config.dtype_policy().name

    def make(name: str, seed: int, chosen: Chosen) -> Cell:
        arm = design.arms[name]
        config = Config(
            settings={**arm.settings, **chosen.get(name, {})},
            data=design.data_settings,
            needs={one: make(one, seed, chosen).name for one in arm.needs},
            code=codes[name],
            smoke=smoke,
            policy=policy,
        )
        return Cell(study=design.name, arm=name, seed=seed, config=config)

    return make


def _code(design: Design, name: str) -> str:
    """Digest of what makes and scores an arm: its function, the data, and scores that are not the library's."""
    scores = [one.score for one in design.metrics if one.score is not None]
    # In a partial, because the defaults of the functions themselves are settings.
    own = [
        functools.partial(one) for one in scores if not getattr(one, "__module__", "").startswith("distill.")
    ]
    return code_of(design.arms[name].function, design.data, *own)

"""Schedules of gradual pruning: tfmot's two classes, or any function of the step."""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from distill._extras import needed
from distill.pruning._numbers import require_sparsity

# A step, counted from 1 -> (whether the masks move at this step, and the sparsity to which they move).
Schedule = Callable[[int], tuple[Any, Any]]
# Names of tfmot's schedule classes.
TFMOT_SCHEDULES = ("ConstantSparsity", "PolynomialDecay")


def tfmot_schedule(name: str) -> Any:
    """Returns a schedule class of tfmot, which is imported at the first call and leaves no trace.

    Importing tfmot sets an environment variable that makes this process and its children use Keras 2. It thus turns a
    `tf.keras` that nothing has used yet into Keras 2. This function prevents the latter and undoes the former.

    Args:
        name: "PolynomialDecay" or "ConstantSparsity".

    Raises:
        AttributeError: any other name.
        ImportError: tfmot is not installed.
    """
    if name not in TFMOT_SCHEDULES:
        raise AttributeError(
            f"tfmot's schedules are PolynomialDecay and ConstantSparsity. Received: {name!r}."
        )
    if "tensorflow_model_optimization" not in sys.modules:
        import tensorflow as tf

        tf.keras.Model  # noqa: B018 - what tf.keras is, is decided when it is first touched
        before = dict(os.environ)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about its own imports
                with needed(f"{name}, a schedule of tfmot,", "tfmot"):
                    import tensorflow_model_optimization  # noqa: F401
        finally:
            for key in os.environ.keys() - before.keys():
                del os.environ[key]
            os.environ.update(before)
    return getattr(sys.modules["tensorflow_model_optimization"].sparsity.keras, name)


class Timetable:
    """The steps at which a schedule moves the masks, and to which sparsity.

    Args:
        schedule: function of the step, or a schedule of tfmot.

    Attributes:
        schedule: the schedule itself.
        last: step after which the sparsity no longer changes; `None` if that is not known.
        target: sparsity from there on; `None` if that is not known.

    Raises:
        TypeError: the schedule is not a function.
        ValueError: a schedule of tfmot never reaches its final sparsity.
    """

    def __init__(self, schedule: Schedule) -> None:
        if not callable(schedule):
            raise TypeError(
                f"schedule must be a function of the step. Received: schedule={schedule!r}. For one fixed sparsity use "
                "ConstantSparsity(0.8, begin_step=…)."
            )
        self.schedule: Any = schedule
        self.last: int | None = None
        self.target: float | None = None
        self._is_tfmot = type(schedule).__module__.startswith("tensorflow_model_optimization.")
        self._chunk: dict[int, tuple[bool, float]] = {}
        if self._is_tfmot:
            self._read_target(schedule)

    def due(self, after: int, until: int) -> float | None:
        """Returns the sparsity of the latest update in steps after + 1 … until, or `None` if there is none."""
        for step in range(until, after, -1):
            moves, sparsity = self._at(step)
            if moves:
                return require_sparsity(sparsity)
        return None

    def _at(self, step: int) -> tuple[bool, float]:
        if self._is_tfmot:
            # A call takes TensorFlow 0.4 ms, for one step as for a thousand.
            if step not in self._chunk:
                steps = np.arange(step // 1000 * 1000, step // 1000 * 1000 + 1000)
                moves, sparsities = (np.broadcast_to(part, steps.shape) for part in self.schedule(steps))
                pairs = [(bool(m), float(s)) for m, s in zip(moves, sparsities, strict=True)]
                self._chunk = dict(zip(steps.tolist(), pairs, strict=True))
            due, share = self._chunk[step]
            # In float32, 0.8 is 0.800000012.
            if self.target is not None and self.last is not None and step >= self.last:
                share = self.target
            return due, share
        try:
            moves, sparsity = self.schedule(step)
            return bool(moves), float(sparsity)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "A schedule must return (whether masks move, sparsity) for a step. Received: "
                f"{self.schedule!r}, which failed at step {step}: {error}."
            ) from error

    def _read_target(self, schedule: Any) -> None:
        tfmot = sys.modules["tensorflow_model_optimization"].sparsity.keras
        if isinstance(schedule, tfmot.PolynomialDecay):
            self.target = float(schedule.final_sparsity)
            self.last = reached = schedule.end_step
        elif isinstance(schedule, tfmot.ConstantSparsity):
            self.target = float(schedule.target_sparsity)
            begin, every = schedule.begin_step, schedule.frequency
            self.last = reached = begin if begin > 0 else every
        else:
            return
        if reached < 1 or not bool(schedule(reached)[0]):
            raise ValueError(
                "A schedule must end on a step at which masks move: every `frequency` steps from `begin_step` on, and "
                f"after step 0. Received: {type(schedule).__name__}({schedule.get_config()['config']}), which never "
                "reaches its final sparsity. Choose end_step = begin_step + a multiple of frequency."
            )

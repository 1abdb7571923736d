"""Honest comparisons: cells with paired seeds that a run can resume, statistics, tables, plots and a report.

study = studies.read("runs/compare")
print(study.arm("distilled").values(studies.ACCURACY))
for judged in studies.judge(study):
    print(judged.arm, judged.baseline, judged.adjusted)
"""

from distill.studies import _levels as levels
from distill.studies import _metrics as metrics
from distill.studies import _plots as plots
from distill.studies import _report as report
from distill.studies import _statistics as statistics
from distill.studies import _tables as tables
from distill.studies._cells import Examples, costs, fit_and_measure, latencies, logits, measure
from distill.studies._declarations import Arm, Cell, Surroundings
from distill.studies._results import (
    ACCURACY,
    AGREEMENT,
    ECE,
    NLL,
    ArmResult,
    BrokenStudyError,
    CellResult,
    Judged,
    Measure,
    StudyResult,
    Tuning,
    judge,
    read,
)
from distill.studies._runner import STAGES, CellError, Runner, workers
from distill.studies._study import choose, command, conclude, require_datasets, require_training

__all__ = [
    "ACCURACY",
    "AGREEMENT",
    "ECE",
    "NLL",
    "STAGES",
    "Arm",
    "ArmResult",
    "BrokenStudyError",
    "Cell",
    "CellError",
    "CellResult",
    "Examples",
    "Judged",
    "Measure",
    "Runner",
    "StudyResult",
    "Surroundings",
    "Tuning",
    "choose",
    "command",
    "conclude",
    "costs",
    "fit_and_measure",
    "judge",
    "latencies",
    "levels",
    "logits",
    "measure",
    "metrics",
    "plots",
    "read",
    "report",
    "require_datasets",
    "require_training",
    "statistics",
    "tables",
    "workers",
]

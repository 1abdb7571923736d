"""Honest comparisons: the same seeds for every arm, runs that resume, paired statistics, and a report.

A `Study` compares arms, which are ways to train. Each arm is run with several seeds, the same for all arms, and each of
these runs is a cell with a directory of its own, so that a study that was stopped continues where it was. Settings are
chosen on dev; test is read once. `compare_models` compares models that exist already.

```python
import rich

from distill import studies

study = studies.read("runs/compare")         # a finished study
for judged in studies.judge(study):          # paired by seed, adjusted for the number of comparisons
    print(judged.arm, "against", judged.baseline, judged.adjusted)
rich.print(studies.summary.terminal(study))  # its tables
studies.report.write("runs/compare")         # its page
```

A study reads several directories as one, `read("machine-a/compare", "machine-b/compare")`, and `scripts/report` makes
their page. `publish` records a finished study as a run of W&B. In a notebook, studies, verdicts, tables and charts show
themselves. A section that a study adds to its report is made of `page`, `tables`, `charts`, `plots` and `levels`;
`statistics` and `metrics` are plain functions of numbers.

This room needs the `experiments` extra.
"""

from distill.studies import _required  # noqa: F401  # says which extra is missing

# isort: split
from distill.studies import _charts as charts
from distill.studies import _levels as levels
from distill.studies import _metrics as metrics
from distill.studies import _notebook  # noqa: F401  # studies show themselves
from distill.studies import _page as page
from distill.studies import _plots as plots
from distill.studies import _report as report
from distill.studies import _statistics as statistics
from distill.studies import _summary as summary
from distill.studies import _tables as tables
from distill.studies._cells import logits
from distill.studies._condensed import condense
from distill.studies._declarations import Arm, Cell, Surroundings
from distill.studies._judging import Judged, Verdicts, judge
from distill.studies._measures import (
    ACCURACY,
    AGREEMENT,
    AVERAGE_PRECISION,
    CLASSIFICATION,
    ECE,
    LABEL_NLL,
    MAE,
    MULTI_LABEL,
    NLL,
    R2,
    REGRESSION,
    RMSE,
    TOKEN_ACCURACY,
    TOKEN_NLL,
    TOKENS,
    Measure,
)
from distill.studies._models import ComparedModels, Interval, compare_models
from distill.studies._pareto import Priced, Prices, prices
from distill.studies._publishing import publish
from distill.studies._ray import Ray
from distill.studies._reading import read
from distill.studies._results import ArmResult, BrokenStudyError, CellResult, StudyResult, Tuning
from distill.studies._run import Run
from distill.studies._runner import CellError
from distill.studies._study import Study

__all__ = [
    "ACCURACY",
    "AGREEMENT",
    "AVERAGE_PRECISION",
    "CLASSIFICATION",
    "ECE",
    "LABEL_NLL",
    "MAE",
    "MULTI_LABEL",
    "NLL",
    "R2",
    "REGRESSION",
    "RMSE",
    "TOKENS",
    "TOKEN_ACCURACY",
    "TOKEN_NLL",
    "Arm",
    "ArmResult",
    "BrokenStudyError",
    "Cell",
    "CellError",
    "CellResult",
    "ComparedModels",
    "Interval",
    "Judged",
    "Measure",
    "Priced",
    "Prices",
    "Ray",
    "Run",
    "Study",
    "StudyResult",
    "Surroundings",
    "Tuning",
    "Verdicts",
    "charts",
    "compare_models",
    "condense",
    "judge",
    "levels",
    "logits",
    "metrics",
    "page",
    "plots",
    "prices",
    "publish",
    "read",
    "report",
    "statistics",
    "summary",
    "tables",
]

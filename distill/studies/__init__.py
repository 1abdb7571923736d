"""Honest comparisons: the same seeds for every arm, runs that resume, paired statistics, and a report.

A `Study` compares arms, which are ways to train. Each arm runs with several seeds, the same for all arms. Each of these
runs is a cell with its own directory, so a study that was stopped continues where it left off. Settings are chosen on
dev; test is read once. `compare_models` compares models that already exist.

```python
import rich

from distill import studies

study = studies.read("runs/compare")         # a finished study
for judged in studies.judge(study):          # paired by seed, adjusted for the number of comparisons
    print(judged.arm, "against", judged.baseline, judged.adjusted)
rich.print(studies.summary.terminal(study))  # its tables
studies.report.write("runs/compare")         # its page
```

`read("machine-a/compare", "machine-b/compare")` reads several directories as one study, and `scripts/report` makes one
report of them. `publish` records a finished study as a W&B run. A notebook displays studies, verdicts, tables and
charts. To add a section to a study's report, use `page`, `tables`, `charts`, `plots` and `levels`. `statistics` and
`metrics` hold plain functions of numbers.

`distill.studies` needs the `experiments` extra.
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

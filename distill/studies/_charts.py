"""The charts of a study: each arm's score against its cost, and how arms differ.

```python
from distill import studies

study = studies.read("runs/compare")
for picture in studies.charts.pareto(study):
    picture.save(f"{picture.name}.png")
```
"""

from distill.studies._curves import curves, reliability
from distill.studies._forest import forest
from distill.studies._insides import confusion, layers
from distill.studies._pictures import Picture
from distill.studies._results import StudyResult
from distill.studies._trade import pareto

__all__ = ["Picture", "confusion", "curves", "every", "forest", "layers", "pareto", "reliability"]


def every(study: StudyResult) -> list[Picture]:
    """Returns all charts for which the study has data."""
    kinds = (pareto, forest, curves, reliability, confusion, layers)
    return [picture for kind in kinds for picture in kind(study)]

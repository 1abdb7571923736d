"""The ways in which a model is scored, and how their numbers are printed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Measure:
    """One way to score a model.

    Attributes:
        key: name in `result.json`.
        name: name in tables.
        unit: unit of the printed numbers.
        scale: factor that turns a stored value into a printed one.
        digits: number of decimals to print.
        lower_is_better: whether smaller values are better, as for errors.

    Example:
        >>> from distill import studies
        >>> studies.ACCURACY.unit, studies.NLL.lower_is_better
        ('points', True)
    """

    key: str
    _: dataclasses.KW_ONLY
    name: str
    unit: str
    scale: float = 1.0
    digits: int = 2
    lower_is_better: bool = False


ACCURACY = Measure("accuracy", name="accuracy", unit="points", scale=100)
NLL = Measure("nll", name="NLL", unit="nats", digits=3, lower_is_better=True)
ECE = Measure("ece", name="ECE", unit="points", scale=100, digits=1, lower_is_better=True)
AGREEMENT = Measure("agreement", name="agreement", unit="points", scale=100)
MEASURES = (ACCURACY, NLL, ECE, AGREEMENT)

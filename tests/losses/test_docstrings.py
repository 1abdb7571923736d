"""The docstrings of the losses have all their parts; tests/test_examples.py runs their examples."""

import inspect

import keras
import pytest

from distill import losses
from distill.losses import DistillationLoss

PUBLIC = [getattr(losses, name) for name in losses.__all__]
LOSSES = [one for one in PUBLIC if inspect.isclass(one) and issubclass(one, keras.losses.Loss)]


@pytest.mark.parametrize("loss", [one for one in LOSSES if one is not DistillationLoss])
def test_docstrings_say_what_goes_in_and_comes_out(loss):
    text = inspect.cleandoc(loss.__doc__)
    for part in ("Args:", "Call args:", "Returns:", "Raises:", "Example:", "References:"):
        assert part in text or (part == "References:" and "comes from no paper" in text), part
    assert "`recipe`:" in text or not issubclass(loss, DistillationLoss)
    for argument in inspect.signature(loss).parameters:
        assert f"\n    {argument}: " in text, argument


def test_others_have_an_example():
    others = [one for one in PUBLIC if callable(one) and one not in LOSSES and one is not losses.Schedule]
    for one in (
        *others,
        DistillationLoss,
        *(getattr(losses.projectors, n) for n in losses.projectors.__all__),
    ):
        assert "```python" in one.__doc__, one

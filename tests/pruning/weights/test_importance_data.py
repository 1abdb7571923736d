"""Data and numbers from which no scores can be made."""

import numpy as np
import pytest
from backend import only_on
from scoring import GRADIENT_IMPORTANCES, as_dataset, examples, in_batches

from distill.pruning.weights import importance


@pytest.mark.parametrize("make", [*GRADIENT_IMPORTANCES.values(), importance.wanda])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([(1, 2)]), "must be readable more than once"),
        (7, "must be readable more than once"),
        ((np.ones((3, 2)), np.ones(2)), "arrays of \\[2, 3\\] rows"),
    ],
    ids=["iterator", "number", "lengths"],
)
def test_data_that_will_not_do(make, data, message):
    with pytest.raises(ValueError, match=message):
        make(data)


@only_on("tensorflow", reason="a dataset that never ends")
@pytest.mark.parametrize("make", [importance.snip, importance.taylor, importance.obd, importance.wanda])
def test_a_mean_has_an_end(make):
    with pytest.raises(ValueError, match="never ends"):
        make(as_dataset(in_batches(4, *examples(4))).repeat())


@pytest.mark.parametrize(
    "arguments",
    [{"learning_rate": 0.0}, {"learning_rate": np.nan}, {"learning_rate": "1"}, {"steps": 0}, {"steps": 1.5}],
    ids=str,
)
def test_movement_refuses_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        importance.movement(examples(4), **({"learning_rate": 0.1, "steps": 1} | arguments))

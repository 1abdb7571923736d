"""Networks that become one model fit each other, or are refused."""

import keras
import pytest
from conftest import dense_net
from distilling import nets
from keras import layers

from distill import MutualLearning
from distill.training import ensemble


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets(4), "must be two or more"),
        (lambda: nets(4)[0], "must be two or more"),
        (lambda: [*nets(4), Subclassed()], "must be two or more built Functional"),
        (lambda: [*nets(4), *nets(5)], r"must have unique names. Received: \['net0', 'net0'\]"),
        (lambda: nets(4) * 2, "must have unique names"),
        (lambda: [*nets(4), dense_net(4, classes=5, name="five", activation=None)], "'five' from .* to .*5"),
        (
            lambda: [*nets(4), keras.Sequential([keras.Input((7,)), layers.Dense(3)], name="b")],
            "the same inputs",
        ),
    ],
)
@pytest.mark.parametrize("scheme", [MutualLearning, ensemble], ids=["mutual", "ensemble"])
def test_networks_that_do_not_fit_are_refused(scheme, make, message):
    with pytest.raises(ValueError, match=message):
        scheme(make())

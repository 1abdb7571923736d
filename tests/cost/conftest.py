"""What the tests of multiply-adds share."""

import pytest

from distill import cost


@pytest.fixture
def products():
    """Multiply-adds of a model: with weights, of activations."""

    def count(model):
        found = cost.calls_of(model).products
        assert cost.macs(model) == found.weights + found.activations
        return tuple(found)

    return count

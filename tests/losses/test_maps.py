"""Losses on maps: pooling to one size, norms next to the epsilon, and sizes that must be known."""

import functools

import keras
import numpy as np
import pytest
from backend import as_numpy
from keras import ops
from loss_cases import CASES
from loss_checks import features_of, follows

from distill.losses import AttentionTransfer, NeuronSelectivity, VariationalInformation, _maps

POOLING = [
    "AttentionTransfer",
    "AttentionTransfer of the paper",
    "VariationalInformation",
    "NeuronSelectivity",
]


@pytest.mark.parametrize("name", POOLING)
@pytest.mark.parametrize("teacher", [(5, 4, 4), (2, 1, 4), (2, 5, 4)])
def test_the_larger_map_is_pooled(name, teacher):
    follows(CASES[name]._replace(teacher=teacher), batch=2)


@pytest.mark.parametrize("name", POOLING[:2])
def test_attention_of_norms_about_the_epsilon(name):
    follows(CASES[name], scale=7e-7)


def test_neuron_selectivity_of_norms_about_the_epsilon():
    follows(CASES["NeuronSelectivity"], scale=6e-13)


@pytest.mark.parametrize("p", [1, 1.5, 3, 4])
def test_the_power_of_attention(p):
    follows(CASES["AttentionTransfer"]._replace(make=functools.partial(AttentionTransfer, p=p)))


@pytest.mark.parametrize("channels", [2, 9])
def test_neuron_selectivity_is_one_number_by_either_gram_matrix(channels):
    """9 channels have more pairs than 6 positions, 2 have fewer."""
    follows(CASES["NeuronSelectivity"]._replace(teacher=(3, 2, channels)), seed=4)


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity, VariationalInformation])
def test_sizes_must_be_known_when_the_step_runs(make):
    loss = make()
    sides = keras.KerasTensor((None, None, 4, 4)), keras.KerasTensor((None, 4, 4, 3))
    loss.ensure_built(*sides)  # the examples of a data set may have a fixed size
    assert np.isfinite(as_numpy(loss(*features_of((2, 4, 4, 4), (2, 4, 4, 3)))))
    with pytest.raises(ValueError, match=r"so both sizes must be known.*fixed size"):
        loss.compare(0, *sides)


@pytest.mark.parametrize("p", [0.5, 5, "2", None])
def test_the_power_has_a_range(p):
    with pytest.raises(ValueError, match="p must be a number from 1 to 4"):
        AttentionTransfer(p=p)


@pytest.mark.parametrize("name", POOLING[:1] + POOLING[2:])
def test_the_oracle_catches_maximum_pooling(name, monkeypatch):
    pool = functools.partial(ops.adaptive_max_pool, data_format="channels_last")
    monkeypatch.setattr(_maps, "_pooled", lambda x, size: pool(x, size))
    with pytest.raises(AssertionError):
        follows(CASES[name]._replace(teacher=(5, 4, 4)))

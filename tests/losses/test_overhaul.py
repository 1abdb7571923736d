"""Overhaul of feature distillation: its margins, and the weights of its layers."""

import functools

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor
from keras import layers
from loss_checks import features_of
from loss_oracles import MARGINS

from distill.losses import OverhaulDistillation, batch_norm_margins

Overhaul = functools.partial(OverhaulDistillation, MARGINS)
NAMES = {"teacher_layer_name": ["t1", "t2"], "student_layer_name": ["s1", "s2"]}
STAGES = features_of(), features_of((3, 2, 2, 4), (3, 2, 2, 5), seed=1)


def test_later_stages_of_overhaul_count_more():
    later_stages_count_more(OverhaulDistillation)


def later_stages_count_more(make):
    sides = [[as_tensor(side[..., :3]) for side in stages] for stages in zip(*STAGES, strict=True)]
    margins = [MARGINS[:3], MARGINS[1:]]
    loss = make(margins, **NAMES, projector=[layers.Identity()] * 2)
    loss.ensure_built(*sides)
    expected = reference.ofd(*([as_numpy(stage) for stage in side] for side in sides), margins)
    np.testing.assert_allclose(as_numpy(loss.call(*sides)), expected, rtol=1e-5)


def test_margins_of_a_batch_normalization():
    norm = layers.BatchNormalization()
    norm.build((None, 5))
    beta, gamma = np.array([0.3, -2.0, 3.2, 1.0, -1.0]), np.array([1.0, -0.5, 1.0, 0.0, 0.0])
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    margins = batch_norm_margins(norm)
    np.testing.assert_allclose(margins, reference.ofd_margin(beta, gamma), rtol=1e-5)
    assert margins.dtype == "float32"
    OverhaulDistillation(margins)


def test_margins_without_scale_and_center():
    norm = layers.BatchNormalization(scale=False, center=False)
    norm.build((None, 2))
    np.testing.assert_allclose(batch_norm_margins(norm), [-np.sqrt(2 / np.pi)] * 2, rtol=1e-6)


@pytest.mark.parametrize("layer", [layers.BatchNormalization(), layers.LayerNormalization(), "norm"])
def test_margins_come_from_a_trained_batch_normalization(layer):
    with pytest.raises(ValueError, match="Margins are computed from the trained batch normalization"):
        batch_norm_margins(layer)


@pytest.mark.parametrize("margins", [None, 0.0, [[-1.0]], [0.1], [float("nan")], [-float("inf")], "abc"])
def test_margins_are_numbers_below_zero(margins):
    with pytest.raises(ValueError, match="Margins must be numbers <= 0, one for each channel"):
        OverhaulDistillation(margins)


@pytest.mark.parametrize("margins", [[-1.0, -2.0], [[-1.0]], None])
def test_margins_of_each_stage(margins):
    with pytest.raises(ValueError, match=r"a list with these for each.*for 2 layers"):
        OverhaulDistillation(margins, ("a", "b"), ("a", "b"))


def test_sizes_that_differ_are_refused_by_overhaul():
    with pytest.raises(
        ValueError, match=r"projector must return the teacher's shape.*projected student \(None, 1, 1, 4\)"
    ):
        Overhaul().ensure_built(keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 1, 1, 3)))


def test_margins_must_fit_the_channels():
    with pytest.raises(ValueError, match=r"a margin for each channel of the teacher, but has 4"):
        Overhaul()(*features_of((2, 4, 4, 5), (2, 4, 4, 5)))


def test_the_oracle_catches_stages_that_count_the_same():
    class Mutant(OverhaulDistillation):
        def compare(self, stage, teacher, student):
            return super().compare(stage, teacher, student) * 2.0 ** (1 - stage)

    with pytest.raises(AssertionError):
        later_stages_count_more(Mutant)

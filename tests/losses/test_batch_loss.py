"""Losses of `keras.distillation` behind the adapter."""

import keras
import numpy as np
from backend import as_numpy
from loss_checks import logits_of

from distill.losses._batch_loss import BatchLoss


def test_batch_loss_passes_a_keras_loss_through():
    teacher, student = logits_of()
    wrapped = BatchLoss(keras.distillation.FeatureDistillation("mse"))
    assert wrapped.name == "feature_distillation"
    value = as_numpy(wrapped(teacher, student))
    np.testing.assert_allclose(value, np.mean((teacher - student) ** 2), rtol=1e-6)

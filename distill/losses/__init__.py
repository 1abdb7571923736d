"""Distillation losses: small classes that compare a teacher's and a student's tensors per example."""

from distill.losses.base import DistillationLoss
from distill.losses.logits import BernoulliSoftTargets, SoftTargets
from distill.losses.outputs import OutputMSE

__all__ = ["BernoulliSoftTargets", "DistillationLoss", "OutputMSE", "SoftTargets"]

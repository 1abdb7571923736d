"""Distillation losses: small classes that compare a teacher's and a student's tensors per example."""

from distill.losses.base import DistillationLoss
from distill.losses.logits import BernoulliSoftTargets, SoftTargets

__all__ = ["BernoulliSoftTargets", "DistillationLoss", "SoftTargets"]

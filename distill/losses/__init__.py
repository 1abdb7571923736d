"""Distillation losses: small classes that compare a teacher's and a student's tensors per example."""

from distill.losses.base import DistillationLoss
from distill.losses.divergences import (
    DIST,
    CurriculumTemperature,
    DecoupledKD,
    GeneralizedJSD,
    MultiLevelKD,
    Standardized,
)
from distill.losses.logits import BernoulliSoftTargets, HardTargets, LogitMSE, SoftTargets
from distill.losses.outputs import OutputMSE
from distill.losses.relations import ProbabilisticTransfer, Relational, SimilarityPreserving

__all__ = [
    "DIST",
    "BernoulliSoftTargets",
    "CurriculumTemperature",
    "DecoupledKD",
    "DistillationLoss",
    "GeneralizedJSD",
    "HardTargets",
    "LogitMSE",
    "MultiLevelKD",
    "OutputMSE",
    "ProbabilisticTransfer",
    "Relational",
    "SimilarityPreserving",
    "SoftTargets",
    "Standardized",
]

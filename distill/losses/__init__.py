"""Distillation losses: small classes that compare a teacher's and a student's tensors per example."""

from distill.losses.base import DistillationLoss
from distill.losses.contrastive import ContrastiveRepresentation
from distill.losses.divergences import (
    DIST,
    CurriculumTemperature,
    DecoupledKD,
    GeneralizedJSD,
    MultiLevelKD,
    Standardized,
)
from distill.losses.features import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
    batch_norm_margins,
)
from distill.losses.logits import BernoulliSoftTargets, HardTargets, LogitMSE, SoftTargets
from distill.losses.outputs import OutputMSE
from distill.losses.relations import ProbabilisticTransfer, Relational, SimilarityPreserving
from distill.losses.virtual_teacher import VirtualTeacher

__all__ = [
    "DIST",
    "AttentionTransfer",
    "BernoulliSoftTargets",
    "ContrastiveRepresentation",
    "CurriculumTemperature",
    "DecoupledKD",
    "DistillationLoss",
    "GeneralizedJSD",
    "HardTargets",
    "Hint",
    "LogitMSE",
    "MultiLevelKD",
    "NeuronSelectivity",
    "OutputMSE",
    "OverhaulDistillation",
    "ProbabilisticTransfer",
    "Relational",
    "SimilarityPreserving",
    "SoftTargets",
    "Standardized",
    "VariationalInformation",
    "VirtualTeacher",
    "batch_norm_margins",
]

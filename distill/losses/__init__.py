"""Distillation losses: small classes that compare a teacher's and a student's tensors per example."""

from distill.losses._base import DistillationLoss
from distill.losses._contrastive import ContrastiveRepresentation
from distill.losses._divergences import (
    DIST,
    CurriculumTemperature,
    DecoupledKD,
    GeneralizedJSD,
    MultiLevelKD,
    Standardized,
)
from distill.losses._features import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
    batch_norm_margins,
)
from distill.losses._logits import BernoulliSoftTargets, HardTargets, LogitMSE, SoftTargets
from distill.losses._output_mse import OutputMSE
from distill.losses._relations import ProbabilisticTransfer, Relational, SimilarityPreserving
from distill.losses._virtual_teacher import VirtualTeacher

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

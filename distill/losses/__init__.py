"""Distillation losses: small classes that compare what a teacher and a student computed for the same examples.

Give one or several to a Distiller:

    import distill
    from distill import losses

    loss = losses.DecoupledKD(beta=2.0)
    distiller = distill.Distiller(teacher, student, loss)
    distiller.compile("adam", loss="sparse_categorical_crossentropy")
    distiller.fit(x, y, epochs=10)

If you use one loss and set no weights, it trains with the weights it was published with, its `recipe`. Its
docstring names the paper.

    logits      SoftTargets, BernoulliSoftTargets, LogitMSE, HardTargets, Standardized, DecoupledKD, DIST,
                GeneralizedJSD, MultiLevelKD, CurriculumTemperature
    outputs     OutputMSE
    layers      Hint, AttentionTransfer, VariationalInformation, NeuronSelectivity, OverhaulDistillation
    relations   SimilarityPreserving, Relational, ProbabilisticTransfer, ContrastiveRepresentation
    no teacher  VirtualTeacher, a control

To write your own loss, subclass `DistillationLoss`. A `Setting` is a number in a loss that can change while
the student trains: you assign to it, or a `Schedule` sets it. `projectors` makes layers that map between
features of different widths.
"""

from distill.losses import projectors
from distill.losses._attention import AttentionTransfer
from distill.losses._base import DistillationLoss
from distill.losses._bernoulli import BernoulliSoftTargets
from distill.losses._contrastive import ContrastiveRepresentation
from distill.losses._curriculum import CurriculumTemperature
from distill.losses._decoupled import DecoupledKD
from distill.losses._dist import DIST
from distill.losses._hard_targets import HardTargets
from distill.losses._hint import Hint
from distill.losses._jsd import GeneralizedJSD
from distill.losses._logit_mse import LogitMSE
from distill.losses._multi_level import MultiLevelKD
from distill.losses._output_mse import OutputMSE
from distill.losses._overhaul import OverhaulDistillation, batch_norm_margins
from distill.losses._probabilistic import ProbabilisticTransfer
from distill.losses._relational import Relational
from distill.losses._selectivity import NeuronSelectivity
from distill.losses._settings import Schedule, Setting
from distill.losses._similarity import SimilarityPreserving
from distill.losses._soft_targets import SoftTargets
from distill.losses._standardized import Standardized
from distill.losses._variational import VariationalInformation
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
    "Schedule",
    "Setting",
    "SimilarityPreserving",
    "SoftTargets",
    "Standardized",
    "VariationalInformation",
    "VirtualTeacher",
    "batch_norm_margins",
    "projectors",
]

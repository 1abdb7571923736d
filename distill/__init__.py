"""Knowledge distillation and pruning for Keras 3.

A trained teacher, a smaller student, and the loss between them:

    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y)
    distiller.save("student.keras")

`distill.data`, `distill.tracking` and `distill.cost` are imported by name: they need the
`experiments` extra. So is `distill.tuning`, which needs TensorFlow. `distill.multiworker` says how several
processes train one student.
"""

from distill import losses, pruning, quantization, schemes
from distill.distiller import Distiller
from distill.export_check import compare_exports
from distill.exporting import export
from distill.files import load_model, load_weights, save_model, save_weights
from distill.identified import Identified
from distill.losses import (
    DIST,
    AttentionTransfer,
    BernoulliSoftTargets,
    ContrastiveRepresentation,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    GeneralizedJSD,
    HardTargets,
    Hint,
    LogitMSE,
    MultiLevelKD,
    NeuronSelectivity,
    OutputMSE,
    OverhaulDistillation,
    ProbabilisticTransfer,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    Standardized,
    VariationalInformation,
    VirtualTeacher,
    batch_norm_margins,
)
from distill.schemes import MutualLearning
from distill.teacher import Teacher

__all__ = [
    "DIST",
    "AttentionTransfer",
    "BernoulliSoftTargets",
    "ContrastiveRepresentation",
    "CurriculumTemperature",
    "DecoupledKD",
    "DistillationLoss",
    "Distiller",
    "GeneralizedJSD",
    "HardTargets",
    "Hint",
    "Identified",
    "LogitMSE",
    "MultiLevelKD",
    "MutualLearning",
    "NeuronSelectivity",
    "OutputMSE",
    "OverhaulDistillation",
    "ProbabilisticTransfer",
    "Relational",
    "SimilarityPreserving",
    "SoftTargets",
    "Standardized",
    "Teacher",
    "VariationalInformation",
    "VirtualTeacher",
    "batch_norm_margins",
    "compare_exports",
    "export",
    "load_model",
    "load_weights",
    "losses",
    "pruning",
    "quantization",
    "save_model",
    "save_weights",
    "schemes",
]

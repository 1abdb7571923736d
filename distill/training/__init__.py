"""Who learns from whom: the Distiller, its teachers, and networks that teach each other or train in turn.

distiller = training.Distiller(teacher, student, losses.SoftTargets(temperature=4.0))
distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
distiller.fit(x, y)

generations = training.chain([make_student] * 3, train, teacher=teacher)
together = training.ensemble(generations)

print(training.largest_batch(distiller, (x, y)))
"""

from distill.training._batch_sizes import BatchSize, BatchSizes, largest_batch
from distill.training._distiller import Distiller
from distill.training._identified import Identified
from distill.training._schemes import MutualLearning, chain, ensemble
from distill.training._teacher import Teacher
from distill.training._workers import Backup

__all__ = [
    "Backup",
    "BatchSize",
    "BatchSizes",
    "Distiller",
    "Identified",
    "MutualLearning",
    "Teacher",
    "chain",
    "ensemble",
    "largest_batch",
]

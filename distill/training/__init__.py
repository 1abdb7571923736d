"""Who learns from whom: the Distiller, its teachers, and networks that teach each other or are trained in turn.

```python
import keras
from distill import losses, training

distiller = training.Distiller(teacher, student, losses.SoftTargets(temperature=4.0))
distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
print(distiller.check(x, y))  # what would make training useless
distiller.fit(x, y, epochs=2, callbacks=[training.Backup("backup")])
distiller.save("student.keras")
print(training.largest_batch(distiller, (x, y), sizes=(8, 16), runs=2))
print(training.fastest(distiller, (x, y), batch_size=8, runs=2))  # sets steps_per_execution


def make_student():
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((6,)), *layers])


def train(model, callbacks):
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, callbacks=callbacks)


generations = training.chain([make_student] * 3, train, teacher=teacher)
together = training.ensemble(generations)
```

For networks that learn from each other at the same time, use `MutualLearning`. For several teachers,
unlabelled data, or augmented views that teacher and student share, a `Distiller` is enough.

**Several processes.** Keras' `fit` fails under `tf.distribute.MultiWorkerMirroredStrategy` (keras issue
20585). A Distiller's `fit` works there. `python -m distill.training.launch -- python train.py` starts several
workers on one machine, and each runs the same program:

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads TF_CONFIG, which the launcher sets
    keras.utils.set_random_seed(0)                          # the same on every worker
    with strategy.scope():
        student = ...
        distiller = distill.Distiller(teacher, student, distill.SoftTargets(4.0))
        distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, batch_size=64, callbacks=[training.Backup("backup", delete_checkpoint=False)])
    if strategy.cluster_resolver.task_id == 0:
        distiller.save("student.keras")

- Data: on every worker, pass the whole data to `fit`, `evaluate` and `predict`. `batch_size`, and the batches
  of a `tf.data.Dataset`, are global: each of n workers takes an n-th of each batch. With 13 examples in
  batches of 8, two workers take 4 and 4, then 3 and 2; a worker may get none of the last batch. All workers
  need the data in the same order. Numpy arrays are shuffled in the same way on all workers that called
  `keras.utils.set_random_seed` with the same seed. A dataset's `shuffle` needs a seed, and a generator needs
  one of its own. A dataset of files is sharded by file, and so comes in a different order, unless its options
  say `AutoShardPolicy.DATA`.
- Numbers: `fit` and `evaluate` report the same numbers on every worker, and the same as one process. In
  training, this holds for a Distiller however the workers share a batch. Keras' own losses count each worker
  equally, so other models need equal shares. Callbacks get means over the workers for a batch, and the
  metrics of all examples for an epoch. `predict` returns all predictions on every worker. BatchNormalization
  needs `synchronized=True`; otherwise each worker has its own statistics. Dropout draws the same mask on
  every worker.
- Files: on one worker only, call `save` and use callbacks that write, such as `ModelCheckpoint`.
- Failures: if a worker dies, the others stop and raise `tf.errors.UnavailableError` within about ten seconds.
  Then all workers must start again. With `--restarts`, the launcher does this for you.
"""

from distill.training._advice import Advice
from distill.training._backup import Backup
from distill.training._batch_sizes import BatchSize, BatchSizes, largest_batch
from distill.training._chain import chain
from distill.training._check import Checkup
from distill.training._checked import CheckedModel, CheckedTerm
from distill.training._distiller import Distiller
from distill.training._ensemble import ensemble
from distill.training._faster_teacher import FasterTeacher, TeacherForm, faster_teacher
from distill.training._identified import Identified
from distill.training._mutual_learning import MutualLearning
from distill.training._step_settings import StepSetting, StepSettings, fastest
from distill.training._teacher import Teacher
from distill.training._weights import WeightRow, WeightsTable

__all__ = [
    "Advice",
    "Backup",
    "BatchSize",
    "BatchSizes",
    "CheckedModel",
    "CheckedTerm",
    "Checkup",
    "Distiller",
    "FasterTeacher",
    "Identified",
    "MutualLearning",
    "StepSetting",
    "StepSettings",
    "Teacher",
    "TeacherForm",
    "WeightRow",
    "WeightsTable",
    "chain",
    "ensemble",
    "faster_teacher",
    "fastest",
    "largest_batch",
]

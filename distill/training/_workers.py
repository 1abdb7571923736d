"""Training in several processes at once, with `tf.distribute.MultiWorkerMirroredStrategy`.

Keras' `fit` fails under this strategy (keras issue 20585). `MultiWorker` is a `keras.Model` in which it works,
and which reports exactly under `MirroredStrategy` too; without a strategy, or on another backend, it changes
nothing. `Backup` is a `BackupAndRestore` for several workers. Each worker runs the same program:

    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads TF_CONFIG, which `scripts/launch` sets
    keras.utils.set_random_seed(0)                          # the same on every worker
    with strategy.scope():
        student = ...
        distiller = distill.Distiller(teacher, student, distill.SoftTargets(4.0))
        distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, batch_size=64, epochs=10, callbacks=[Backup("backup", delete_checkpoint=False)])
    if strategy.cluster_resolver.task_id == 0:
        distiller.save("student.keras")

**Data.** Every worker gives `fit`, `evaluate` and `predict` the whole data, and `batch_size`, or the batches of
a `tf.data.Dataset`, are the global ones. Worker i of n takes the i-th n-th of each batch: of 13 examples in
batches of 8, two workers take 4 + 4 and then 3 + 2, and a worker may get none of the last batch. The workers
must agree on the order: numpy arrays are shuffled alike after the same `keras.utils.set_random_seed`, and a
dataset's `shuffle` needs a seed, a generator its own. A dataset of files is sharded by file, hence in another
order, unless its options say `AutoShardPolicy.DATA`.

**Numbers.** `fit` and `evaluate` report the same on every worker, and what one process would. For training that
holds however a Distiller's batches are shared; Keras' own losses give each worker the same say, so other models
need even shares. Batch callbacks see means of the workers' numbers, epoch callbacks the metrics over all
examples. `predict` returns all predictions on every worker. BatchNormalization needs `synchronized=True`, or its
statistics are those of each worker alone. Dropout draws the same mask on every worker.

**Files.** Callbacks that write, such as `ModelCheckpoint`, and `save` belong on one worker: they need no other.

**A worker that dies** takes the others with it: they raise `tf.errors.UnavailableError`, within about ten
seconds. All have to start again, which `scripts/launch --restarts` does.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill._keras import BackupAndRestore, set_initial_epoch, worker_strategy


class Backup(BackupAndRestore):
    """Goes on after a kill at any moment, as `keras.callbacks.BackupAndRestore` does after most.

    That one writes weights and epoch to two files, in place: a kill in between loses the backup or counts an
    epoch twice, and several workers would write over each other. Here a backup is one file, put in place whole.
    With several workers the chief, worker 0, writes and all read; they need a disk that they share.

    As with `BackupAndRestore`, weights, optimizer and epoch come back. What depends on the number of epochs in
    this process does not: the order of a shuffled data set, other callbacks.

    Args:
        backup_dir: directory of this run's backup alone.
        save_freq: "epoch", or the number of batches from one backup to the next. Training goes on at the
            beginning of an epoch, with the weights as they were.
        delete_checkpoint: delete the directory when `fit` ends. Pass `False` where workers are restarted
            together: one that dies when `fit` has ended on another then repeats nothing.

    Raises:
        ValueError: at the start of `fit`, the model is not built, or workers found different backups.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__(os.fspath(backup_dir), save_freq, delete_checkpoint=delete_checkpoint)

    def on_train_end(self, logs: Any = None) -> None:
        """Deletes the backup, where that is wanted."""
        if self._writes:
            super().on_train_end(logs)

    @property
    def _writes(self) -> bool:
        strategy = worker_strategy(self.model)
        return strategy is None or strategy.extended.should_checkpoint

    def read(self) -> None:
        """Loads the newest backup, on all workers the same one."""
        backups = dict(self._backups())
        epoch = max(backups, default=-1)
        strategy = worker_strategy(self.model)
        if strategy is not None:
            import tensorflow as tf

            found = strategy.gather(tf.constant([epoch]), axis=0).numpy().tolist()
            if len(set(found)) > 1:
                raise ValueError(
                    "All workers go on from one backup. Received: "
                    f"backup_dir={self.backup_dir!r}, where they found backups of epochs {found} (-1: none). "
                    "Give every worker the same directory, on a disk that they share."
                )
        if not self.model.built:
            raise ValueError(
                f"A backup is read before training, into a built model. Received: {self.model.name}, which is not "
                "built. Give it an Input, or call it on a batch first."
            )
        if backups:
            if self.model.optimizer is not None and not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(backups[epoch])
        set_initial_epoch(self.model, max(epoch, 0))

    def write(self, epoch: int) -> None:
        """Puts a backup in the place of the one before, on the worker that writes."""
        if not self._writes:
            return
        directory = Path(self.backup_dir)
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / "partial.weights.h5"
        self.model.save_weights(partial)
        backup = directory / f"epoch-{epoch}.weights.h5"
        partial.replace(backup)
        for _, path in self._backups():
            if path != backup:
                path.unlink()

    def _backups(self) -> Iterator[tuple[int, Path]]:
        """Epochs and files of whole backups; two, if a kill left one that was to be deleted."""
        for path in Path(self.backup_dir).glob("epoch-*.weights.h5"):
            if match := re.fullmatch(r"epoch-(\d+)\.weights\.h5", path.name):
                yield int(match[1]), path

"""A backup of training that survives a kill at any moment, in one process or in several."""

import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from distill._keras import BackupAndRestore, set_initial_epoch, worker_strategy
from distill._types import PathLike


class Backup(BackupAndRestore):
    """Lets training continue after any kill, which `keras.callbacks.BackupAndRestore` cannot always do.

    Keras' callback writes weights and epoch into two files, in place. A kill between the two loses the backup
    or counts an epoch twice, and several workers would overwrite each other's files. This callback writes one
    file, and puts it in place in one step. With several workers, the chief (worker 0) writes and all read, so
    they need a shared disk.

    Like `BackupAndRestore`, it restores weights, optimizer and epoch. It does not restore what depends on how
    many epochs this process has run: the order of a shuffled data set, and the state of other callbacks.

    Args:
        backup_dir: directory for the backup of this run alone.
        save_freq: "epoch", or the number of batches from one backup to the next. Training continues at the
            beginning of an epoch, with the weights of the backup.
        delete_checkpoint: whether to delete the directory when `fit` ends. Pass `False` if workers are
            restarted together. Then, if a worker dies after `fit` has ended on another one, no training is
            repeated.

    Raises:
        ValueError: `backup_dir` is a URL, not a local folder; at the start of `fit`, the model is not built,
            the workers found different backups, or this object has already backed up another model until
            its training ended.

    Example:
        ```python
        import keras

        from distill import training

        model.compile("adam", loss="sparse_categorical_crossentropy")
        model.fit(x, y, epochs=2, callbacks=[training.Backup("backup")])
        ```
    """

    def __init__(
        self, backup_dir: PathLike, *, save_freq: str | int = "epoch", delete_checkpoint: bool = True
    ) -> None:
        if "://" in os.fspath(backup_dir):
            raise ValueError(
                "A Backup needs a folder on a disk, since it replaces files in one step. Received: "
                f"backup_dir={os.fspath(backup_dir)!r}. Mount it, or use keras.callbacks.BackupAndRestore."
            )
        super().__init__(os.fspath(backup_dir), save_freq, delete_checkpoint=delete_checkpoint)
        self._done: weakref.ref[keras.Model] | None = None  # the model whose training has ended

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Deletes the backup, unless it is to be kept."""
        self._done = weakref.ref(self.model)
        set_initial_epoch(self.model, 0)  # or Keras would begin every later `fit` there
        if self._writes:
            super().on_train_end(logs)

    @property
    def _writes(self) -> bool:
        strategy = worker_strategy(self.model)
        return strategy is None or strategy.extended.should_checkpoint

    def read(self) -> None:
        """Loads the newest backup, the same on all workers."""
        backups = dict(self._backups())
        if backups and self._done is not None and self._done() is not self.model:
            raise ValueError(
                "A backup belongs to the training of one model. Received: "
                f"backup_dir={self.backup_dir!r}, with the backup of a training that has ended, for another model, "
                f"{self.model.name!r}. Make a Backup with a directory of its own for each training."
            )
        epoch = max(backups, default=-1)
        strategy = worker_strategy(self.model)
        if strategy is not None:
            import tensorflow as tf

            found = strategy.gather(tf.constant([epoch]), axis=0).numpy().tolist()
            if len(set(found)) > 1:
                raise ValueError(
                    "All workers must go on from one backup. Received: "
                    f"backup_dir={self.backup_dir!r}, where they found backups of epochs {found} (-1: none). "
                    "Give every worker the same directory, on a disk that they share."
                )
        if not self.model.built:
            raise ValueError(
                f"A backup can only be loaded into a built model. Received: {self.model.name!r}, which is not built. "
                "Give it a keras.Input, or call it on a batch first."
            )
        if backups:
            if self.model.optimizer is not None and not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(backups[epoch])
        set_initial_epoch(self.model, max(epoch, 0))

    def write(self, epoch: int) -> None:
        """Replaces the backup, on the worker that writes."""
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
        """Yields epoch and file of each backup; there are two if a kill prevented the deletion of the older one."""
        for path in Path(self.backup_dir).glob("epoch-*.weights.h5"):
            if match := re.fullmatch(r"epoch-(\d+)\.weights\.h5", path.name):
                yield int(match[1]), path

"""The callback that sends the logs of `fit` to a tracker."""

from collections.abc import Mapping
from typing import Any

import keras

from distill.tracking._tracker import Reference, Tracker


class EpochLogger(keras.callbacks.Callback):
    """Callback that sends the logs of every epoch of `fit` to a tracker; epochs count from 0, as in Keras.

    Each entry of a metric with several numbers, such as one for each class, is logged under its position: "f1_score/0".

    A tracker records one training. A second training, whose epochs begin again, raises an error before its first epoch.
    Tuners copy their callbacks for each trial, with `copy.deepcopy` or pickle. A copy logs to the same tracker. If that
    tracker does not accept the copy's epochs, or is in another process, the copy logs to a run of its own in a new
    directory next to it, such as "trial-2" next to "trial". This run is opened when the copy's training begins and
    finished when it ends.

    Args:
        tracker: open `Tracker`.

    Raises:
        RuntimeError: the tracker is finished when the first epoch begins.
        ValueError: the tracker has already recorded the first epoch when it begins.

    Example:
        ```python
        from distill.tracking import EpochLogger, Tracker

        student.compile("adam", "sparse_categorical_crossentropy")
        with Tracker("runs/second", wandb="disabled") as tracker:
            student.fit(x, y, verbose=0, callbacks=[EpochLogger(tracker)])
        ```
    """

    def __init__(self, tracker: Tracker):
        super().__init__()
        self._reference = tracker.reference
        self._tracker: Tracker | None = tracker  # in a copy: the tracker of its training, once that has begun
        self._is_copy = False

    def __reduce__(self) -> tuple[Any, ...]:
        # This leaves out the model that it was last used with.
        return _copy_of, (self._reference,)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Let a copy look for its tracker anew."""
        if self._is_copy:
            self._tracker = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Make sure that the tracker accepts the numbers of this epoch."""
        self._place(epoch).require_step(epoch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log one epoch."""
        self._place(epoch).log(logs or {}, epoch)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finish a run that this copy has opened."""
        if self._tracker is not None and self._tracker.reference.token != self._reference.token:
            self._tracker.finish({})

    def _place(self, epoch: int) -> Tracker:
        """Returns the tracker of this training."""
        if self._tracker is None:
            found = self._reference.find()
            if found is None or not found.takes(epoch):
                found = self._reference.open_beside()
            self._tracker = found
        return self._tracker


def _copy_of(reference: Reference) -> EpochLogger:
    copy = EpochLogger.__new__(EpochLogger)
    keras.callbacks.Callback.__init__(copy)
    copy._reference, copy._tracker, copy._is_copy = reference, None, True
    return copy

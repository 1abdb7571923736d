"""The callback that sends the logs of `fit` to a tracker."""

from collections.abc import Mapping

import keras

from distill.tracking._tracker import Tracker


class EpochLogger(keras.callbacks.Callback):
    """Callback that sends the logs of every epoch of `fit` to a tracker; epochs count from 0, as in Keras.

    Args:
        tracker: open `Tracker`.

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
        self._tracker = tracker

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Log one epoch."""
        self._tracker.log(logs or {}, epoch)

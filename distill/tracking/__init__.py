"""Records the metrics of a run as JSON lines, and also in Weights & Biases (W&B) and TensorBoard.

A `Tracker` always writes one line per epoch to `metrics.jsonl`. It sends the same numbers to W&B, offline unless you
ask otherwise, and to TensorBoard on request. W&B and TensorBoard never stop a run, never ask for a key and never delay
it beyond a stated time-out: if one fails, that is reported once and it is left out. `EpochLogger` is the callback that
feeds a tracker from `fit`.

```python
import keras, numpy as np
from distill.tracking import EpochLogger, Tracker

x, y = np.random.normal(size=(40, 6)), np.random.randint(3, size=40)
student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
student.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
with Tracker("runs/first", wandb="disabled") as tracker:
    student.fit(x, y, epochs=2, verbose=0, callbacks=[EpochLogger(tracker)])
    tracker.finish({"accuracy": student.evaluate(x, y, verbose=0)[1]})
```
"""

from distill.tracking._callback import EpochLogger
from distill.tracking._tracker import Tracker

__all__ = ["EpochLogger", "Tracker"]

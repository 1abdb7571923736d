"""Data sets that need no network, in batches that are the same in every process.

`load` returns fixed train, dev and test splits of `mnist5k` (5,000 MNIST digits), `digits` (8×8 pixels) and `mnist1d`
(signals), which Python packages contain or compute. It also loads any classification set of tensorflow-datasets that is
already on the machine; it never downloads. `batches` shuffles by a seed, `shift` moves images and series, `flip`
mirrors images, `mixup` mixes views for distillation without labels, and `arrays` reads a split into numpy. `load_text`
returns a text for language models, which is also split into train, dev and test.

```python
import keras
from distill import data

digits = data.load("digits")
train = data.batches(digits.train, 64, seed=0)
student = keras.Sequential([keras.Input(digits.input_shape), keras.layers.Flatten(), keras.layers.Dense(10)])
student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
student.fit(train, epochs=2, validation_data=data.batches(digits.dev, 180), verbose=0, shuffle=False)
x, y = data.arrays(digits.test)
loss, accuracy = student.evaluate(x, y, verbose=0)
```
"""

from distill.data import _required  # noqa: F401  # says which extra is missing

# isort: split
from distill.data._batches import batches
from distill.data._loading import Splits, arrays, load
from distill.data._mixing import mixup
from distill.data._shifting import flip, shift
from distill.data._texts import Texts, load_text

__all__ = ["Splits", "Texts", "arrays", "batches", "flip", "load", "load_text", "mixup", "shift"]

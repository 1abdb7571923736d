"""Load and save models and weights: read any file that Keras wrote, check it first, and write in one step.

Trained models come in files of every age and format, from people you may not know. `load_model` turns any of them into
a Keras 3 model: `.keras`, HDF5 from Keras 1 to 3, JSON with weights, keras_hub presets, tf_keras models and
SavedModels. `load_weights` loads weights, also from TensorFlow checkpoints, into a model that you already have, or
lists what differs and changes nothing. Neither runs code from a file, nor takes memory for weights that the file does
not hold. `save_model` and `save_weights` replace a file as a whole: if the process is killed or the disk is full, you
still have the old file or the new one.

```python
import keras
from distill import files

layers = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(3, name="head")]
teacher = keras.Sequential([keras.Input((6,)), *layers])
files.save_model(teacher, "teacher.h5")
teacher = files.load_model("teacher.h5")

files.save_weights(teacher, "teacher.weights.h5")
print(files.load_weights(teacher, "teacher.weights.h5"))  # 2 layers were loaded: hidden, head.
```
"""

from distill.files._differences import Difference, Loaded
from distill.files._loading import load_model
from distill.files._saved_model import InferenceOnly
from distill.files._saving import save_model, save_weights
from distill.files._weights import load_weights

__all__ = [
    "Difference",
    "InferenceOnly",
    "Loaded",
    "load_model",
    "load_weights",
    "save_model",
    "save_weights",
]

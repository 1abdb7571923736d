"""Names for what Keras and Python give no type of their own."""

import os
from collections.abc import Callable
from typing import Any

import keras

# A tensor of the backend, or a symbolic one; each backend has its own class.
Tensor = Any
# Tensors in any structure that Keras takes: one, a list, a tuple or a dictionary of them.
Tensors = Any
# A numpy array, or what numpy makes one of; or such in a structure.
Arrays = Any
# What `fit` takes as `x`: arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator.
Data = Any
PathLike = str | os.PathLike[str]
# Fits a model in place, passing the callbacks to `fit`.
Train = Callable[[keras.Model, list[keras.callbacks.Callback]], object]
# A config as Keras serializes it: values of JSON by name.
Config = dict[str, Any]

"""A Keras model that does to its data what other models' own `fit` would do."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from distill._keras import MappedData, Trainer, train_validation_split
from distill._types import Data, Tensors
from distill.training._preprocessing import prepared, preprocessing_of

Prepare = Callable[..., tuple[Any, ...]]


class PreparingTrainer(Trainer):
    """Runs a function over every batch, in the data's pipeline, before a step gets it.

    Inherit from it and define `preparation`. Without a function, data goes to Keras as it is.
    """

    def preparation(self, *, teaching: bool | None) -> Prepare | None:
        """Returns the function of (x, y, sample_weight), or `None`.

        Args:
            teaching: whether the batch is prepared as for training; `None`: only if it has no labels.
        """
        raise NotImplementedError

    @property
    def teaches_in_evaluation(self) -> bool | None:
        """Whether batches of an evaluation are prepared as those of training; `None`: only those without labels."""
        return False

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on prepared data."""
        teaching, own = (self.preparation(teaching=role) for role in (True, self.teaches_in_evaluation))
        if teaching is None:
            return super().fit(*args, **kwargs)
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        del given["self"]
        data = tuple(as_arrays(given.pop(name, None)) for name in ("x", "y", "sample_weight"))
        validation = given.pop("validation_data", None)
        share = given.pop("validation_split", 0.0)
        if share and validation is None:
            data, validation = train_validation_split(data, validation_split=share)
        size, steps = given.get("batch_size"), given.get("steps_per_epoch")
        x = mapped(
            teaching,
            *data,
            batch_size=size,
            steps=steps,
            shuffle=given.pop("shuffle", True),
            class_weight=given.pop("class_weight", None),
        )
        if validation is not None:
            given["validation_data"] = mapped(
                own or passed_on,
                *keras.utils.unpack_x_y_sample_weight(validation),
                batch_size=given.get("validation_batch_size") or size,
                steps=given.get("validation_steps"),
            )
        return super().fit(x, shuffle=False, **given)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does, on prepared data."""
        prepare = self.preparation(teaching=self.teaches_in_evaluation)
        # Keras evaluates in `fit` on data that `fit` has prepared.
        if prepare is None or kwargs.get("_use_cached_eval_dataset"):
            return super().evaluate(*args, **kwargs)
        given = inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs).arguments
        del given["self"]
        data = [given.pop(name, None) for name in ("x", "y", "sample_weight")]
        x = mapped(prepare, *data, batch_size=given.get("batch_size"), steps=given.get("steps"))
        return super().evaluate(x, **given)

    def predict(self, x: Data, *args: Any, **kwargs: Any) -> Any:
        """Predicts as `keras.Model.predict` does, on prepared data."""
        prepare = self.preparation(teaching=False)
        if prepare is None:
            return super().predict(x, *args, **kwargs)
        given = inspect.signature(keras.Model.predict).bind(self, x, *args, **kwargs).arguments
        del given["self"], given["x"]
        x = mapped(prepare, x, batch_size=given.get("batch_size"), steps=given.get("steps"))
        return super().predict(x, **given)

    def train_on_batch(
        self, x: Tensors, y: Tensors = None, sample_weight: Tensors = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains as `keras.Model.train_on_batch` does, on a prepared batch."""
        return super().train_on_batch(*self._prepared(x, y, sample_weight, teaching=True), *args, **kwargs)

    def test_on_batch(
        self, x: Tensors, y: Tensors = None, sample_weight: Tensors = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluates as `keras.Model.test_on_batch` does, on a prepared batch."""
        batch = self._prepared(x, y, sample_weight, teaching=self.teaches_in_evaluation)
        return super().test_on_batch(*batch, *args, **kwargs)

    def predict_on_batch(self, x: Tensors) -> Any:
        """Predicts as `keras.Model.predict_on_batch` does, on a prepared batch."""
        return super().predict_on_batch(self._prepared(x, None, None, teaching=False)[0])

    def _prepared(
        self, x: Tensors, y: Tensors, sample_weight: Tensors, *, teaching: bool | None
    ) -> tuple[Any, Any, Any]:
        prepare = self.preparation(teaching=teaching)
        if prepare is None:
            return x, y, sample_weight
        batch = prepare(*(as_arrays(part) for part in (x, y, sample_weight)))
        return keras.utils.unpack_x_y_sample_weight(
            keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
        )


def preparation_of(model: keras.Model) -> Prepare | None:
    """Returns what a model's own `fit` does to a batch before its training step; `None` for nothing."""
    if isinstance(model, PreparingTrainer):
        return model.preparation(teaching=True)
    own = preprocessing_of(model, "model")
    return None if own is None else lambda *batch: prepared(own, None, *batch)


def passed_on(*batch: Tensors) -> tuple[Any, ...]:
    """Returns a batch as it is."""
    return batch


def mapped(prepare: Prepare, *data: Data, **how: Any) -> MappedData:
    """Returns data of any kind that `fit` takes, and lists of strings and numbers, with a function over its batches."""
    try:
        return MappedData(prepare, *(as_arrays(part) for part in data), **how)
    except ValueError as error:
        if re.fullmatch(r"Invalid dtype: (str\d*|object)", str(error)) is None:
            raise
        raise ValueError(
            "From a generator or a PyDataset, Keras takes strings only as tensors. Received: numpy strings. Return "
            "tf.constant(texts), or pass an array or a tf.data.Dataset."
        ) from error


def as_arrays(data: Any) -> Any:
    """Returns lists of strings and numbers as arrays, and numpy's strings as objects, which TensorFlow takes."""
    if isinstance(data, dict):
        return {key: as_arrays(part) for key, part in data.items()}
    if isinstance(data, (list, tuple)):
        # A tuple holds several inputs.
        if isinstance(data, list) and data and all(isinstance(part, str | bytes) for part in data):
            return np.array(data, dtype=object)
        if isinstance(data, list) and data and all(isinstance(part, bool | int | float) for part in data):
            return np.array(
                data, dtype="float32" if any(isinstance(part, float) for part in data) else "int32"
            )
        parts = [as_arrays(part) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    if isinstance(data, np.ndarray) and data.dtype.kind in "US":
        return data.astype(object)
    return data

"""Functions and layers that compute something else in Keras 3, as they were in Keras 2."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor


@keras.saving.register_keras_serializable("distill")
def hard_sigmoid(x: Tensor) -> Tensor:
    """The hard sigmoid of Keras before version 3, used in every LSTM and GRU before 2.3. Keras 3 has another slope."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@keras.saving.register_keras_serializable("distill")
class ResizingRandomCrop(keras.layers.RandomCrop):
    """The random crop of Keras before version 3, which resizes at inference. That of Keras 3 leaves images as they are.

    Images that are too small are resized in training too.

    Args:
        height: rows of the result.
        width: columns of the result.
        **kwargs: options of `keras.layers.RandomCrop`, such as `seed`.

    Call args:
        inputs: images (batch, rows, columns, channels), or one without the batch.
        training: whether to crop at random.

    Returns:
        Images (batch, height, width, channels): crops in training, otherwise the largest middle part of that
        aspect, resized bilinearly.
    """

    def transform_images(self, images: Tensor, transformation: Any, training: bool = True) -> Tensor:
        """Crop or resize images."""
        rows, columns = images.shape[self.height_axis], images.shape[self.width_axis]
        if training and rows >= self.height and columns >= self.width:
            return super().transform_images(images, transformation, training=True)
        size = (self.height, self.width)
        images = self.backend.cast(images, self.compute_dtype)
        return self.backend.image.resize(
            images, size, crop_to_aspect_ratio=True, data_format=self.data_format
        )

"""Load weights from a file into a model that you already have, all or nothing."""

from pathlib import Path

import keras

from distill._models import require_model
from distill._types import PathLike
from distill.files._differences import Loaded, table
from distill.files._fitting import fitted, fitted_partly
from distill.files._matching import values
from distill.files._stored import opened


def load_weights(model: keras.Model, path: PathLike, *, partial: bool = False) -> Loaded:
    """Load weights into the architecture that they were saved from, or list the differences and load nothing.

    The file may come from `model.save_weights` or `model.save` in Keras 3, tf_keras or older versions of Keras. It may
    also be a TensorFlow checkpoint: the ".index" and ".data" files that `save_weights` in Keras 2 wrote by default, the
    variables of a tf_keras SavedModel, or what `tf.train.Checkpoint` wrote for a model. Layers are matched by name if
    all names agree, otherwise by order. If the file also holds an architecture, as all files except weights files do,
    it must be the model's, because a layer with another activation has weights of the same shapes.

    Nothing in the file is built or run. Training state, such as an optimizer's, is not loaded: to resume training, use
    `model.load_weights`. If a `Distiller` wrote the file during training, its student is loaded.

    Args:
        model: built model.
        path: path to the file; its content decides how it is read. For a checkpoint, pass its path without endings, one
            of its files, or its folder.
        partial: whether to load the layers whose name, kind, settings and shapes agree, and leave the others as they
            are. Settings that act only in training, such as dropout, do not count. The layers that agree may be those
            of a model in the file, such as the backbone of a whole model, or of a model inside your model.

    Returns:
        The layers that were loaded, and the differences in the others.

    Raises:
        ValueError: the model is not built; the file differs from it, has nothing for it, fits in several ways, or is
            damaged.
        ImportError: the file is a TensorFlow checkpoint, and TensorFlow is not installed.
        OSError: the file is missing or cannot be read.

    Example:
        ```python
        distill.save_weights(student, "student.weights.h5")
        print(distill.load_weights(student, "student.weights.h5"))  # 2 layers were loaded: hidden, head.
        ```
    """
    require_model(model, "load_weights")
    if not model.built:
        raise ValueError(
            f"A model must be built before weights can be loaded. Received: {model.name!r}, which is not built. Call "
            "it on an example, or give it a keras.Input."
        )
    with opened(Path(path)) as stored:
        if stored.parts is None:
            raise ValueError(
                f"The file must hold weights. Received: {stored.source}, an architecture in JSON."
            )
        fit = (fitted_partly if partial else fitted)(model, stored)
        if fit.differences and not (partial and fit.pairs):
            raise ValueError(
                "Weights must be loaded into the architecture that they were saved from; nothing was loaded. Received: "
                f"{stored.source} for {model.name!r}, where they differ:\n{table(fit.differences)}\n"
                + (
                    "No layer agrees in name and shapes."
                    if partial
                    else "partial=True loads the layers that agree."
                )
            )
        found = values(fit.stored.parts or {}, fit.pairs, stored.source)
    fit.stored.layout.assign(fit.model, found, fit.stored.assets)
    return Loaded(
        tuple(fit.expected[place].name or place or fit.model.name for place in fit.pairs),
        tuple(fit.differences),
    )

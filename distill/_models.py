"""What is asked of a model before anything is done with it."""

from typing import Any

import keras


def require_model(model: Any, user: str) -> None:
    """Raises TypeError if what a function got in a model's place is none, such as the name of a file.

    Args:
        model: what came.
        user: name of the function, for the error.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(
            f"{user} takes a keras.Model. Received: {model!r}. Make one of a file, or of a model of tf_keras, with "
            "distill.load_model."
        )

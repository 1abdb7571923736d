"""One model that averages the class probabilities of several."""

from collections.abc import Sequence

import keras
from keras import layers

from distill._models import require_model
from distill.training._heads import axis_of_classes, head_of
from distill.training._joining import join
from distill.training._preprocessing import ANSWERS, preprocessing_of, require_plain


def ensemble(
    models: Sequence[keras.Model], *, from_logits: bool | None = None, name: str = "ensemble"
) -> keras.Model:
    """Returns one model whose output is the mean of several models' class probabilities.

    It shares the models' variables and consists of Keras' own layers, so its file can be read without `distill`.

    Args:
        models: two or more built Functional or Sequential models. They must have the same inputs, one output
            each, with the same classes, and unique names.
        from_logits: `True` states that the models return logits, `False` that they return probabilities; `None` finds
            out from their heads.
        name: name of the new model.

    Returns:
        A Functional model from the models' inputs to probabilities (batch, ..., classes).

    Raises:
        ValueError: the models do not fit each other; a head is not recognized; or a model does more than its
            call, because it has a preprocessor or its own `predict`.

    Example:
        ```python
        import keras

        from distill import training

        members = [keras.models.clone_model(model) for _ in range(3)]
        for i, member in enumerate(members):
            member.name = f"member{i}"
            member.compile("adam", "sparse_categorical_crossentropy")
            member.fit(x, y)
        training.ensemble(members).save("ensemble.keras")
        ```
    """
    if from_logits is not None and not isinstance(from_logits, bool):
        raise ValueError(
            f"from_logits must be True, False or None, for all models. Received: from_logits={from_logits!r}."
        )

    for model in models if isinstance(models, (list, tuple)) else ():
        require_model(model, "ensemble")
        advice = (
            "Preprocess the data, and set the model's preprocessor to None; or wrap its call, which takes preprocessed "
            "data: keras.Model(model.input, model.output)."
        )
        require_plain(model, ANSWERS, "An ensemble averages what its members' call returns.", advice)
        if preprocessing_of(model, "member") is not None:
            raise ValueError(
                "An ensemble averages what its members' call returns, and would drop their preprocessors. Received: "
                f"{model.name!r} with a preprocessor. {advice}"
            )

    def mean(outputs: list[keras.KerasTensor]) -> keras.KerasTensor:
        heads = [head_of(model) for model in models] if from_logits is None else []
        ends = [head.activation for head in heads] or [_stated_end(model, from_logits) for model in models]
        axes = [head.axis for head in heads] or [axis_of_classes(model) for model in models]
        axis, classes = axes[0], outputs[0].shape[axes[0]]
        exclusive = [end != "sigmoid" for end in ends]
        if any(exclusive) and (not all(exclusive) or classes == 1):
            raise ValueError(
                "The models must all have two or more exclusive classes, or must all end in sigmoid. Received: "
                f"{classes} output{'s' if classes > 1 else ''}, heads that end in {ends}."
            )
        if any(exclusive) and len(set(axes)) > 1:
            raise ValueError(
                "The models must have their classes on one axis. Received: "
                f"{dict(zip([model.name for model in models], axes, strict=True))}, by the data_format of their "
                "layers. Put the classes last in each with keras.layers.Permute."
            )
        probabilities = [
            # Log probabilities serve as logits.
            layers.Softmax(axis, dtype="float32")(output) if end in ("linear", "log_softmax") else output
            for end, output in zip(ends, outputs, strict=True)
        ]
        average = layers.Average(dtype="float32")(probabilities)
        # A Distiller, and another ensemble, recognize a head that ends in softmax.
        if not any(exclusive):
            return average
        # A probability that all members round to 0 has no logarithm.
        return layers.Softmax(axis, dtype="float32")(keras.ops.log(keras.ops.maximum(average, 2.0**-126)))

    return join(models, "The members of an ensemble", mean, name)


def _stated_end(model: keras.Model, from_logits: bool | None) -> str:
    """What a model ends in, as `from_logits` says; its head tells which kind of probabilities it returns."""
    if from_logits:
        return "linear"
    try:
        return "sigmoid" if head_of(model).activation == "sigmoid" else "softmax"
    except ValueError:  # a head that is not recognized, which is why from_logits was given
        return "softmax"

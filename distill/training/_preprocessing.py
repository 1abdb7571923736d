"""What a model's own `fit` and `predict` do to a batch before `call`: known for keras_hub, refused for all others.

The task models of keras_hub, such as `BertTextClassifier`, have a `preprocessor`, and their `fit`, `evaluate`
and `predict` map it over the data. A Distiller does the same for its student and for each teacher, in the
data's pipeline, so that each model gets the same input for a batch as in its own `fit`.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from distill._types import Arrays, Tensors
from distill.training._identified import Identified, split
from distill.training._look_up import LookUp

_HUB = ("keras_hub", "keras_nlp")
# What the class of task models overrides to preprocess, and nothing else.
_TASK_METHODS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")
# What says how a model answers a batch.
ANSWERS = (*_TASK_METHODS, "predict_step", "make_predict_function")
# What says how a model learns from a batch.
LEARNS = (
    *("train_step", "test_step", "compute_loss", "compute_metrics"),
    *("make_train_function", "make_test_function"),
)


class Views(NamedTuple):
    """What each model's `call` gets of one batch.

    Attributes:
        student: the student's inputs.
        teachers: the inputs of each teacher, before its `teacher_preprocessing`; or what it answered, if that was
            recorded.
    """

    student: Tensors
    teachers: tuple[Tensors, ...]


class Preprocessing:
    """What is done to a batch before a model's `call`, in the data's pipeline.

    Args:
        run: returns (x, y, sample_weight), or fewer of them, for a batch of these.
        source: the layer that does it; models that share one get one view of a batch.
        owner: what errors call the model, such as "the teacher 'bert'".
    """

    def __init__(self, run: Callable[..., Any], source: Any, owner: str) -> None:
        self.source = source
        self.owner = owner
        self._run = run
        self._looked = False

    def __call__(self, x: Tensors, y: Tensors = None, sample_weight: Tensors = None) -> tuple[Any, Any, Any]:
        """Returns the batch for `call`; raises ValueError if it cannot be made."""
        try:
            made = keras.utils.unpack_x_y_sample_weight(self._run(x, y, sample_weight))
        except Exception as error:
            raise ValueError(
                f"The preprocessor of {self.owner} takes raw data, such as strings, or images from 0 to 255. Received: "
                f"a batch of {_described(x)}, on which it failed: {_said(error)} If the data is preprocessed already, "
                "set the model's preprocessor to None, or, for a teacher, pass "
                "teacher_preprocessing=keras.layers.Identity()."
            ) from error
        self._look(x, made[0])
        return made

    def _look(self, x: Tensors, made: Tensors) -> None:
        """Warns once if the numbers of a batch look like what the preprocessor makes, not like what it takes."""
        if isinstance(x, dict) and isinstance(made, dict):
            for name in set(x) & set(made):
                self._look(x[name], made[name])
            return
        if self._looked or not all(_is_float(part) for part in (x, made)):
            return

        def look(before: np.ndarray, after: np.ndarray) -> None:
            if self._looked:
                return
            self._looked = True
            largest, spread = np.abs(before).max(initial=0.0), np.std(before, dtype="float64")
            # Pixels from 0 to 255 are divided by 127.5, 255 or their standard deviation.
            if largest <= 10 and spread > 0 and np.std(after, dtype="float64") * 50 < spread:
                warnings.warn(
                    f"The preprocessor of {self.owner} makes small numbers of large ones, and the batch is small "
                    f"already: from {before.min():.3g} to {before.max():.3g} before it and from {after.min():.3g} to "
                    f"{after.max():.3g} after it. If the data is preprocessed already, set the model's preprocessor "
                    "to None, or, for a teacher, pass teacher_preprocessing=keras.layers.Identity().",
                    stacklevel=2,
                )

        if _is_symbolic(x):
            import tensorflow as tf

            tf.numpy_function(look, [x, made], [])
        else:
            look(np.asarray(x), np.asarray(made))


def preprocessing_of(model: Any, role: str) -> Preprocessing | None:
    """Returns what a model's own `fit` and `predict` do to a batch before `call`; `None` for most models: nothing."""
    task = _task_class(model)
    if task is None:
        return None
    plain = type(model).preprocess_samples.__module__.partition(".")[0] in _HUB
    source = getattr(model, "preprocessor", None)
    if plain and source is None:
        return None
    return Preprocessing(
        model.preprocess_samples, model if source is None else source, f"the {role} {model.name!r}"
    )


def pipeline_part(preprocessing: Any, role: str) -> Preprocessing | None:
    """Returns a `teacher_preprocessing` that runs in the data's pipeline: a keras_hub layer, for strings."""
    if not isinstance(preprocessing, keras.Layer) or not _is_of_hub(type(preprocessing)):
        return None
    # A layer that takes labels takes a pair, such as two sentences, for an input and its label.
    alone = {"y": None} if "y" in inspect.signature(preprocessing.call).parameters else {}
    return Preprocessing(lambda x, y, sample_weight: preprocessing(x, **alone), preprocessing, role)


def prepared(
    student: Preprocessing | None,
    teachers: Sequence[Preprocessing | LookUp | None] | None,
    x: Tensors,
    y: Tensors = None,
    sample_weight: Tensors = None,
    *,
    only_without_labels: bool = False,
) -> tuple[Any, ...]:
    """Returns a batch as a step takes it: with the `Views` of all models in the place of x.

    Args:
        student: what the student's own `fit` does.
        teachers: likewise for each teacher, or how its recorded answers are found; `None` for a batch that no teacher
            answers: x is then the student's view.
        x: inputs as they were given, or an `Identified` of them.
        y: labels.
        sample_weight: weights of the examples.
        only_without_labels: whether the teachers answer only a batch without labels.
    """
    inputs, ids = split(x)
    view, labels, weight = (
        (inputs, y, sample_weight) if student is None else student(inputs, y, sample_weight)
    )
    made = view
    if teachers is not None and not (only_without_labels and labels is not None):
        answered = []
        for teacher in teachers:
            if teacher is None:
                answered.append(inputs)
            elif isinstance(teacher, LookUp):
                answered.append(teacher(ids))
            elif student is not None and teacher.source is student.source:
                answered.append(view)  # one view: a preprocessor may draw random numbers
            else:
                seen, own, _ = teacher(inputs)
                if student is not None and y is None and labels is not None:
                    _require_same_labels(student, labels, teacher, own)
                answered.append(seen)
        made = Views(view, tuple(answered))
    made = made if ids is None else Identified(made, ids)
    return keras.utils.pack_x_y_sample_weight(made, labels, weight)


def require_one_preprocessing(models: Sequence[Any], what: str) -> None:
    """Raises ValueError unless the models of one batch have one preprocessor, or none has any."""
    found = [preprocessing_of(model, "model") for model in models]
    if len({None if one is None else id(one.source) for one in found}) > 1:
        listed = ", ".join(
            f"{model.name!r} with {'none' if one is None else type(one.source).__name__}"
            for model, one in zip(models, found, strict=True)
        )
        raise ValueError(
            f"{what} get one batch, so they must have one preprocessor, the same object, or none. Received: {listed}. "
            "Assign one to all, as other.preprocessor = one.preprocessor, or set all to None and preprocess the data."
        )


def require_plain(model: Any, methods: Sequence[str], what: str, advice: str) -> None:
    """Raises ValueError if a model does more than its `call` does, in a way that cannot be known.

    Args:
        model: any model.
        methods: the methods that say what it does.
        what: the rule, for the error.
        advice: what to do.
    """
    own = [name for name in methods if _is_own(model, name)]
    if own:
        raise ValueError(
            f"{what} Received: {model.name!r}, a {type(model).__name__} with its own {', '.join(own)}, which would not "
            f"run. {advice}"
        )


def _is_own(model: Any, method: str) -> bool:
    """Whether a model has a method that neither Keras nor keras_hub's class of task models defined."""
    if method in vars(model):
        return True
    owner = next((kind for kind in type(model).__mro__ if method in vars(kind)), None)
    if owner is None or owner.__module__.partition(".")[0] in ("keras", "tf_keras"):
        return False
    return owner is not _task_class(model) or method not in _TASK_METHODS


def _task_class(model: Any) -> type | None:
    """The class of keras_hub, not imported just for this, whose `fit`, `evaluate` and `predict` preprocess."""
    kinds = type(model).__mro__
    return next((kind for kind in kinds if kind.__name__ == "PipelineModel" and _is_of_hub(kind)), None)


def _is_of_hub(kind: type) -> bool:
    return any(base.__module__.partition(".")[0] in _HUB for base in kind.__mro__)


def _require_same_labels(
    student: Preprocessing, labels: Tensors, teacher: Preprocessing, own: Tensors
) -> None:
    """Labels that a preprocessor makes of x, such as the next tokens, hold for its own view of the batch alone."""
    rule = (
        f"The preprocessor of {student.owner} makes the labels, so {teacher.owner} must see the same tokens. Received: "
        "preprocessors that make different labels of one batch. Give both models one object: teacher.preprocessor = "
        "student.preprocessor."
    )
    if own is None or keras.tree.is_nested(labels) or keras.tree.is_nested(own):
        raise ValueError(rule)
    if tuple(labels.shape)[1:] != tuple(own.shape)[1:]:
        raise ValueError(rule)
    if _is_symbolic(labels):
        import tensorflow as tf

        tf.debugging.assert_equal(labels, own, message=rule)
    elif not np.array_equal(np.asarray(labels), np.asarray(own)):
        raise ValueError(rule)


def _is_symbolic(x: Any) -> bool:
    """Whether a tensor belongs to the graph of a pipeline, where its values are not known yet."""
    return hasattr(x, "graph") and not hasattr(x, "numpy")


def _is_float(x: Any) -> bool:
    return "float" in str(getattr(x, "dtype", ""))


def _said(error: Exception) -> str:
    """What an error says without the trace of a traced function before it, and Keras' list of arguments behind it."""
    text = str(error).strip() or type(error).__name__
    if bold := re.search(r"\x1b\[1m(.+?)\x1b\[0m", text, re.DOTALL):
        text = bold[1].strip()
    return text.splitlines()[-1].strip()


def _described(x: Arrays) -> str:
    def one(part: Any) -> str:
        dtype = getattr(part, "dtype", None)
        named = type(part).__name__ if dtype is None else getattr(dtype, "name", str(dtype))
        return f"{named} {tuple(getattr(part, 'shape', ()))}"

    return str(keras.tree.map_structure(one, x))

"""Use a TensorFlow SavedModel as a frozen layer. Its graph can be run, but not read or trained."""

from pathlib import Path

import keras

from distill._keras import signatures_of
from distill._types import PathLike, Tensor, Tensors


class InferenceOnly(keras.layers.TFSMLayer):
    """A SavedModel that can be a teacher, but cannot be trained, inspected or saved.

    In a `Distiller` it teaches by its outputs; you must say what they are with `from_logits`.

    Args:
        folder: path to the SavedModel.
        endpoint: name of the function to call. By default it is the one that `model.export` writes ("serve"), the one
            that other tools write ("serving_default"), or the only one there is.

    Attributes:
        call_endpoint: name of the function that is called.

    Call args:
        inputs: tensor, or a dictionary of tensors if the function has several named inputs.

    Returns:
        The outputs of the function; if it returns a dictionary with one value, that value.

    Raises:
        ValueError: there is no such function, or there are several and `endpoint` names none.

    Example:
        ```python
        from distill.files import InferenceOnly

        teacher.export("teacher_saved_model", verbose=False)
        outputs = InferenceOnly("teacher_saved_model")(x)
        ```

        `distill.load_model("teacher_saved_model", trust=True)` returns the same.
    """

    def __init__(self, folder: PathLike, *, endpoint: str | None = None) -> None:
        folder = str(folder)
        super().__init__(folder, call_endpoint=endpoint or _endpoint(folder), trainable=False)

    def call(self, inputs: Tensors, training: bool = False) -> Tensor:
        """Run the function; `training` has no effect."""
        signatures = signatures_of(self)
        # By name, since the function that Keras calls may be an attribute of the same name, which takes one argument.
        named = isinstance(inputs, dict) and self.call_endpoint in signatures
        outputs = signatures[self.call_endpoint](**inputs) if named else self.call_endpoint_fn(inputs)
        if isinstance(outputs, dict) and len(outputs) == 1:
            (outputs,) = outputs.values()
        return outputs


def load_saved_model(folder: Path, *, endpoint: str | None, trust: bool) -> InferenceOnly:
    """Load a SavedModel as an `InferenceOnly`. It is a program, so this needs `trust`."""
    if not trust:
        raise ValueError(
            "A SavedModel is a TensorFlow program, which can read and write files, and must be run to be of any use. "
            f"Received: {folder}. Pass trust=True if you trust its writer."
        )
    return InferenceOnly(folder, endpoint=endpoint)


def _endpoint(folder: str) -> str:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ValueError(
            f"This folder holds no SavedModel, or a damaged one. Received: {folder}: {error}."
        ) from error
    names = {name for graph in stored.meta_graphs for name in graph.signature_def}
    found = sorted(name for name in names if not name.startswith("__"))
    known = [name for name in ("serve", "serving_default") if name in found] or found
    if len(known) == 1 or known[:1] == ["serve"]:
        return known[0]
    raise ValueError(
        f"One function of the SavedModel must be chosen. Received: {folder}, with {found or 'none'}. "
        "Pass its name as endpoint."
    )

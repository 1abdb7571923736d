"""A TensorFlow SavedModel as a frozen layer: its graph runs, and cannot be looked into or trained."""

from pathlib import Path
from typing import Any

import keras

from distill._keras import signatures_of


class InferenceOnly(keras.layers.TFSMLayer):
    """A SavedModel that answers, as a teacher does; nothing of it can be trained, read or saved.

    In a `Distiller` it teaches by its outputs, once `from_logits` says what they are.

    Args:
        folder: of the SavedModel.
        endpoint: which of its functions to call; `None` for the one that `model.export` ("serve") or other writers
            ("serving_default") make, or for the only one.

    Attributes:
        call_endpoint: the function that is called.

    Call args:
        inputs: a tensor, or a dictionary of them where the function has several named ones.

    Returns:
        What the function returns; the value alone where that is a dictionary of one.

    Raises:
        ValueError: there is no such function, or several and none is named.
    """

    def __init__(self, folder: str, endpoint: str | None = None) -> None:
        super().__init__(folder, call_endpoint=endpoint or _endpoint(folder), trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The function's answer; `training` changes nothing."""
        named = isinstance(inputs, dict) and self.call_endpoint in signatures_of(self)
        outputs = self.call_endpoint_fn(**inputs) if named else self.call_endpoint_fn(inputs)
        if isinstance(outputs, dict) and len(outputs) == 1:
            (outputs,) = outputs.values()
        return outputs


def _endpoint(folder: str) -> str:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((Path(folder) / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ValueError(f"This is no SavedModel, or a damaged one. Received: {folder}: {error}.") from error
    names = {name for graph in stored.meta_graphs for name in graph.signature_def}
    found = sorted(name for name in names if not name.startswith("__"))
    known = [name for name in ("serve", "serving_default") if name in found] or found
    if len(known) == 1 or known[:1] == ["serve"]:
        return known[0]
    raise ValueError(
        f"A SavedModel is called by one of its functions. Received: {folder} with {found or 'none'}; pass endpoint=."
    )


def load(folder: Path, endpoint: str | None, trust: bool) -> InferenceOnly:
    """See `InferenceOnly`; a SavedModel is a program, so that it takes `trust`."""
    if not trust:
        raise ValueError(
            "A SavedModel is a TensorFlow program, which can read and write files, and must be run to be of any use. "
            f"Received: {folder}. Pass trust=True if you know its writer."
        )
    return InferenceOnly(str(folder), endpoint)

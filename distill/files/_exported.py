"""Read what exported files say of themselves, without running them: LiteRT, ONNX and SavedModel.

Their layers are gone. What is left are functions with inputs and outputs, operators and weights.
"""

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill._extras import needed
from distill.files._bundle import prefix_of
from distill.files._checkpoint import weights_in

_LITERT, _LITERT_AT = b"TFL3", 4


class Tensor(NamedTuple):
    """An input, an output or a weight.

    Attributes:
        name: its name.
        shape: its shape; `None` for any size.
        dtype: its type in the file.
        values: callable that returns the values that it stands for, float; `None` if they are not in the file.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    values: Callable[[], np.ndarray] | None = None


class Function(NamedTuple):
    """A function that the file offers.

    Attributes:
        name: its name.
        inputs: what it takes.
        outputs: what it returns.
    """

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Contents(NamedTuple):
    """What an exported file consists of.

    Attributes:
        kind: "LiteRT", "ONNX" or "SavedModel".
        functions: what can be called.
        operators: how often each operator is used; empty if the kind does not say.
        weights: constants that have a name.
    """

    kind: str
    functions: list[Function]
    operators: dict[str, int]
    weights: list[Tensor]


def contents(path: Path) -> Contents | None:
    """Read an exported file or folder, or return `None` for any other.

    Raises:
        ImportError: the library that reads the format is not installed.
        ValueError: the file is damaged.
    """
    if (path / "saved_model.pb").is_file():
        read = _saved_model
    elif not path.is_file():
        return None
    elif path.suffix == ".onnx":
        onnx_files(path)  # all of them must be there
        read = _onnx
    elif _begins(path)[_LITERT_AT:] == _LITERT:
        read = _litert
    elif path.suffix == ".tflite":
        raise ValueError(f"This is not a LiteRT file. Received: {path}, which begins with {_begins(path)!r}.")
    else:
        return None
    try:
        return read(path)
    except (ImportError, OSError):
        raise
    except Exception as error:  # readers of flat buffers and of protocol buffers say damage in many ways
        raise ValueError(
            f"This file is damaged. Received: {path}: {type(error).__name__}: {error}. Copy or download it again."
        ) from error


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LITERT_AT + len(_LITERT))


def _litert(path: Path) -> Contents:
    with needed(f"Reading {path}, a LiteRT file,", "litert"):
        from ai_edge_litert import schema_py_generated as schema

    raw = path.read_bytes()
    model = schema.Model.GetRootAs(raw)
    kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
    operators = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    graphs = [model.Subgraphs(i) for i in range(_counted(model.SubgraphsLength(), raw))]

    def tensor(graph: Any, index: int) -> Tensor:
        one = graph.Tensors(index)
        shape = one.ShapeAsNumpy() if one.ShapeSignatureIsNone() else one.ShapeSignatureAsNumpy()
        sizes = [] if isinstance(shape, int) else shape.tolist()  # 0 stands for no vector
        return Tensor(
            one.Name().decode(), tuple(None if size < 0 else size for size in sizes), kinds[one.Type()]
        )

    def signature(one: Any) -> Function:
        graph = graphs[one.SubgraphIndex()]
        sides = (one.Inputs, one.InputsLength()), (one.Outputs, one.OutputsLength())
        inputs, outputs = (
            [
                tensor(graph, item(i).TensorIndex())._replace(name=item(i).Name().decode())
                for i in range(_counted(n, raw))
            ]
            for item, n in sides
        )
        return Function(one.SignatureKey().decode(), inputs, outputs)

    def main(graph: Any) -> Function:
        sides = graph.InputsAsNumpy(), graph.OutputsAsNumpy()
        inputs, outputs = ([tensor(graph, index) for index in np.ravel(side)] for side in sides)
        return Function("main", inputs, outputs)

    def weights() -> Iterator[Tensor]:
        for graph in graphs:
            for index in range(_counted(graph.TensorsLength(), raw)):
                one = graph.Tensors(index)
                data = model.Buffers(one.Buffer()).DataAsNumpy()
                if not isinstance(data, int):
                    described = tensor(graph, index)
                    yield described._replace(values=_litert_values(one, described, data))

    used: collections.Counter[str] = collections.Counter()
    for graph in graphs:
        for index in range(_counted(graph.OperatorsLength(), raw)):
            code = model.OperatorCodes(graph.Operators(index).OpcodeIndex())
            # Files of before 2020 have the code in one byte.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            used[code.CustomCode().decode() if code.CustomCode() else operators[number]] += 1
    signatures = [
        signature(model.SignatureDefs(i)) for i in range(_counted(model.SignatureDefsLength(), raw))
    ]
    return Contents("LiteRT", signatures or [main(graphs[0])], dict(used.most_common()), list(weights()))


def _counted(length: int, raw: bytes) -> int:
    """The length of a vector, each item of which takes at least four bytes."""
    if 4 * length > len(raw):
        raise ValueError(f"a list of {length:,} items in {len(raw):,} bytes")
    return length


def _litert_values(one: Any, tensor: Tensor, data: np.ndarray) -> Callable[[], np.ndarray] | None:
    """The numbers that a constant stands for; `None` for what numpy lacks: int4, strings, and kernels without zeros."""
    if tensor.dtype not in np.sctypeDict or one.Sparsity() is not None:
        return None
    stored = data.view(tensor.dtype).reshape([size or 0 for size in tensor.shape])
    quantized = one.Quantization()
    if quantized is None or not quantized.ScaleLength():
        return lambda: stored
    scales, zeros = quantized.ScaleAsNumpy(), quantized.ZeroPointAsNumpy()
    shape = [1] * stored.ndim
    if len(scales) > 1:
        shape[quantized.QuantizedDimension()] = len(scales)
    factors, offsets = (
        (np.reshape(part, shape) if len(scales) > 1 else part.ravel()[0])
        for part in (scales, np.zeros_like(scales) if isinstance(zeros, int) else zeros)
    )
    return lambda: (stored.astype("float32") - offsets) * factors


def _onnx(path: Path) -> Contents:
    with needed(f"Reading {path}, an ONNX file,", "onnx"):
        import onnx

    graph = onnx.load_model_from_string(path.read_bytes()).graph

    def tensor(value: Any) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
        return Tensor(value.name, shape, _onnx_type(kind.elem_type))

    def weight(stored: Any) -> Tensor:
        return Tensor(
            stored.name,
            tuple(stored.dims),
            _onnx_type(stored.data_type),
            lambda: onnx.numpy_helper.to_array(stored, base_dir=str(path.parent)),
        )

    def nodes(one: Any) -> Iterator[str]:
        for node in one.node:
            yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from nodes(inner)

    constants = {stored.name for stored in graph.initializer}
    inputs = [tensor(value) for value in graph.input if value.name not in constants]
    function = Function(graph.name or "main", inputs, [tensor(value) for value in graph.output])
    used = collections.Counter(nodes(graph))
    return Contents("ONNX", [function], dict(used.most_common()), [weight(one) for one in graph.initializer])


def onnx_files(path: Path) -> list[Path]:
    """An ONNX file, and the files beside it that hold its weights, as those of PyTorch often do.

    Raises:
        FileNotFoundError: such a file is missing.
        ImportError: onnx is not installed.
        ValueError: the file is damaged, or names one outside its folder.
    """
    with needed(f"Reading {path}, an ONNX file,", "onnx"):
        import onnx
        from google.protobuf.message import DecodeError, Message

    def tensors(message: Any) -> Iterator[Any]:
        if isinstance(message, onnx.TensorProto):
            yield message
            return
        for field, value in message.ListFields():
            if field.message_type is not None:  # one message, or a list of them
                for one in [value] if isinstance(value, Message) else value:
                    yield from tensors(one)

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ValueError(
            f"This file is damaged. Received: {path}: {error}. Copy or download it again."
        ) from error
    files = [path]
    for stored in tensors(model):
        if stored.data_location != onnx.TensorProto.EXTERNAL:
            continue
        file = path.parent / onnx.external_data_helper.ExternalDataInfo(stored).location
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(
                f"Weights of an ONNX file must lie in its folder. Received: {path}, with weights in {file}."
            )
        if not file.is_file():
            raise FileNotFoundError(
                f"No such file: {file}, in which weights of {path} lie. Copy it together with {path.name}."
            )
        if file not in files:
            files.append(file)
    return files


def _onnx_type(kind: int) -> str:
    import onnx

    return onnx.TensorProto.DataType.Name(kind).lower()


def _saved_model(path: Path) -> Contents:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())

    def tensor(name: str, info: Any) -> Tensor:
        shape = tuple(size.size if size.size >= 0 else None for size in info.tensor_shape.dim)
        return Tensor(name, shape, tf.dtypes.as_dtype(info.dtype).name)

    functions = [
        Function(
            name, *([tensor(*item) for item in sorted(side.items())] for side in (one.inputs, one.outputs))
        )
        for graph in stored.meta_graphs
        for name, one in sorted(graph.signature_def.items())
        if not name.startswith("__")
    ]
    prefix = prefix_of(path)
    weights = (
        []
        if prefix is None
        else [
            Tensor(name, weight.shape, weight.label, weight.read)
            for name, weight in weights_in(prefix).items()
        ]
    )
    return Contents("SavedModel", functions, {}, weights)

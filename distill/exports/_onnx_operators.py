"""Operations of TensorFlow in operators of ONNX, where tf2onnx has no way or one that fails.

Each is a function of tf2onnx's graph, the node, its name and what was registered with the function.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Handler = Callable[[Any, Any, str, Any], None]


def _like(node: Any) -> dict[str, Any]:
    """The shape and type of a node's output, for the node that takes its place."""
    return {"outputs": list(node.output), "shapes": node.output_shapes, "dtypes": node.output_dtypes}


def _number(graph: Any, node: Any, value: float) -> str:
    from tf2onnx import utils

    dtype = utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
    name: str = graph.make_const(utils.make_name("number"), np.array(value, dtype)).output[0]
    return name


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    source, like = node.input[0], _like(node)
    one = _number(graph, node, 1.0)
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", [source]).output[0]
    graph.make_node("Sub", [one, erf], name=name, **like)


def _log1p(graph: Any, node: Any, name: str, args: Any) -> None:
    source, like = node.input[0], _like(node)
    one = _number(graph, node, 1.0)
    graph.remove_node(node.name)
    more = graph.make_node("Add", [source, one]).output[0]
    graph.make_node("Log", [more], name=name, **like)


def _expm1(graph: Any, node: Any, name: str, args: Any) -> None:
    source, like = node.input[0], _like(node)
    one = _number(graph, node, 1.0)
    graph.remove_node(node.name)
    power = graph.make_node("Exp", [source]).output[0]
    graph.make_node("Sub", [power, one], name=name, **like)


def _resize(graph: Any, node: Any, name: str, args: Any) -> None:
    """To sizes: tf2onnx gives ratios in float32, from which a runtime may compute a size that is one too small."""
    from onnx import TensorProto
    from tf2onnx import utils

    bicubic, nearest = node.type == "ResizeBicubic", node.type == "ResizeNearestNeighbor"
    centers = node.get_attr_value("half_pixel_centers")
    align = node.get_attr_value("align_corners")
    images, size, like = node.input[0], node.input[1], _like(node)
    graph.remove_node(node.name)

    def constant(values: list[Any], dtype: str) -> str:
        made: str = graph.make_const(utils.make_name("constant"), np.array(values, dtype)).output[0]
        return made

    first = graph.make_node("Transpose", [images], {"perm": [0, 3, 1, 2]}).output[0]
    shape = graph.make_node("Shape", [first]).output[0]
    kept = graph.make_node("Slice", [shape, constant([0], "int64"), constant([2], "int64")]).output[0]
    size = graph.make_node("Cast", [size], {"to": TensorProto.INT64}).output[0]
    sizes = graph.make_node("Concat", [kept, size], {"axis": 0}).output[0]
    mode = "tf_half_pixel_for_nn" if nearest else "half_pixel"
    attributes: dict[str, Any] = {
        "mode": "cubic" if bicubic else "nearest" if nearest else "linear",
        "nearest_mode": "round_prefer_ceil" if align else "floor",
        "coordinate_transformation_mode": "align_corners" if align else mode if centers else "asymmetric",
    }
    if bicubic:
        attributes |= {"cubic_coeff_a": -0.5, "exclude_outside": 1}
    nothing = constant([], "float32")
    resized = graph.make_node("Resize", [first, nothing, nothing, sizes], attributes).output[0]
    graph.make_node("Transpose", [resized], {"perm": [0, 2, 3, 1]}, name=name, **like)


# As tf2onnx takes them: a function and what it gets as `args`.
HANDLERS: dict[str, tuple[Handler, list[Any]]] = {
    "Erfc": (_erfc, []),
    "Expm1": (_expm1, []),
    "Log1p": (_log1p, []),
    "ResizeBicubic": (_resize, []),
    "ResizeBilinear": (_resize, []),
    "ResizeNearestNeighbor": (_resize, []),
}

"""Read TensorFlow checkpoints, which `save_weights` of Keras 2 wrote unless the name ended in ".h5".

A checkpoint names each weight by the attributes that lead to it: "layer_with_weights-0/kernel" is the kernel of the
first layer with weights, and "encoder/blocks/1/scale" the attribute `scale` of a layer of the user's. The last of them
is the key here, and the others are the place.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import keras

from distill._keras import Functional, attributes_of
from distill.files._bundle import Bundle
from distill.files._layouts import Layout, finalize
from distill.files._parts import Part, Parts, Values, Weight, weight_of

Node = TypeVar("Node")
# Attributes that lead to an object; an integer is the place of a layer among those of its model.
Steps = tuple[str | int, ...]

_GRAPH, _VALUE, _LAYER = "_CHECKPOINTABLE_OBJECT_GRAPH", "VARIABLE_VALUE", "layer_with_weights-"
_ALL = "_all_variables/"
# Attributes that hold what is no weight, or weights that are found in their layers too.
_SKIPPED = {
    "all_variables",
    "call_and_return_all_conditional_losses",
    "compiled_loss",
    "compiled_metrics",
    "keras_api",
    "loss_tracker",
    "non_trainable_variables",
    "optimizer",
    "random_generator",
    "regularization_losses",
    "save_counter",
    "seed_generator",
    "signatures",
    "states",
    "trainable_variables",
    "variables",
}
# Attributes of Keras 3 and what they were called before.
_OTHER_NAMES = {
    keras.layers.DepthwiseConv1D: {"kernel": "depthwise_kernel"},
    keras.layers.DepthwiseConv2D: {"kernel": "depthwise_kernel"},
}


class Content(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        parts: weights.
        in_training: whether the model is one of the objects in a `tf.train.Checkpoint`, which gives its place by name.
    """

    parts: Parts
    in_training: bool


def content_of(prefix: Path) -> Content:
    """The weights of a checkpoint, without optimizers, metrics and random states.

    Args:
        prefix: path to the checkpoint without ".index".

    Raises:
        ImportError: TensorFlow is not installed.
        ValueError: a file is damaged or missing, or declares more than the files hold.
    """
    bundle = Bundle(prefix)
    if _GRAPH not in bundle.entries:
        return Content(_by_owner(bundle), in_training=False)
    with _making_sense(prefix):
        nodes = _objects(bundle)
        found = {
            path: entry
            for path, node in _walk(0, lambda node: _stored_children(nodes, node), lambda node: node)
            if path and (entry := _value_of(nodes[node])) is not None
        }
        parts: dict[str, dict[str, Weight]] = {}
        names: dict[str, str] = {}
        for (place, key), entry in _placed(found):
            parts.setdefault(place, {})[key] = _weight(bundle, key, entry.checkpoint_key)
            names[place] = entry.full_name.rpartition("/")[0]
        own = {child.local_name for child in nodes[0].children} - _SKIPPED
    if not parts:
        raise ValueError(
            "A checkpoint must say which layer each weight belongs to. Received: "
            f"{prefix}, which lists {len(bundle.entries) - 1} values and no layers, as the SavedModel of model.export "
            "does. Load the .keras file of the model instead."
        )
    return Content(
        _named(parts, names),
        in_training="save_counter" in {child.local_name for child in nodes[0].children} or len(own) == 1,
    )


def weights_in(prefix: Path) -> dict[str, Weight]:
    """All weights of a checkpoint by the names of their variables, labeled with their types.

    Args:
        prefix: path to the checkpoint without ".index".

    Raises:
        ImportError: TensorFlow is not installed.
        ValueError: a file is damaged or missing, or declares more than the files hold.
    """
    bundle = Bundle(prefix)
    names = {key: key for key in bundle.entries}
    if _GRAPH in bundle.entries:
        with _making_sense(prefix):
            entries = [entry for node in _objects(bundle) if (entry := _value_of(node)) is not None]
        # `model.export` of Keras 3 lists every variable twice.
        listed = {entry.full_name for entry in entries if not entry.checkpoint_key.startswith(_ALL)}
        names = {
            entry.checkpoint_key: entry.full_name
            for entry in entries
            if not (entry.checkpoint_key.startswith(_ALL) and entry.full_name in listed)
        }
    given = list(names.values())
    return {
        name if given.count(name) == 1 else key: _weight(bundle, str(bundle.entries[key].dtype), key)
        for key, name in names.items()
        if key in bundle.entries and bundle.entries[key].dtype is not None
    }


@contextlib.contextmanager
def _making_sense(prefix: Path) -> Iterator[None]:
    try:
        yield
    except (IndexError, KeyError, OSError) as error:
        raise ValueError(
            f"The list of objects in this TensorFlow checkpoint is damaged. Received: {prefix}: {error!r}. "
            "Copy or download it again."
        ) from error


def _objects(bundle: Bundle) -> Any:
    """The objects that a checkpoint was made of, with the numbers of those that each has as attributes."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        return trackable_object_graph_pb2.TrackableObjectGraph.FromString(bundle.text(_GRAPH)).nodes
    except DecodeError as error:
        raise OSError(str(error)) from error


def _value_of(node: Any) -> Any:
    return next((one for one in node.attributes if one.name == _VALUE), None)


class _Object(NamedTuple):
    """An attribute of a model.

    Attributes:
        value: layer, container or variable.
        owner: names of the layers that lead to it from the innermost model, as Keras 2 named its variables.
    """

    value: Any
    owner: str


def _parts_of(model: keras.Model) -> Parts:
    parts: dict[str, dict[str, Weight]] = {}
    names: dict[str, str] = {}
    for (place, key), found in _variables(model):
        parts.setdefault(place, {})[key] = weight_of(key, found.value)
        names[place] = found.owner
    return _named(parts, names)


def _assign(model: keras.Model, values: Values, assets: str | None) -> None:
    for (place, key), found in _variables(model):
        if place in values:
            found.value.assign(values[place][key])
    finalize(model)


CHECKPOINT = Layout(_parts_of, _assign)


def _variables(model: keras.Model) -> Iterator[tuple[tuple[str, str], _Object]]:
    found = _walk(_Object(model, ""), _children, lambda node: id(node.value))
    return _placed({path: node for path, node in found if isinstance(node.value, keras.Variable)})


def _children(node: _Object) -> Iterator[tuple[str | int, _Object]]:
    """What a layer or container holds."""
    value, above = node

    def within(child: Any) -> _Object:
        return _Object(child, f"{above}/{child.name}".strip("/") if isinstance(child, keras.Layer) else above)

    if isinstance(value, list | tuple | dict):
        for step, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield str(step), within(child)
    if not isinstance(value, keras.Layer):
        return
    if isinstance(value, Functional | keras.Sequential):
        for i, layer in enumerate(value.layers):
            yield i, _Object(layer, layer.name)
    others = _OTHER_NAMES.get(type(value), {})
    for step, child in attributes_of(value).items():
        yield others.get(step, step), within(child)


def _stored_children(nodes: Any, node: int) -> Iterator[tuple[str | int, int]]:
    """The attributes of an object in a checkpoint; the last of several names is the one that its author gave."""
    children = {child.local_name: child.node_id for child in nodes[node].children}
    for name, child in children.items():
        if name.startswith(_LAYER):
            yield int(name.removeprefix(_LAYER)), child
    if "_operations" in children:  # a model of Keras 3, with all layers in one list
        for child in nodes[children["_operations"]].children:
            yield int(child.local_name), child.node_id
    if "_functional" in children:
        yield from _stored_children(nodes, children["_functional"])
    last = {child: name for name, child in children.items() if not name.startswith("layer-")}
    yield from ((name, child) for child, name in last.items())


def _walk(
    root: Node,
    children: Callable[[Node], Iterator[tuple[str | int, Node]]],
    identity: Callable[[Node], Hashable],
) -> Iterator[tuple[Steps, Node]]:
    """All that a root leads to, each by one of its shortest paths."""
    seen = {identity(root)}
    level: list[tuple[Steps, Node]] = [((), root)]
    while level:
        below: list[tuple[Steps, Node]] = []
        for path, node in level:
            yield path, node
            for step, child in children(node):
                step = step.lstrip("_") if isinstance(step, str) else step
                if step not in _SKIPPED and identity(child) not in seen:
                    seen.add(identity(child))
                    below.append(((*path, step), child))
        level = below


def _placed(found: dict[Steps, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Place and key of each variable. Only layers with weights of their own count in the place."""
    numbers: dict[Steps, list[int]] = {}
    for path in found:
        for i, step in enumerate(path):
            if isinstance(step, int) and step not in (known := numbers.setdefault(path[:i], [])):
                known.append(step)
    for path, one in found.items():
        steps = [
            step if isinstance(step, str) else f"{_LAYER}{sorted(numbers[path[:i]]).index(step)}"
            for i, step in enumerate(path)
        ]
        yield ("/".join(steps[:-1]), steps[-1]), one


def below(parts: Parts) -> Iterator[tuple[str, Parts]]:
    """Each place that leads to several parts, with these."""
    steps = [place.split("/") for place in parts]
    for above in dict.fromkeys("/".join(one[:i]) for one in steps for i in range(1, len(one))):
        found = {
            place.removeprefix(f"{above}/"): part
            for place, part in parts.items()
            if place.startswith(f"{above}/")
        }
        yield above, found | ({"": parts[above]} if above in parts else {})


def _named(parts: dict[str, dict[str, Weight]], names: dict[str, str]) -> Parts:
    """Parts with the names that only one of them has: in two models, two layers may have the same."""
    given = list(names.values())
    return {
        place: Part(names[place] if names[place] and given.count(names[place]) == 1 else None, weights)
        for place, weights in parts.items()
    }


def _by_owner(bundle: Bundle) -> Parts:
    """The weights of a checkpoint of TensorFlow 1, which names them alone, without slots of optimizers."""
    parts: dict[str, dict[str, Weight]] = {}
    for key in sorted(bundle.entries):
        owner, _, label = key.rpartition("/")
        if owner and owner not in bundle.entries:
            parts.setdefault(owner, {})[label] = _weight(bundle, label, key)
    return {owner: Part(owner, weights) for owner, weights in parts.items()}


def _weight(bundle: Bundle, label: str, key: str) -> Weight:
    return Weight(label, bundle.entries[key].shape, lambda: bundle.array(key))

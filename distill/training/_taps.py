"""One forward pass of a model that also returns what the losses read: logits and outputs of named layers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill._graphs import functional_of
from distill._keras import get_keras_mask, set_keras_mask
from distill._types import Tensor, Tensors
from distill.losses._base import Head
from distill.training._channels import is_channels_first
from distill.training._heads import GraphReader, Key
from distill.training._outputs import Output, output_key, pick
from distill.training._probabilities import centered, dtype_rounded_in, logits_of


class Read(NamedTuple):
    """What a loss reads of a model's forward pass.

    Attributes:
        layer: name of a layer whose output is read instead of the model's; a tuple of names reads a list.
        output: name or position of the model's output that is read; `None` for the only one, or for all as they are.
        position: position of the output, for models that return a list without names.
        head: "softmax" or "sigmoid" to read the logits before such a head; `None` to read the output as it is.
        from_logits: `None` recognizes the head. `True` states that the output is logits, `False` that it is
            probabilities, of which the logarithm is read (for "sigmoid", the log odds); see `logits_of`.
        centered: whether to read the logits less their mean over the classes.
        channels_last: whether to move channels that are elsewhere to the last axis.
    """

    layer: str | tuple[str, ...] | None = None
    output: Output = None
    position: int | None = None
    head: Head | None = None
    from_logits: bool | None = None
    centered: bool = False
    channels_last: bool = True


class Tapped(NamedTuple):
    """What one forward pass returned.

    Attributes:
        outputs: what the model itself returns.
        values: what each `Read` reads.
    """

    outputs: Tensors
    values: tuple[Tensors, ...]


class Taps:
    """Runs a model once, and returns the logits of its heads and the outputs of named layers with its outputs.

    It shares the model's variables, and adds nothing to the model or to what the model saves. A softmax or sigmoid
    head is taken apart: the logits are computed once, and the outputs are the same activation applied to them. The
    model is read anew whenever a step is traced, so later changes to it count.

    Args:
        model: a built `keras.Model`, or a function `run(inputs, training=...)`. Layers can be read, and heads
            recognized, in Functional and Sequential models, since their graph can be read.
        reads: what to read.
        name: name of the model, for errors.
        only_serves_all: whether an only output may be read under any name, as that of a teacher for a student of
            several outputs.

    Attributes:
        spec: a `Tapped` of `keras.KerasTensor`s with the shapes to expect; `None` for shapes that are not known before
            the model runs.
        moved: for each read, the axis that the model has its channels on, if it is not the last (of the first layer).
        axes: the same, `None` for a read of a layer.

    Raises:
        ValueError: a head is not recognized or of another kind; there is no such output or layer; a layer is called
            several times and the call is not numbered.
    """

    def __init__(
        self,
        model: keras.Model | Callable[..., Any],
        reads: Sequence[Read],
        name: str,
        *,
        only_serves_all: bool = False,
    ) -> None:
        self._model = model
        self._reads = tuple(reads)
        self._name = name
        self._only_serves_all = only_serves_all
        reader, self.spec, axes = self._look()
        self.moved = tuple(axes.get((i, 0)) for i, _ in enumerate(self._reads))
        self.axes = tuple(
            axis if read.layer is None else None for axis, read in zip(self.moved, self._reads, strict=True)
        )
        if reader is None:
            for read in self._reads:
                if read.layer is not None:
                    raise ValueError(
                        "Layers can only be read in Functional and Sequential models. "
                        f"Received: layer {read.layer!r} of {name!r}, a {type(model).__name__}. "
                        "Build the model with the Functional API, or distil its outputs instead."
                    )
                if read.head is not None and read.from_logits is None:
                    raise ValueError(
                        f"A loss on logits must know where the model computes them. Received: {name!r}, whose graph "
                        "cannot be read. Pass from_logits=True if the model returns logits, or from_logits=False if it "
                        "returns probabilities."
                    )

    def _look(self) -> tuple[GraphReader | None, Tapped, dict[Key, int]]:
        """Returns a reader of the model's graph as it is now, `None` without one; the shapes; the axes to be moved."""
        graph = functional_of(self._model)
        if graph is None:
            return None, Tapped(None, (None,) * len(self._reads)), {}
        reader = GraphReader(graph, self._name)
        outputs = reader.outputs
        axes: dict[Key, int] = {}

        def spec(tensor: keras.KerasTensor, axis: int, key: Key) -> keras.KerasTensor:
            if axis == len(tensor.shape) - 1 or not self._reads[key[0]].channels_last:
                return tensor
            axes[key] = axis
            sizes = list(tensor.shape)
            sizes.append(sizes.pop(axis))
            return keras.KerasTensor(tuple(sizes), tensor.dtype)

        specs: list[Tensors] = []
        for i, read in enumerate(self._reads):
            if read.layer is not None:
                tensors = [reader.keep_layer(name, (i, j)) for j, name in enumerate(_names(read.layer))]
                found = [spec(tensor, reader.axis_of(tensor), (i, j)) for j, tensor in enumerate(tensors)]
                specs.append(found if isinstance(read.layer, tuple) else found[0])
                continue
            output = self._pick(outputs, read)
            if read.head is not None and read.from_logits is None:
                output = spec(output, reader.keep_logits(output, read.head, (i, 0)), (i, 0))
            elif not keras.tree.is_nested(output):
                output = spec(output, reader.axis_of(output), (i, 0))
            specs.append(output)
        return reader, Tapped(outputs, tuple(specs)), axes

    def __call__(self, inputs: Tensors, training: bool) -> Tapped:
        """Runs the model once on a batch; differentiable."""
        kept: dict[Key, Tensor] = {}
        reader, _, axes = self._look()
        model = self._model if reader is None else reader.recording(self._model, kept)
        outputs = model(inputs, training=training)
        values = []
        for i, read in enumerate(self._reads):
            if read.layer is not None:
                found = [_moved(kept[i, j], axes.get((i, j))) for j, _ in enumerate(_names(read.layer))]
                values.append(found if isinstance(read.layer, tuple) else found[0])
                continue
            value = kept[i, 0] if (i, 0) in kept else self._pick(outputs, read)
            if reader is None and read.channels_last:
                self._require_known_channels(value)
            value = _moved(value, axes.get((i, 0)))
            if read.head is not None and read.from_logits is False:
                rounded_in = None if reader is None else dtype_rounded_in(self._pick(reader.outputs, read))
                value = logits_of(value, read.head, rounded_in)
            values.append(centered(value) if read.centered else value)
        return Tapped(outputs, tuple(values))

    def _require_known_channels(self, value: Tensors) -> None:
        """Raises ValueError if a model without a readable graph may have its channels elsewhere than last."""
        if not isinstance(self._model, keras.Layer) or not is_channels_first(self._model):
            return
        maps = [x for x in keras.tree.flatten(value) if len(x.shape) > 2]
        if maps:
            raise ValueError(
                "Losses compare channels, so they must know on which axis these are. Received: "
                f"{self._name!r}, a {type(self._model).__name__} whose graph cannot be read, with layers of "
                f"data_format='channels_first' and an output of shape {tuple(maps[0].shape)}. Call it in a Functional "
                "model; if its channels are not on axis 1, put them last there with keras.layers.Permute."
            )

    def _pick(self, outputs: Tensors, read: Read) -> Tensors:
        if read.head is None and read.output is None:
            return outputs
        graph = functional_of(self._model)
        key = read.output if graph is None else output_key(graph, read.output)
        if isinstance(key, str) and isinstance(outputs, (list, tuple)) and read.position is not None:
            key = read.position
        return pick(outputs, key, self._name, only_serves_all=self._only_serves_all)


def _moved(value: Tensors, axis: int | None) -> Tensors:
    """Returns a tensor with an axis as the last; `None` moves none."""
    if axis is None:
        return value
    moved, mask = ops.moveaxis(value, axis, -1), get_keras_mask(value)
    if mask is not None:
        set_keras_mask(moved, mask)
    return moved


def _names(layer: str | tuple[str, ...]) -> tuple[str, ...]:
    return layer if isinstance(layer, tuple) else (layer,)

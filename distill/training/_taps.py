"""One forward pass of a model that also returns what distillation reads: logits and named layers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill._graphs import functional_of
from distill._keras import get_keras_mask, set_keras_mask
from distill.losses._base import Head
from distill.training._heads import GraphReader
from distill.training._outputs import Output, output_key, pick


class Read(NamedTuple):
    """What to read of a model's forward pass.

    Attributes:
        layer: the output of this layer, instead of the model's; of several, a list.
        output: which of the model's outputs, by name or position; `None` for the only one, or all as they are.
        position: the output's position in a list that does not know its name.
        head: "softmax" or "sigmoid" for the logits before such a head; `None` for the output as it is.
        from_logits: `None` recognises the head. `True` states that the output is logits, `False` that it is
            probabilities, whose logarithm (for "sigmoid": log odds) is then read, equal to the logits up to a
            constant that neither head sees, as long as no probability underflows in float32.
    """

    layer: str | tuple[str, ...] | None = None
    output: Output = None
    position: int | None = None
    head: Head | None = None
    from_logits: bool | None = None


class Tapped(NamedTuple):
    """What one forward pass returned.

    Attributes:
        outputs: what the model itself returns.
        values: for each `Read`, what it reads.
    """

    outputs: Any
    values: tuple[Any, ...]


class Taps:
    """A model whose one forward pass also returns the logits of its heads and the outputs of named layers.

    The model's variables are shared; nothing is added to the model or to what it saves. A softmax or
    sigmoid head is taken apart: the logits are computed once, and the outputs are the same activation
    applied to them. The model is looked at anew whenever a step is traced, so that later changes to it count.

    Args:
        model: a built `keras.Model`, or `run(inputs, training=...)` for anything else. Layers can be read and
            heads recognised in Functional and Sequential models, whose graph can be read.
        reads: what to read.
        name: how errors call the model.
        only_serves_all: whether an only output goes by any name, as that of a teacher for several of a student's.

    Attributes:
        spec: a `Tapped` of `keras.KerasTensor` with the shapes to expect; `None` for what cannot be known
            before the model runs.

    Raises:
        ValueError: a head cannot be recognised or is of the other kind; an output or layer does not exist; a
            layer is called more than once and the call is not named.
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
        reader, self.spec = self._look()
        if reader is None:
            for read in self._reads:
                if read.layer is not None:
                    raise ValueError(
                        "Layers can be read where the graph can be: in Functional and Sequential models. "
                        f"Received: layer {read.layer!r} of {name!r}, a {type(model).__name__}. "
                        "Build the model with the Functional API, or distil its outputs instead."
                    )
                if read.head is not None and read.from_logits is None:
                    raise ValueError(
                        f"A loss on logits must know where they are. Received: {name!r}, whose graph cannot be read. "
                        "If the model returns logits, say so with from_logits=True; if it returns probabilities, with "
                        "from_logits=False."
                    )

    def _look(self) -> tuple[GraphReader | None, Tapped]:
        """What to keep of the model's graph as it is now, and the shapes; no reader where there is no graph."""
        graph = functional_of(self._model)
        if graph is None:
            return None, Tapped(None, (None,) * len(self._reads))
        reader = GraphReader(graph, self._name)
        outputs = reader.outputs
        specs = []
        for i, read in enumerate(self._reads):
            if read.layer is not None:
                found = [reader.keep_layer(name, (i, j)) for j, name in enumerate(_names(read.layer))]
                specs.append(found if isinstance(read.layer, tuple) else found[0])
                continue
            output = self._pick(outputs, read)
            if read.head is not None and read.from_logits is None:
                reader.keep_logits(output, read.head, (i, 0))
            specs.append(output)
        return reader, Tapped(outputs, tuple(specs))

    def __call__(self, inputs: Any, training: bool) -> Tapped:
        """Runs the model once on a batch; differentiable."""
        kept: dict[tuple[int, int], Any] = {}
        reader, _ = self._look()
        model = self._model if reader is None else reader.recording(self._model, kept)
        outputs = model(inputs, training=training)
        values = []
        for i, read in enumerate(self._reads):
            if read.layer is not None:
                found = [kept[i, j] for j, _ in enumerate(_names(read.layer))]
                values.append(found if isinstance(read.layer, tuple) else found[0])
                continue
            value = kept[i, 0] if (i, 0) in kept else self._pick(outputs, read)
            if read.head is not None and read.from_logits is False:
                value = _logits_of(value, read.head)
            values.append(value)
        return Tapped(outputs, tuple(values))

    def _pick(self, outputs: Any, read: Read) -> Any:
        if read.head is None and read.output is None:
            return outputs
        graph = functional_of(self._model)
        key = read.output if graph is None else output_key(graph, read.output)
        if isinstance(key, str) and isinstance(outputs, (list, tuple)) and read.position is not None:
            key = read.position
        return pick(outputs, key, self._name, only_serves_all=self._only_serves_all)


def _names(layer: str | tuple[str, ...]) -> tuple[str, ...]:
    return layer if isinstance(layer, tuple) else (layer,)


def _logits_of(probabilities: Any, head: Head) -> Any:
    """Logits from probabilities in float32; one that underflowed to 0 counts as the smallest normal number."""
    tiny = 1.1754944e-38
    mask = get_keras_mask(probabilities)
    probabilities = ops.cast(probabilities, "float32")
    logits = ops.log(ops.maximum(probabilities, tiny))
    if head == "sigmoid":
        logits = logits - ops.log(ops.maximum(1.0 - probabilities, tiny))
    if mask is not None:
        set_keras_mask(logits, mask)
    return logits

"""Recorded answers that take a teacher's place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distill._types import Data, PathLike, Tensor
from distill.cache._examples import digests, examples_of, is_dataset, rows_of
from distill.cache._manifest import Manifest
from distill.cache._shards import Shards
from distill.losses._base import DistillationLoss
from distill.losses._sparse import SparseLogits
from distill.training import Identified
from distill.training._look_up import Stored
from distill.training._recorded import Answer, Recorded

_COMPARED = 64


class Answers(Recorded):
    """The recorded answers of a teacher, to use in its place. `record` and `open` return one.

    A `Distiller` takes it as a teacher. The Distiller then needs the ids of the examples in each batch; they
    may come in any order and any number of times. Train on `with_ids(data)`, on a data set made from that by
    shuffling, repeating, filtering or batching again, or on `distill.Identified(x, ids)`.

    Files are mapped into memory, so more examples take no more memory. If you send the object to another
    process, that process gets only the folder's name, and opens the folder itself.

    Attributes:
        path: folder of the cache.
        name: name of the teacher.
        examples: number of examples; ids run from 0 to `examples` − 1.

    Example:
        ```python
        from distill import cache

        answers = cache.record(teacher, x, "cache", verbose=0)
        found = answers.look_up([3, 1, 1])  # {"output": logits (3, classes)}
        ```
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.name = manifest.teacher
        self.examples = manifest.examples
        self.parts = manifest.answers
        self._targets = dict(zip(manifest.answers, manifest.targets, strict=True))
        self._shards = Shards(path, manifest)
        self.stored = {
            name: stored
            for answer, target in self._targets.items()
            for name, stored in target.stored(answer).items()
        }
        self.stored: Mapping[str, Stored]

    def __repr__(self) -> str:
        return f"<Answers of {self.name} to {self.examples:,} examples in {str(self.path)!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path,)

    def look_up(self, ids: Any) -> dict[str, np.ndarray]:
        """Returns what was recorded for the given examples, by name: float32 and int32 arrays (n, …).

        An output is named "output", "output heat" or "output 1", and a layer "layer block3". The output of a
        softmax or sigmoid head is given as its logits. Channels or classes come last. `TopK` gives
        "output.ids", "output.logits" and "output.rest", and `Sampled` gives "output.ids" and
        "output.entropy".

        Args:
            ids: integers (n,).

        Raises:
            ValueError: there is no such example; a shard is missing or damaged.
        """
        rows = self._shards.rows(self._checked(ids))
        found: dict[str, np.ndarray] = {}
        for answer, target in self._targets.items():
            found.update(target.decode(answer, rows))
        return found

    def with_ids(self, data: Data) -> Any:
        """Returns the recorded data with the ids of the examples, as a Distiller's `fit` takes it.

        It compares inputs with the recorded ones: in arrays, those of 64 evenly spaced examples; in a data
        set, those of the first example of each batch, at each pass. Augment, shuffle and batch after this.

        Args:
            data: what you passed to `record`: arrays, or a `tf.data.Dataset` of batches. In a tuple of
                arrays, the first is x.

        Returns:
            For arrays, a `distill.Identified` of x; pass it in place of x, and the labels as usual. For a
            data set of x or (x, …), a data set of (Identified(x, ids), …).

        Raises:
            ValueError: the data is not the data that was recorded.
        """
        examples = examples_of(data, 1)
        if not is_dataset(data):
            if examples.count() != self.examples:
                raise ValueError(
                    "Ids belong to the examples that were recorded. Received: "
                    f"{examples.count()} examples, and {self!r}. For some of these, pass "
                    "distill.Identified(x, ids)."
                )
            x = examples.x  # type: ignore[union-attr]
            some = np.unique(np.linspace(0, self.examples - 1, _COMPARED).round().astype(int))
            self._compare(rows_of(x, some), some)
            return Identified(x, np.arange(self.examples))
        import tensorflow as tf

        def compared(ids: np.ndarray, *parts: np.ndarray) -> np.ndarray:
            self._compare(list(parts), ids)
            return np.zeros((), "int64")

        def numbered(start: Any, element: Any) -> tuple[Any, Any]:
            x, *rest = element if isinstance(element, tuple) else (element,)
            parts = keras.tree.flatten(x)  # in the order in which they were recorded
            count = tf.shape(parts[0], out_type=tf.int64)[0]
            ids = start + tf.range(count)
            agrees = tf.numpy_function(compared, [ids[:1], *(part[:1] for part in parts)], tf.int64)
            ids += tf.ensure_shape(agrees, ())  # 0: what is not used would not run
            return start + count, (Identified(x, ids), *rest)

        return data.scan(tf.constant(0, tf.int64), numbered)

    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> Tensor | SparseLogits:
        """Returns an answer from what `look_up` found; a Distiller calls it."""
        return self._targets[answer].restore(answer, found)

    def is_sparse(self, answer: Answer) -> bool:
        """Whether only some of an answer's classes are known."""
        return self._targets[answer].is_sparse

    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises ValueError, saying what to record, unless a loss can be computed from an answer as it is kept."""
        self._targets[answer].require(answer, loss)

    def require_complete(self) -> None:
        """Raises ValueError if a shard is missing."""
        if missing := self._shards.missing():
            raise ValueError(
                f"A cache must have all its shards. Received: {str(self.path)!r} without {len(missing)} of them: "
                f"{missing[:8]}{'…' * (len(missing) > 8)}. Call cache.record again with the same teacher and data: it "
                "records what is missing."
            )

    def _checked(self, ids: Any) -> np.ndarray:
        numbers = np.asarray(ids)
        if numbers.shape == (0,):  # a list without entries is one of floats to numpy
            numbers = numbers.astype("int64")
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"ids must be integers (n,). Received: {numbers.dtype} of shape {numbers.shape}."
            )
        numbers = numbers.astype("int64")
        if wrong := numbers[(numbers < 0) | (numbers >= self.examples)].tolist():
            raise ValueError(
                f"Ids are from 0 to {self.examples - 1}, as the examples were recorded. Received: {wrong[0]} of "
                f"{self!r}. Record these examples too, or train on answers.with_ids(data)."
            )
        return numbers

    def _compare(self, x: Any, ids: np.ndarray) -> None:
        """Raises ValueError unless examples have the inputs that were recorded."""
        recorded = self._shards.rows(self._checked(ids))["inputs"]
        if (differ := np.flatnonzero(digests(x) != recorded)).size:
            raise ValueError(
                "Answers hold for the inputs that were recorded. Received: other inputs for example "
                f"{int(ids[differ[0]])} of {self!r}. Pass the same data in the same order; shuffle, augment and filter "
                "after with_ids."
            )


def open(path: PathLike) -> Answers:
    """Opens a recorded cache.

    Args:
        path: folder of the cache.

    Returns:
        The answers, a teacher for a `Distiller`.

    Raises:
        FileNotFoundError: there is no cache.
        ValueError: its description cannot be read, or a shard is missing.

    Example:
        ```python
        from distill import cache

        cache.record(teacher, x, "cache", verbose=0)
        answers = cache.open("cache")
        distiller = distill.Distiller(answers, student, distill.SoftTargets(4.0))
        ```
    """
    folder = Path(path)
    answers = Answers(folder, Manifest.read(folder))
    answers.require_complete()
    return answers

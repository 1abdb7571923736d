"""Records a teacher's answers shard by shard, each written whole, so that a stopped run can continue."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distill._types import Data, PathLike
from distill.cache._answers import Answers
from distill.cache._examples import ArrayExamples, DatasetExamples, digests, examples_of
from distill.cache._manifest import MANIFEST, Manifest
from distill.cache._shards import Shards, present, write
from distill.cache._targets import Dense, Target
from distill.exports import Exported
from distill.training._answering import Answering
from distill.training._recorded import Answer

_SHARDS = 256  # as many files can be open at once on most systems
_SMALLEST = 1024
_COMPARED = 64
_PART = 1 << 20  # bytes of a file that are hashed at a time


def record(
    teacher: Any,
    data: Data,
    folder: PathLike,
    *,
    targets: Target | Mapping[str | int, Target] = Dense(),
    layers: Sequence[str] | Mapping[str, Dense] = (),
    preprocessing: Callable[[Any], Any] | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    shards: Iterable[int] | None = None,
    name: str | None = None,
    verbose: int = 1,
) -> Answers:
    """Records what a teacher answers to each example, once for all epochs, seeds and students.

    A call with the same arguments continues where an earlier one stopped, and returns at once if nothing is
    missing. What was recorded before must come from the same teacher, data and targets. To check this,
    `record` compares weights, shapes and targets, and asks for the first batch again. It also compares the
    inputs of examples in finished shards: in a data set, the first of each batch that it passes over; in
    arrays, 64 evenly spaced ones.

    Several processes or machines can record into one folder, each with its own `shards`.

    Args:
        teacher: what a Distiller takes as a teacher; a `distill.exports.Exported` file; or any function that
            takes a numpy batch and returns an array, or a list or dictionary of arrays. Such a function can,
            for example, ask a server.
        data: arrays (examples, …), or a `tf.data.Dataset` of batches that comes in the same order at each
            pass. From a tuple, as in (x, y), only the first element goes to the teacher. Examples are
            numbered from 0 in this order; these numbers are their ids. Whether a data set is the same at each
            pass is checked on its first batch; to count a data set, it is read once more.
        folder: folder of the cache; it is created if it does not exist.
        targets: how outputs are kept: `Dense`, `TopK` or `Sampled`. For several outputs, one for all, or a
            dictionary with one for each, by name or position.
        layers: names of layers whose outputs are recorded too, written as losses name them; or a dictionary
            that gives for each name the `Dense` that keeps its output.
        preprocessing: function that makes the teacher's inputs from a batch, like `teacher_preprocessing` of
            a Distiller.
        batch_size: number of examples that the teacher gets at once, if the data is arrays. The last bits of
            its answers can depend on it, as they can in training.
        shard_size: number of examples in a file. By default a 256th of all, and at least 1,024. If recording
            stops within a shard, the part of it that was done is lost.
        shards: numbers of the shards to record, from 0; all by default.
        name: name of the teacher in errors and reports; its own by default.
        verbose: 1 shows progress, 0 nothing.

    Returns:
        The answers, a teacher for a `Distiller`. With `shards`, other shards may still be missing.

    Raises:
        ValueError: the teacher cannot be asked, or does not answer with one array of one shape for each
            output; the data is neither arrays nor a data set, or differs from pass to pass; an answer cannot
            be kept by its target; what is in the folder belongs to another teacher, data or targets, or is
            damaged.

    Example:
        ```python
        from distill import cache

        answers = cache.record(teacher, x, "cache", layers=["hidden"], verbose=0)
        distiller = distill.Distiller(answers, student, distill.SoftTargets(4.0))
        distiller.compile("adam", loss="sparse_categorical_crossentropy")
        distiller.fit(answers.with_ids(x), y, epochs=2)
        ```
    """
    return _record(
        teacher,
        data,
        Path(folder),
        lambda manifest: _wanted(shards, manifest),
        targets=targets,
        layers=layers,
        preprocessing=preprocessing,
        batch_size=batch_size,
        shard_size=shard_size,
        name=name,
        verbose=verbose,
    )


def record_part(teacher: Any, data: Data, folder: PathLike, number: int, parts: int, **given: Any) -> None:
    """Records every `parts`-th shard from `number` on, if there are any; `given` is as for `record`."""
    _record(
        teacher,
        data,
        Path(folder),
        lambda manifest: set(range(number, manifest.shards, parts)),
        verbose=0,
        **given,
    )


def _record(
    teacher: Any,
    data: Data,
    folder: Path,
    choose: Callable[[Manifest], set[int]],
    *,
    targets: Target | Mapping[str | int, Target] = Dense(),
    layers: Sequence[str] | Mapping[str, Dense] = (),
    preprocessing: Callable[[Any], Any] | None = None,
    batch_size: int = 32,
    shard_size: int | None = None,
    name: str | None = None,
    verbose: int,
) -> Answers:
    if isinstance(layers, str):
        layers = [layers]
    kept = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, Dense())
    _checked("batch_size", batch_size)
    answering = Answering(
        teacher.predict if isinstance(teacher, Exported) else teacher,
        layers=list(kept),
        preprocessing=preprocessing,
        name=teacher.path.name if name is None and isinstance(teacher, Exported) else name,
    )
    examples = examples_of(data, batch_size)
    before = Manifest.read(folder) if (folder / MANIFEST).is_file() else None
    _, x = next(iter(examples))
    first = answering(x)
    answers = tuple(answer for answer, _ in first)
    _require_used(targets, answers)
    counted = before is None or before.batches != examples.batches or examples.batches is None
    count = examples.count() if counted or before is None else before.examples
    manifest = Manifest(
        answering.name,
        _fingerprint(teacher, answering),
        count,
        examples.batches,
        max(_SMALLEST, -(-count // _SHARDS)) if shard_size is None else _checked("shard_size", shard_size),
        answers,
        tuple(_target_of(answer, targets, kept) for answer in answers),
    )
    for answer, target in zip(answers, manifest.targets, strict=True):
        target.check(answer)
    if before is not None:
        before.require_same(manifest, folder)
    recorder = _Recorder(manifest, folder, answering, choose(manifest))
    recorder.compare(x, first)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
    recorder.run(examples, first, verbose=verbose)
    return Answers(folder, manifest)


class _Recorder:
    """Asks for the examples of missing shards, and writes each shard when it is full.

    Args:
        manifest: what is recorded.
        folder: folder of the cache.
        answering: the teacher.
        wanted: numbers of the shards to record.
    """

    def __init__(self, manifest: Manifest, folder: Path, answering: Answering, wanted: set[int]) -> None:
        self._manifest = manifest
        self._folder = folder
        self._answering = answering
        self._done = set(present(folder)) if folder.is_dir() else set()
        self._missing = wanted - self._done
        self._shards = Shards(folder, manifest)
        self._rows: dict[int, np.ndarray] = {}

    def compare(self, x: Any, first: list[tuple[Answer, np.ndarray]]) -> None:
        """Raises ValueError unless the first batch and its answers are those that were recorded, if they were."""
        if not self._done:
            return
        rows = self._encoded(0, x, first)
        known = [i for i in range(len(rows)) if i // self._manifest.shard_size in self._done]
        if not known:
            return
        stored = self._shards.rows(np.array(known))
        self._require_same_inputs(known, rows["inputs"][known], stored["inputs"])
        for answer, target in zip(self._manifest.answers, self._manifest.targets, strict=True):
            old, new = (target.decode(answer, each) for each in (stored, rows[known]))
            for part in old:
                # Another batch or machine rounds otherwise; sampled classes depend on the last bits.
                scale = np.abs(old[part][np.isfinite(old[part])]).max(initial=1e-6)
                near = np.isclose(old[part], new[part], rtol=0.0, atol=0.02 * scale)
                if not part.endswith(".ids") and not near.all():
                    raise ValueError(
                        "A cache holds the answers of one teacher. Received: "
                        f"{str(self._folder)!r}, whose {part!r} of the first examples differs from what "
                        f"{self._manifest.teacher!r} answers now, by up to {_apart(old[part], new[part]):.3g}. If its "
                        "weights or its preprocessing changed, record into another folder, or delete this one first."
                    )

    def run(
        self,
        examples: ArrayExamples | DatasetExamples,
        first: list[tuple[Answer, np.ndarray]],
        *,
        verbose: int,
    ) -> None:
        """Records the missing shards; what is answered to the first batch is known."""
        total = sum(map(self._manifest.size_of, self._missing))
        if not total:
            return
        progress = keras.utils.Progbar(total, unit_name="example", verbose=verbose)
        apart = max(1, self._manifest.examples // _COMPARED)
        compared, done = -1, 0
        for start, x in examples:
            ids = range(start, start + len(keras.tree.flatten(x)[0]))
            if ids.stop > self._manifest.examples:
                raise ValueError(
                    "Data must yield the same number of examples on each pass. Received: more than the "
                    f"{self._manifest.examples} that were counted. See distill.cache.views for random views."
                )
            touched = set(_shards_of(ids, self._manifest))
            if touched & self._missing:
                done += self._keep(ids, self._encoded(start, x, first if start == 0 else self._answering(x)))
                progress.update(done)
                if not self._missing:
                    break
            elif touched <= self._done and (examples.batches is not None or start // apart > compared):
                compared = start // apart
                stored = self._shards.rows(np.array(ids[:1]))["inputs"]
                self._require_same_inputs(
                    ids[:1], digests(keras.tree.map_structure(lambda part: part[:1], x)), stored
                )
        if self._missing:
            raise ValueError(
                "Data must yield the same number of examples on each pass. Received: fewer than the "
                f"{self._manifest.examples} that were counted; shards {sorted(self._missing)} are not full."
            )

    def _keep(self, ids: range, rows: np.ndarray) -> int:
        """Puts rows into their shards, and writes those that are full; returns how many were wanted."""
        kept = 0
        for number in sorted(self._missing.intersection(_shards_of(ids, self._manifest))):
            size, begin = self._manifest.size_of(number), number * self._manifest.shard_size
            if number not in self._rows:
                self._rows[number] = np.zeros(size, self._manifest.row)
            first, end = max(ids.start, begin), min(ids.stop, begin + size)
            self._rows[number][first - begin : end - begin] = rows[first - ids.start : end - ids.start]
            kept += end - first
            if end == begin + size:
                write(self._folder, number, self._rows.pop(number))
                self._missing.remove(number)
        return kept

    def _encoded(self, start: int, x: Any, answered: list[tuple[Answer, np.ndarray]]) -> np.ndarray:
        """Returns the rows of a batch."""
        rows = np.zeros(len(keras.tree.flatten(x)[0]), self._manifest.row)
        rows["inputs"] = digests(x)
        for (answer, values), known, target in zip(
            answered, self._manifest.answers, self._manifest.targets, strict=True
        ):
            if answer != known:
                raise ValueError(
                    "All answers must have one shape. Received: "
                    f"{known.label!r} of shape {known.shape}, and from example {start} on {answer.shape}. Pad the "
                    "inputs to one length."
                )
            random = np.random.default_rng((getattr(target, "seed", 0), start))
            for field, part in target.encode(answer, values, random).items():
                rows[field] = part
        return rows

    def _require_same_inputs(self, ids: Sequence[int], now: np.ndarray, before: np.ndarray) -> None:
        if (differ := np.flatnonzero(now != before)).size:
            raise ValueError(
                "A cache holds answers to one set of examples. Received: "
                f"{str(self._folder)!r}, where the inputs of example {ids[differ[0]]} are others than when it was "
                "recorded. Use the same data in the same order, record into another folder, or delete this one "
                "first."
            )


def _shards_of(ids: range, manifest: Manifest) -> range:
    """Returns the numbers of the shards that hold examples one after another."""
    return range(ids.start // manifest.shard_size, (ids.stop - 1) // manifest.shard_size + 1)


def _apart(old: np.ndarray, new: np.ndarray) -> float:
    both = np.isfinite(old) & np.isfinite(new)
    return float(np.abs(old - new, where=both, out=np.zeros_like(old)).max()) if both.all() else float("inf")


def _wanted(shards: Iterable[int] | None, manifest: Manifest) -> set[int]:
    every = set(range(manifest.shards))
    wanted = every if shards is None else set(shards)
    if wanted - every or not wanted:
        raise ValueError(
            f"shards must be numbers of shards, here from 0 to {manifest.shards - 1}. Received: {sorted(wanted)}."
        )
    return wanted


def _target_of(answer: Answer, targets: Target | Mapping[Any, Target], kept: Mapping[str, Dense]) -> Target:
    if answer.layer is not None:
        target: Any = kept[answer.layer]
    elif isinstance(targets, Mapping):
        key = _key_of(answer, targets)
        if key not in targets:
            raise ValueError(
                f"targets must say how each output is kept. Received: targets for {list(targets)}, and "
                f"{answer.label!r}. Pass one target for all, or one for each by name or position."
            )
        target = targets[key]
    else:
        target = targets
    if not isinstance(target, Target):
        raise ValueError(
            f"A target must be a cache.Dense, a cache.TopK or a cache.Sampled. Received: {target!r} for "
            f"{answer.label!r}."
        )
    return target


def _key_of(answer: Answer, targets: Mapping[Any, Target]) -> Any:
    """Outputs go by position or name."""
    return answer.output if answer.output in targets else answer.name


def _require_used(targets: Target | Mapping[Any, Target], answers: Iterable[Answer]) -> None:
    """Raises ValueError if a target is for no output."""
    if not isinstance(targets, Mapping):
        return
    used = [_key_of(answer, targets) for answer in answers if answer.layer is None]
    if unknown := [key for key in targets if key not in used]:
        raise ValueError(
            f"targets must name outputs of the teacher, or their positions. Received: {unknown}, but the outputs are "
            f"{[answer.label for answer in answers if answer.layer is None]}."
        )


def _checked(name: str, number: Any) -> int:
    if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{name} must be an integer of at least 1. Received: {name}={number!r}.")
    return int(number)


def _fingerprint(teacher: Any, answering: Answering) -> str | None:
    """Returns a hash of a teacher's weights, or of its file; `None` for a function."""
    found, empty = hashlib.sha256(), True
    if isinstance(teacher, Exported):
        for file in teacher.files:
            with file.open("rb") as content:
                while part := content.read(_PART):  # a file may be larger than memory
                    found.update(part)
            empty = False
    for weight in answering.weights():
        found.update(f"{weight.dtype} {weight.shape}".encode())
        found.update(np.ascontiguousarray(weight).data if weight.dtype.kind in "fiub" else weight.tobytes())
        empty = False
    return None if empty else found.hexdigest()[:32]

"""What an arm's function receives, and what is done with the model that it returns."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import distill.studies._metrics as metrics
from distill import cost, data, tracking
from distill._graphs import functional_of
from distill._types import Arrays
from distill._untouched import same_randomness
from distill.exports import Exported
from distill.files._stored import files_of
from distill.studies._cells import costs, save
from distill.studies._declarations import Cell
from distill.studies._details import Confusion, LayerSize, Reliability
from distill.studies._measures import AGREEMENT, ECE, Measure
from distill.studies._recording import name_artifacts

# A split: inputs and labels, as arrays or as a data set of single examples.
Split: TypeAlias = tuple[Any, Any] | tf.data.Dataset
# What an arm's function may return: a model, or the path of a .tflite or .onnx file.
Made: TypeAlias = keras.Model | str | os.PathLike[str]
_SUFFIXES = (".keras", ".tflite", ".onnx")
_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an arm: what its function receives.

    Everything random is seeded before the function is called. A run has no test split: the study itself scores the
    returned model on test.

    Attributes:
        seed: seed of this run. Arms with the same seed are compared with each other.
        train: training split, as the study's data function returned it.
        dev: development split, for validation and for choosing settings.
        callbacks: callbacks for `fit`, which record each epoch for learning curves and W&B.
        directory: directory of this run, for files of your own.
        smoke: whether the study only checks that everything works; if so, train for an epoch or two.

    Example:
        ```python
        from distill import studies

        def alone(run: studies.Run, smoothing=0.1):
            network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
            network.compile("adam", loss)
            network.fit(*run.train, validation_data=run.dev, epochs=20, callbacks=run.callbacks, verbose=0)
            return network
        ```
    """

    seed: int
    train: Split
    dev: Split
    callbacks: list[keras.callbacks.Callback]
    directory: Path
    smoke: bool
    _files: Mapping[str, Path]

    def file(self, arm: str) -> Path:
        """Returns the file of the model that a needed arm made with the same seed.

        Args:
            arm: name of an arm that this one lists in `needs`.

        Raises:
            ValueError: this arm does not need that one.
        """
        if arm not in self._files:
            raise ValueError(
                "An arm may use the models of the arms that it names in needs. "
                f"Received: {arm!r}, but it needs {sorted(self._files) or 'none'}."
            )
        return self._files[arm]

    def model(self, arm: str) -> keras.Model:
        """Returns the model that a needed arm made with the same seed, as a new copy on each call.

        Args:
            arm: name of an arm that this one lists in `needs`.

        Raises:
            ValueError: this arm does not need that one, or that one returned a file that Keras cannot load.
        """
        file = self.file(arm)
        if file.suffix != ".keras":
            raise ValueError(
                f"The arm {arm!r} returned a {file.suffix} file, which is not a Keras model. Use run.file({arm!r})."
            )
        # Loading must not change the random state: new networks start alike in arms with a teacher and without.
        with same_randomness():
            return keras.models.load_model(file, compile=False)


def settle(
    made: Made,
    *,
    cell: Cell,
    directory: Path,
    dev: Split,
    test: Split,
    teacher: Path | None,
    needs: Mapping[str, Path],
    measures: Sequence[Measure],
    tracker: tracking.Tracker,
) -> dict[str, Any]:
    """Saves, scores and counts the model that an arm returned.

    Args:
        made: what the arm's function returned.
        cell: cell that was run.
        directory: directory for the file.
        dev: split on which settings are chosen.
        test: split that is read here and nowhere else.
        teacher: file of the model that measures of agreement compare with.
        needs: arm -> file of its model, for the arms that this one needs.
        measures: ways in which to score.
        tracker: tracker of this run, which is finished here.

    Returns:
        The content of result.json.

    Raises:
        TypeError: what was returned is neither a model nor such a file.
        ValueError: the file does not exist, or a score is not finite.
    """
    file = _file(made, cell, directory)
    network = _network(made, file)
    answer = answers_of(file if network is None else network)
    compared = None if teacher is None or not any(one.of_teacher for one in measures) else answers_of(teacher)
    answered = {
        split: finite_answers(answer, compared, examples, f"{cell.name} on {split}")
        for split, examples in (("dev", dev), ("test", test))
    }
    scores = {split: _scores(one, measures, f"{cell.name} on {split}") for split, one in answered.items()}
    epochs = len((directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    result = {
        "epochs": epochs,
        "file": file.name,
        **scores,
        "cost": _costs(network, file),
    }
    columns = ["split", *(measure.key for measure in measures)]
    table = (columns, [[split, *found.values()] for split, found in scores.items()])
    name_artifacts(tracker, cell, file, needs)
    tracker.finish(result, tables={"scores": table})
    return {**result, **_details(answered["test"], measures), "layers": _layers(network)}


def answers_of(model: keras.Model | Path) -> Callable[[Any], NDArray[Any]]:
    """The function from a batch of inputs to a model's outputs, for a model or its file."""
    if isinstance(model, Path) and model.suffix != ".keras":
        exported: Callable[[Any], Any] = Exported(model).predict
        return exported
    network = keras.models.load_model(model, compile=False) if isinstance(model, Path) else model

    def answer(x: Any) -> NDArray[Any]:
        found = network(x, training=False)
        if keras.tree.is_nested(found):
            raise ValueError(
                "A model that is scored must return one array. Received: "
                f"{network.name!r}, which returns a {type(found).__name__} of {len(found)}. Return a model of the "
                "output that counts: keras.Model(model.input, model.output[...])."
            )
        return keras.ops.convert_to_numpy(found)

    return answer


def examples_of(split: Split) -> tuple[Any, NDArray[Any]]:
    """A split's inputs and labels as arrays."""
    return data.arrays(split) if isinstance(split, tf.data.Dataset) else split


def outputs(answer: Callable[[Any], NDArray[Any]], x: Arrays) -> NDArray[Any]:
    """A model's outputs for all inputs, computed in batches."""
    count = len(keras.tree.flatten(x)[0])

    def part(start: int) -> Any:
        return keras.tree.map_structure(lambda array: array[start : start + _BATCH], x)

    return np.concatenate([answer(part(start)) for start in range(0, count, _BATCH)])


def _file(made: Made, cell: Cell, directory: Path) -> Path:
    if isinstance(made, keras.Model):
        if hasattr(made, "student"):
            raise TypeError(
                f"The function of arm {cell.arm!r} returned a {type(made).__name__}. Return the network that is to be "
                "scored: its .student."
            )
        file = directory / "model.keras"
        if functional_of(made) is None:
            made.save(file)  # with its optimizer: what a class of the user's own is made of is not known
        else:
            save(made, file)
        return file
    if not isinstance(made, (str, os.PathLike)):
        raise TypeError(
            f"The function of an arm returns a keras.Model, or the path of a {', '.join(_SUFFIXES)} file. "
            f"Received: {type(made).__name__} from arm {cell.arm!r}."
        )
    given = Path(made)
    if given.suffix not in _SUFFIXES or not given.is_file():
        what = "has another suffix" if given.is_file() else "is not a file"
        raise ValueError(
            f"The function of an arm returns a keras.Model, or the path of a {', '.join(_SUFFIXES)} file. "
            f"Received: {given} from arm {cell.arm!r}, which {what}."
        )
    if beside := files_of(given)[1:]:
        raise ValueError(
            f"The file that an arm returns must hold its weights itself. Received: {given} from arm {cell.arm!r}, "
            f"with weights in {', '.join(one.name for one in beside)}. Save it as one file: "
            "onnx.save_model(onnx.load(path), path)."
        )
    file = directory / f"model{given.suffix}"
    if given.resolve() != file.resolve():
        shutil.copyfile(given, file)
    return file


def _network(made: Made, file: Path) -> keras.Model | None:
    """The model that was made, if Keras can tell what it is."""
    if isinstance(made, keras.Model):
        return made
    return keras.models.load_model(file, compile=False) if file.suffix == ".keras" else None


@dataclasses.dataclass(frozen=True)
class _Answered:
    """Labels of a split, the model's answers, and its teacher's answers if agreement is scored."""

    y: NDArray[Any]
    outputs: NDArray[Any]
    of_teacher: NDArray[Any] | None


def finite_answers(
    answer: Callable[[Any], NDArray[Any]],
    compared: Callable[[Any], NDArray[Any]] | None,
    split: Split,
    where: str,
) -> _Answered:
    """What a model answers to a split; an error if some of it is not finite."""
    x, y = examples_of(split)
    found = outputs(answer, x)
    if (wrong := ~_are_finite(found)).any():
        bad = wrong & ~np.all([_are_finite(part) for part in keras.tree.flatten(x)], axis=0)
        raise ValueError(
            f"A model must answer with finite numbers. Received: NaN or infinity for {wrong.sum():,} of "
            f"{len(found):,} examples, from {where}. "
            + (
                f"The inputs of {bad.sum():,} of them have NaN or infinity: fix the data."
                if bad.any()
                else "If its training diverged, use a smaller learning rate, or clip the gradients with the "
                "optimizer's clipnorm."
            )
        )
    return _Answered(y, found, None if compared is None else outputs(compared, x))


def _are_finite(values: Any) -> NDArray[np.bool_]:
    """Whether all numbers of an example are finite; strings and the like are none."""
    values = np.asarray(values)
    try:
        return np.isfinite(values).reshape(len(values), -1).all(axis=1)
    except TypeError:
        return np.ones(len(values), bool)


def _scores(answered: _Answered, measures: Sequence[Measure], where: str) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for measure in measures:
        known = answered.of_teacher if measure.of_teacher else answered.y
        scores[measure.key] = None if known is None else float(measure.score(known, answered.outputs))  # type: ignore[misc]
        if known is not None and not np.isfinite(scores[measure.key] or 0.0):
            raise ValueError(
                f"A score must be finite. Received: {measure.name} = {scores[measure.key]} of {where}."
            )
    return scores


def _details(answered: _Answered, measures: Sequence[Measure]) -> dict[str, Any]:
    """What is shown of a classifier besides its scores, if ECE or agreement is scored."""
    found: dict[str, Any] = {}
    if ECE in measures:
        logits, labels = metrics.as_logits(answered.outputs), metrics.as_labels(answered.y)
        found["reliability"] = dataclasses.asdict(Reliability.of(logits, labels))
    if AGREEMENT in measures and answered.of_teacher is not None:
        logits, of_teacher = metrics.as_logits(answered.outputs), metrics.as_logits(answered.of_teacher)
        found["confusion"] = dataclasses.asdict(Confusion.of(of_teacher, logits))
    return found


def _layers(network: keras.Model | None) -> list[dict[str, Any]]:
    """The layers that have weights, if the model is known."""
    layers = () if network is None else cost.profile(network).layers
    return [
        dataclasses.asdict(
            LayerSize(
                name=layer.name,
                kind=layer.kind,
                width=layer.output_shape[-1] if layer.output_shape else None,
                parameters=layer.parameters,
                nonzero=layer.nonzero,
            )
        )
        for layer in layers
        if layer.parameters
    ]


def _costs(network: keras.Model | None, file: Path) -> dict[str, int | None]:
    """Costs; those that the library cannot count for a model or a file are `None`."""
    if network is None:
        return {"parameters": None, "macs": None, "file_bytes": file.stat().st_size}
    try:
        return dict(costs(network, file))
    except ValueError:
        return {"parameters": cost.parameters(network), "macs": None, "file_bytes": file.stat().st_size}

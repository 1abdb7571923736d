"""Schemes of several networks: who teaches whom, when a frozen teacher and one student are not all.

Networks that learn together are a `MutualLearning`. Networks that learn in turn, each from the one before, are a
`chain`: born-again generations, whose `ensemble` is a model too, and teacher assistants. What needs no scheme:
several teachers, unlabelled data and shared augmented views are a `distill.Distiller`; a virtual teacher is a loss.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from distill.distiller import Distiller
from distill.graphs import activation_of, functional_of
from distill.losses.base import DistillationLoss
from distill.losses.logits import SoftTargets
from distill.replicas import scope_of
from distill.teacher import Peer


class MutualLearning(Distiller):
    """Trains networks together, each on the labels and on what the others say: deep mutual learning.

    Network i minimises

        student_loss_weight · student_lossᵢ + distillation_weight · mean over j ≠ i of loss(networkⱼ, networkᵢ)

    with the others' answers, from the same forward pass, as constants; the total is the sum over the networks. With
    the default loss this is CEᵢ + mean KL(pⱼ ‖ pᵢ) [1], where all networks are updated at once, not in turn.

    It is a `distill.Distiller` of one model, whose outputs are the networks', and goes through `compile`, `fit`,
    `evaluate`, `save_weights` and `tf.distribute` as that does. Labels, `sample_weight`, loss and metrics are given
    once and hold for each network; logs have each network's name before its own. `predict` returns a list.

    Args:
        students: two or more built Functional or Sequential models of the same inputs, each with one output of
            the same classes and a name of its own. They share no variables.
        loss: of `distill.losses`, on logits.
        student_loss_weight: of the labels, from 0 to 1: a number, or a schedule as in `distill.Distiller`.
        name: name of this model.
        distillation_weight: of what the others say, >= 0; likewise.
        from_logits: `None` finds the logits behind softmax heads; see `distill.Distiller`.

    Attributes:
        students: the networks, the very objects that came in.

    Raises:
        ValueError: there are fewer than two networks, or they do not fit each other; or see `distill.Distiller`.

    Example:
    ```python
    peers = distill.MutualLearning([small, large])
    peers.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    peers.fit(x, y, epochs=10)
    small.save("small.keras")
    ```

    References:
        [1] Zhang et al. 2018, arXiv:1706.00384, equations 4 to 7.
    """

    def __init__(
        self,
        students: Sequence[keras.Model],
        loss: DistillationLoss | None = None,
        student_loss_weight: Any = 1.0,
        name: str = "mutual_learning",
        *,
        distillation_weight: Any = 1.0,
        from_logits: bool | None = None,
    ) -> None:
        cohort = _joined(students, "Networks that learn from each other", lambda outputs: outputs, "cohort")
        loss = SoftTargets(temperature=1.0) if loss is None else loss
        if not isinstance(loss, DistillationLoss) or loss.head is None or loss.needs_labels:
            raise ValueError(
                "Networks learn from each other by a loss on logits without labels, such as distill.SoftTargets(1.0). "
                f"Received: {loss!r}."
            )
        super().__init__(
            [Peer(ahead) for ahead in range(1, len(students))],
            cohort,
            {student.name: loss for student in students},
            student_loss_weight=student_loss_weight,
            name=name,
            distillation_weight=distillation_weight,
            from_logits=from_logits,
        )
        self.students = list(students)

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Configures training as `keras.Model.compile` does for one network; the others get the same.

        Args:
            optimizer: trains all networks.
            loss: each network's own loss on the labels.
            metrics: a list, of each network.
            **kwargs: see `keras.Model.compile`.

        Raises:
            ValueError: `loss` or `metrics` are told apart by outputs; there is no loss and
                `student_loss_weight` is above 0.
        """
        metrics = [] if metrics is None else metrics
        if keras.tree.is_nested(loss) or isinstance(metrics, dict) or any(map(keras.tree.is_nested, metrics)):
            raise ValueError(
                "One loss and one list of metrics are for all networks. "
                f"Received: loss={loss!r}, metrics={metrics!r}."
            )
        super().compile(
            optimizer,
            None if loss is None else [loss for _ in self.students],
            [[_own(metric) for metric in metrics] for _ in self.students] if metrics else None,
            **kwargs,
        )

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The sum of the networks' losses, as `distill.Distiller.compute_loss`; labels and weights hold for each."""
        return super().compute_loss(x, self._for_each(y), y_pred, self._for_each(sample_weight), training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Updates the metrics of each network and returns the logs."""
        return super().compute_metrics(x, self._for_each(y), y_pred, self._for_each(sample_weight))

    def _for_each(self, value: Any) -> Any:
        return None if value is None else [value for _ in self.students]


def chain(
    makers: Sequence[Callable[[], keras.Model]],
    train: Callable[[keras.Model | None, keras.Model, int], Any],
    *,
    teacher: keras.Model | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[keras.Model]:
    """Trains networks in turn, each with the one before as its teacher.

    Generations of one architecture are born-again networks [1]: T = 1, the teacher first. Networks that shrink are a
    chain of teacher assistants [2].

        def train(teacher, student, stage):
            keras.utils.set_random_seed(stage)
            distiller = distill.Distiller(teacher, student, distill.SoftTargets(1.0))
            distiller.compile("adam", loss="sparse_categorical_crossentropy")
            distiller.fit(x, y, epochs=10)

        generations = distill.schemes.chain([make_student] * 3, train, teacher=teacher)
        together = distill.schemes.ensemble(generations)

    Args:
        makers: functions that return a new, built model, called when its turn comes.
        train: trains `student` in place, with `teacher` or, for the first without one, `None`; `stage` counts from 0.
            A stage that is to be the same after a stop sets its seeds itself.
        teacher: of the first network.
        folder: where each trained network leaves its weights, "0.weights.h5" and so on, in one piece; a stage whose
            file is there is made, loaded and not trained. `None` keeps nothing.

    Returns:
        The trained networks, in order.

    Raises:
        ValueError: there is no maker, one does not return a built model or returns one a second time, or a file in
            `folder` is not of the network.

    References:
        [1] Furlanello et al. 2018, arXiv:1805.04770.
        [2] Mirzadeh et al. 2019, arXiv:1902.03393.
    """
    makers = list(makers)
    if not makers:
        raise ValueError("A chain has a network or more. Received: makers=[].")
    files = None if folder is None else Path(folder)
    if files is not None:
        files.mkdir(parents=True, exist_ok=True)
    networks: list[keras.Model] = []
    for stage, make in enumerate(makers):
        student = make()
        if not isinstance(student, keras.Model) or not student.built:
            raise ValueError(
                f"A maker returns a new keras.Model that is built. Received: {student!r} of makers[{stage}]. "
                "Give its first layer a keras.Input."
            )
        if any(student is other for other in (teacher, *networks)):
            raise ValueError(
                f"Each network of a chain is a new one. Received: {student.name!r} of makers[{stage}] once more. "
                "Make the model within the function."
            )
        path = None if files is None else files / f"{stage}.weights.h5"
        if path is not None and path.exists():
            _load(student, path)
        else:
            train(teacher, student, stage)
            if path is not None:
                draft = path.with_name(f".{stage}.{os.getpid()}.weights.h5")
                student.save_weights(draft)
                draft.replace(path)
        networks.append(student)
        teacher = student
    return networks


def ensemble(
    models: Sequence[keras.Model], *, from_logits: bool | None = None, name: str = "ensemble"
) -> keras.Model:
    """One model that returns the mean of several models' class probabilities.

    It shares the models' variables and is made of Keras' own layers, so its file needs no `distill`.

    Args:
        models: two or more built Functional or Sequential models of the same inputs, each with one output of the
            same classes and a name of its own.
        from_logits: whether the models return logits, `True`, or probabilities, `False`; `None` finds out by
            their heads.
        name: name of the model.

    Returns:
        A Functional model of the models' inputs: probabilities (batch, ..., classes).

    Raises:
        ValueError: the models do not fit each other; a head cannot be recognised.
    """

    def mean(outputs: list[Any]) -> Any:
        probabilities = []
        for model, output in zip(models, outputs, strict=True):
            said = "linear" if from_logits else "softmax"
            ends_in = activation_of(model) if from_logits is None else said
            # The logarithm of probabilities is as good as any logits.
            needs_softmax = ends_in in ("linear", "log_softmax")
            softmax = layers.Softmax(name=f"{model.name}_softmax")
            probabilities.append(softmax(output) if needs_softmax else output)
        return layers.Average(name="mean")(probabilities)

    return _joined(models, "Models of an ensemble", mean, name)


def _joined(models: Any, what: str, head: Callable[[list[Any]], Any], name: str) -> keras.Model:
    """One Functional model that runs all on the same inputs, after checking that they fit each other."""
    models = list(models) if isinstance(models, (list, tuple)) else [models]
    graphs = [graph for model in models if (graph := functional_of(model)) is not None]
    if len(models) < 2 or len(graphs) < len(models):
        raise ValueError(
            f"{what} are two or more built Functional or Sequential models. Received: {models!r}."
        )
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"{what} have names of their own. Received: {names}. Give them another name=.")
    variables = [id(variable) for model in models for variable in model.variables]
    if len(set(variables)) < len(variables):
        raise ValueError(
            f"{what} share no variables. Received: {names}, of which some do. "
            "Copy the shared layers with keras.models.clone_model."
        )
    described = [
        (_shapes(graph._inputs_struct), None if len(graph.outputs) > 1 else _shapes(graph.outputs[0]))
        for graph in graphs
    ]
    if any(one != described[0] for one in described) or described[0][1] is None:
        raise ValueError(
            f"{what} take the same inputs and return one output of the same classes. Received: "
            + "; ".join(f"{name!r} from {i} to {o}" for name, (i, o) in zip(names, described, strict=True))
            + "."
        )
    with scope_of(models[0]):
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
            graphs[0]._inputs_struct,
        )
        return keras.Model(inputs, head([model(inputs) for model in models]), name=name)


def _shapes(tensors: Any) -> Any:
    return keras.tree.map_structure(lambda tensor: f"{tensor.dtype} {tensor.shape}", tensors)


def _own(metric: Any) -> Any:
    """A metric of a network's own: those of others have a state of theirs."""
    return (
        type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric
    )


def _load(student: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras goes on with initial weights where a file has none for a layer.
            warnings.simplefilter("error", UserWarning)
            student.load_weights(path)
    except (ValueError, OSError, UserWarning) as error:
        raise ValueError(
            f"A stage's file is of the network that its maker returns. Received: {path}, which {student.name!r} cannot "
            f"load ({error}). Remove it, or give another folder."
        ) from error

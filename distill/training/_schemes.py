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

from distill._graphs import functional_of
from distill._replicas import scope_of
from distill.files._saving import save_weights
from distill.losses._base import DistillationLoss
from distill.losses._logits import SoftTargets
from distill.training._arguments import require_student
from distill.training._distiller import Distiller
from distill.training._heads import activation_of
from distill.training._teacher import Peer


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
        for student in students if isinstance(students, (list, tuple)) else ():
            require_student(student)
        cohort = _joined(students, "Networks that learn from each other", lambda outputs: outputs, "cohort")
        policies = [student.dtype_policy.name for student in students]
        if len(set(policies)) > 1:
            raise ValueError(
                "Networks that learn from each other compute in one precision, since one optimizer trains them. "
                f"Received: {policies}."
            )
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

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile` does for one network; the others get the same.

        Args:
            optimizer: trains all networks.
            loss: each network's own loss on the labels.
            metrics: a list, of each network; objects are made anew for each, by their config.
            weighted_metrics: likewise.
            **kwargs: see `keras.Model.compile`; not `loss_weights`, since networks count the same.

        Raises:
            ValueError: what is for all networks is told apart by outputs; a metric has no config to be made anew
                by; there is no loss and `student_loss_weight` is above 0.
        """
        given = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        listed = all(value is None or isinstance(value, (list, tuple)) for value in given.values())
        if (
            not listed
            or keras.tree.is_nested(loss)
            or any(keras.tree.is_nested(metric) for value in given.values() for metric in value or ())
            or kwargs.get("loss_weights") is not None
        ):
            raise ValueError(
                "One loss and one list of metrics are for all networks, which count the same. Received: "
                f"loss={loss!r}, {', '.join(f'{name}={value!r}' for name, value in given.items())}, "
                f"loss_weights={kwargs.get('loss_weights')!r}."
            )
        for name, value in given.items():
            if value:
                given[name] = [[_own(metric) for metric in value] for _ in self.students]
        each = None if loss is None else [loss for _ in self.students]
        super().compile(optimizer, each, **given, **kwargs)

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

        generations = distill.training.chain([make_student] * 3, train, teacher=teacher)
        together = distill.training.ensemble(generations)

    Args:
        makers: functions that return a new, built model, called when its turn comes. For an ensemble of
            the networks, each has a name of its own, as Keras gives them by default.
        train: trains `student` in place, with `teacher` or, for the first without one, `None`; `stage` counts from 0.
            A stage that is to be the same after a stop sets its seeds itself.
        teacher: of the first network.
        folder: where each trained network leaves its weights, "0.weights.h5" and so on, in one piece; a stage whose
            file is there is made, loaded and not trained. When a stage is trained, files of later ones, which had
            another teacher, are removed. What was trained with another `teacher` or `train` is for the caller to
            keep apart. `None` keeps nothing.

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
                for later in range(stage + 1, len(makers)):
                    (path.parent / f"{later}.weights.h5").unlink(missing_ok=True)
                save_weights(student, path)
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
    if from_logits is not None and not isinstance(from_logits, bool):
        raise ValueError(
            f"from_logits is True, False or None, for all models. Received: from_logits={from_logits!r}."
        )

    def mean(outputs: list[Any]) -> Any:
        said = "linear" if from_logits else "softmax"
        ends = [activation_of(model) if from_logits is None else said for model in models]
        exclusive = [end != "sigmoid" for end in ends]
        if any(exclusive) and (not all(exclusive) or outputs[0].shape[-1] == 1):
            raise ValueError(
                "The models' classes are exclusive, two or more of them, or all models end in sigmoid. Received: "
                f"{outputs[0].shape[-1]} output{'s' if outputs[0].shape[-1] > 1 else ''}, heads that end in {ends}."
            )
        probabilities = [
            # The logarithm of probabilities is as good as any logits.
            layers.Softmax(dtype="float32")(output) if end in ("linear", "log_softmax") else output
            for end, output in zip(ends, outputs, strict=True)
        ]
        average = layers.Average(dtype="float32")(probabilities)
        # A head that ends in softmax is recognised, by a Distiller and by another ensemble.
        return layers.Softmax(dtype="float32")(keras.ops.log(average)) if any(exclusive) else average

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
        ([_sizes(part) for part in graph.inputs], [_sizes(part) for part in graph.outputs])
        for graph in graphs
    ]
    structures = [keras.tree.map_structure(lambda _: 0, graph.input) for graph in graphs]
    if (
        any(one != described[0] for one in described)
        or len(graphs[0].outputs) > 1
        or (len(graphs[0].inputs) > 1 and any(one != structures[0] for one in structures))
    ):
        raise ValueError(
            f"{what} take the same inputs and return one output of the same classes. Received: "
            + "; ".join(f"{name!r} from {i} to {o}" for name, (i, o) in zip(names, described, strict=True))
            + "."
        )
    with scope_of(models[0]):
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
            graphs[0].input,
        )
        given = keras.tree.flatten(inputs)
        outputs = [
            keras.tree.flatten(model(keras.tree.pack_sequence_as(graph.input, given)))[0]
            for model, graph in zip(models, graphs, strict=True)
        ]
        joined = keras.Model(inputs, head(outputs), name=name)
    # Keras decides by it whether the optimizer scales the loss.
    joined.dtype_policy = models[0].dtype_policy
    return joined


def _sizes(tensor: keras.KerasTensor) -> tuple[Any, ...]:
    return tuple(tensor.shape)[1:]


def _own(metric: Any) -> Any:
    """A metric of a network's own: those of others have a state of theirs."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except Exception as error:
        raise ValueError(
            f"A metric is made anew for each network, by its config. Received: {metric!r}, of which none can be made "
            f"({error}). Give its class a get_config, register what it calls, or name the metric."
        ) from error


def _load(student: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras goes on with initial weights where a file has none for a layer.
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            student.load_weights(path)
    except (ValueError, OSError, UserWarning) as error:
        raise ValueError(
            f"A stage's file is of the network that its maker returns. Received: {path}, which {student.name!r} cannot "
            f"load ({error}). Give another folder, or remove it: that stage and all after it are then trained again."
        ) from error

"""What one cell of `experiments.methods` does: train a small CNN by one method."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

import distill
from distill import data, training
from distill.studies import STAGES, Cell, Surroundings, costs, fit_and_measure, measure
from experiments._networks import Network, normalized_cnn
from experiments.methods.config import ENSEMBLE, GENERATIONS, Learning


def train(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    """Trains, measures and saves one network; all that is drawn comes from the cell's seed.

    Args:
        surroundings: what the result does not depend on.
        cell: its config is a `Learning`.
        directory: where metrics.jsonl and the network are written, and the stages of a method of several networks.

    Returns:
        What `distill.studies.fit_and_measure` returns.
    """
    config: Learning = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    siblings = directory.parent
    teachers = [keras.models.load_model(siblings / name / "teacher.keras") for name in config.teachers]
    # A worker runs many cells: without this each one is slower than the one before.
    keras.backend.clear_session()
    task = _Task(config, cell, splits, teachers, directory, surroundings)
    # From here on all methods draw the same numbers: the same start, the same order.
    keras.utils.set_random_seed(cell.seed)
    if config.method == ENSEMBLE:
        return _ensemble(task, siblings / str(config.generations) / STAGES)
    return _learn(task)


@dataclasses.dataclass(frozen=True)
class _Task:
    """What a cell is about."""

    config: Learning
    cell: Cell
    splits: data.Splits
    teachers: list[keras.Model]
    directory: Path
    surroundings: Surroundings

    @property
    def setting(self) -> float:
        """The number that was tuned."""
        return float(self.config.setting)

    def network(self, name: str = "student", kind: Network | None = None) -> keras.Model:
        """A new network."""
        return normalized_cnn(
            kind or self.config.network, self.splits.input_shape, self.splits.num_classes, name
        )

    def batches(self) -> tf.data.Dataset:
        """The shuffled batches of an epoch."""
        return data.batches(self.splits.train, self.config.batch_size, seed=self.cell.seed)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(int(self.splits.train.cardinality()) / self.config.batch_size)

    @property
    def steps(self) -> int:
        """Steps of a network's whole training."""
        return self.epoch_steps * self.config.epochs

    def compile(self, model: keras.Model, loss: Any = None) -> None:
        """Adam on a falling rate, the same for all methods."""
        schedule = keras.optimizers.schedules.CosineDecay(self.config.learning_rate, self.steps)
        decay = self.setting if self.config.method == "alone" else 0.0
        model.compile(
            keras.optimizers.AdamW(schedule, weight_decay=decay),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss is None else loss,
            metrics=["accuracy"],
            steps_per_execution=self.epoch_steps,
        )

    def finish(
        self, model: keras.Model, network: keras.Model, batches: tf.data.Dataset, **kwargs: Any
    ) -> dict[str, Any]:
        """Trains the network that is measured."""
        dev, test = data.arrays(self.splits.dev), data.arrays(self.splits.test)
        return fit_and_measure(
            model,
            network,
            batches,
            cell=self.cell,
            directory=self.directory,
            surroundings=self.surroundings,
            tags=[self.config.dataset],
            epochs=self.config.epochs,
            dev_batches=data.batches(self.splits.dev, 500),
            dev=dev,
            test=test,
            teacher=self.teachers[0] if self.teachers else None,
            **kwargs,
        )


def _learn(task: _Task) -> dict[str, Any]:
    """Trains by the method that the config names."""
    setting = task.setting
    match task.config.method:
        case "teacher" | "alone":
            return _alone(task, None)
        case "smoothing":
            smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=setting)
            classes = task.splits.num_classes
            return _alone(task, lambda y_true, y_pred: smoothed(_one_hot(y_true, classes), y_pred))
        case "virtual-teacher":
            return _alone(task, distill.losses.VirtualTeacher(weight=setting, from_logits=True))
        case "function-matching":
            model = distill.Distiller(
                task.teachers[0], task.network(), distill.SoftTargets(1.0), student_loss_weight=0
            )
            views = data.mixup(task.batches(), seed=task.cell.seed, alpha=setting)
            return _distilled(task, model, views)
        case "unlabelled":
            loss = distill.SoftTargets(setting)
            model = distill.Distiller(task.teachers[0], task.network(), loss, student_loss_weight=0)
            return _distilled(task, model, task.batches().map(lambda x, _: (x,)))
        case "three-teachers":
            return _distilled(
                task, _distiller(task.teachers, task.network(), distill.SoftTargets(4.0), setting)
            )
        case "mutual":
            return _mutual(task)
        case "born-again" | "assistant":
            return _chain(task)
        case "crd":
            _, labels = data.arrays(task.splits.train)
            loss = distill.losses.ContrastiveRepresentation(labels, "embedding", "embedding")
            model = _distiller(task.teachers[0], task.network(), loss, setting)
            return _distilled(task, model, _identified(task))
        case _:
            model = _distiller(task.teachers[0], task.network(), _loss(task), _weight(task))
            return _distilled(task, model)


def _loss(task: _Task) -> distill.losses.DistillationLoss:
    """The loss of a method that is a single one, with its published defaults."""
    maps = tuple(f"relu{i}" for i in range(len(task.config.network.filters)))
    match task.config.method:
        case "kd":
            return distill.SoftTargets(4.0)
        case "logit-mse":
            return distill.losses.LogitMSE()
        case "hard-labels":
            return distill.losses.HardTargets()
        case "standardized-kd":
            return distill.losses.Standardized(distill.SoftTargets(2.0))
        case "dkd":
            return distill.losses.DecoupledKD()
        case "dist":
            return distill.losses.DIST()
        case "jsd":
            return distill.losses.GeneralizedJSD()
        case "reverse-kl":
            return distill.losses.GeneralizedJSD(beta=1.0)
        case "mlkd":
            return distill.losses.MultiLevelKD()
        case "ctkd":
            return distill.losses.CurriculumTemperature(10 * task.epoch_steps)
        case "hint":
            return distill.Hint(maps[len(maps) // 2], maps[len(maps) // 2])
        case "attention":
            return distill.AttentionTransfer(maps, maps)
        case "vid":
            return distill.losses.VariationalInformation(maps, maps)
        case "nst":
            return distill.losses.NeuronSelectivity(maps, maps)
        case "ofd":
            norms = tuple(f"norm{i}" for i in range(len(maps)))
            margins = [distill.losses.batch_norm_margins(task.teachers[0].get_layer(name)) for name in norms]
            return distill.losses.OverhaulDistillation(margins, norms, norms)
        case "similarity":
            return distill.losses.SimilarityPreserving(maps[-1], maps[-1])
        case "rkd":
            return distill.losses.Relational(teacher_layer_name="embedding", student_layer_name="embedding")
        case "pkt":
            return distill.losses.ProbabilisticTransfer("embedding", "embedding")
    raise ValueError(f"No such method. Received: {task.config.method!r}.")


def _weight(task: _Task) -> float | LearningRateSchedule:
    """The weight that was tuned; DKD's is reached after a warm-up, 20 of 240 epochs where it was published."""
    if task.config.method == "dkd":
        return PolynomialDecay(0.0, task.steps / 12, task.setting)
    return task.setting


# Published without labels, or with half and half. Students here learn from labels too, at the weight of soft targets.
_LABELS_AS_SOFT_TARGETS = (distill.losses.LogitMSE, distill.losses.HardTargets, distill.losses.GeneralizedJSD)


def _distiller(
    teacher: Any,
    student: keras.Model,
    loss: distill.losses.DistillationLoss,
    weight: float | LearningRateSchedule,
) -> distill.Distiller:
    """With the published weight of the labels, but for some losses that of soft targets."""
    recipe = distill.SoftTargets.recipe if isinstance(loss, _LABELS_AS_SOFT_TARGETS) else loss.recipe
    labels = recipe["student_loss_weight"]
    return distill.Distiller(teacher, student, loss, student_loss_weight=labels, distillation_weight=weight)


def _alone(task: _Task, loss: Any) -> dict[str, Any]:
    network = task.network()
    task.compile(network, loss)
    return task.finish(network, network, task.batches())


def _distilled(
    task: _Task, distiller: distill.Distiller, batches: tf.data.Dataset | None = None
) -> dict[str, Any]:
    task.compile(distiller)
    return task.finish(distiller, distiller.student, task.batches() if batches is None else batches)


def _mutual(task: _Task) -> dict[str, Any]:
    """Two networks of one architecture; the first is measured."""
    first, second = task.network("first"), task.network("second")
    peers = distill.MutualLearning([first, second], distillation_weight=task.setting)
    task.compile(peers)
    return task.finish(peers, first, task.batches(), accuracy="val_first_accuracy")


def _chain(task: _Task) -> dict[str, Any]:
    """Networks in turn: born-again ones, the first alone, or an assistant between teacher and student."""
    config, temperature = task.config, 1.0 if task.config.method == "born-again" else 4.0
    kinds = (
        [config.network] * GENERATIONS
        if config.method == "born-again"
        else [config.assistant, config.network]
    )
    result: dict[str, Any] = {}

    def maker(stage: int) -> Callable[[], keras.Model]:
        def make() -> keras.Model:
            # The last one starts as the students of all other methods do.
            keras.utils.set_random_seed(task.cell.seed + 10_000 * (len(kinds) - 1 - stage))
            return task.network(f"network{stage}", kinds[stage])

        return make

    def train(teacher: keras.Model | None, student: keras.Model, stage: int) -> None:
        model = student
        if teacher is not None:
            loss = distill.SoftTargets(temperature)
            model = _distiller(teacher, student, loss, task.setting)
        task.compile(model)
        if stage < len(kinds) - 1:
            model.fit(task.batches(), epochs=config.epochs, verbose=0, shuffle=False)
        else:
            result.update(task.finish(model, student, task.batches()))

    teacher = None if config.method == "born-again" else task.teachers[0]
    folder = task.directory / STAGES
    # A stop between the last stage and result.json: what it measured is lost, so that stage is done again.
    (folder / f"{len(kinds) - 1}.weights.h5").unlink(missing_ok=True)
    training.chain([maker(stage) for stage in range(len(kinds))], train, teacher=teacher, folder=folder)
    return result


def _ensemble(task: _Task, stages: Path) -> dict[str, Any]:
    """The mean of the generations that another cell has trained; nothing is trained here."""
    members = []
    for stage in range(GENERATIONS):
        member = task.network(f"network{stage}")
        member.load_weights(stages / f"{stage}.weights.h5")
        members.append(member)
    together = training.ensemble(members)
    file = task.directory / "student.keras"
    together.save(file)
    (task.directory / "metrics.jsonl").touch()  # nothing was trained
    dev, test = data.arrays(task.splits.dev), data.arrays(task.splits.test)
    # Scores are of logits: these have the mean probabilities as their softmax.
    scores = measure(
        lambda x, training: keras.ops.log(together(x, training=training)), task.teachers[0], dev, test
    )
    return {
        "epochs": 0,
        "selected_epoch": 0,
        **{split: {"last": scores[split], "selected": scores[split]} for split in ("dev", "test")},
        "cost": costs(together, file),
    }


def _identified(task: _Task) -> tf.data.Dataset:
    """Batches whose inputs carry the number of each example."""
    x, y = data.arrays(task.splits.train)
    examples = tf.data.Dataset.from_tensor_slices((distill.training.Identified(x, np.arange(len(x))), y))
    return data.batches(examples, task.config.batch_size, seed=task.cell.seed)


def _one_hot(labels: Any, classes: int) -> Any:
    return keras.ops.one_hot(keras.ops.cast(labels, "int32"), classes)

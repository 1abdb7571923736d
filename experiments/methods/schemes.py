"""The methods that train several networks: in turn or together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

import distill
from distill import data, losses, training
from distill.studies import STAGES, costs, measure
from experiments.methods.config import GENERATIONS
from experiments.methods.losses import label_weight
from experiments.methods.task import Task


def mutual(task: Task) -> dict[str, Any]:
    """Trains two networks of the same architecture together, and measures the first."""
    first, second = task.network(name="first"), task.network(name="second")
    peers = distill.MutualLearning([first, second], distillation_weight=task.setting)
    task.compile(peers)
    return task.finish(peers, first, task.batches(), accuracy="val_first_accuracy")


def chain(task: Task) -> dict[str, Any]:
    """Trains networks in turn: generations of the student, the first alone, or an assistant before the student."""
    config = task.config
    if config.method == "born-again":
        kinds, teacher, temperature = [config.network] * GENERATIONS, None, 1.0
    else:
        kinds, teacher, temperature = [config.assistant, config.network], task.teachers[0], 4.0
    last = f"network{len(kinds) - 1}"
    result: dict[str, Any] = {}

    def maker(stage: int) -> Callable[[], keras.Model]:
        def make() -> keras.Model:
            # The last network starts with the same weights as the students of all other methods.
            keras.utils.set_random_seed(task.cell.seed + 10_000 * (len(kinds) - 1 - stage))
            return task.network(name=f"network{stage}", kind=kinds[stage])

        return make

    def train(model: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        network = model.student if isinstance(model, distill.Distiller) else model
        task.compile(model)
        if network.name == last:
            result.update(task.finish(model, network, task.batches(), callbacks=callbacks))
        else:
            model.fit(task.batches(), epochs=config.epochs, callbacks=callbacks, verbose=0, shuffle=False)

    folder = task.directory / STAGES
    # After a stop between the last stage and result.json, its measurements are lost, so the stage is repeated.
    (folder / f"{len(kinds) - 1}.weights.h5").unlink(missing_ok=True)
    loss = losses.SoftTargets(temperature)
    training.chain(
        [maker(stage) for stage in range(len(kinds))],
        train,
        losses=loss,
        student_loss_weight=label_weight(loss),
        distillation_weight=task.setting,
        teacher=teacher,
        folder=folder,
    )
    return result


def ensemble(task: Task, stages: Path) -> dict[str, Any]:
    """Measures the mean of the generations that another cell has trained; nothing is trained here."""
    members = []
    for stage in range(GENERATIONS):
        member = task.network(name=f"network{stage}")
        member.load_weights(stages / f"{stage}.weights.h5")
        members.append(member)
    together = training.ensemble(members)
    file = task.directory / "student.keras"
    together.save(file)
    (task.directory / "metrics.jsonl").touch()  # an empty history
    # Scores need logits: the softmax of the logarithm is the mean probabilities again.
    scores = measure(
        lambda x, training: keras.ops.log(together(x, training=training)),
        dev=data.arrays(task.splits.dev),
        test=data.arrays(task.splits.test),
        teacher=task.teachers[0],
    )
    return {
        "epochs": 0,
        "selected_epoch": 0,
        **{split: {"last": scores[split], "selected": scores[split]} for split in ("dev", "test")},
        "cost": costs(together, file),
    }

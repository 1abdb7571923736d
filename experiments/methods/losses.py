"""The loss of each method that consists of a single one, and the weights that it is trained with."""

from collections.abc import Sequence

import keras
from keras.optimizers.schedules import LearningRateSchedule, PolynomialDecay

import distill
from distill import losses
from experiments.methods.task import Task

# Their papers use no labels, or give both half the weight. Here students learn from labels too, weighted as for soft
# targets.
_LABELS_AS_FOR_SOFT_TARGETS = (losses.LogitMSE, losses.HardTargets, losses.GeneralizedJSD)


def loss_of(task: Task) -> losses.DistillationLoss:
    """Makes the loss of a method, with its published defaults."""
    maps = tuple(f"relu{i}" for i in range(len(task.config.network.filters)))
    match task.config.method:
        case "kd":
            return losses.SoftTargets(4.0)
        case "logit-mse":
            return losses.LogitMSE()
        case "hard-labels":
            return losses.HardTargets()
        case "standardized-kd":
            return losses.Standardized(losses.SoftTargets(2.0))
        case "dkd":
            return losses.DecoupledKD()
        case "dist":
            return losses.DIST()
        case "jsd":
            return losses.GeneralizedJSD()
        case "reverse-kl":
            return losses.GeneralizedJSD(beta=1.0)
        case "mlkd":
            return losses.MultiLevelKD()
        case "ctkd":
            return losses.CurriculumTemperature(10 * task.epoch_steps)
        case "hint":
            middle = maps[len(maps) // 2]
            return losses.Hint(middle, middle)
        case "attention":
            return losses.AttentionTransfer(maps, maps)
        case "vid":
            return losses.VariationalInformation(maps, maps)
        case "nst":
            return losses.NeuronSelectivity(maps, maps)
        case "ofd":
            norms = tuple(f"norm{i}" for i in range(len(maps)))
            margins = [losses.batch_norm_margins(task.teachers[0].get_layer(name)) for name in norms]
            return losses.OverhaulDistillation(margins, norms, norms)
        case "similarity":
            return losses.SimilarityPreserving(maps[-1], maps[-1])
        case "rkd":
            return losses.Relational("embedding", "embedding")
        case "pkt":
            return losses.ProbabilisticTransfer("embedding", "embedding")
    raise ValueError(f"No method has the name {task.config.method!r}.")


def weight_of(task: Task) -> float | LearningRateSchedule:
    """The weight that was chosen on dev; DKD reaches it after a warm-up of 1/12 of the training, as published."""
    if task.config.method == "dkd":
        return PolynomialDecay(0.0, task.steps / 12, task.setting)  # 20 of 240 epochs in the paper's recipe
    return task.setting


def label_weight(loss: losses.DistillationLoss) -> float:
    """The published weight of the labels next to a loss; for some losses, that of soft targets."""
    recipe = losses.SoftTargets.recipe if isinstance(loss, _LABELS_AS_FOR_SOFT_TARGETS) else loss.recipe
    return recipe["student_loss_weight"]


def distiller(
    teacher: keras.Model | Sequence[keras.Model],
    student: keras.Model,
    loss: losses.DistillationLoss,
    *,
    weight: float | LearningRateSchedule,
) -> distill.Distiller:
    """Makes a Distiller in which labels have the weight of `label_weight`, and the loss the given one."""
    labels = label_weight(loss)
    return distill.Distiller(teacher, student, loss, student_loss_weight=labels, distillation_weight=weight)

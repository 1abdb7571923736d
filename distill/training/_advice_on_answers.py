"""Advice on what teachers answer: right classes, certain enough, and near enough to what a student learned."""

import numpy as np

from distill.losses import SoftTargets
from distill.losses._base import DistillationLoss
from distill.training._advice import Advice

# Beyond these, a check speaks.
_REMAPPED = 0.1  # accuracy that another order of the classes would win
_CERTAIN = 0.02  # mean entropy of the teacher's answers, as a share of the largest possible
# These three were set by eye on about a dozen made-up problems (docs/guides/when-it-hurts.md), and tried on no other.
_TIMID = 0.25  # accuracy of the teacher less its mean confidence
_SLOW = 0.75  # the whole gradient along that of the labels, over that of the labels alone
_UNFINISHED = 0.25  # a trained student's soft loss, over that of one that finds all classes equally likely


def advice_on_answers(
    teacher: str, logits: np.ndarray, labels: np.ndarray | None, loss: DistillationLoss, pull: float | None
) -> list[Advice]:
    """Whether what a teacher answers can be learned by a loss.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, classes).
        labels: the right classes (n,), if they are known.
        loss: the loss on these logits.
        pull: the gradient of the whole loss along that of the labels, over that of the labels at weight 1; `None`
            without labels in the loss, or under another optimizer than SGD.
    """
    known = None if labels is None else labels >= 0  # negative ones are those that a loss ignores
    right = None if labels is None or known is None or not known.any() else (logits[known], labels[known])
    found = []
    if right is not None:
        found += _advice_on_classes(teacher, right[0].argmax(axis=-1), right[1])
    if isinstance(loss, SoftTargets):
        found += _advice_on_certainty(teacher, logits, loss.temperature)
        if right is not None and pull is not None:
            found += _advice_on_timidity(teacher, *right, pull)
    return found


def _advice_on_classes(teacher: str, answers: np.ndarray, labels: np.ndarray) -> list[Advice]:
    """Whether a teacher knows the labels, and names the classes in the same order.

    Args:
        teacher: name of the teacher.
        answers: its classes (n,).
        labels: the right classes (n,).
    """
    right = float(np.mean(answers == labels))
    most = float(np.bincount(labels).max()) / len(labels)
    table = np.zeros((int(max(answers.max(), labels.max())) + 1,) * 2, int)
    np.add.at(table, (answers, labels), 1)
    best = table.argmax(axis=1)
    seen = np.unique(answers)
    one_to_one = len(set(best[seen])) == len(seen) > 1
    remapped = float(table.max(axis=1).sum()) / len(labels)
    if one_to_one and remapped > right + _REMAPPED and len(labels) >= 10 * len(seen):
        moved = ", ".join(f"{i} is label {best[i]}" for i in seen if best[i] != i)
        return [
            Advice(
                True,
                f"{teacher!r} seems to have its classes in another order: its class {moved}. With these exchanged its "
                f"accuracy is {remapped:.3f}, as it stands {right:.3f}. Reorder the labels or the teacher's outputs.",
            )
        ]
    if right <= most:
        return [
            Advice(
                True,
                f"{teacher!r} is right on {right:.1%} of the examples, no more than always answering the most frequent "
                f"class ({most:.1%}). It may expect other inputs (pass teacher_preprocessing), or is not trained for "
                "these labels.",
            )
        ]
    return []


def _advice_on_certainty(teacher: str, logits: np.ndarray, temperature: float) -> list[Advice]:
    """Whether a teacher's softened answers say more than labels.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, classes).
        temperature: temperature of the loss.
    """
    softened = _softmax(logits / temperature)
    entropies = -(softened * np.log(np.maximum(softened, 1e-12))).sum(axis=-1)
    entropy = float(entropies.mean() / np.log(logits.shape[-1]))
    if entropy >= _CERTAIN:
        return []
    return [
        Advice(
            False,
            f"{teacher!r} is almost certain of its answers even at temperature {temperature:g} (entropy {entropy:.2%} "
            "of the largest), so its soft targets say little more than labels. Raise the temperature, or use LogitMSE.",
        )
    ]


def _advice_on_timidity(teacher: str, logits: np.ndarray, labels: np.ndarray, pull: float) -> list[Advice]:
    """Whether a teacher's logits are so small that SGD hardly moves a student towards them.

    Optimizers that divide a gradient by its size, as Adam does, are not slowed.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, classes).
        labels: the right classes (n,).
        pull: the gradient of the whole loss along that of the labels, over that of the labels at weight 1.
    """
    if pull >= _SLOW:
        return []
    right = float(np.mean(logits.argmax(axis=-1) == labels))
    sure = float(_softmax(logits).max(axis=-1).mean())
    if right - sure < _TIMID:
        return []
    return [
        Advice(
            False,
            f"{teacher!r} is right on {right:.0%} of the examples but only {sure:.0%} sure, and SGD takes the small "
            f"gradient as it is: towards the labels, {pull:.2f} of what they alone give. Set student_loss_weight=1 and "
            "distillation_weight=0.9, or train with Adam.",
        )
    ]


def advice_on_progress(
    teacher: str, logits: np.ndarray, loss: str, value: float, temperature: float
) -> list[Advice]:
    """Whether a student that has trained is still far from its teacher.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, classes) on the batch of `value`.
        loss: name of the soft targets in the logs.
        value: their value for the student.
        temperature: their temperature.
    """
    softened = _softmax(logits / temperature)
    entropy = -(softened * np.log(np.maximum(softened, 1e-12))).sum(axis=-1)
    share = value / max(temperature**2 * float(np.log(logits.shape[-1]) - entropy.mean()), 1e-12)
    if not share > _UNFINISHED:
        return []
    lower = " or lower the temperature" if temperature > 1 else ""
    return [
        Advice(
            False,
            f"The student has trained, but {loss!r} is still {share:.0%} of what a student would have that finds all "
            f"classes equally likely, so it is far from {teacher!r} and may be worse than one trained on the labels "
            f"alone. Train longer, raise the learning rate{lower}.",
        )
    ]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)

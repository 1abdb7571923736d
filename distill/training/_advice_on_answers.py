"""Advice on what teachers answer: whether it is right and certain enough, and whether a student has learned it."""

import numpy as np

from distill.losses import BernoulliSoftTargets, SoftTargets
from distill.losses._base import DistillationLoss
from distill.training._advice import Advice

# Beyond these, a check speaks.
_REMAPPED = 0.1  # accuracy that another order of the classes would win
_CERTAIN = 0.02  # mean entropy of the teacher's answers, as a share of the largest possible
# These three were set by eye on about a dozen made-up problems (docs/guides/when-it-hurts.md), and tried on no other.
_TIMID = 0.25  # accuracy of the teacher less its mean confidence
_SLOW = 0.75  # the whole gradient along that of the labels, over that of the labels alone
_UNFINISHED = 0.25  # a trained student's soft loss, over that of one that finds all classes equally likely
# These two likewise, on five made-up problems of several labels.
_RANKED = 0.6  # pairs of an example with a label and one without it that a teacher orders right; chance gives a half
_UNFINISHED_LABELS = 0.5  # a trained student's soft loss, over that of one that answers the same for all


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
    # Of the pairs that occur: a table of all would not fit into memory for a large vocabulary.
    (given, wanted), counts = np.unique(np.stack([answers, labels]), axis=1, return_counts=True)
    best: dict[int, int] = {}
    found_by: dict[int, int] = {}
    for i, label, number in zip(given, wanted, counts, strict=True):
        if number > found_by.get(i, 0):
            best[i], found_by[i] = label, number
    seen = list(best)
    one_to_one = len(set(best.values())) == len(seen) > 1
    remapped = sum(found_by.values()) / len(labels)
    if one_to_one and remapped > right + _REMAPPED and len(labels) >= 10 * len(seen):
        moved = ", ".join(f"{i} is label {best[i]}" for i in seen if best[i] != i)
        return [
            Advice(
                True,
                f"{teacher!r} seems to have its classes in another order: its class {moved}. If they were "
                f"renumbered, its accuracy would be {remapped:.3f} instead of {right:.3f}. Reorder the labels or the "
                "teacher's outputs.",
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
    entropy = float(_entropies(softened).mean() / np.log(logits.shape[-1]))
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
            f"{teacher!r} is right on {right:.0%} of the examples but only {sure:.0%} sure, and SGD does not rescale "
            f"the small gradient: towards the labels, it is {pull:.2f} of what the labels alone give. Set "
            "student_loss_weight=1 and distillation_weight=0.9, or train with Adam.",
        )
    ]


def advice_on_ranking(teacher: str, logits: np.ndarray, labels: np.ndarray) -> list[Advice]:
    """Whether a teacher of labels that do not exclude each other knows them.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, labels).
        labels: the labels (n, labels), 0 or 1; others count as unknown.
    """
    ranked = []
    for answers, known in zip(logits.T, labels.T, strict=True):
        with_it, without = answers[known == 1, None], answers[known == 0]
        if with_it.size and without.size:
            ranked.append(np.mean((with_it > without) + 0.5 * (with_it == without)))
    if not ranked or (share := float(np.mean(ranked))) > _RANKED:
        return []
    return [
        Advice(
            True,
            f"{teacher!r} ranks an example that has a label above one that lacks it in only {share:.0%} of pairs, "
            "where chance gives 50%. It may expect other inputs (pass teacher_preprocessing), or is not trained for "
            "these labels.",
        )
    ]


def advice_on_progress(
    teacher: str, logits: np.ndarray, loss: SoftTargets | BernoulliSoftTargets, name: str, value: float
) -> list[Advice]:
    """Whether a student that has trained is still far from its teacher.

    Args:
        teacher: name of the teacher.
        logits: its logits (n, classes) on the batch of `value`.
        loss: the soft targets.
        name: their name in the logs.
        value: their value for the student.
    """
    temperature = loss.temperature
    softened = logits / temperature
    if isinstance(loss, SoftTargets):
        uninformed = float(np.log(logits.shape[-1]) - _entropies(_softmax(softened)).mean())
        most, who = _UNFINISHED, "that finds all classes equally likely"
    else:
        # Labels may be rare, and to say so of all examples is no merit.
        answers = np.exp(-np.logaddexp(0, -softened))
        uninformed = float((_of_two(answers.mean(axis=0)) - _of_two(answers).mean(axis=0)).sum())
        most, who = _UNFINISHED_LABELS, "that answers the same for all examples"
    share = value / max(temperature**2 * uninformed, 1e-12)
    if not share > most:
        return []
    lower = " or lower the temperature" if temperature > 1 else ""
    return [
        Advice(
            False,
            f"The student has trained, but {name!r} is still {share:.0%} of its value for a student {who}, so the "
            f"student is far from {teacher!r} and may be worse than one trained on the labels alone. Train longer, "
            f"raise the learning rate{lower}.",
        )
    ]


def _of_two(shares: np.ndarray) -> np.ndarray:
    """Entropies of yes-or-no answers."""
    return _entropies(np.stack([shares, 1 - shares], axis=-1))


def _entropies(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=-1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)

"""Mutants of the losses on layers, which the contract must catch."""

import functools

import pytest
from keras import ops
from loss_cases import CASES
from loss_checks import follows
from loss_oracles import MARGINS

from distill import losses
from distill.losses import OverhaulDistillation, _maps


def of_projected(formula):
    """A `compare` made of a formula for the teacher's and the projected features."""

    def compare(self, stage, teacher, student):
        return formula(self, teacher, self.project(stage, teacher, student))

    return {"compare": compare}


def all_of(total, values):
    return total(values, axis=(1, 2, 3))


def likelihood(half=0.5, log=ops.log, spread=lambda loss, t: loss.variances[0](t)):
    def formula(self, teacher, mean):
        variance = spread(self, teacher)
        return all_of(ops.mean, half * (ops.square(mean - teacher) / variance + log(variance)))

    return of_projected(formula)


def partial(margin=True, counted=lambda s, t: ops.logical_or(s > t, t > 0), total=ops.sum, over=1000.0):
    def formula(self, teacher, student):
        target = ops.maximum(teacher, self.margins[0]) if margin else teacher
        kept = ops.cast(counted(student, target), "float32")
        return all_of(total, kept * ops.square(student - target)) / over

    return of_projected(formula)


def attention_maps(difference=lambda d: ops.mean(ops.square(d), axis=-1), unit=_maps.unit, power=2):
    def compare(self, stage, teacher, student):
        flat = [ops.reshape(ops.mean(ops.abs(f) ** power, axis=-1), (-1, 6)) for f in (student, teacher)]
        return difference(unit(flat[0], axis=-1) - unit(flat[1], axis=-1))

    return {"compare": compare}


def discrepancy(kernel=ops.square, unit=_maps.unit, cross=2.0, total=ops.mean):
    def compare(self, stage, teacher, student):
        t, s = (unit(ops.reshape(f, (-1, 6, f.shape[-1])), axis=1) for f in (teacher, student))

        def mean(a, b):
            return total(kernel(ops.matmul(ops.transpose(a, (0, 2, 1)), b)), axis=(1, 2))

        return mean(t, t) + mean(s, s) - cross * mean(s, t)

    return {"compare": compare}


def added_epsilon(values, axis):
    return values / (ops.sqrt(ops.sum(ops.square(values), axis=axis, keepdims=True)) + 1e-12)


def in_inference(self, stage, teacher, student):
    return self.projectors[stage](student, training=False)


def squared(self, teacher, student):
    return ops.square(student - teacher)


ATTENTION, NST, HINT = "AttentionTransfer", "NeuronSelectivity", "Hint"
VID, OFD = "VariationalInformation", "OverhaulDistillation"
# name: (loss, attributes of the mutant, scale of the features)
MUTANTS = {
    "Hint: sum": (HINT, of_projected(lambda *a: all_of(ops.sum, squared(*a))), 1.0),
    "Hint: halved": (HINT, of_projected(lambda *a: all_of(ops.mean, squared(*a)) / 2), 1.0),
    "Hint: absolute": (HINT, of_projected(lambda self, t, s: all_of(ops.mean, ops.abs(s - t))), 1.0),
    "Hint: statistics of inference": (HINT, {"project": in_inference}, 1.0),
    "AT: sum over positions": (ATTENTION, attention_maps(lambda d: ops.sum(ops.square(d), axis=-1)), 1.0),
    "AT: absolute": (ATTENTION, attention_maps(lambda d: ops.mean(ops.abs(d), axis=-1)), 1.0),
    "AT: p = 1": (ATTENTION, attention_maps(power=1), 1.0),
    "AT: not normalised": (ATTENTION, attention_maps(unit=lambda a, axis: a), 1.0),
    "AT: epsilon added": (ATTENTION, attention_maps(unit=added_epsilon), 7e-7),
    "VID: without log v": (VID, likelihood(log=ops.zeros_like), 1.0),
    "VID: not halved": (VID, likelihood(half=1.0), 1.0),
    "VID: v = e^a": (VID, likelihood(spread=lambda loss, t: ops.exp(loss.variances[0].a)), 1.0),
    "VID: standard deviation": (VID, likelihood(spread=lambda loss, t: loss.variances[0](t) ** 2), 1.0),
    "NST: linear kernel": (NST, discrepancy(kernel=lambda k: k), 1.0),
    "NST: not normalised": (NST, discrepancy(unit=lambda a, axis: a), 1.0),
    "NST: cross term once": (NST, discrepancy(cross=1.0), 1.0),
    "NST: sums": (NST, discrepancy(total=ops.sum), 1.0),
    "NST: epsilon added": (NST, discrepancy(unit=added_epsilon), 6e-13),
    "OFD: no margin": (OFD, partial(margin=False), 1.0),
    "OFD: full distance": (OFD, partial(counted=lambda s, t: t == t), 1.0),
    "OFD: only the positive": (OFD, partial(counted=lambda s, t: t > 0), 1.0),
    "OFD: mean": (OFD, partial(total=ops.mean), 1.0),
    "OFD: not over 1000": (OFD, partial(over=1.0), 1.0),
    "OFD: statistics of inference": (OFD, {"project": in_inference}, 1.0),
}
SAME = {
    "Hint": (HINT, of_projected(lambda *a: all_of(ops.mean, squared(*a))), 1.0),
    "AT": (ATTENTION, attention_maps(), 7e-7),
    "VID": (VID, likelihood(), 1.0),
    "NST": (NST, discrepancy(), 6e-13),
    "OFD": (OFD, partial(), 1.0),
}


def mutated(name, own):
    loss = getattr(losses, name)
    mutant = type("Mutant", (loss,), dict(own))
    make = functools.partial(mutant, MARGINS) if loss is OverhaulDistillation else mutant
    return CASES[name]._replace(make=make)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_catches_mutants(mutant):
    name, own, scale = MUTANTS[mutant]
    with pytest.raises(AssertionError):
        follows(mutated(name, own), scale=scale)


@pytest.mark.parametrize("name", SAME)
def test_the_unmutated_formulas_pass(name):
    loss, own, scale = SAME[name]
    follows(mutated(loss, own), scale=scale)

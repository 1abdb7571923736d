"""Mutants of the losses on relations, which the contract and the guards must catch."""

import functools

import numpy as np
import reference
from backend import as_numpy, as_tensor
from keras import ops
from loss_cases import CASES
from loss_checks import follows

from distill.losses import ProbabilisticTransfer, Relational, SimilarityPreserving

# Where a guard against division by zero is not small next to what it guards: (loss, oracle, teacher, student).
DUPLICATES = np.array([[0, 0, 1], [0, 0, 1], [0, 2, 0], [3, 0, 0]], "float32")
PLAIN = np.array([[1, 2], [2, -1], [-1, 1], [0, 1]], "float32")
OPPOSITE = np.array([[1e5, 0], [-1e5, 0], [0, 1e5], [0, -1e5]], "float32")
GUARDED = {
    "similarities": (SimilarityPreserving, reference.similarity_preserving, PLAIN, 2e-7 * PLAIN),
    "distances": (Relational, reference.rkd, 1e-6 * PLAIN, 1e-6 * DUPLICATES),
    "angles": (
        functools.partial(Relational, distance=0.0, angle=1.0),
        reference.rkd_angle,
        PLAIN,
        4e-13 * DUPLICATES,
    ),
    "logarithms": (ProbabilisticTransfer, reference.pkt, PLAIN, OPPOSITE),
    "lengths": (ProbabilisticTransfer, reference.pkt, 1e-7 * PLAIN, 2e-7 * DUPLICATES),
}


def check_guard(make, oracle, teacher, student):
    value = as_numpy(make().call(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(value, oracle(teacher, student), rtol=1e-5)


def test_guards_are_those_of_the_definition():
    for make, oracle, teacher, student in GUARDED.values():
        check_guard(make, oracle, teacher, student)


def similarities(f, *, rows=True, floor=1e-12, added=0.0, diagonal=True):
    g = ops.matmul(f, ops.transpose(f))
    if not diagonal:
        g = g * (1 - ops.eye(len(f)))
    length = ops.sqrt(ops.sum(ops.square(g), axis=-1 if rows else None, keepdims=True))
    return g / (ops.maximum(length, floor) + added)


def similarity(teacher, student, *, total=ops.mean, normalise=True, **kwargs):
    if normalise:
        g = [similarities(f, **kwargs) for f in (teacher, student)]
    else:
        g = [ops.matmul(f, ops.transpose(f)) for f in (teacher, student)]
    return total(ops.square(g[1] - g[0]), axis=-1)


def smooth(x, beta=1.0):
    return ops.where(ops.abs(x) < beta, x * x / (2 * beta), ops.abs(x) - beta / 2)


def distances(f, *, mean=True, diagonal=True, floor=1e-12, squared=False):
    off = 1 - ops.eye(len(f))
    squares = ops.sum(ops.square(f[None] - f[:, None]), axis=-1)
    d = ops.maximum(squares, floor) if squared else ops.sqrt(ops.maximum(squares, floor))
    d = d * off
    count = len(f) * (len(f) - 1) if diagonal else len(f) ** 2
    return d / (ops.sum(d) / count) if mean else d


def distance(teacher, student, *, beta=1.0, detach=False, others=False, total=ops.mean, **kwargs):
    d_teacher, d_student = distances(teacher, **kwargs), distances(student, **kwargs)
    if detach:  # the student's mean distance as a constant
        d = distances(student, **{**kwargs, "mean": False})
        d_student = d / ops.stop_gradient(ops.sum(d) / (len(student) * (len(student) - 1)))
    values = smooth(d_student - d_teacher, beta)
    return ops.sum(values, axis=-1) / (len(student) - 1) if others else total(values, axis=-1)


def edges(f, *, normalise=True, squared=False, floor=1e-12):
    e = f[None] - f[:, None]
    squares = ops.sum(ops.square(e), axis=-1, keepdims=True) + ops.eye(len(f))[..., None]
    if not normalise:
        return e
    return e / ops.maximum(squares if squared else ops.sqrt(squares), floor)


def angle(teacher, student, *, beta=1.0, others=False, first=True, **kwargs):
    of_teacher, of_student = (
        ops.einsum("ijc,ikc->ijk" if first else "jic,kic->ijk", e, e)
        for e in (edges(f, **kwargs) for f in (teacher, student))
    )
    values = ops.sum(smooth(of_student - of_teacher, beta), axis=(1, 2))
    n = len(student)
    return values / ((n - 1) * (n - 2) if others else n * n)


def neighbours(f, *, floor=1e-7, diagonal=True, halve=True, normalise=True, cosine=True):
    x = f / (ops.sqrt(ops.sum(ops.square(f), axis=-1, keepdims=True)) + floor) if cosine else f
    k = ops.matmul(x, ops.transpose(x))
    k = (k + 1) / 2 if halve else k
    k = k if diagonal else k * (1 - ops.eye(len(f)))
    return k / ops.sum(k, axis=-1, keepdims=True) if normalise else k


def transfer(teacher, student, *, total=ops.mean, inside=1e-7, reverse=False, **kwargs):
    k = [neighbours(f, **kwargs) for f in (teacher, student)]
    k = k[::-1] if reverse else k
    return total(k[0] * ops.log((k[0] + inside) / (k[1] + inside)), axis=-1)


WITHIN = {
    "similarity: sum over columns": (SimilarityPreserving, similarity, {"total": ops.sum}),
    "similarity: not normalised": (SimilarityPreserving, similarity, {"normalise": False}),
    "similarity: normalised as a whole": (SimilarityPreserving, similarity, {"rows": False}),
    "similarity: diagonal excluded": (SimilarityPreserving, similarity, {"diagonal": False}),
    "distance: sum over columns": (Relational, distance, {"total": ops.sum}),
    "distance: not over the mean": (Relational, distance, {"mean": False}),
    "distance: mean with the diagonal": (Relational, distance, {"diagonal": False}),
    "distance: diagonal excluded": (Relational, distance, {"others": True}),
    "distance: squared": (Relational, distance, {"squared": True}),
    "distance: mean held constant": (Relational, distance, {"detach": True}),
    "distance: another beta": (Relational, distance, {"beta": 0.2}),
    "angle: diagonals excluded": (Relational, angle, {"others": True}),
    "angle: not normalised": (Relational, angle, {"normalise": False}),
    "angle: by the squared length": (Relational, angle, {"squared": True}),
    "angle: another beta": (Relational, angle, {"beta": 0.5}),
    "transfer: sum over columns": (ProbabilisticTransfer, transfer, {"total": ops.sum}),
    "transfer: reversed": (ProbabilisticTransfer, transfer, {"reverse": True}),
    "transfer: no cosine": (ProbabilisticTransfer, transfer, {"cosine": False}),
    "transfer: not halved": (ProbabilisticTransfer, transfer, {"halve": False}),
    "transfer: rows not normalised": (ProbabilisticTransfer, transfer, {"normalise": False}),
    "transfer: diagonal excluded": (ProbabilisticTransfer, transfer, {"diagonal": False}),
}
CONTRACTS = {
    similarity: "SimilarityPreserving",
    distance: "Relational distances",
    angle: "Relational angles",
    transfer: "ProbabilisticTransfer",
}


def mutant(base, formula, arguments):
    class Mutant(base):
        def call(self, teacher, student):
            return formula(teacher, student, **arguments)

    return Mutant


def survivors(mutants, check):
    """Returns the mutants that pass the check."""
    alive = []
    for name, arguments in mutants.items():
        try:
            check(*arguments)
        except AssertionError:
            continue
        alive.append(name)
    return alive


def test_the_definition_catches_mutants():
    def check(base, formula, arguments):
        follows(CASES[CONTRACTS[formula]]._replace(make=mutant(base, formula, arguments)))

    assert survivors(WITHIN, check) == []
    unmutated = {formula.__name__: (base, formula, {}) for base, formula, _ in WITHIN.values()}
    assert survivors(unmutated, check) == list(unmutated)


GUARDS = {
    "guard added": ("similarities", similarity, {"added": 1e-12}),
    "no guard": ("similarities", similarity, {"floor": 0.0}),
    "another guard of distances": ("distances", distance, {"floor": 1e-14}),
    "another guard of angles": ("angles", angle, {"floor": 1e-8}),
    "no guard in the logarithm": ("logarithms", transfer, {"inside": 1e-12}),
    "no guard of lengths": ("lengths", transfer, {"floor": 1e-12}),
}


def test_the_guards_catch_mutants():
    def check(case, formula, arguments):
        make, _, teacher, student = GUARDED[case]
        oracle = functools.partial(CASES[CONTRACTS[formula]].oracle, None)
        check_guard(mutant(type(make()), formula, arguments), oracle, teacher, student)

    assert survivors(GUARDS, check) == []
    assert survivors({name: (case, f, {}) for name, (case, f, _) in GUARDS.items()}, check) == list(GUARDS)

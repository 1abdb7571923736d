"""Losses on layers: what is theirs alone beside the contract of all losses, and the mutants that it catches."""

import functools
import json

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor, value_and_gradients
from keras import layers, ops
from test_contract import (
    CASES,
    MARGINS,
    follows,
    ready,
    weights_of,
)
from test_contract import sides as sides_of

from distill.losses import _features as features
from distill.losses._features import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
    batch_norm_margins,
)

Overhaul = functools.partial(OverhaulDistillation, MARGINS)
POOLING = [
    "AttentionTransfer",
    "AttentionTransfer of the paper",
    "VariationalInformation",
    "NeuronSelectivity",
]
LOSSES = [Hint, AttentionTransfer, VariationalInformation, NeuronSelectivity, Overhaul]
every_loss = pytest.mark.parametrize("make", LOSSES)


def maps(teacher=(3, 3, 2, 4), student=(3, 3, 2, 3), seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype("float32") for shape in (teacher, student))


@pytest.mark.parametrize("name", POOLING)
@pytest.mark.parametrize("teacher", [(5, 4, 4), (2, 1, 4), (2, 5, 4)])
def test_the_larger_map_is_pooled(name, teacher):
    follows(CASES[name]._replace(teacher=teacher), batch=2)


@pytest.mark.parametrize("name", POOLING[:2])
def test_attention_of_norms_about_the_epsilon(name):
    follows(CASES[name], scale=7e-7)


def test_neuron_selectivity_of_norms_about_the_epsilon():
    follows(CASES["NeuronSelectivity"], scale=6e-13)


@pytest.mark.parametrize("p", [1, 1.5, 3, 4])
def test_the_power_of_attention(p):
    follows(CASES["AttentionTransfer"]._replace(make=functools.partial(AttentionTransfer, p=p)))


@pytest.mark.parametrize("channels", [2, 9])
def test_neuron_selectivity_is_one_number_by_either_gram_matrix(channels):
    """9 channels have more pairs than 6 positions, 2 have fewer."""
    follows(CASES["NeuronSelectivity"]._replace(teacher=(3, 2, channels)), seed=4)


@pytest.mark.parametrize("name", ["Hint", "VariationalInformation", "OverhaulDistillation"])
def test_what_it_trains_gets_its_gradient(name):
    case = CASES[name]
    teacher, student = sides_of(case)
    loss = ready(case, teacher, student)
    trained = [variable for layer in loss.layers for variable in layer.trainable_variables]
    _, (_, *gradients) = value_and_gradients(functools.partial(loss, teacher), student, variables=trained)
    weights = weights_of(loss)
    for i, gradient in enumerate(gradients):

        def at(value, i=i):
            return case.oracle(
                loss, teacher, student, weights=[*weights[:i], value, *weights[i + 1 :]]
            ).mean()

        numeric = reference.gradient(at, weights[i])
        if gradient is None:  # how JAX's zeros come
            gradient = np.zeros_like(numeric)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6, err_msg=trained[i].path)


# --- stages -------------------------------------------------------------------------------------------

NAMES = {"teacher_layer_name": ["t1", "t2"], "student_layer_name": ["s1", "s2"]}
STAGES = maps(), maps((3, 2, 2, 4), (3, 2, 2, 5), seed=1)


@pytest.mark.parametrize("name", ["Hint", *POOLING])
def test_stages_are_summed(name):
    case = CASES[name]
    teachers, students = (list(map(as_tensor, stages)) for stages in zip(*STAGES, strict=True))
    loss = case.make(**NAMES)
    loss.ensure_built(teachers, students)
    assert loss.teacher_layer_name == ("t1", "t2")
    expected = 0.0
    for i, (teacher, student) in enumerate(STAGES):
        one = case.make()
        one.ensure_built(teacher, student)
        if one.layers:
            one.layers[0].set_weights(loss.projectors[i].get_weights())
        expected = expected + case.oracle(one, teacher, student)
    np.testing.assert_allclose(as_numpy(loss.call(teachers, students)), expected, rtol=1e-5)


def test_later_stages_of_overhaul_count_more():
    later_stages_count_more(OverhaulDistillation)


def later_stages_count_more(make):
    sides = [[as_tensor(side[..., :3]) for side in stages] for stages in zip(*STAGES, strict=True)]
    margins = [MARGINS[:3], MARGINS[1:]]
    loss = make(margins, **NAMES, projector=[layers.Identity()] * 2)
    loss.ensure_built(*sides)
    expected = reference.ofd(*([as_numpy(stage) for stage in side] for side in sides), margins)
    np.testing.assert_allclose(as_numpy(loss.call(*sides)), expected, rtol=1e-5)


@pytest.mark.parametrize("names", [("a", ("b", "c")), (("a",), ("b", "c")), (("a",), None), ((), ())])
def test_layers_come_in_pairs(names):
    with pytest.raises(ValueError, match=r"Hint compares layers in pairs.*Received: teacher_layer_name="):
        Hint(*names)


def test_tokens_of_stages_are_of_one_length():
    loss = Hint(**NAMES)
    pairs = [maps((2, 5, 4), (2, 5, 3)), maps((2, 6, 4), (2, 6, 3))]
    with pytest.raises(ValueError, match="Hint sums its stages, so tokens come from stages of one length"):
        loss.ensure_built(*([as_tensor(s) for s in side] for side in zip(*pairs, strict=True)))


def test_layers_may_be_named_in_a_subclass():
    class Mine(AttentionTransfer):
        teacher_layer_name, student_layer_name = "a", "b"

    assert (Mine().teacher_layer_name, Mine().student_layer_name) == ("a", "b")
    assert Mine("c", "d").student_layer_name == "d"


# --- margins ------------------------------------------------------------------------------------------


def test_margins_of_a_batch_normalization():
    norm = layers.BatchNormalization()
    norm.build((None, 5))
    beta, gamma = np.array([0.3, -2.0, 3.2, 1.0, -1.0]), np.array([1.0, -0.5, 1.0, 0.0, 0.0])
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    margins = batch_norm_margins(norm)
    np.testing.assert_allclose(margins, reference.ofd_margin(beta, gamma), rtol=1e-5)
    assert margins.dtype == "float32"
    OverhaulDistillation(margins)


def test_margins_without_scale_and_center():
    norm = layers.BatchNormalization(scale=False, center=False)
    norm.build((None, 2))
    np.testing.assert_allclose(batch_norm_margins(norm), [-np.sqrt(2 / np.pi)] * 2, rtol=1e-6)


@pytest.mark.parametrize("layer", [layers.BatchNormalization(), layers.LayerNormalization(), "norm"])
def test_margins_come_from_a_trained_batch_normalization(layer):
    with pytest.raises(ValueError, match="Margins come from the trained batch normalization"):
        batch_norm_margins(layer)


@pytest.mark.parametrize("margins", [None, 0.0, [[-1.0]], [0.1], [float("nan")], [-float("inf")], "abc"])
def test_margins_are_numbers_below_zero(margins):
    with pytest.raises(ValueError, match="Margins are numbers <= 0, one for each channel"):
        OverhaulDistillation(margins)


@pytest.mark.parametrize("margins", [[-1.0, -2.0], [[-1.0]], None])
def test_margins_of_each_stage(margins):
    with pytest.raises(ValueError, match=r"a list with these for each.*for 2 layers"):
        OverhaulDistillation(margins, ("a", "b"), ("a", "b"))


# --- configs and wrong input --------------------------------------------------------------------------

CONFIGS = [
    Hint("a", "b", layers.Dense(3), name="mine"),
    Hint(("a", "c"), ("b", "d"), [None, layers.Dense(3)]),
    AttentionTransfer(("a", "c"), ("b", "d"), p=3, paper_form=True),
    OverhaulDistillation([-1.0, -0.5], "a", "b", layers.Dense(2)),
    OverhaulDistillation([[-1.0, -0.5], [-0.25]], ("a", "c"), ("b", "d")),
]


@pytest.mark.parametrize("loss", CONFIGS, ids=lambda loss: loss.name)
def test_config_of_projectors_and_stages(loss):
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(loss)
    assert json.dumps(keras.saving.serialize_keras_object(again)) == text
    assert again.teacher_layer_name == loss.teacher_layer_name
    assert again.student_layer_name == loss.student_layer_name


@every_loss
def test_other_kinds_are_refused(make):
    for shapes in (((3, 3, 2, 4), (3, 4)), ((3,), (3,)), ((3, 2, 2, 2, 4), (3, 2, 2, 2, 4))):
        with pytest.raises(
            ValueError, match=r"the same on both sides\. Received teacher \(3.*Read layers of"
        ):
            make()(*maps(*shapes))


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity])
def test_losses_on_maps_take_no_tokens(make):
    with pytest.raises(ValueError, match=r"compares maps .*Reshape turns tokens into a map"):
        make()(*maps((2, 4, 3), (2, 4, 3)))


@pytest.mark.parametrize("make", [Hint, VariationalInformation])
def test_numbers_of_tokens_are_never_broadcast(make):
    with pytest.raises(ValueError, match="compares token by token"):
        make()(*maps((2, 4, 3), (2, 1, 3)))


@every_loss
def test_channels_must_be_known(make):
    sides = keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 4, 4, None))
    with pytest.raises(ValueError, match="must know the channels"):
        make().ensure_built(*sides)


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity, VariationalInformation])
def test_sizes_must_be_known_when_the_step_runs(make):
    loss = make()
    sides = keras.KerasTensor((None, None, 4, 4)), keras.KerasTensor((None, 4, 4, 3))
    loss.ensure_built(*sides)  # a data set's examples may still tell
    assert np.isfinite(as_numpy(loss(*maps((2, 4, 4, 4), (2, 4, 4, 3)))))
    with pytest.raises(ValueError, match=r"so their sizes must be known.*fixed size"):
        loss.compare(0, *sides)


def test_sizes_that_differ_are_refused_by_overhaul():
    with pytest.raises(
        ValueError, match=r"projector returns the teacher's shape.*projected student \(None, 1, 1, 4\)"
    ):
        Overhaul().ensure_built(keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 1, 1, 3)))


def test_margins_must_fit_the_channels():
    with pytest.raises(ValueError, match=r"a margin for each channel of the teacher, and has 4"):
        Overhaul()(*maps((2, 4, 4, 5), (2, 4, 4, 5)))


def test_a_second_teacher_of_another_shape_is_refused():
    loss = Hint()
    loss.ensure_built(*maps((2, 4), (2, 3)))
    with pytest.raises(ValueError, match="projector returns the teacher's shape"):
        loss(*maps((2, 5), (2, 3)))


@pytest.mark.parametrize("p", [0.5, 5, "2", None])
def test_the_power_has_a_range(p):
    with pytest.raises(ValueError, match="p must be a number from 1 to 4"):
        AttentionTransfer(p=p)


# --- mutants ------------------------------------------------------------------------------------------


def of_projected(formula):
    """`compare` from a formula of the teacher's and the projected features."""

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


def attention_maps(difference=lambda d: ops.mean(ops.square(d), axis=-1), unit=features._unit, power=2):
    def compare(self, stage, teacher, student):
        flat = [ops.reshape(ops.mean(ops.abs(f) ** power, axis=-1), (-1, 6)) for f in (student, teacher)]
        return difference(unit(flat[0], axis=-1) - unit(flat[1], axis=-1))

    return {"compare": compare}


def discrepancy(kernel=ops.square, unit=features._unit, cross=2.0, total=ops.mean):
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
# name: (loss, what the mutant has of its own, scale of the features)
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
    loss = getattr(features, name)
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


@pytest.mark.parametrize("name", POOLING[:1] + POOLING[2:])
def test_the_oracle_catches_maximum_pooling(name, monkeypatch):
    pool = functools.partial(ops.adaptive_max_pool, data_format="channels_last")
    monkeypatch.setattr(features, "_pooled", lambda x, size: pool(x, size))
    with pytest.raises(AssertionError):
        follows(CASES[name]._replace(teacher=(5, 4, 4)))


def test_the_oracle_catches_stages_that_count_the_same():
    class Mutant(OverhaulDistillation):
        def compare(self, stage, teacher, student):
            return super().compare(stage, teacher, student) * 2.0 ** (1 - stage)

    with pytest.raises(AssertionError):
        later_stages_count_more(Mutant)

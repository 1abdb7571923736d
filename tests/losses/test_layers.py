"""Losses on layers: pairs of layers, what the losses train, their configs, and what they refuse."""

import functools
import json

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor, value_and_gradients
from keras import layers
from loss_cases import CASES
from loss_checks import features_of, ready, sides
from loss_oracles import MARGINS, weights_of

from distill.losses import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
)

Overhaul = functools.partial(OverhaulDistillation, MARGINS)
LOSSES = [Hint, AttentionTransfer, VariationalInformation, NeuronSelectivity, Overhaul]
every_loss = pytest.mark.parametrize("make", LOSSES)


@pytest.mark.parametrize("name", ["Hint", "VariationalInformation", "OverhaulDistillation"])
def test_what_it_trains_gets_its_gradient(name):
    case = CASES[name]
    teacher, student = sides(case)
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
        if gradient is None:  # JAX gives None for zeros
            gradient = np.zeros_like(numeric)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6, err_msg=trained[i].path)


# --- stages -------------------------------------------------------------------------------------------

NAMES = {"teacher_layer_name": ["t1", "t2"], "student_layer_name": ["s1", "s2"]}
STAGES = features_of(), features_of((3, 2, 2, 4), (3, 2, 2, 5), seed=1)


@pytest.mark.parametrize(
    "name",
    [
        "Hint",
        "AttentionTransfer",
        "AttentionTransfer of the paper",
        "VariationalInformation",
        "NeuronSelectivity",
    ],
)
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


@pytest.mark.parametrize("names", [("a", ("b", "c")), (("a",), ("b", "c")), (("a",), None), ((), ())])
def test_layers_come_in_pairs(names):
    with pytest.raises(ValueError, match=r"Hint compares layers in pairs.*Received: teacher_layer_name="):
        Hint(*names)


def test_tokens_of_stages_are_of_one_length():
    loss = Hint(**NAMES)
    pairs = [features_of((2, 5, 4), (2, 5, 3)), features_of((2, 6, 4), (2, 6, 3))]
    rule = "Hint sums over its layers, so all of them must have the same number of tokens"
    with pytest.raises(ValueError, match=rf"{rule}\. Received: \[\(2, 5, 3\), \(2, 6, 3\)\]"):
        loss.ensure_built(*([as_tensor(s) for s in side] for side in zip(*pairs, strict=True)))


def test_layers_may_be_named_in_a_subclass():
    class Mine(AttentionTransfer):
        teacher_layer_name, student_layer_name = "a", "b"

    assert (Mine().teacher_layer_name, Mine().student_layer_name) == ("a", "b")
    assert Mine("c", "d").student_layer_name == "d"


CONFIGS = [
    Hint("a", "b", projector=layers.Dense(3), name="mine"),
    Hint(("a", "c"), ("b", "d"), projector=[None, layers.Dense(3)]),
    AttentionTransfer(("a", "c"), ("b", "d"), p=3, paper_form=True),
    OverhaulDistillation([-1.0, -0.5], "a", "b", projector=layers.Dense(2)),
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
    kind = r"Read (outputs or layers of that kind|layers that return maps)"
    for shapes, remedy in (
        (((3, 3, 2, 4), (3, 4)), kind),
        (((3,), (3,)), "an axis of its own"),
        (((3, 2, 2, 2, 4), (3, 2, 2, 2, 4)), kind),
    ):
        with pytest.raises(ValueError, match=rf"needs .*both sides\. Received: teacher \(3.*{remedy}"):
            make()(*features_of(*shapes))


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity])
def test_losses_on_maps_take_no_tokens(make):
    with pytest.raises(ValueError, match=r"needs maps .*Reshape turns tokens into a map"):
        make()(*features_of((2, 4, 3), (2, 4, 3)))


@pytest.mark.parametrize("make", [Hint, VariationalInformation])
def test_numbers_of_tokens_are_never_broadcast(make):
    with pytest.raises(ValueError, match="compares token by token"):
        make()(*features_of((2, 4, 3), (2, 1, 3)))


@every_loss
def test_channels_must_be_known(make):
    sides = keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 4, 4, None))
    with pytest.raises(ValueError, match="must know the number of channels"):
        make().ensure_built(*sides)


def test_a_second_teacher_of_another_shape_is_refused():
    loss = Hint()
    loss.ensure_built(*features_of((2, 4), (2, 3)))
    with pytest.raises(ValueError, match=r"teacher \(2, 5\) and student \(2, 3\), with other channels"):
        loss(*features_of((2, 5), (2, 3)))

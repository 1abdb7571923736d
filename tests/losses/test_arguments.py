"""What the constructors of the losses take, and what they refuse."""

import inspect

import pytest

from distill import losses
from distill.losses import (
    DIST,
    CurriculumTemperature,
    DecoupledKD,
    GeneralizedJSD,
    MultiLevelKD,
    Setting,
    projectors,
)
from distill.losses._numbers import require_count, require_number

WRONG_ARGUMENTS = {
    "alpha": (lambda: DecoupledKD(alpha=-1.0), "alpha must be a finite number >= 0"),
    "beta": (lambda: GeneralizedJSD(beta=1.5), "beta must be a number from 0 to 1"),
    "gamma": (lambda: DIST(gamma=float("nan")), "gamma must be"),
    "temperatures": (lambda: MultiLevelKD(temperatures=[]), "temperatures must be a list of one or more"),
    "a temperature": (
        lambda: MultiLevelKD(temperatures=[1.0, 0.0]),
        r"temperatures\[1\] must be a number from",
    ),
    "steps": (lambda: CurriculumTemperature(0), "steps must be a finite number >= 1"),
}


@pytest.mark.parametrize("wrong", WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused(wrong):
    make, message = WRONG_ARGUMENTS[wrong]
    with pytest.raises(ValueError, match=message):
        make()


# What may be given by position: layers to compare, and what a loss is about.
POSITIONAL = {
    "SoftTargets": ["temperature"],
    "BernoulliSoftTargets": ["temperature"],
    "Standardized": ["loss"],
    "CurriculumTemperature": ["steps"],
    "OverhaulDistillation": ["margins", "teacher_layer_name", "student_layer_name"],
    "ContrastiveRepresentation": ["labels", "teacher_layer_name", "student_layer_name"],
}
LAYERS = ["teacher_layer_name", "student_layer_name"]


@pytest.mark.parametrize(
    "name", [name for name in losses.__all__ if name[0].isupper() and name != "Schedule"]
)
def test_options_go_by_keyword(name):
    loss = getattr(losses, name)
    signature = inspect.signature(loss)
    positional = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if loss is Setting:
        assert positional == ["name", "value"]
        return
    default = LAYERS if "teacher_layer_name" in signature.parameters else []
    assert positional == POSITIONAL.get(name, default)
    assert "name" in signature.parameters


@pytest.mark.parametrize("make", [projectors.linear, projectors.mlp, projectors.connector])
def test_a_projector_takes_its_channels_by_position(make):
    parameters = inspect.signature(make).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["channels"]


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), -1, 1j])
def test_numbers_are_finite_and_in_range(value):
    with pytest.raises(ValueError, match=r"x must be a finite number >= 0\. Received: x="):
        require_number("x", value, 0.0)


@pytest.mark.parametrize("value", [True, "1", None, 0, 1.0, -3])
def test_counts_are_whole_numbers_from_1(value):
    with pytest.raises(ValueError, match=r"x must be a whole number >= 1\. Received: x="):
        require_count("x", value)

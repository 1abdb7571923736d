"""Defaults of the losses: the arguments, weights and starting values that each method was published with."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy

import distill.losses
from distill.losses import (
    DIST,
    AttentionTransfer,
    BernoulliSoftTargets,
    ContrastiveRepresentation,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    GeneralizedJSD,
    HardTargets,
    Hint,
    LogitMSE,
    MultiLevelKD,
    NeuronSelectivity,
    OutputMSE,
    OverhaulDistillation,
    ProbabilisticTransfer,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    Standardized,
    VariationalInformation,
    VirtualTeacher,
)

# A loss made with what has no default, (weight of the labels' loss, of the distillation), and all other arguments.
PUBLISHED = [
    (SoftTargets(), (0.1, 0.9), {"temperature": 4.0}),
    (BernoulliSoftTargets(), None, {"temperature": 4.0}),
    (LogitMSE(), (0.0, 1.0), {}),
    (OutputMSE(), None, {}),
    (HardTargets(), (0.5, 0.5), {}),
    (Standardized(), (0.1, 9.0), {"loss": keras.saving.serialize_keras_object(SoftTargets(2.0))}),
    (DecoupledKD(), (1.0, 1.0), {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}),
    (DIST(), (1.0, 2.0), {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}),
    (GeneralizedJSD(), (0.0, 1.0), {"beta": 0.5, "temperature": 1.0}),
    (MultiLevelKD(), (0.1, 9.0), {"temperatures": [2.0, 3.0, 4.0, 5.0, 6.0], "standardize": False}),
    (CurriculumTemperature(10), (0.1, 0.9), {"steps": 10.0}),
    (Hint(), (1.0, 100.0), {"projector": None}),
    (AttentionTransfer(), (1.0, 1000.0), {"p": 2.0, "paper_form": False}),
    # Its published weight depends on the size of the map.
    (AttentionTransfer(paper_form=True, name="of_the_paper"), None, {"p": 2.0, "paper_form": True}),
    (VariationalInformation(), (1.0, 1.0), {"projector": None}),
    (NeuronSelectivity(), (1.0, 50.0), {}),
    (OverhaulDistillation([-1.0]), (1.0, 1.0), {"margins": [-1.0], "projector": None}),
    (SimilarityPreserving(), (1.0, 3000.0), {}),
    (Relational(), (1.0, 1.0), {"distance": 25.0, "angle": 50.0}),
    (ProbabilisticTransfer(), (1.0, 30000.0), {}),
    (
        ContrastiveRepresentation([0, 1]),
        (1.0, 0.8),
        {"labels": [0, 1], "negatives": 16384, "temperature": 0.07, "momentum": 0.5, "width": 128},
    ),
]


@pytest.mark.parametrize(("loss", "weights", "arguments"), PUBLISHED, ids=lambda x: getattr(x, "name", ""))
def test_recipe_and_defaults_are_the_published_ones(loss, weights, arguments):
    names = ("student_loss_weight", "distillation_weight")
    assert loss.recipe == ({} if weights is None else dict(zip(names, weights, strict=True)))
    config = loss.get_config()
    assert config.pop("name") == loss.name
    layers = [config.pop(f"{side}_layer_name", None) for side in ("teacher", "student")]
    assert (layers, config) == ([None, None], arguments)


def test_no_loss_is_left_out():
    exported = {getattr(distill.losses, name) for name in distill.losses.__all__}
    losses = {one for one in exported if isinstance(one, type) and issubclass(one, DistillationLoss)}
    assert {type(loss) for loss, *_ in PUBLISHED} == losses - {DistillationLoss}


def test_a_virtual_teacher_has_the_published_defaults():
    config = VirtualTeacher().get_config()
    assert [config[name] for name in ("weight", "temperature", "correct")] == [0.1, 20.0, 0.99]


def test_variances_of_variational_information_start_at_5():
    loss = VariationalInformation()
    loss.ensure_built(np.zeros((1, 2, 2, 3), "float32"), np.zeros((1, 2, 2, 2), "float32"))
    start = as_numpy(loss.variances[0].a)
    np.testing.assert_allclose(start, reference.vid_initial(3), rtol=1e-6)
    np.testing.assert_allclose(reference.vid_variance(start), 5.0, rtol=1e-6)


def test_a_curriculum_starts_at_its_temperature_and_turns_over_its_steps():
    loss = CurriculumTemperature(10)
    np.testing.assert_allclose(loss.temperature, reference.ctkd_temperature(), rtol=1e-6)
    np.testing.assert_allclose(loss.temperature, 15.62117, rtol=1e-6)
    reversals = [float(as_numpy(loss._factor(step))) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(reversals, [0.0, -0.5, -1.0, -1.0], atol=1e-7)


def test_memories_of_the_contrastive_loss_are_of_the_published_width_and_draw():
    loss = ContrastiveRepresentation(np.arange(5) % 2)
    loss.ensure_built(np.zeros((2, 3), "float32"), np.zeros((2, 4), "float32"))
    assert loss._memory.teacher.shape == loss._memory.student.shape == (5, 128)
    assert loss._draw(np.array([0, 1], "int32")).shape == (2, 5)  # 16384, reduced to the data set


def test_the_warm_up_of_decoupled_distillation_takes_20_epochs():
    """The schedule of its docstring, at 3 steps an epoch."""
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 20 * 3, 1.0)
    raised = [float(as_numpy(schedule(3.0 * epoch))) for epoch in (0, 5, 20, 240)]
    np.testing.assert_allclose(raised, [0.0, 0.25, 1.0, 1.0], rtol=1e-6)
    assert "PolynomialDecay(0.0, 20 * steps_per_epoch, 1.0)" in DecoupledKD.__doc__

"""Default weights are the published ones, and what is in force can be read."""

import keras
import numpy as np
import pytest
from backend import BACKEND
from conftest import dense_net
from distilling import CE, FeatureMSE, compiled, expected_loss
from keras import ops

from distill import AttentionTransfer, Distiller, MutualLearning, SoftTargets, losses
from distill.training import WeightRow, WeightsTable


def weights_of(distiller):
    """Of the student's loss, of the distillation side, and of each loss."""
    side = (distiller.student_loss_weight, distiller.distillation_weight)
    return [*(round(weight, 6) for weight in side), *distiller.distillation_loss_weights]


HIDDEN = ("hidden", "hidden")
ALONE = {
    "soft targets": (SoftTargets(4.0), (0.1, 0.9)),
    "hint": (losses.Hint(*HIDDEN), (1.0, 100.0)),
    "similarity": (losses.SimilarityPreserving(*HIDDEN), (1.0, 3000.0)),
    "without labels": (losses.LogitMSE(), (0.0, 1.0)),
    "no recipe": (FeatureMSE("head", "head"), (0.5, 0.5)),
    "of keras.distillation": (keras.distillation.FeatureDistillation("mse", "head", "head"), (0.5, 0.5)),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_loss_alone_has_its_published_weights(teacher, student, case):
    loss, (own, side) = ALONE[case]
    distiller = Distiller(teacher, student, loss)
    assert weights_of(distiller) == [own, side, 1.0]


def conv_net(filters):
    stack = [keras.layers.Conv2D(filters, 3, name="conv"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((5, 5, 2)), *stack, keras.layers.Dense(3, "softmax")])


def test_attention_transfer_trains_at_its_published_weights():
    """Half and half is no recipe of anyone's: 1 : 1000 is published."""
    distiller = Distiller(conv_net(8), conv_net(4), AttentionTransfer("conv", "conv"))
    compiled(distiller, metrics=None)
    x, y = np.random.default_rng(0).normal(size=(8, 5, 5, 2)).astype("float32"), np.arange(8) % 3
    logs = distiller.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(
        logs["loss"], logs["student_loss"] + 1000 * logs["attention_transfer"], rtol=1e-5
    )
    assert str(distiller.weights_table()).splitlines()[1:] == [
        "student_loss             1  fixed",
        "attention_transfer    1000  fixed",
    ]


def test_several_losses_each_have_their_published_weight(teacher, student, batch):
    kinds = [SoftTargets(4.0), losses.SimilarityPreserving(*HIDDEN), FeatureMSE("head", "head")]
    distiller = Distiller(teacher, student, kinds)
    assert weights_of(distiller) == pytest.approx([1.0, 1.0, 0.9, 3000.0, 0.5])
    logs = compiled(distiller, metrics=None).train_on_batch(*batch, return_dict=True)
    parts = [logs[name] for name in ("soft_targets", "similarity_preserving", "feature_mse")]
    total = logs["student_loss"] + np.dot([0.9, 3000.0, 0.5], parts)
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)
    # The largest of the student weights; a loss without a recipe counts as published with half and half.
    assert weights_of(Distiller(teacher, dense_net(4), [SoftTargets(4.0), losses.LogitMSE()])) == (
        pytest.approx([0.1, 1.0, 0.9, 1.0])
    )
    assert weights_of(Distiller(teacher, dense_net(4), [SoftTargets(4.0), FeatureMSE("head", "head")])) == (
        pytest.approx([0.5, 1.0, 0.9, 0.5])
    )


def test_losses_of_which_none_was_published_share_half_of_the_total(teacher, student):
    distiller = Distiller(teacher, student, [FeatureMSE("head", "head"), losses.OutputMSE()])
    assert weights_of(distiller) == [0.5, 0.5, 1.0, 1.0]
    distiller.student_loss_weight = 0.25
    assert weights_of(distiller) == [0.25, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"distillation_loss_weights": 2.0}, [0.5, 0.5, 2.0]),
        ({"student_loss_weight": 0.2}, [0.2, 0.8, 1.0]),
        ({"distillation_weight": 7.0}, [0.5, 7.0, 1.0]),
        ({"student_loss_weight": 0.2, "distillation_loss_weights": 3.0}, [0.2, 0.8, 3.0]),
    ],
    ids=str,
)
def test_a_weight_that_is_given_leaves_no_published_one(teacher, student, given, expected):
    assert weights_of(Distiller(teacher, student, SoftTargets(4.0), **given)) == expected


def test_published_weights_stay_where_they_are_set_apart(teacher, student):
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    distiller.student_loss_weight = 0.5
    assert weights_of(distiller) == [0.5, 0.9, 1.0]
    distiller.distillation_weight = 2.0
    assert weights_of(distiller) == [0.5, 2.0, 1.0]


def test_outputs_share_one_rule(batch):
    def forked(width):
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(width)(inputs)
        return keras.Model(
            inputs, {name: keras.layers.Dense(3, "softmax", name=name)(hidden) for name in "ab"}
        )

    distiller = Distiller(forked(8), forked(4), {"a": SoftTargets(4.0), "b": losses.HardTargets()})
    assert weights_of(distiller) == pytest.approx([0.5, 1.0, 0.9, 0.5])


@pytest.mark.parametrize("loss", [losses.LogitMSE(), losses.GeneralizedJSD()], ids=lambda loss: loss.name)
@pytest.mark.sweep(1)
def test_a_loss_that_was_published_without_labels_needs_none(teacher, student, batch, loss):
    x, y = batch
    distiller = Distiller(teacher, student, loss)
    distiller.compile("sgd")
    assert set(distiller.fit(x, verbose=0).history) == {"loss", loss.name}
    # A compiled loss is reported, beside labels, and does not train.
    labelled = compiled(Distiller(teacher, dense_net(4), loss), keras.optimizers.SGD(0.0))
    history = labelled.fit(x, y, verbose=0, validation_data=(x, y)).history
    assert {"student_loss", "accuracy", "val_loss", "val_accuracy"} <= set(history)
    np.testing.assert_allclose(history["loss"], history[loss.name], rtol=1e-6)
    # To learn from labels too, it has to be compiled for that.
    with pytest.raises(ValueError, match="compiled or trained without"):
        distiller.student_loss_weight = 0.5


def test_a_loss_is_missing_at_the_published_weight_too(teacher, student):
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    with pytest.raises(ValueError, match=r"Received: loss=None, student_loss_weight=0.1"):
        distiller.compile("adam")


def test_the_default_is_the_recipe(teacher, student):
    for kind in (SoftTargets, losses.HardTargets, losses.LogitMSE, losses.DecoupledKD, losses.MultiLevelKD):
        stated = Distiller(teacher, dense_net(4), kind(), **kind.recipe)
        assert weights_of(Distiller(teacher, dense_net(4), kind())) == weights_of(stated), kind


# What is in force.


def test_the_table_shows_the_weights_of_now(teacher, student):
    distiller = Distiller(
        teacher,
        student,
        [SoftTargets(4.0), FeatureMSE("head", "head")],
        distillation_loss_weights=[2.0, lambda step: 0.5 + step],
        student_loss_weight=0.25,
    )
    table = distiller.weights_table()
    assert table == WeightsTable(
        (
            WeightRow("student_loss", 0.25, scheduled=False),
            WeightRow("soft_targets", 1.5, scheduled=False),
            WeightRow("feature_mse", 0.375, scheduled=True),
        )
    )
    assert str(table).splitlines() == [
        "loss          weight",
        "student_loss    0.25  fixed",
        "soft_targets     1.5  fixed",
        "feature_mse    0.375  schedule",
    ]
    distiller.student_loss_weight = 0.5
    assert [row.weight for row in distiller.weights_table().rows] == [0.5, 1.0, 0.25]
    assert [row.weight for row in table.rows] == [0.25, 1.5, 0.375]  # of then


def test_the_table_follows_schedules_of_either_side(teacher, student, batch):
    tied = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=lambda step: 0.25 * (1 + step))
    assert [(row.weight, row.scheduled) for row in tied.weights_table().rows] == [(0.25, True), (0.75, True)]
    compiled(tied).fit(*batch, batch_size=20, verbose=0)  # two steps
    assert [row.weight for row in tied.weights_table().rows] == [0.5, 0.5]
    apart = Distiller(
        teacher, dense_net(4), SoftTargets(4.0), distillation_weight=lambda step: ops.maximum(2.0, step)
    )
    assert [row.scheduled for row in apart.weights_table().rows] == [False, True]


def test_repr_says_who_learns_from_whom_at_which_weights(teacher, student):
    distiller = Distiller(teacher, student, SoftTargets(4.0), name="mine")
    assert repr(distiller) == (
        "<Distiller name=mine, teacher=teacher, student=student, loss=0.1 student_loss + 0.9 soft_targets>"
    )
    several = Distiller([teacher, dense_net(8, name="other")], dense_net(4, name="small"), losses.LogitMSE())
    assert repr(several) == (
        "<Distiller name=distiller, teacher=teacher, other, student=small, loss=0 student_loss + 1 logit_mse>"
    )
    peers = MutualLearning([dense_net(4, name="ann"), dense_net(4, name="bob")])
    assert repr(peers).endswith("loss=1 student_loss + 1 ann_soft_targets + 1 bob_soft_targets>")


def test_repr_works_inside_a_compiled_step(teacher, student, batch):
    seen = []

    class Shown(Distiller):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            seen.append(repr(self))
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    distiller = Shown(teacher, student, SoftTargets(4.0))
    distiller.compile("sgd", CE)
    distiller.fit(*batch, verbose=0)
    assert seen
    if BACKEND != "torch":
        assert any("loss=student_loss + soft_targets>" in text for text in seen)


def test_the_default_is_what_a_step_minimises(teacher, student, batch):
    x, y = batch
    expected = expected_loss(student.get_weights(), teacher, x, y, w=0.1, d=0.9)
    logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-5)

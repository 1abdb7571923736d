"""Chains: who teaches whom, with which losses, and how one goes on after a stop."""

import keras
import numpy as np
import pytest
from conftest import dense_net
from distilling import CE, LOGIT_CE, FeatureMSE
from keras import layers

from distill import Distiller, Hint, SoftTargets
from distill.training import chain


def born_again(x, y, stages, folder):
    """Trains a chain; returns its networks, and (stage, weights of the teacher) of each training."""
    seen, stage = [], None

    def maker(number):
        def make():
            nonlocal stage
            stage = number
            keras.utils.set_random_seed(100 + number)
            return dense_net(4, activation=None)

        return make

    def train(model, callbacks):
        seen.append((stage, model.teacher.model.get_weights() if isinstance(model, Distiller) else None))
        model.compile("adam", LOGIT_CE)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)

    return chain([maker(number) for number in range(stages)], train, folder=folder), seen


def test_each_network_of_a_chain_is_taught_by_the_one_before(batch, tmp_path):
    networks, seen = born_again(*batch, 3, tmp_path / "stages")
    assert [stage for stage, _ in seen] == [0, 1, 2]
    assert seen[0][1] is None
    for (_, weights), network in zip(seen[1:], networks[:2], strict=True):
        assert all(map(np.array_equal, weights, network.get_weights()))
    files = sorted(path.name for path in (tmp_path / "stages").iterdir())
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]

    # Without the second file, the third had another teacher, and is trained again too.
    (tmp_path / "stages" / ".0.weights.h5").write_bytes(b"half a file")
    (tmp_path / "stages" / "1.weights.h5").rename(tmp_path / "kept")
    _, seen = born_again(*batch, 3, tmp_path / "stages")
    assert [stage for stage, _ in seen] == [1, 2]
    files = sorted(path.name for path in (tmp_path / "stages").glob("[0-9]*"))
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]
    (tmp_path / "kept").replace(tmp_path / "stages" / "1.weights.h5")

    # After a stop behind the second, what is there is loaded, and what is missing is trained to the same bits.
    (tmp_path / "stages" / "2.weights.h5").unlink()
    again, seen = born_again(*batch, 3, tmp_path / "stages")
    assert [stage for stage, _ in seen] == [2]
    for found, wanted in zip(again, networks, strict=True):
        assert all(map(np.array_equal, found.get_weights(), wanted.get_weights()))
    assert all(map(np.array_equal, seen[0][1], networks[1].get_weights()))


def trained(makers, teacher=None, **kwargs):
    """The models that a chain gives to `train`."""
    models = []
    chain(makers, lambda model, callbacks: models.append(model), teacher=teacher, **kwargs)
    return models


def test_the_arguments_of_the_distiller(teacher):
    (default,) = trained([lambda: dense_net(4)], teacher)
    assert repr(default).endswith("loss=0.1 student_loss + 0.9 soft_targets>")
    loss = default._objective.terms[0].loss
    assert (type(loss), loss.temperature) == (SoftTargets, 1.0)
    losses = [SoftTargets(4.0), FeatureMSE("head", "head")]
    given = {"losses": losses, "distillation_loss_weights": [1.0, 2.0], "student_loss_weight": 0.25}
    for model in trained([lambda: dense_net(4)] * 2, teacher, **given, distillation_weight=3.0):
        assert repr(model).endswith("loss=0.25 student_loss + 3 soft_targets + 6 feature_mse>")
    with pytest.raises(ValueError, match="from_logits must be None, True or False"):
        trained([lambda: dense_net(4)], teacher, from_logits="yes")


def test_losses_that_train_layers_are_made_anew(teacher):
    makers = [lambda: dense_net(8), lambda: dense_net(4)]
    made = trained(makers, teacher, losses=lambda: Hint("hidden", "hidden"))
    first, second = (model._objective.terms[0].loss for model in made)
    assert first is not second
    assert [tuple(loss.layers[0].kernel.shape) for loss in (first, second)] == [(8, 16), (4, 8)]
    # One object will do: each network starts it anew.
    hint = Hint("hidden", "hidden")
    made = trained(makers, teacher, losses=hint)
    assert tuple(hint.layers[0].kernel.shape) == (4, 8)
    assert [tuple(model._loss_layers.held[0].kernel.shape) for model in made] == [(8, 16), (4, 8)]
    with pytest.raises(ValueError, match="must be a loss of distill.losses"):
        trained(makers, teacher, losses="hint")


def test_a_maker_may_compile(tmp_path, batch):
    def make():
        model = dense_net(4)
        model.compile("adam", CE)
        return model

    def train(model, callbacks):
        model.fit(*batch, verbose=0)

    (first,) = chain([make], train, folder=tmp_path)
    (again,) = chain([make], lambda *_: pytest.fail("trained again"), folder=tmp_path)
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))


def test_a_chain_begins_with_its_teacher_and_leaves_it_alone(teacher, batch):
    before = teacher.get_weights()
    models = trained([lambda: dense_net(8), lambda: dense_net(4)], teacher)
    assert models[0].teacher.model is teacher
    assert models[1].teacher.model is models[0].student
    assert all(map(np.array_equal, before, teacher.get_weights()))


def test_a_chain_that_fails_keeps_what_was_done(tmp_path):
    def train(model, callbacks):
        if isinstance(model, Distiller):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        chain([lambda: dense_net(4)] * 2, train, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0.weights.h5"]


def test_chains_refuse_what_is_no_new_network(teacher, tmp_path):
    def never(*_):
        raise AssertionError("work was done")

    with pytest.raises(ValueError, match="at least one network"):
        chain([], never)
    with pytest.raises(ValueError, match=r"Received: .* from makers\[0\]. Give its first layer"):
        chain([lambda: keras.Sequential([layers.Dense(3)])], never)
    with pytest.raises(ValueError, match="'teacher' from makers.0. again"):
        chain([lambda: teacher], never, teacher=teacher)
    chain([lambda: dense_net(4)], lambda *_: None, folder=tmp_path)
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(5)], never, folder=tmp_path)
    (tmp_path / "0.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(4)], never, folder=tmp_path)


@pytest.mark.slow
def test_networks_that_a_longer_chain_left_are_trained_again(batch, tmp_path):
    born_again(*batch, 3, tmp_path)
    (tmp_path / "1.weights.h5").unlink()
    born_again(*batch, 2, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.weights.h5", "1.weights.h5"]
    assert [stage for stage, _ in born_again(*batch, 3, tmp_path)[1]] == [2]


@pytest.mark.parametrize(
    "options",
    [
        {"student_loss_weight": 1.5},
        {"distillation_weight": -1.0},
        {"distillation_loss_weights": [1.0, 2.0]},
        {"distillation_loss_weights": -1.0},
        {"from_logits": "yes"},
    ],
)
def test_what_no_distiller_takes_is_refused_before_any_training(options):
    with pytest.raises(ValueError, match="Received"):
        chain([lambda: dense_net(4)] * 2, lambda model, callbacks: pytest.fail("trained"), **options)

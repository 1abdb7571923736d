"""Chains: who teaches whom, and how one goes on after a stop."""

import keras
import numpy as np
import pytest
from conftest import dense_net
from distilling import CE, LOGIT_CE
from keras import layers

from distill import Distiller, SoftTargets
from distill.training import chain


def born_again(x, y, stages, folder, seen):
    def make():
        keras.utils.set_random_seed(100 + len(seen))
        return dense_net(4, activation=None)

    def train(teacher, student, stage):
        seen.append((stage, None if teacher is None else teacher.get_weights()))
        keras.utils.set_random_seed(stage)
        model = student
        if teacher is not None:
            model = Distiller(teacher, student, SoftTargets(1.0))
        model.compile("adam", LOGIT_CE)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)

    return chain([make] * stages, train, folder=folder)


def test_each_network_of_a_chain_is_taught_by_the_one_before(batch, tmp_path):
    seen = []
    networks = born_again(*batch, 3, tmp_path / "stages", seen)
    assert [stage for stage, _ in seen] == [0, 1, 2]
    assert seen[0][1] is None
    for (_, weights), network in zip(seen[1:], networks[:2], strict=True):
        assert all(map(np.array_equal, weights, network.get_weights()))
    files = sorted(path.name for path in (tmp_path / "stages").iterdir())
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]

    # Before the second: the third had another teacher, and is trained again too.
    (tmp_path / "stages" / ".0.weights.h5").write_bytes(b"half a file")
    (tmp_path / "stages" / "1.weights.h5").rename(tmp_path / "kept")
    once_more = [None]
    born_again(*batch, 3, tmp_path / "stages", once_more)
    assert [stage for stage, _ in once_more[1:]] == [1, 2]
    files = sorted(path.name for path in (tmp_path / "stages").glob("[0-9]*"))
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]
    (tmp_path / "kept").replace(tmp_path / "stages" / "1.weights.h5")

    # A stop after the second: what is there is loaded, what is missing is trained again to the same bits.
    (tmp_path / "stages" / "2.weights.h5").unlink()
    again_seen = [None, None]
    again = born_again(*batch, 3, tmp_path / "stages", again_seen)
    assert [stage for stage, _ in again_seen[2:]] == [2]
    for found, wanted in zip(again[:2], networks[:2], strict=True):
        assert all(map(np.array_equal, found.get_weights(), wanted.get_weights()))
    assert all(map(np.array_equal, again_seen[2][1], networks[1].get_weights()))


def test_a_maker_may_compile(tmp_path, batch):
    def make():
        model = dense_net(4)
        model.compile("adam", CE)
        return model

    def train(teacher, student, stage):
        student.fit(*batch, verbose=0)

    (first,) = chain([make], train, folder=tmp_path)
    (again,) = chain([make], lambda *_: pytest.fail("trained again"), folder=tmp_path)
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))


def test_a_chain_begins_with_its_teacher_and_leaves_it_alone(teacher, batch):
    before = teacher.get_weights()
    taught = []
    chain(
        [lambda: dense_net(8), lambda: dense_net(4)],
        lambda t, s, i: taught.append((t.name, i)),
        teacher=teacher,
    )
    assert taught[0] == ("teacher", 0)
    assert taught[1][0] != "teacher"
    assert all(map(np.array_equal, before, teacher.get_weights()))


def test_a_chain_that_fails_keeps_what_was_done(tmp_path):
    def train(teacher, student, stage):
        if stage == 1:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        chain([lambda: dense_net(4)] * 2, train, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0.weights.h5"]


def test_chains_refuse_what_is_no_new_network(teacher, tmp_path):
    def never(*_):
        raise AssertionError("work was done")

    with pytest.raises(ValueError, match="a network or more"):
        chain([], never)
    with pytest.raises(ValueError, match=r"Received: .* of makers\[0\]. Give its first layer"):
        chain([lambda: keras.Sequential([layers.Dense(3)])], never)
    with pytest.raises(ValueError, match="'teacher' of makers.0. once more"):
        chain([lambda: teacher], never, teacher=teacher)
    chain([lambda: dense_net(4)], lambda *_: None, folder=tmp_path)
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(5)], never, folder=tmp_path)
    (tmp_path / "0.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(4)], never, folder=tmp_path)

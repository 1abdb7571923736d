"""Mixed views: what is mixed, how often, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from distill import data


def shares(dataset, count=12):
    """λ of each batch of mixed one-hot rows, of which row i has λ at i and 1 − λ at i − 1."""
    found = []
    for (x,) in dataset:
        x = x.numpy()
        share = x[1, 1]
        np.testing.assert_allclose(x, share * np.eye(count) + (1 - share) * np.roll(np.eye(count), 1, axis=0))
        found.append(float(share))
    return found


def one_hot_batches(batches=4, count=12):
    x = np.tile(np.eye(count, dtype="float32"), (batches, 1))
    return data.batches(tf.data.Dataset.from_tensor_slices((x, np.arange(len(x)))), count)


def test_mixup_mixes_neighbours_and_drops_labels():
    found = shares(data.mixup(one_hot_batches(400), seed=1))
    # Uniform from 0 to 1: mean 1/2, variance 1/12.
    assert 0 <= min(found) < 0.02
    assert 0.98 < max(found) <= 1
    assert np.mean(found) == pytest.approx(0.5, abs=4 * (1 / 12 / 400) ** 0.5)
    assert np.var(found) == pytest.approx(1 / 12, abs=0.015)
    assert np.var(shares(data.mixup(one_hot_batches(400), seed=1, alpha=8.0))) == pytest.approx(
        1 / 68, abs=0.005
    )


def test_mixup_depends_on_seed_and_pass_alone():
    def passes_of(seed):
        mixed = data.mixup(one_hot_batches(), seed=seed)
        return [shares(mixed), shares(mixed)]

    tf.random.set_seed(1)
    first = passes_of(3)
    tf.random.set_seed(2)
    assert passes_of(3) == first
    assert len({*first[0], *first[1], *passes_of(4)[0]}) == 12


def test_mixup_keeps_the_structure_of_inputs():
    x = {"a": np.ones((6, 2), "float32"), "b": np.arange(6.0, dtype="float16")}
    (mixed,) = next(iter(data.mixup(tf.data.Dataset.from_tensor_slices(x).batch(6), seed=0)))
    np.testing.assert_allclose(mixed["a"], x["a"], rtol=1e-6)
    assert mixed["b"].dtype == "float16"
    assert not np.array_equal(mixed["b"], x["b"])


def test_mixup_refuses_what_it_cannot_mix():
    with pytest.raises(ValueError, match="from 0.1 to 1000. Received: alpha=0"):
        data.mixup(one_hot_batches(), seed=0, alpha=0)
    with pytest.raises(ValueError, match="mixup needs floats"):
        data.mixup(tf.data.Dataset.range(4).batch(2), seed=0)
    with pytest.raises(ValueError, match="seed must be an integer"):
        data.mixup(one_hot_batches(), seed=-1)
    with pytest.raises(ValueError, match="Batch them first"):
        data.mixup(tf.data.Dataset.from_tensor_slices((np.eye(4), np.arange(4))), seed=0)
    with pytest.raises(ValueError, match=r"Received: tuple. Make one with data.batches\(\(x, y\), 32\)"):
        data.mixup((np.eye(4), np.arange(4)), seed=0)
    with pytest.raises(ValueError, match="Received: alpha=inf"):
        data.mixup(one_hot_batches(), seed=0, alpha=float("inf"))

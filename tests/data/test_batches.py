"""Batches: their order, and what is refused."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from distill import data


def count_up(n):
    return tf.data.Dataset.from_tensor_slices((np.arange(n, dtype=np.float32), np.arange(n)))


def passes(dataset, n):
    return [[x.tolist() for x, _ in dataset.as_numpy_iterator()] for _ in range(n)]


def test_batches_without_a_seed_keep_the_order():
    assert passes(data.batches(count_up(7), 3), 2) == [[[0, 1, 2], [3, 4, 5], [6]]] * 2


def test_a_pass_holds_each_example_once_with_its_label():
    dataset = data.batches(count_up(103), 10, seed=5)
    assert int(dataset.cardinality()) == 11
    for _ in range(2):
        xs, ys = zip(*dataset.as_numpy_iterator(), strict=True)
        assert [len(x) for x in xs] == [10] * 10 + [3]
        np.testing.assert_array_equal(np.concatenate(xs), np.concatenate(ys))
        np.testing.assert_array_equal(np.sort(np.concatenate(ys)), np.arange(103))


def test_each_pass_and_each_seed_has_its_own_order():
    orders = [
        *passes(data.batches(count_up(50), 50, seed=0), 3),
        *passes(data.batches(count_up(50), 50, seed=1), 3),
    ]
    assert all(one != two for one, two in itertools.combinations(orders, 2))
    assert orders[0] != [list(range(50))]


def test_the_order_depends_on_seed_and_pass_alone():
    expected = passes(data.batches(count_up(50), 8, seed=3), 3)
    tf.random.set_seed(123)
    assert passes(data.batches(count_up(50), 8, seed=np.int64(3)), 3) == expected
    interleaved = [data.batches(count_up(50), 8, seed=3), data.batches(count_up(50), 8, seed=3)]
    for order in expected:
        tf.random.set_seed(4)
        assert [passes(dataset, 1)[0] for dataset in interleaved] == [order, order]


def test_shuffling_leaves_the_global_seed_alone():
    tf.random.set_seed(11)
    expected = tf.random.uniform([3]).numpy()
    tf.random.set_seed(11)
    passes(data.batches(count_up(5), 2, seed=3), 1)
    np.testing.assert_array_equal(tf.random.uniform([3]).numpy(), expected)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "8", None])
def test_batch_size_must_count(batch_size):
    with pytest.raises(ValueError, match=r"integer >= 1\. Received: .*\. Use"):
        data.batches(count_up(3), batch_size)


@pytest.mark.parametrize("seed", [-1, 1.0, "1", 2**31 - 1])
def test_seed_must_be_a_non_negative_integer(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2147483647\).* Received: "):
        data.batches(count_up(3), 2, seed=seed)


@pytest.mark.parametrize(
    "dataset", [count_up(3).repeat(), count_up(3).filter(lambda x, y: y > 0), count_up(0)]
)
def test_batches_need_a_known_length(dataset):
    with pytest.raises(ValueError, match=r"known length.*Received: cardinality -?\d"):
        data.batches(dataset, 2)


X, Y = np.arange(14, dtype=np.float32).reshape(7, 2), np.arange(7)
ARRAYS = {
    "a pair": ((X, Y), (X[:3], Y[:3])),
    "a list of arrays": ([X, Y], (X[:3], Y[:3])),
    "x alone": (X, X[:3]),
    "features by name": (({"a": X, "b": Y}, Y), ({"a": X[:3], "b": Y[:3]}, Y[:3])),
    "tensors": ((tf.constant(X), Y), (X[:3], Y[:3])),
}


@pytest.mark.parametrize(("given", "first"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_batched_as_a_data_set_of_them(given, first):
    dataset = data.batches(given, 3)
    assert int(dataset.cardinality()) == 3
    got = next(dataset.as_numpy_iterator())
    tf.nest.map_structure(np.testing.assert_array_equal, got, first)


@pytest.mark.parametrize("seed", [None, 3])
def test_only_what_may_have_transformations_is_tuned(seed):
    """An iterator with a tuning thread waits for it to end."""
    assert data.batches(np.zeros((6, 2)), 4, seed=seed).options().autotune.enabled is False
    assert data.batches(count_up(6), 4, seed=seed).options().autotune.enabled is None


def test_arrays_are_shuffled_as_a_data_set_of_them():
    pairs = zip(
        data.batches((X, Y), 3, seed=4).as_numpy_iterator(),
        data.batches(tf.data.Dataset.from_tensor_slices((X, Y)), 3, seed=4).as_numpy_iterator(),
        strict=True,
    )
    for one, other in pairs:
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        ((X, Y[:3]), r"arrays of \[7, 3\] rows"),
        ((X, 3), r"arrays of \[7\] rows"),
        (None, "None of type NoneType"),
        ("digits", "'digits' of type str"),
        (((x, 0) for x in X), "of type generator"),
        ((X[:0], Y[:0]), "cardinality 0"),
    ],
)
def test_what_cannot_be_batched_is_named(given, received):
    with pytest.raises(ValueError, match=f"batches needs .*Received: .*{received}"):
        data.batches(given, 2)

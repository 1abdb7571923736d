"""Shifted and mirrored views."""

import numpy as np
import pytest
import tensorflow as tf

from distill import data


def ramps(count=300, shape=(9, 7, 2)):
    """Images in which each pixel holds its own place: row in the first channel, column in the second."""
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    image = np.stack([rows, columns], axis=-1).astype("float32")
    return np.repeat(image[None], count, axis=0), np.arange(count)


def distances(views):
    """How far each image was moved, by axis, read off its middle."""
    x, y = data.arrays(views.unbatch())
    np.testing.assert_array_equal(np.sort(y), np.arange(len(y)))
    return x, x[:, 4, 3] - [4, 3]


def test_each_example_moves_by_itself_and_its_edge_is_repeated():
    x, moved = distances(data.shift(data.batches(ramps(), 64), 2, seed=3))
    for axis in range(2):
        assert set(moved[:, axis]) == {-2, -1, 0, 1, 2}
        counts = np.unique(moved[:, axis], return_counts=True)[1]
        assert np.sum((counts - 60) ** 2 / 60) < 18.5  # chi², 4 degrees of freedom: p = .001
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2
    for image, (down, right) in zip(x, moved, strict=True):
        np.testing.assert_array_equal(image[:, 0, 0], np.clip(np.arange(9) + down, 0, 8))
        np.testing.assert_array_equal(image[0, :, 1], np.clip(np.arange(7) + right, 0, 6))


def test_shifts_depend_on_seed_and_pass_alone():
    def passes(seed):
        tf.random.set_seed(seed * 7 + 1)
        views = data.shift(data.batches(ramps(20), 8), 2, seed=seed)
        return [distances(views)[1] for _ in range(2)]

    first, second = passes(0)
    assert (first != second).any()
    tf.random.normal(())
    np.testing.assert_array_equal(passes(0), [first, second])
    assert (passes(1)[0] != first).any()


def test_series_alone_keep_their_kind_and_shape():
    series = np.arange(80, dtype="int16").reshape(2, 40, 1)
    views = data.shift(tf.data.Dataset.from_tensor_slices(series).batch(2, drop_remainder=True), 3, seed=0)
    assert views.element_spec == tf.TensorSpec((2, 40, 1), tf.int16)
    (moved,) = views.as_numpy_iterator()
    for before, after in zip(series, moved, strict=True):
        places = after[20] - before[20]
        np.testing.assert_array_equal(after[:, 0], before[0, 0] + np.clip(np.arange(40) + places, 0, 39))


def test_what_moves_in_from_outside_is_filled():
    """As a random crop of the image with a border of that value."""
    repeated = data.shift(data.batches(ramps(), 64), 2, seed=3)
    filled, moved = distances(data.shift(data.batches(ramps(), 64), 2, seed=3, fill=-7))
    np.testing.assert_array_equal(moved, distances(repeated)[1])
    padded = np.pad(ramps(1)[0][0], ((2, 2), (2, 2), (0, 0)), constant_values=-7)
    for image, (down, right) in zip(filled, moved.astype(int), strict=True):
        np.testing.assert_array_equal(image, padded[2 + down : 11 + down, 2 + right : 9 + right])


def test_each_image_is_mirrored_by_itself_as_often_as_not():
    def passes(seed):
        views = data.flip(data.batches(ramps(1000), 64), seed=seed)
        return [data.arrays(views.unbatch()) for _ in range(2)]

    (x, y), (again, _) = passes(3)
    np.testing.assert_array_equal(y, np.arange(1000))
    mirrored = x[:, 0, 0, 1] == 6
    image = ramps(1)[0][0]
    for one, is_mirrored in zip(x, mirrored, strict=True):
        np.testing.assert_array_equal(one, image[:, ::-1] if is_mirrored else image)
    assert abs(mirrored.sum() - 500) < 52  # p = .001
    assert abs(np.corrcoef(mirrored[:-1], mirrored[1:])[0, 1]) < 0.11
    assert (again != x).any()
    np.testing.assert_array_equal(passes(3)[0][0], x)
    # The same seed shifts images apart from mirroring them.
    _, moved = distances(data.shift(data.batches(ramps(1000), 64), 2, seed=3))
    assert abs(np.corrcoef(mirrored, moved[:, 1])[0, 1]) < 0.11


def test_what_cannot_be_mirrored():
    with pytest.raises(ValueError, match="flip needs a data set of batches. Received: tuple"):
        data.flip(ramps(4), seed=0)
    series = np.zeros((4, 9, 1)), np.zeros(4)
    with pytest.raises(ValueError, match=r"flip needs batches of images \(batch, height, width, channels\)"):
        data.flip(data.batches(series, 2), seed=0)
    with pytest.raises(ValueError, match="seed must be an integer"):
        data.flip(data.batches(ramps(4), 2), seed=-1)


def test_what_cannot_be_shifted():
    batches = data.batches(ramps(4), 2)
    with pytest.raises(ValueError, match="needs a data set of batches. Received: tuple"):
        data.shift(ramps(4), 1, seed=0)
    for rows in ((np.zeros((4, 3)), np.zeros(4)), {"x": np.zeros((4, 3, 3, 1))}):
        with pytest.raises(ValueError, match=r"images \(batch, height, width, channels\) or series"):
            data.shift(data.batches(rows, 2), 1, seed=0)
    for places in (0, 7, 1.5):
        with pytest.raises(ValueError, match=r"Received: .*, for examples of shape \(9, 7, 2\)"):
            data.shift(batches, places, seed=0)
    whole = tf.data.Dataset.from_tensor_slices(np.zeros((4, 9, 9, 1), "uint8")).batch(2)
    for given, fill, dtype in (
        (batches, "black", "float32"),
        (whole, 0.5, "uint8"),
        (whole, float("nan"), "uint8"),
        (whole, -1, "uint8"),
        (whole, 256, "uint8"),
    ):
        with pytest.raises(ValueError, match=f"fill must be a number, .* Received: .*, for {dtype}"):
            data.shift(given, 1, seed=0, fill=fill)
    edges = next(iter(data.shift(whole, 1, seed=0, fill=255)))
    assert set(np.unique(edges)) == {0, 255}
    with pytest.raises(ValueError, match="seed must be an integer"):
        data.shift(batches, 1, seed=-1)


def test_single_examples_are_not_taken_for_series():
    single = tf.data.Dataset.from_tensor_slices((np.zeros((8, 6, 6, 1), "float32"), np.zeros(8, "int64")))
    with pytest.raises(ValueError, match="shift needs a data set of batches. Received: single examples"):
        data.shift(single, 1, seed=0)
    with pytest.raises(ValueError, match="flip needs a data set of batches"):
        data.flip(single, seed=0)

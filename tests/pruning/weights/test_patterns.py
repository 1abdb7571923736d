"""Which weights stay, given scores."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from distill.pruning import Blocks, Elements, NofM
from distill.pruning.weights._choosing import kept_at
from distill.pruning.weights._patterns import keep_largest

FEW = st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0, np.inf, -np.inf])  # so that many are equal


def kernel(input_axes, rank, channel_axis=None):
    outputs = tuple(axis for axis in range(rank) if axis not in input_axes)
    channel_axis = input_axes[-1] if input_axes and channel_axis is None else channel_axis
    return SimpleNamespace(input_axes=input_axes, output_axes=outputs, channel_axis=channel_axis)


def reference(scores, kept):
    """Sorts by score, then position; the first `kept` stay."""
    flat = scores.ravel()
    order = sorted(range(flat.size), key=lambda i: (-flat[i], i))
    mask = np.zeros(flat.size, bool)
    mask[order[:kept]] = True
    return mask.reshape(scores.shape)


@given(st.data(), arrays(np.float32, array_shapes(max_side=6), elements=FEW))
def test_the_largest_stay_exactly_as_many_and_of_equal_ones_the_first(data, scores):
    kept = data.draw(st.integers(0, scores.size))
    np.testing.assert_array_equal(keep_largest(scores, kept), reference(scores, kept))


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="Scores must be numbers, .* Received: NaN"):
        keep_largest(np.array([1.0, np.nan]), 1)
    with pytest.raises(ValueError, match="Scores must be numbers, .* Received: NaN"):
        NofM(1, 2).masks([kernel((0,), 2)], [np.array([[1.0], [np.nan]])], kept_at(0.5), "layer")


@given(st.data(), arrays(np.float64, (6, 5), elements=FEW))
def test_scopes(data, scores):
    sparsity = data.draw(st.floats(0, 0.99))
    kept = kept_at(sparsity)
    other = np.flip(scores)[:2]
    kernels = [kernel((0,), 2), kernel((0,), 2)]
    first, second = Elements().masks(kernels, [scores, other], kept, "layer")
    np.testing.assert_array_equal(first, reference(scores, kept(scores)))
    np.testing.assert_array_equal(second, reference(other, kept(other)))
    together = np.concatenate([scores.ravel(), other.ravel()])
    masks = Elements().masks(kernels, [scores, other], kept, "global")
    np.testing.assert_array_equal(
        np.concatenate([mask.ravel() for mask in masks]), reference(together, kept(together))
    )
    (mask,) = Elements().masks(kernels[:1], [scores], kept, "output")
    for column in range(5):
        expected = reference(scores[:, column], kept(scores[:, column]))
        np.testing.assert_array_equal(mask[:, column], expected)


def test_outputs_of_a_transposed_convolution_and_of_an_embedding():
    scores = np.random.default_rng(0).random((2, 3, 4))
    (mask,) = Elements().masks([kernel((0, 2), 3)], [scores], kept_at(0.5), "output")
    for output in range(3):
        np.testing.assert_array_equal(mask[:, output], reference(scores[:, output], 4))


@given(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=4, max_side=7), elements=st.floats(0, 1)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(["mean", "max"]),
)
def test_blocks_go_as_a_whole_by_their_mean_or_maximum(scores, rows, columns, pooling):
    pattern = Blocks((rows, columns), pooling=pooling)
    (mask,) = pattern.masks([kernel((0,), scores.ndim)], [scores], kept_at(0.5), "layer")
    pool = np.mean if pooling == "mean" else np.max
    blocks, values = [], []
    for lead in np.ndindex(*scores.shape[:-2]):
        for i in range(0, scores.shape[-2], rows):
            for j in range(0, scores.shape[-1], columns):
                blocks.append((*lead, slice(i, i + rows), slice(j, j + columns)))
                values.append(pool(scores[blocks[-1]]))
    kept = [block for block in blocks if mask[block].all()]
    gone = [block for block in blocks if not mask[block].any()]
    assert len(kept) + len(gone) == len(blocks)
    assert len(gone) == min(round(len(blocks) / 2), len(blocks) - 1)
    worst = min(pool(scores[block]) for block in kept)
    assert all(pool(scores[block]) <= worst + 1e-12 for block in gone)


@given(st.data(), st.integers(1, 7), st.integers(1, 8), st.integers(0, 2))
def test_n_of_every_m_stay_along_the_inputs(data, keep, more, axis):
    pattern = NofM(keep, keep + more)
    shape = [3, 2, 2]
    shape[axis] = pattern.of * data.draw(st.integers(1, 2))
    scores = data.draw(arrays(np.float32, tuple(shape), elements=FEW))
    (mask,) = pattern.masks([kernel((axis,), 3)], [scores], kept_at(0.1), "layer")
    rows, kept = np.moveaxis(scores, axis, -1), np.moveaxis(mask, axis, -1)
    for index in np.ndindex(*rows.shape[:-1]):
        for start in range(0, rows.shape[-1], pattern.of):
            group = (*index, slice(start, start + pattern.of))
            np.testing.assert_array_equal(kept[group], reference(rows[group], keep))
    assert mask.mean() == pytest.approx(1 - pattern.sparsity)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NofM(4, 4), "1 <= keep < of. Received: keep=4, of=4"),
        (lambda: NofM(0, 4), "1 <= keep < of"),
        (lambda: NofM(True, 4), "1 <= keep < of"),
        (lambda: NofM(1.0, 4), "1 <= keep < of"),
        (lambda: Blocks((0, 4)), "both integers >= 1. Received: shape=(0, 4)"),
        (lambda: Blocks(4), "both integers >= 1. Received: shape=4"),
        (lambda: Blocks((2, 2, 2)), "both integers >= 1"),
        (lambda: Blocks((2, 2), pooling="AVG"), "must be 'mean' or 'max'. Received: pooling='AVG'"),
    ],
)
def test_patterns_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        make()


def test_blocks_span_outputs():
    with pytest.raises(ValueError, match="Blocks span several outputs"):
        Blocks((2, 2)).masks([], [], kept_at(0.5), "output")


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(10, 0.8, 2), (10, 0.0, 10), (10, 0.99, 1), (3, 0.5, 1), (1000, 0.9875, 12), (1, 0.9, 1)],
)
def test_how_many_stay(size, sparsity, kept):
    assert kept_at(sparsity)(np.zeros(size)) == kept

"""What a recording compares before it goes on in a folder, and which files of the folder it takes for shards."""

import itertools
import json
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dense_net
from keras import layers

from distill import cache
from distill.cache._shards import present

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
KERNEL = np.random.default_rng(3).normal(size=(6, 5)).astype("float32")
QUIET = {"verbose": 0, "batch_size": 8, "shard_size": 10}


def linear(x):
    return x @ KERNEL


def zeros(*widths):
    """A network of dense layers without biases, all of whose weights are 0."""
    stack = [layers.Dense(width, use_bias=False, kernel_initializer="zeros") for width in widths]
    return keras.Sequential([keras.Input((6,)), *stack], name="teacher")


def test_weights_of_other_shapes_are_other_weights(tmp_path):
    """Both have 18 zeros, and the same answers."""
    cache.record(zeros(3), X, tmp_path, **QUIET)
    with pytest.raises(ValueError, match="these differ: the weights of the teacher: recorded [^;]*$"):
        cache.record(zeros(2, 3), X, tmp_path, **QUIET)


def test_another_head_on_the_same_weights_is_named(tmp_path):
    """Recorded are logits, which are the same."""
    teacher, other = dense_net(4, name="teacher"), dense_net(4, name="teacher", activation="linear")
    other.set_weights(teacher.get_weights())
    cache.record(teacher, X, tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"differ: the heads: recorded \['softmax'\], now \['linear'\]"):
        cache.record(other, X, tmp_path, **QUIET)


@pytest.mark.parametrize(("size", "message"), [(12, "recorded 6, now 4"), (None, "recorded 6, now None")])
def test_other_batches_are_named(size, message, tmp_path):
    examples = tf.data.Dataset.from_tensor_slices(X)
    cache.record(linear, examples.batch(8), tmp_path, **QUIET)
    with pytest.raises(ValueError, match=f"differ: the number of batches: {message}"):
        cache.record(linear, X if size is None else examples.batch(size), tmp_path, **QUIET)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((8, 8, 8, 9), "more than the 32"), ((8, 8, 8), r"fewer than the 32.*shards \[2, 3\]")],
)
def test_data_that_grow_or_shrink_after_they_were_counted_are_refused(sizes, message, tmp_path):
    """Two passes see whether data change and one makes the first batch; the fourth counts, the fifth is recorded."""
    passes = itertools.count(1)

    def batches():
        yield from (X[:size] for size in (sizes if next(passes) > 4 else (8, 8, 8, 8)))

    data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((None, 6)))
    with pytest.raises(ValueError, match=f"the same number of examples on each pass. Received: {message}"):
        cache.record(linear, data, tmp_path, **QUIET)


def test_a_batch_between_a_shard_of_another_process_and_one_that_is_done(tmp_path):
    """Examples 8 and 9 are of shard 0, which is not there; 10 to 15 of shard 1, which is."""
    cache.record(linear, X, tmp_path, shards=[1], **QUIET)
    cache.record(linear, X, tmp_path, shards=[3], **QUIET)
    assert sorted(present(tmp_path)) == [1, 3]


@pytest.mark.parametrize("size", [1, 3, 10, 11, 48])
def test_batches_that_end_anywhere_in_a_shard_fill_it(size, tmp_path):
    answers = cache.record(linear, X, tmp_path, **{**QUIET, "batch_size": size})
    np.testing.assert_allclose(answers.look_up(np.arange(48))["output"], linear(X), rtol=1e-5)


def test_draws_depend_on_the_batch_and_on_the_seed(tmp_path):
    rows = np.repeat(X[:1], 16, axis=0)
    drawn = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        targets = cache.Sampled(50, seed=seed, from_logits=True)
        answers = cache.record(linear, rows, tmp_path / folder, targets=targets, **QUIET)
        drawn.append(answers.look_up(np.arange(16))["output.ids"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any(axis=1).all()
    assert (drawn[0][:8] != drawn[0][8:]).any(axis=1).all()  # the second batch is not the first again


def test_each_input_of_an_example_counts(tmp_path):
    data = {"a": X, "b": X[:, :2]}
    answers = cache.record(lambda x: linear(x["a"]), data, tmp_path, **QUIET)
    answers.with_ids(data)
    for name in data:
        changed = {**data, name: data[name].copy()}
        changed[name][47, 1] += 1
        with pytest.raises(ValueError, match="other inputs for example 47"):
            answers.with_ids(changed)


def test_drafts_are_no_shards_and_of_two_of_a_number_the_first_counts(tmp_path):
    for name in (
        "00001-aaaaaaaa.npy",
        "00001-bbbbbbbb.npy",
        ".1a2b3c4d.00002-aaaaaaaa.npy",
        "00003-aaaa.npy",
    ):
        (tmp_path / name).touch()
    assert {number: path.name for number, path in present(tmp_path).items()} == {1: "00001-aaaaaaaa.npy"}


def test_the_name_of_a_shard_has_the_checksum_of_its_bytes(tmp_path):
    cache.record(linear, X, tmp_path, **QUIET)
    for number, path in present(tmp_path).items():
        assert path.name == f"{number:05d}-{zlib.crc32(path.read_bytes()):08x}.npy"
        rows = np.load(path)
        np.testing.assert_array_equal(rows["output"], linear(X)[10 * number : 10 * number + 10])


def test_a_shard_of_another_target_is_damage(tmp_path):
    cache.record(linear, X, tmp_path / "dense", **QUIET)
    cache.record(linear, X, tmp_path / "half", targets=cache.Dense("float16"), **QUIET)
    present(tmp_path / "dense")[1].unlink()
    stranger = present(tmp_path / "half")[1]
    (tmp_path / "dense" / stranger.name).write_bytes(stranger.read_bytes())
    with pytest.raises(ValueError, match="A shard must hold what the cache's description says"):
        cache.open(tmp_path / "dense").look_up([12])


@pytest.mark.parametrize("change", [{"examples": 0}, {"shard_size": 0}, {"targets": []}])
def test_a_description_whose_numbers_do_not_fit_is_an_error(change, tmp_path):
    cache.record(linear, X, tmp_path, **QUIET)
    file = tmp_path / cache.MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match="its numbers do not fit each other"):
        cache.open(tmp_path)

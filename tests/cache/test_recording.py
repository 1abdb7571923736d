"""What can be recorded, by whom, and how it is kept."""

import collections
import itertools

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from backend import only_on
from conftest import dense_net
from keras import layers

import distill
from distill import cache, exports, losses

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
QUIET = {"verbose": 0, "batch_size": 8, "shard_size": 20}
KERNEL = np.random.default_rng(3).normal(size=(6, 5)).astype("float32")


def linear(x):
    """Logits of a teacher that is a function of numpy arrays."""
    return x @ KERNEL


def test_the_largest_logits_are_kept_with_the_sums_of_the_rest(tmp_path):
    target = cache.TopK(2, temperatures=(1, 3.0), from_logits=True)
    found = cache.record(linear, X, tmp_path / "cache", targets=target, **QUIET).look_up(np.arange(48))
    logits = linear(X)
    ids = np.argsort(-logits, axis=-1)[:, :2]
    np.testing.assert_array_equal(found["output.ids"], ids)
    np.testing.assert_array_equal(found["output.logits"], np.take_along_axis(logits, ids, -1))
    for i, temperature in enumerate((1.0, 3.0)):
        rows = zip(logits.astype("float64"), ids, strict=True)
        rest = [
            reference.log_sum([v / temperature for c, v in enumerate(row) if c not in kept])
            for row, kept in rows
        ]
        np.testing.assert_allclose(found["output.rest"][:, i], rest, rtol=1e-6, atol=1e-6)


def test_probabilities_are_kept_as_their_logarithms(tmp_path):
    target = cache.TopK(5, from_logits=False)
    p = np.exp(linear(X) - linear(X).max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    found = cache.record(lambda x: p[: len(x)], X[:8], tmp_path / "cache", targets=target, **QUIET).look_up(
        [0]
    )
    np.testing.assert_allclose(np.exp(found["output.logits"][0]), np.sort(p[0])[::-1], rtol=1e-5)
    assert found["output.rest"][0, 0] == -np.inf
    with pytest.raises(ValueError, match="Probabilities lie between 0 and 1.*from_logits=True"):
        cache.record(linear, X, tmp_path / "other", targets=target, **QUIET)


def test_draws_are_of_the_softened_probabilities(tmp_path):
    row = np.array([[2.0, 0.0, -1.0, 40.0, 39.0]], "float32")
    target = cache.Sampled(4000, temperature=2.0, from_logits=True)
    found = cache.record(
        lambda x: np.repeat(row, len(x), 0), X[:2], tmp_path / "cache", targets=target, **QUIET
    ).look_up([0, 1])
    p = reference.softmax(row[0] / 2.0)
    for drawn in found["output.ids"]:
        share = np.bincount(drawn, minlength=5) / 4000
        np.testing.assert_allclose(share, p, atol=5 * 0.5 / 4000**0.5)
    assert (found["output.ids"][0] != found["output.ids"][1]).any()  # each row has draws of its own
    np.testing.assert_allclose(found["output.entropy"], np.repeat(reference.entropy(row, 2.0), 2), rtol=1e-5)


def test_the_largest_of_many_classes_take_a_three_hundredth_of_the_bytes(tmp_path):
    logits = np.random.default_rng(0).normal(size=(4, 49152)).astype("float32")
    target = cache.TopK(64, temperatures=(1.0, 2.0), from_logits=True)
    cache.record(
        lambda x: logits[x[:, 0]], np.arange(4)[:, None], tmp_path / "cache", targets=target, verbose=0
    )
    ((_, shape, _, size),) = cache.inspect(tmp_path / "cache").rows
    assert shape == (49152,)
    assert size == 64 * (2 + 4) + 2 * 4
    assert size <= 0.003 * 4 * 49152


def test_numbers_beyond_float16_are_refused(tmp_path):
    with pytest.raises(ValueError, match="float16 holds numbers up to 65504.*bfloat16"):
        cache.record(
            lambda x: 1e6 * linear(x), X, tmp_path / "cache", targets=cache.Dense("float16"), **QUIET
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cache.Dense("float64"), "dtype must be 'float32'"),
        (lambda: cache.TopK(0), "k must be an integer of at least 1"),
        (lambda: cache.TopK(2, temperatures=()), "Temperatures must be numbers from 1e-6"),
        (lambda: cache.Sampled(2, temperature=0.0), "Temperatures must be numbers from 1e-6"),
        (lambda: cache.Sampled(2, seed=-1), "seed must be an integer >= 0"),
    ],
)
def test_targets_check_their_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("teacher", "data", "given", "message"),
    [
        (
            linear,
            X,
            {"targets": cache.TopK(2)},
            "must know whether the teacher returns logits.*from_logits=True",
        ),
        (linear, X, {"targets": cache.TopK(6, from_logits=True)}, "k must be at most the number of classes"),
        (linear, X, {"targets": "dense"}, "A target must be a cache.Dense"),
        (linear, X, {"layers": ["hidden"]}, "Layers can only be read in Keras models"),
        (linear, X, {"shards": [3]}, "shards must be numbers of shards, here from 0 to 2"),
        (linear, X, {"shard_size": 0}, "shard_size must be an integer of at least 1"),
        (lambda x: x[:3] @ KERNEL, X, {}, "a row of one or more for each example"),
        (lambda x: np.full((len(x), 2), np.nan), X, {}, "NaN for 8 of 8 examples"),
        (lambda x: linear(x)[:, : 3 + (x[0, 0] != X[0, 0])], X, {}, "All answers must have one shape"),
        (
            lambda x: {"a": [linear(x)], "b": [linear(x), x]},
            X,
            {},
            "an array, or one list or dictionary of arrays",
        ),
        ("teacher", X, {}, "A teacher must answer a batch"),
        (linear, iter([X]), {}, "cache.record takes arrays, or a tf.data.Dataset of batches"),
        (linear, X[:0], {}, "one example or more"),
        (
            lambda x: {"a": linear(x), "b": linear(x)},
            X,
            {"targets": dict.fromkeys(("a", "b", "typo"), cache.Dense())},
            r"targets must name outputs .* Received: \['typo'\], but the outputs are \['output a', 'output b'\]",
        ),
    ],
)
def test_what_cannot_be_recorded_says_why(teacher, data, given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cache.record(teacher, data, tmp_path / "cache", **{**QUIET, **given})


def test_a_sigmoid_head_is_kept_dense_with_its_logits(tmp_path, student):
    teacher = dense_net(5, activation="sigmoid", name="teacher")
    answers = cache.record(teacher, X, tmp_path / "cache", **QUIET)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-answers.look_up(np.arange(48))["output"])), teacher.predict(X, verbose=0), rtol=1e-5
    )
    with pytest.raises(ValueError, match="ends in a sigmoid. Use cache.Dense"):
        cache.record(teacher, X, tmp_path / "other", targets=cache.TopK(1), **QUIET)
    with pytest.raises(ValueError, match="A loss on softmax logits needs a softmax head"):
        distill.Distiller(answers, student, losses.SoftTargets(1.0))


def test_a_function_teaches_once_it_is_said_what_it_returns(tmp_path):
    answers = cache.record(linear, X, tmp_path / "cache", name="server", **QUIET)
    student = dense_net(4, classes=5)
    with pytest.raises(ValueError, match=r"'server', which does not say. Pass from_logits=\(True, None\)"):
        distill.Distiller(answers, student, losses.SoftTargets(2.0))
    logs = []
    for teacher in (answers, lambda x: keras.ops.matmul(x, KERNEL)):
        distiller = distill.Distiller(
            teacher, student, losses.SoftTargets(2.0), from_logits=(True, None), student_loss_weight=0
        )
        distiller.compile(keras.optimizers.SGD(0.0))
        logs.append(distiller.fit(answers.with_ids(X), batch_size=8, verbose=0).history["loss"])
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-5)


@only_on("tensorflow", reason="it writes these files")
@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_an_exported_file_is_recorded_as_its_model(suffix, tmp_path, teacher):
    file = exports.Exported(exports.export(teacher, tmp_path / f"model{suffix}"))
    answers = cache.record(file, X, tmp_path / "cache", **QUIET)
    assert answers.name == f"model{suffix}"
    np.testing.assert_array_equal(answers.look_up(np.arange(48))["output"], file.predict(X, batch_size=8))
    (tmp_path / "other").mkdir()
    other = exports.export(dense_net(16), tmp_path / "other" / f"model{suffix}")
    with pytest.raises(ValueError, match="the weights of the teacher"):
        cache.record(exports.Exported(other), X, tmp_path / "cache", **QUIET)


def test_inputs_by_name_and_strings_are_recorded(tmp_path):
    words = np.array([["a"], ["bb"], ["ccc"]], dtype=object)
    data = {"text": words, "number": np.arange(3.0)[:, None]}

    def teacher(batch):
        return np.array(
            [[len(word), number] for (word,), (number,) in zip(batch["text"], batch["number"], strict=True)]
        )

    answers = cache.record(teacher, data, tmp_path / "cache", verbose=0)
    np.testing.assert_array_equal(answers.look_up([2, 0])["output"], [[3, 2], [1, 0]])
    assert answers.with_ids(data).inputs["text"] is not None
    with pytest.raises(ValueError, match="other inputs for example 1"):
        answers.with_ids({**data, "text": np.array([["a"], ["b"], ["ccc"]], dtype=object)})


def test_preprocessing_is_the_teachers_alone(tmp_path, teacher, student):
    answers = cache.record(teacher, X, tmp_path / "cache", preprocessing=layers.Rescaling(2.0), **QUIET)
    logs = []
    for one, given in ((answers, {}), (teacher, {"teacher_preprocessing": layers.Rescaling(2.0)})):
        distiller = distill.Distiller(one, student, losses.SoftTargets(2.0), student_loss_weight=0, **given)
        distiller.compile(keras.optimizers.SGD(0.0))
        logs.append(distiller.fit(answers.with_ids(X), batch_size=8, verbose=0).history["loss"])
    assert logs[0] == logs[1]


# Views.


def noisy(x, seed):
    return x + tf.random.stateless_normal(tf.shape(x), seed)


def mixed(x, seed):
    share = tf.random.stateless_uniform((), seed)
    return share * x + (1 - share) * tf.roll(x, 1, axis=0)


@pytest.mark.parametrize("augment", [noisy, mixed])
@pytest.mark.sweep(1)
def test_views_come_again_and_teach_as_live(augment, teacher, student, tmp_path):
    batches = tf.data.Dataset.from_tensor_slices(X).batch(20)
    train = cache.views(batches, augment, count=2, seed=1)
    first, second = ([x for (x,) in train.as_numpy_iterator()] for _ in range(2))
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(first[0] - first[3]).min() > 0  # two views of one batch
    assert np.abs((first[0] - X[:20]) - (first[1] - X[20:40])).min() > 0
    answers = cache.record(teacher, train, tmp_path / "cache", verbose=0, shard_size=30)
    assert answers.examples == 96
    logs = []
    for one in (teacher, answers):
        distiller = distill.Distiller(one, student, losses.SoftTargets(1.0), student_loss_weight=0)
        distiller.compile(keras.optimizers.SGD(0.0))
        logs.append(distiller.fit(answers.with_ids(train), verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-6)


def test_views_without_a_seed_are_refused_with_a_way_out(teacher, tmp_path):
    batches = tf.data.Dataset.from_tensor_slices(X).batch(20)
    passes = itertools.count()

    def drawn():
        yield X[:20] + next(passes)

    changing = [
        tf.data.Dataset.from_generator(drawn, output_signature=batches.element_spec),
        batches.unbatch().shuffle(48, seed=0).batch(20),
    ]
    for data in changing:
        with pytest.raises(ValueError, match=r"differs from pass to pass.*cache.views\(data, augment"):
            cache.record(teacher, data, tmp_path / "cache", verbose=0)
    for given, message in (({"count": 0}, "count must be"), ({"seed": 0.5}, "seed must be")):
        with pytest.raises(ValueError, match=message):
            cache.views(batches, noisy, **{"count": 1, "seed": 0, **given})
    with pytest.raises(ValueError, match="Views are made of a tf.data.Dataset"):
        cache.views(X, noisy, count=1, seed=0)
    with pytest.raises(ValueError, match="Leave out repeat"):
        cache.record(teacher, batches.repeat(), tmp_path / "cache", verbose=0)
    with pytest.raises(ValueError, match="Call batch"):
        cache.record(teacher, tf.data.Dataset.range(3), tmp_path / "cache", verbose=0)


def test_views_of_endless_data_are_refused():
    endless = tf.data.Dataset.from_tensor_slices(np.zeros((4, 2))).batch(2).repeat()
    with pytest.raises(ValueError, match="Received: an endless one. Leave out repeat"):
        cache.views(endless, lambda x, seed: x, count=2, seed=0)


def test_outputs_in_an_ordered_dictionary_go_by_their_names(tmp_path):
    """Flattening keeps its order, which need not be that of the names."""

    def answer(batch):
        rows = np.ones((len(batch), 3), "float32")
        return collections.OrderedDict(out=rows, aux=2 * rows)

    found = cache.record(answer, np.zeros((5, 4), "float32"), tmp_path / "cache", verbose=0).look_up(
        np.arange(2)
    )
    assert {name: float(rows.mean()) for name, rows in found.items()} == {
        "output aux": 2.0,
        "output out": 1.0,
    }


def test_features_in_an_ordered_dictionary_are_those_that_were_recorded(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(collections.OrderedDict(b=x, a=2 * x)).batch(5)
    answers = cache.record(lambda features: features["a"], data, tmp_path / "cache", verbose=0)
    for batch, (given, *_) in zip(data, answers.with_ids(data), strict=True):
        found = answers.look_up(np.asarray(given.ids))
        np.testing.assert_array_equal(next(iter(found.values())), batch["a"])


def test_a_whole_number_and_its_float_are_one_target():
    assert repr(cache.Sampled(3, temperature=2)) == repr(cache.Sampled(3, temperature=2.0))
    assert repr(cache.TopK(3, temperatures=(1, 2))) == repr(cache.TopK(3, temperatures=(1.0, 2.0)))


def test_one_head_for_two_outputs_is_recorded_by_position(tmp_path):
    head, one, other = keras.layers.Dense(3, name="head"), keras.Input((6,)), keras.Input((6,))
    teacher = keras.Model([one, other], [head(one), head(other)])
    found = cache.record(teacher, [X, X[::-1]], tmp_path / "cache", **QUIET).look_up([0, 5])
    np.testing.assert_allclose(found["output 0"], head(X[[0, 5]]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["output 1"], head(X[::-1][[0, 5]]), rtol=1e-5, atol=1e-6)


def test_numbers_of_numpy_are_numbers(tmp_path):
    target = cache.TopK(np.int64(2), temperatures=np.array([1.0, 4.0]), from_logits=True)
    assert target == cache.TopK(2, temperatures=(1.0, 4.0), from_logits=True)
    assert cache.Sampled(np.int64(2), temperature=np.float32(2)) == cache.Sampled(2, temperature=2.0)
    sizes = {"batch_size": np.int64(8), "shard_size": np.int64(16)}
    answers = cache.record(linear, X, tmp_path / "cache", targets=target, verbose=0, **sizes)
    assert answers.examples == 48
    for given, message in (
        ({"batch_size": None}, "batch_size must"),
        ({"layers": "hidden"}, "layers=.'hidden',"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.record(linear, X, tmp_path / "other", verbose=0, **given)
    with pytest.raises(ValueError, match="Temperatures must be numbers"):
        cache.Sampled(2, temperature="2")


def test_of_equal_logits_the_first_are_kept(tmp_path):
    rows = np.array([[1, 1, 1, 1, 1], [0, 2, 2, 2, 1], [3, 0, 0, 0, 0], [5, 4, 3, 2, 1]], "float32")
    for k in (1, 2, 3):
        target = cache.TopK(k, from_logits=True)
        found = cache.record(
            lambda x: rows[x[:, 0]], np.arange(4)[:, None], tmp_path / str(k), targets=target, verbose=0
        )
        kept = found.look_up(range(4))["output.ids"]
        np.testing.assert_array_equal(kept, np.argsort(-rows, axis=-1, kind="stable")[:, :k])

"""Answers from a cache in the place of the teacher: training is the same, bit for bit, whatever is read."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import BACKEND, only_on
from conftest import dense_net
from keras import layers

import distill
from distill import cache, losses
from distill.training import Identified

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 48)
QUIET = {"verbose": 0, "batch_size": 8, "shard_size": 20}
# On other backends, Keras shuffles arrays by a generator of its own, and data from a pipeline by TensorFlow's.
SHUFFLE = {"shuffle": BACKEND == "tensorflow"}


def twin(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def trained(teacher, student, loss, data, y=Y, **kwargs):
    """The weights of a student after two epochs, and its logs."""
    keras.utils.set_random_seed(5)
    student = twin(student)
    distiller = distill.Distiller(teacher, student, loss)
    distiller.compile(
        keras.optimizers.SGD(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    history = distiller.fit(data, y, batch_size=8, epochs=2, verbose=0, **kwargs)
    return student.get_weights(), history.history


def assert_same(one, other, *, shuffled=False):
    """Bit for bit on TensorFlow; XLA, on JAX, rounds as it compiles each step.

    A processor may round an answer otherwise where its example stands elsewhere in a batch, so a live teacher's answers
    to shuffled examples are recorded but for their last bits.
    """
    assert np.isfinite(one[1]["loss"]).all()
    exact = {"rtol": 0.0 if BACKEND == "tensorflow" and not shuffled else 1e-4, "atol": 1e-8 * shuffled}
    for left, right in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(left, right, **exact)
    for name, values in one[1].items():
        np.testing.assert_allclose(other[1][name], values, **exact)


def everything():
    """Losses on logits, layers, relations and remembered examples at once."""
    return [
        losses.SoftTargets(2.0),
        losses.Hint("hidden", "hidden"),
        losses.SimilarityPreserving(),
        losses.ContrastiveRepresentation(Y, "hidden", "hidden", negatives=4, width=4),
    ]


@pytest.mark.parametrize("shuffled", sorted({False, SHUFFLE["shuffle"]}))
@pytest.mark.sweep(1)
def test_training_on_dense_answers_is_live_bit_for_bit(shuffled, teacher, student, tmp_path):
    answers = cache.record(teacher, X, tmp_path / "cache", layers=["hidden"], **QUIET)
    ids = Identified(X, np.arange(48))
    assert_same(
        trained(teacher, student, everything(), ids, shuffle=shuffled),
        trained(answers, student, everything(), answers.with_ids(X), shuffle=shuffled),
        shuffled=shuffled,
    )


def test_data_sets_cut_shuffled_and_repeated_find_their_answers(teacher, student, tmp_path):
    # Batches and shards end at different examples.
    train = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
    answers = cache.record(teacher, train, tmp_path / "cache", verbose=0, shard_size=20)
    # One data set for both: another would be shuffled otherwise, since the seed of the process takes part.
    numbered = answers.with_ids(train).skip(1).shuffle(7, seed=3, reshuffle_each_iteration=False).repeat(2)
    plain = numbered.map(lambda x, y: (x.inputs, y))
    loss = losses.SoftTargets(2.0)
    live = trained(teacher, student, loss, plain, None, shuffle=False)
    assert_same(live, trained(answers, student, loss, numbered, None, shuffle=False))


def test_rows_are_found_in_any_order_and_number(teacher, tmp_path):
    answers = cache.record(teacher, X, tmp_path / "cache", layers=["hidden"], **QUIET)
    ids = np.array([47, 0, 19, 20, 0, 3])
    found = answers.look_up(ids)
    assert list(found) == ["output", "layer hidden"]
    hidden, kernel_bias = (
        keras.Model(teacher.input, teacher.get_layer("hidden").output),
        teacher.get_layer("head"),
    )
    np.testing.assert_allclose(found["layer hidden"], hidden.predict(X, verbose=0)[ids], rtol=1e-5)
    logits = found["layer hidden"] @ kernel_bias.get_weights()[0] + kernel_bias.get_weights()[1]
    np.testing.assert_allclose(found["output"], logits, rtol=1e-4, atol=1e-5)
    opened = pickle.loads(pickle.dumps(cache.open(tmp_path / "cache")))
    np.testing.assert_array_equal(opened.look_up(ids)["output"], found["output"])


def several(name):
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="hidden")(inputs)
    heads = [layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(2, name="place")(x)]
    return keras.Model(
        inputs, heads if name == "list" else {"kind": heads[0], "place": heads[1]}, name="several"
    )


@pytest.mark.parametrize("structure", ["list", "dict"])
@pytest.mark.sweep(1)
def test_several_outputs_have_their_live_names(structure, tmp_path):
    teacher, student = several(structure), several(structure)
    answers = cache.record(
        teacher,
        X,
        tmp_path / "cache",
        targets={"kind": cache.TopK(3, temperatures=(2.0,)), "place": cache.Dense()},
        **QUIET,
    )
    found = {}
    for one in (teacher, answers):
        keras.utils.set_random_seed(5)
        learner = twin(student)
        loss = {"kind": losses.SoftTargets(2.0), "place": losses.OutputMSE()}
        distiller = distill.Distiller(one, learner, loss, student_loss_weight=0)
        distiller.compile(keras.optimizers.SGD(0.1))
        found[one is answers] = distiller.fit(answers.with_ids(X), batch_size=8, verbose=0, **SHUFFLE).history
    assert set(found[True]) == {"loss", "kind_soft_targets", "place_output_mse"}
    for key, value in found[False].items():
        np.testing.assert_allclose(found[True][key], value, rtol=1e-5)
    with pytest.raises(ValueError, match="has no output 'kinds'"):
        distill.Distiller(
            answers,
            keras.Model(student.input, {"kinds": student.outputs[0]}),
            {"kinds": losses.SoftTargets(2.0)},
        )
    with pytest.raises(ValueError, match=r"targets for \['kind'\], and 'output place'"):
        cache.record(teacher, X, tmp_path / "other", targets={"kind": cache.Dense()}, **QUIET)


def test_channels_first_are_recorded_last(tmp_path):
    def net(name):
        inputs = keras.Input((2, 3, 4))
        x = layers.Permute((3, 1, 2), name="maps")(inputs)  # channels 4, first
        x = layers.BatchNormalization(axis=1, name="norm")(x)
        return keras.Model(inputs, layers.Softmax(axis=1, name="head")(x), name=name)

    x = np.random.default_rng(2).normal(size=(16, 2, 3, 4)).astype("float32")
    teacher, student = net("teacher"), net("student")
    teacher.set_weights([np.random.default_rng(i).uniform(0.5, 2, 4).astype("float32") for i in range(4)])
    answers = cache.record(teacher, x, tmp_path / "cache", layers=["norm"], **QUIET)
    assert answers.look_up([0])["output"].shape == (1, 2, 3, 4)
    loss = [losses.SoftTargets(2.0), losses.AttentionTransfer("norm", "norm"), losses.OutputMSE()]
    results = []
    for one in (teacher, answers):
        distiller = distill.Distiller(one, student, loss, student_loss_weight=0)
        distiller.compile(keras.optimizers.SGD(0.0))
        results.append(
            distiller.fit(answers.with_ids(x), batch_size=8, epochs=1, verbose=0, shuffle=False).history
        )
    assert_same(([], results[0]), ([], results[1]))
    with pytest.raises(
        ValueError, match="is a loss of Keras, which compares tensors as the models return them"
    ):
        distill.Distiller(answers, student, keras.distillation.LogitsDistillation())


def test_a_cache_beside_a_live_teacher(teacher, student, tmp_path):
    other = dense_net(8, name="other")
    answers = cache.record(other, X, tmp_path / "cache", targets=cache.TopK(2), **QUIET)
    whole = cache.record(other, X, tmp_path / "whole", **QUIET)
    ids, loss = Identified(X, np.arange(48)), losses.SoftTargets(1.0)
    assert_same(
        trained([teacher, other], student, losses.SoftTargets(1.0), ids, shuffle=False),
        trained([teacher, whole], student, losses.SoftTargets(1.0), ids, shuffle=False),
    )
    distill.Distiller([teacher, answers], student, loss)
    with pytest.raises(ValueError, match="teacher_mean averages the logits of all classes.*cache.Dense"):
        distill.Distiller([teacher, answers], student, loss, teacher_mean="logits")
    distill.Distiller([teacher, whole], student, loss, teacher_mean="logits")


def test_settings_that_answers_cannot_serve_are_refused_before_training(teacher, student, tmp_path):
    answers = cache.record(
        teacher, X, tmp_path / "cache", targets=cache.TopK(2, temperatures=(1.0, 0.1)), **QUIET
    )
    with pytest.raises(ValueError, match=r"temperature of 4, .*Record with temperatures=\(1.0, 0.1, 4.0\)"):
        distill.Distiller(answers, student, losses.SoftTargets(4.0))
    with pytest.raises(ValueError, match="follows a schedule.*Record with targets=cache.Dense"):
        distill.Distiller(answers, student, losses.SoftTargets(lambda step: 1.0 + step))
    with pytest.raises(
        ValueError, match=r"not recorded. Received: \['hidden'\]; there are no layers. .*layers=\('hidden',\)"
    ):
        distill.Distiller(answers, student, losses.Hint("hidden", "hidden"))
    with pytest.raises(ValueError, match="Recorded answers are not computed from the batch"):
        distill.Distiller(answers, student, losses.HardTargets(), teacher_preprocessing=layers.Identity())
    with pytest.raises(ValueError, match="same shape"):
        distill.Distiller(answers, dense_net(4, classes=5), losses.HardTargets())
    loss = losses.SoftTargets(0.1)  # which float32 rounds
    distiller = distill.Distiller(answers, student, loss)
    distiller.compile("sgd", loss="sparse_categorical_crossentropy")
    distiller.fit(answers.with_ids(X), Y, verbose=0)
    with pytest.raises(ValueError, match="temperature of 3"):
        loss.temperature = 3.0
    loss.settings[0].restore(3.0)  # as `load_weights` does
    with pytest.raises(ValueError, match="temperature of 3"):
        distiller.fit(answers.with_ids(X), Y, verbose=0)
    with pytest.raises(ValueError, match="temperature of 3"):
        distiller.evaluate(answers.with_ids(X), Y, verbose=0)


def test_examples_that_are_not_in_the_cache_are_an_error(teacher, student, tmp_path):
    answers = cache.record(teacher, X, tmp_path / "cache", **QUIET)
    distiller = distill.Distiller(answers, student, losses.SoftTargets())
    distiller.compile("sgd", loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="inputs without ids. Train on answers.with_ids"):
        distiller.fit(X, Y, verbose=0)
    with pytest.raises(Exception, match="Ids are from 0 to 47.*Received: 48"):
        distiller.fit(Identified(X, np.arange(1, 49)), Y, verbose=0)
    with pytest.raises(ValueError, match="other inputs for example 0"):
        answers.with_ids(X[::-1])
    with pytest.raises(ValueError, match="12 examples"):
        answers.with_ids(X[:12])
    with pytest.raises(ValueError, match="ids must be integers"):
        answers.look_up([0.5])
    assert answers.look_up([])["output"].shape == (0, 3)
    train = tf.data.Dataset.from_tensor_slices(X[::-1]).batch(8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="other inputs for example 0"):
        list(answers.with_ids(train))


def test_answers_are_checked_and_evaluated_as_a_teacher(teacher, student, tmp_path):
    answers = cache.record(teacher, X, tmp_path / "cache", **QUIET)
    ids = answers.with_ids(X)
    found = []
    for one in (teacher, answers):
        distiller = distill.Distiller(one, student, losses.SoftTargets(2.0), validate_teacher=True)
        distiller.compile("sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        scores = distiller.check(ids, Y).models[0].scores
        found.append(
            (distiller.evaluate(ids, Y, verbose=0, return_dict=True), scores, distiller.predict(X, verbose=0))
        )
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    np.testing.assert_allclose(list(found[0][1].values()), list(found[1][1].values()), rtol=1e-5)
    np.testing.assert_array_equal(found[0][2], found[1][2])


@only_on("tensorflow", reason="XLA compiles the step of other backends anyhow")
@pytest.mark.slow
def test_sparse_answers_train_under_xla(teacher, student, tmp_path):
    answers = cache.record(
        teacher, X, tmp_path / "cache", targets=cache.TopK(2, temperatures=(2.0,)), **QUIET
    )
    found = []
    for jit in (False, True):
        copy = twin(student)
        distiller = distill.Distiller(answers, copy, losses.SoftTargets(2.0))
        distiller.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", jit_compile=jit)
        distiller.fit(answers.with_ids(X), Y, batch_size=8, shuffle=False, verbose=0)
        found.append(copy.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
def test_replicas_look_up_their_own_examples(teacher, tmp_path):
    answers = cache.record(
        teacher, X, tmp_path / "cache", targets=cache.TopK(2, temperatures=(2.0,)), **QUIET
    )
    found = []
    for strategy in (tf.distribute.get_strategy(), tf.distribute.OneDeviceStrategy("/cpu:0")):
        keras.utils.set_random_seed(5)
        with strategy.scope():
            student = dense_net(4)
            distiller = distill.Distiller(answers, student, losses.SoftTargets(2.0))
            distiller.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
        distiller.fit(answers.with_ids(X), Y, batch_size=8, shuffle=False, verbose=0)
        found.append(student.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_logits_of_recorded_probabilities_are_compared_as_live_ones(teacher, student, tmp_path):
    """Up to a number for each example, which probabilities do not tell, and which this loss would see."""
    answers = cache.record(lambda x: keras.ops.convert_to_numpy(teacher(x)), X, tmp_path / "cache", **QUIET)
    options = {"student_loss_weight": 0, "from_logits": (False, None)}
    distiller = distill.Distiller(answers, student, losses.LogitMSE(), **options)
    distiller.compile(keras.optimizers.SGD(0.0))
    taught, learned = (
        np.log(keras.ops.convert_to_numpy(net(X))).astype("float64") for net in (teacher, student)
    )
    apart = (taught - taught.mean(axis=-1, keepdims=True)) - (learned - learned.mean(axis=-1, keepdims=True))
    logs = distiller.train_on_batch(answers.with_ids(X), return_dict=True)
    assert logs["loss"] == pytest.approx(np.mean(apart**2), rel=1e-4)


def unsorted():
    """Two outputs by names that are not in the order of the alphabet, in which Keras flattens them."""
    inputs = keras.Input((6,))
    return keras.Model(inputs, {"label": layers.Dense(3, "softmax")(inputs), "box": layers.Dense(4)(inputs)})


def test_outputs_have_their_own_heads_whatever_the_order_of_their_names(tmp_path):
    teacher, student = unsorted(), unsorted()
    answers = cache.record(teacher, X, tmp_path / "cache", **QUIET)
    kernel, bias = (array for array in teacher.get_weights() if array.shape[-1] == 3)
    np.testing.assert_allclose(
        answers.look_up(np.arange(48))["output label"], X @ kernel + bias, rtol=1e-4, atol=1e-5
    )
    logs = []
    for one, x in ((teacher, X), (answers, answers.with_ids(X))):
        loss = {"label": losses.SoftTargets(2.0), "box": losses.OutputMSE()}
        distiller = distill.Distiller(one, twin(student), loss, student_loss_weight=0)
        distiller.compile(keras.optimizers.SGD(0.0))
        logs.append(distiller.fit(x, batch_size=8, verbose=0, shuffle=False).history)
    for name, values in logs[0].items():
        np.testing.assert_allclose(logs[1][name], values, rtol=1e-5)


def test_a_teacher_that_drops_in_training_is_known_again_when_it_is_loaded_again(tmp_path):
    """No file keeps the random seeds of its layers."""
    stack = [layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(3)]
    keras.Sequential([keras.Input((6,)), *stack]).save(tmp_path / "teacher.keras")
    for shards in ([0], [1, 2]):
        teacher = keras.models.load_model(tmp_path / "teacher.keras")
        cache.record(teacher, X, tmp_path / "cache", shards=shards, **QUIET)
    complete = cache.open(tmp_path / "cache")
    np.testing.assert_allclose(
        complete.look_up(np.arange(48))["output"], teacher.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_temperature_that_was_not_recorded_is_refused_when_it_is_set(tmp_path):
    student, loss = dense_net(4), distill.SoftTargets(4.0)
    kept = cache.TopK(2, temperatures=(2.0, 4.0))
    answers = cache.record(dense_net(8), X, tmp_path / "cache", targets=kept, **QUIET)
    distiller = distill.Distiller(answers, student, loss, validate_teacher=True)
    distiller.compile("sgd", loss="sparse_categorical_crossentropy")

    def cool(epoch, logs):
        loss.temperature = 2.0
        with pytest.raises(ValueError, match="temperature"):
            loss.temperature = 3.0
        assert loss.temperature == 2.0

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=cool)
    logs = distiller.fit(answers.with_ids(X), Y, epochs=2, verbose=0, callbacks=[callback]).history
    assert np.isfinite(logs["loss"]).all()
    # Another Distiller, whose teacher knows all temperatures, has the loss now.
    distill.Distiller(dense_net(8), dense_net(4), loss)
    loss.temperature = 3.0


@pytest.mark.parametrize("kind", ["recorded", "live"])
@pytest.mark.sweep(1)
def test_an_evaluation_without_labels_reports_the_distillation_losses(kind, tmp_path):
    teacher, student = dense_net(8), dense_net(4)
    data = X
    if kind == "recorded":
        teacher = cache.record(teacher, X, tmp_path / "cache", **QUIET)
        data = teacher.with_ids(X)
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(2.0))
    distiller.compile("sgd", loss="sparse_categorical_crossentropy")
    found = distiller.evaluate(data, verbose=0, return_dict=True)
    assert set(found) == {"loss", "soft_targets"}
    assert found["soft_targets"] > 0
    logs = distiller.fit(data, Y, validation_data=(data,), verbose=0).history
    assert {"val_loss", "val_soft_targets"} <= set(logs)
    assert set(distiller.evaluate(data, Y, verbose=0, return_dict=True)) == {"loss"}


def test_a_live_teacher_beside_a_cache_takes_the_features_in_the_students_order(tmp_path):
    def two(*names):
        inputs = [keras.Input((3,), name=name) for name in names]
        return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Concatenate()(inputs)))

    x = [X[:, :3], X[:, 3:]]
    answers = cache.record(two("a", "b"), x, tmp_path / "cache", **QUIET)
    distiller = distill.Distiller(
        [answers, two("b", "a")], two("a", "b"), distill.losses.LogitMSE(), student_loss_weight=0
    )
    distiller.compile("adam")
    with pytest.raises(ValueError, match="must take the features in one order"):
        distiller.fit(answers.with_ids(x), verbose=0)

"""Scores from gradients, against float64 numpy; and a model that is afterwards what it was."""

import keras
import numpy as np
import pytest
from conftest import FEATURES, dense_net
from keras import layers, ops
from scoring import (
    CE,
    FORMS,
    GRADIENT_IMPORTANCES,
    Twice,
    as_dataset,
    assert_close,
    by_name,
    examples,
    gradients_of,
    in_batches,
    on_gradients,
    score,
    snip_by_hand,
    state,
    weights_of,
)

from distill import pruning
from distill.pruning.weights import importance

pytestmark = on_gradients


def taylor_by_hand(weights, batches):
    of_batches = [gradients_of(weights, *batch) for batch in batches]
    return by_name(*(np.mean([(weights[i] * g[i]) ** 2 for g in of_batches], axis=0) for i in (0, 2)))


def movement_by_hand(weights, batches, learning_rate, steps, kept=(1.0, 1.0), frozen=()):
    weights, total = [w.copy() for w in weights], [0.0, 0.0]
    for step in range(steps):
        gradient = gradients_of(weights, *batches[step % len(batches)])
        for i in (0, 1):
            total[i] = total[i] - learning_rate * weights[2 * i] * gradient[2 * i]
        weights = [
            w if i in frozen else w - learning_rate * g
            for i, (w, g) in enumerate(zip(weights, gradient, strict=True))
        ]
        weights[0], weights[2] = weights[0] * kept[0], weights[2] * kept[1]
    return by_name(*total)


@pytest.mark.parametrize("form", FORMS)
def test_snip_is_weight_times_gradient_of_the_mean_over_all_examples(form):
    model, (x, y) = dense_net(4), examples(10)
    batches = in_batches(4, x, y)  # 4, 4, 2
    weights = weights_of(model)
    by = importance.snip(FORMS[form](batches), CE)
    assert_close(score(by, model), snip_by_hand(weights, x, y))
    unweighted = np.mean([gradients_of(weights, *batch)[0] for batch in batches], axis=0)
    assert not np.allclose(
        np.abs(weights[0] * unweighted), snip_by_hand(weights, x, y)["hidden/kernel"], rtol=1e-2
    )
    # Anew, with the weights of now.
    model.set_weights([w * 0.5 for w in model.get_weights()])
    assert_close(score(by, model), snip_by_hand([w * 0.5 for w in weights], x, y))


def per_example(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


LOSSES = {
    "object": CE,
    "one value each": keras.losses.SparseCategoricalCrossentropy(reduction="none"),
    "function": per_example,
    "name": "sparse_categorical_crossentropy",
    "compiled": None,
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_sample_weights(loss, weighted):
    model, (x, y) = dense_net(4), examples(10)
    model.compile("sgd", "sparse_categorical_crossentropy")
    arrays = (x, y, np.linspace(0.1, 2, 10).astype("float32")) if weighted else (x, y)
    by = importance.snip(in_batches(4, *arrays), LOSSES[loss])
    assert_close(score(by, model), snip_by_hand(weights_of(model), *arrays))


def test_a_loss_that_is_a_mean_and_takes_no_weights():
    model, (x, y) = dense_net(4), examples(10)
    mean = lambda y_true, y_pred: ops.mean(per_example(y_true, y_pred))  # noqa: E731
    data = in_batches(4, x, y)
    assert_close(score(importance.snip(data, mean), model), snip_by_hand(weights_of(model), x, y))
    with pytest.raises(ValueError, match="one value per example"):
        score(importance.snip((x, y, np.ones(10, "float32")), mean), model)


def test_taylor_is_the_mean_over_batches_of_squares():
    model, (x, y) = dense_net(4), examples(130)
    weights = weights_of(model)
    for size, data in {4: in_batches(4, x, y), 128: (x, y)}.items():
        expected = taylor_by_hand(weights, in_batches(size, x, y))
        assert_close(score(importance.taylor(data, CE), model), expected)
        squares = snip_by_hand(weights, x, y)["hidden/kernel"] ** 2
        assert not np.allclose(expected["hidden/kernel"], squares, rtol=0.1)


def test_the_compiled_loss_brings_its_penalties_and_another_does_not():
    x, y = examples(10)
    model = dense_net(4)
    model.get_layer("hidden").kernel_regularizer = keras.regularizers.L2(0.1)
    model.get_layer("hidden").kernel.regularizer = keras.regularizers.L2(0.1)
    model.compile("sgd", CE)
    weights = weights_of(model)
    plain = snip_by_hand(weights, x, y)
    with_penalty = np.abs(weights[0] * (gradients_of(weights, x, y)[0] + 0.2 * weights[0]))
    data = in_batches(4, x, y)
    assert_close(score(importance.snip(data), model), plain | {"hidden/kernel": with_penalty})
    assert_close(score(importance.snip(data, CE), model), plain)


@pytest.mark.parametrize("name", GRADIENT_IMPORTANCES)
def test_gradients_are_of_inference_except_that_movement_trains(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype("float32"), rng.normal(size=(10, 2)).astype("float32")
    inputs = keras.Input((3,))
    twice = Twice()
    model = keras.Model(inputs, twice(layers.Dense(2, use_bias=False, name="dense")(inputs)))
    model.compile("sgd", "mse")
    before, calls = state(model), twice.calls
    found = score(GRADIENT_IMPORTANCES[name](in_batches(4, x, y)), model)["dense/kernel"]
    assert state(model) == before
    assert twice.calls == calls + 1  # one trace for batches of 4 and of 2
    assert model.losses == []

    w = weights_of(model)[0]

    def gradient(w, x, y, scale=1.0):
        return scale * 2 * x.T.astype("float64") @ (scale * x @ w - y) / y.size

    if name == "snip":
        expected = np.abs(w * gradient(w, x, y))
    elif name == "taylor":
        expected = np.mean([(w * gradient(w, *batch)) ** 2 for batch in in_batches(4, x, y)], axis=0)
    elif name == "obd":
        rng, expected = np.random.default_rng(0), 0.0
        for rows, targets in in_batches(4, x, y):
            signs = rng.choice((-1.0, 1.0), w.shape)
            product = 2 * rows.T.astype("float64") @ (rows @ signs) / targets.size
            expected = expected + len(rows) / len(x) * w**2 * signs * product / 2
    else:
        expected = 0.0
        for batch in in_batches(4, x, y):
            g = gradient(w, *batch, 2.0)
            expected, w = expected - 0.1 * w * g, w - 0.1 * g
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", GRADIENT_IMPORTANCES)
@pytest.mark.sweep(1)
def test_nothing_is_changed_by_gradients(name):
    def net():
        inputs = keras.Input((FEATURES,))
        x = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(4, name="hidden")(inputs)))
        return keras.Model(inputs, {n: layers.Dense(3, "softmax", name=n)(x) for n in ("a", "b")})

    x, y = examples(10)
    data, both = in_batches(4, x, y), [(x, {"a": y, "b": y}) for x, y in in_batches(4, x, y)]
    model = net()
    model.compile("adam", {"a": CE, "b": CE}, metrics={"a": ["accuracy"]}, run_eagerly=True)
    model.train_on_batch(x, {"a": y, "b": y})
    before, iterations = state(model), int(model.optimizer.iterations)
    found = score(GRADIENT_IMPORTANCES[name](both), model)
    assert state(model) == before
    assert int(model.optimizer.iterations) == iterations
    if name == "movement":
        again = score(GRADIENT_IMPORTANCES[name](both), model)
        for kernel, part in found.items():
            np.testing.assert_array_equal(part, again[kernel])  # seeds too were put back

    def failing():
        yield from both
        raise RuntimeError("the disk is gone")

    class Failing:
        def __iter__(self):
            return failing()

    by = (
        importance.movement(Failing(), learning_rate=0.1, steps=9)
        if name == "movement"
        else GRADIENT_IMPORTANCES[name](Failing())
    )
    with pytest.raises(RuntimeError, match="disk"):
        score(by, model)
    assert state(model) == before

    # Metrics that the compiled loss makes at its first call begin at zero.
    fresh = net()
    fresh.compile("adam", {"a": CE, "b": CE})
    score(GRADIENT_IMPORTANCES[name](both), fresh)
    assert all(not np.any(ops.convert_to_numpy(v)) for v in fresh.metrics_variables)
    assert not fresh.optimizer.built
    with pytest.raises(ValueError, match="labels"):
        score(GRADIENT_IMPORTANCES[name]([x for x, _ in data]), model)


def test_movement_follows_sgd_over_batches_again_and_again():
    model, (x, y) = dense_net(4), examples(10)
    batches, before = in_batches(4, x, y), state(model)
    expected = movement_by_hand(weights_of(model), batches, 0.5, 7)
    found = score(importance.movement(batches, CE, learning_rate=0.5, steps=7), model)
    assert_close(found, expected)
    assert (found["hidden/kernel"] < 0).any()
    assert (found["hidden/kernel"] > 0).any()
    assert state(model) == before
    forever = as_dataset(batches).repeat()
    assert_close(score(importance.movement(forever, CE, learning_rate=0.5, steps=7), model), expected)


def test_movement_keeps_what_is_pruned_at_zero():
    model, (x, y) = dense_net(8), examples(10)
    pruning.prune(model, 0.5)
    weights = weights_of(model)
    kept = [weights[i] != 0 for i in (0, 2)]
    batches, before = in_batches(4, x, y), state(model)
    found = score(importance.movement(batches, CE, learning_rate=0.5, steps=6), model)
    assert_close(found, movement_by_hand(weights, batches, 0.5, 6, kept))
    for part, mask in zip(found.values(), kept, strict=True):
        assert not part[~mask].any()
        assert part[mask].all() or mask.shape == (FEATURES, 8)  # a unit may be dead
    assert state(model) == before


def test_frozen_kernels_are_scored_and_not_moved():
    model, (x, y) = dense_net(4), examples(10)
    weights, batches = weights_of(model), in_batches(4, x, y)
    model.get_layer("hidden").trainable = False
    assert_close(score(importance.snip((x, y), CE), model), snip_by_hand(weights, x, y))
    found = score(importance.movement(batches, CE, learning_rate=0.5, steps=4), model)
    assert_close(found, movement_by_hand(weights, batches, 0.5, 4, frozen=(0, 1)))


@pytest.mark.parametrize("name", ["snip", "movement"])
def test_gradients_of_embeddings(name):
    rng = np.random.default_rng(0)
    ids, y = rng.integers(0, 5, (6, 3)), rng.normal(size=(6, 2)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(6, 2, name="rows"),
            layers.GlobalAveragePooling1D(),
        ]
    )
    table = weights_of(model)[0]

    def gradient(table):
        g = np.zeros_like(table)
        for row, target in zip(ids, y, strict=True):
            for i in row:
                g[i] += 2 * (table[row].mean(axis=0) - target) / y.size / 3
        return g

    if name == "snip":
        by, expected = importance.snip((ids, y), "mse"), np.abs(table * gradient(table))
    else:
        by = importance.movement((ids, y), "mse", learning_rate=0.1, steps=2)
        first = gradient(table)
        moved = table - 0.1 * first
        expected = -0.1 * (table * first + moved * gradient(moved))
    assert not expected[5].any()
    assert_close(score(by, model), {"rows/embeddings": expected})


def test_prune_takes_scores_of_data():
    model, (x, y) = dense_net(8), examples(10)
    expected = snip_by_hand(weights_of(model), x, y)["hidden/kernel"]
    pruning.prune(model, 0.75, importance=importance.snip((x, y), CE))
    kept = ops.convert_to_numpy(model.get_layer("hidden").kernel) != 0
    assert kept.sum() == 12
    assert expected[kept].min() >= expected[~kept].max()


@pytest.mark.parametrize("name", GRADIENT_IMPORTANCES)
def test_what_gradients_refuse(name, monkeypatch):
    model, (x, y) = dense_net(4, name="net"), examples(4)
    make = GRADIENT_IMPORTANCES[name]
    with pytest.raises(ValueError, match="'net', which is not compiled"):
        score(make((x, y)), model)
    for empty in ([], (x[:0], y[:0])):
        with pytest.raises(ValueError, match="must have at least one example"):
            score(make(empty, CE), model)
    with pytest.raises(ValueError, match="labels"):
        score(make(x, CE), model)
    with pytest.raises(ValueError, match="reduction='sum'"):
        make((x, y), keras.losses.SparseCategoricalCrossentropy(reduction="sum"))
    only_a = {"a": CE}
    two = keras.Model(
        inputs := keras.Input((FEATURES,)),
        {n: layers.Dense(3, "softmax", name=n)(inputs) for n in ("a", "b")},
    )
    two.compile("sgd", only_a)
    before = state(two)
    with pytest.raises(ValueError, match="does not depend on b/kernel"):
        score(make([(x, {"a": y})], lambda y_true, y_pred: CE(y_true["a"], y_pred["a"])), two)
    assert state(two) == before
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="the backend 'jax'"):
        score(make((x, y), CE), model)

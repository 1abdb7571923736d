"""Scores from data, against float64 numpy; and a model that is afterwards what it was."""

import keras
import numpy as np
import pytest
from backend import BACKEND, only_on
from conftest import FEATURES, dense_net
from keras import layers, ops

from distill import pruning
from distill.pruning import criteria
from distill.pruning.weights._kernels import find_kernels

CE = keras.losses.SparseCategoricalCrossentropy()
on_gradients = only_on("tensorflow", reason="criteria on gradients")
GRADIENT_CRITERIA = {
    "snip": criteria.snip,
    "taylor": criteria.taylor,
    "movement": lambda data, loss=None: criteria.movement(data, loss, learning_rate=0.1, steps=3),
    "obd": criteria.obd,
}


@pytest.fixture(autouse=True)
def _on_this_backend(request):
    if "gradients" in request.node.name and BACKEND != "tensorflow":
        pytest.skip("criteria on gradients run on TensorFlow")


def examples(count, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, FEATURES)).astype("float32")
    return x, rng.integers(0, 3, count)


def in_batches(size, *arrays):
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


def score(criterion, model, **selectors):
    kernels = find_kernels(model, **selectors).found
    found = criterion(model, kernels)
    assert [part.shape for part in found] == [tuple(kernel.variable.shape) for kernel in kernels]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float64 for part in found)
    return {kernel.name: part for kernel, part in zip(kernels, found, strict=True)}


def state(model):
    variables = [*model.variables, *model.metrics_variables]
    return [(v.path, np.array(ops.convert_to_numpy(v)).tobytes()) for v in variables]


def weights_of(model):
    return [np.array(ops.convert_to_numpy(v), "float64") for v in model.trainable_variables]


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, part in expected.items():
        assert np.abs(part).max() > 0
        np.testing.assert_allclose(found[name], part, rtol=1e-5, atol=1e-5 * np.abs(part).max(), err_msg=name)


# Gradients, by hand.


def gradients_of(weights, x, y, sample_weight=None):
    """Of the mean cross-entropy of 6 -> relu -> softmax, to both kernels and biases."""
    w1, b1, w2, b2 = weights
    x = x.astype("float64")
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2 + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d = (p - np.eye(3)[y]) / len(x)
    if sample_weight is not None:
        d *= sample_weight[:, None]
    back = (d @ w2.T) * (before > 0)
    return [x.T @ back, back.sum(axis=0), hidden.T @ d, d.sum(axis=0)]


def by_name(w1, w2):
    return {"hidden/kernel": w1, "head/kernel": w2}


def snip_by_hand(weights, *arrays):
    gradient = gradients_of(weights, *arrays)
    return by_name(np.abs(weights[0] * gradient[0]), np.abs(weights[2] * gradient[2]))


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


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return tuple(part[:] for part in self.batches[index])  # of an index too large: an error


def as_dataset(batches):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        tuple(np.concatenate(p) for p in zip(*batches, strict=True))
    ).batch(4)


FORMS = {
    "list": lambda batches: batches,
    "dataset": as_dataset,
    "arrays": lambda batches: tuple(np.concatenate(parts) for parts in zip(*batches, strict=True)),
    "PyDataset": Batches,
    "float64": lambda batches: [(x.astype("float64"), *rest) for x, *rest in batches],
}


@on_gradients
@pytest.mark.parametrize("form", FORMS)
def test_snip_is_weight_times_gradient_of_the_mean_over_all_examples(form):
    model, (x, y) = dense_net(4), examples(10)
    batches = in_batches(4, x, y)  # 4, 4, 2
    weights = weights_of(model)
    criterion = criteria.snip(FORMS[form](batches), CE)
    assert_close(score(criterion, model), snip_by_hand(weights, x, y))
    unweighted = np.mean([gradients_of(weights, *batch)[0] for batch in batches], axis=0)
    assert not np.allclose(
        np.abs(weights[0] * unweighted), snip_by_hand(weights, x, y)["hidden/kernel"], rtol=1e-2
    )
    # Anew, with the weights of now.
    model.set_weights([w * 0.5 for w in model.get_weights()])
    assert_close(score(criterion, model), snip_by_hand([w * 0.5 for w in weights], x, y))


def per_example(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


LOSSES = {
    "object": CE,
    "one value each": keras.losses.SparseCategoricalCrossentropy(reduction="none"),
    "function": per_example,
    "name": "sparse_categorical_crossentropy",
    "compiled": None,
}


@on_gradients
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_sample_weights(loss, weighted):
    model, (x, y) = dense_net(4), examples(10)
    model.compile("sgd", "sparse_categorical_crossentropy")
    arrays = (x, y, np.linspace(0.1, 2, 10).astype("float32")) if weighted else (x, y)
    criterion = criteria.snip(in_batches(4, *arrays), LOSSES[loss])
    assert_close(score(criterion, model), snip_by_hand(weights_of(model), *arrays))


@on_gradients
def test_a_loss_that_is_a_mean_and_takes_no_weights():
    model, (x, y) = dense_net(4), examples(10)
    mean = lambda y_true, y_pred: ops.mean(per_example(y_true, y_pred))  # noqa: E731
    data = in_batches(4, x, y)
    assert_close(score(criteria.snip(data, mean), model), snip_by_hand(weights_of(model), x, y))
    with pytest.raises(ValueError, match="a value for each example"):
        score(criteria.snip((x, y, np.ones(10, "float32")), mean), model)


@on_gradients
def test_taylor_is_the_mean_over_batches_of_squares():
    model, (x, y) = dense_net(4), examples(130)
    weights = weights_of(model)
    for size, data in {4: in_batches(4, x, y), 128: (x, y)}.items():
        expected = taylor_by_hand(weights, in_batches(size, x, y))
        assert_close(score(criteria.taylor(data, CE), model), expected)
        squares = snip_by_hand(weights, x, y)["hidden/kernel"] ** 2
        assert not np.allclose(expected["hidden/kernel"], squares, rtol=0.1)


@on_gradients
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
    assert_close(score(criteria.snip(data), model), plain | {"hidden/kernel": with_penalty})
    assert_close(score(criteria.snip(data, CE), model), plain)


class Twice(layers.Layer):
    """x in inference, 2 x in training; counts how often Python runs it, and its state moves at every call."""

    def build(self, shape):
        self.calls = 0
        self.state = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs, training=False):
        self.calls += 1
        self.state.assign_add(1.0)
        self.seeds.next()
        self.add_loss(0.0 * ops.sum(inputs))
        return 2.0 * inputs if training else inputs


@on_gradients
@pytest.mark.parametrize("name", GRADIENT_CRITERIA)
def test_gradients_are_of_inference_except_that_movement_trains(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype("float32"), rng.normal(size=(10, 2)).astype("float32")
    inputs = keras.Input((3,))
    twice = Twice()
    model = keras.Model(inputs, twice(layers.Dense(2, use_bias=False, name="dense")(inputs)))
    model.compile("sgd", "mse")
    before, calls = state(model), twice.calls
    found = score(GRADIENT_CRITERIA[name](in_batches(4, x, y)), model)["dense/kernel"]
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


@on_gradients
@pytest.mark.parametrize("name", GRADIENT_CRITERIA)
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
    found = score(GRADIENT_CRITERIA[name](both), model)
    assert state(model) == before
    assert int(model.optimizer.iterations) == iterations
    if name == "movement":
        again = score(GRADIENT_CRITERIA[name](both), model)
        for kernel, part in found.items():
            np.testing.assert_array_equal(part, again[kernel])  # seeds too were put back

    def failing():
        yield from both
        raise RuntimeError("the disk is gone")

    class Failing:
        def __iter__(self):
            return failing()

    criterion = (
        criteria.movement(Failing(), learning_rate=0.1, steps=9)
        if name == "movement"
        else GRADIENT_CRITERIA[name](Failing())
    )
    with pytest.raises(RuntimeError, match="disk"):
        score(criterion, model)
    assert state(model) == before

    # Metrics that the compiled loss makes at its first call begin at zero.
    fresh = net()
    fresh.compile("adam", {"a": CE, "b": CE})
    score(GRADIENT_CRITERIA[name](both), fresh)
    assert all(not np.any(ops.convert_to_numpy(v)) for v in fresh.metrics_variables)
    assert not fresh.optimizer.built
    with pytest.raises(ValueError, match="labels"):
        score(GRADIENT_CRITERIA[name]([x for x, _ in data]), model)


@on_gradients
def test_movement_follows_sgd_over_batches_again_and_again():
    model, (x, y) = dense_net(4), examples(10)
    batches, before = in_batches(4, x, y), state(model)
    expected = movement_by_hand(weights_of(model), batches, 0.5, 7)
    found = score(criteria.movement(batches, CE, learning_rate=0.5, steps=7), model)
    assert_close(found, expected)
    assert (found["hidden/kernel"] < 0).any()
    assert (found["hidden/kernel"] > 0).any()
    assert state(model) == before
    forever = as_dataset(batches).repeat()
    assert_close(score(criteria.movement(forever, CE, learning_rate=0.5, steps=7), model), expected)


@on_gradients
def test_movement_keeps_what_is_pruned_at_zero():
    model, (x, y) = dense_net(8), examples(10)
    pruning.prune(model, 0.5)
    weights = weights_of(model)
    kept = [weights[i] != 0 for i in (0, 2)]
    batches, before = in_batches(4, x, y), state(model)
    found = score(criteria.movement(batches, CE, learning_rate=0.5, steps=6), model)
    assert_close(found, movement_by_hand(weights, batches, 0.5, 6, kept))
    for part, mask in zip(found.values(), kept, strict=True):
        assert not part[~mask].any()
        assert part[mask].all() or mask.shape == (FEATURES, 8)  # a unit may be dead
    assert state(model) == before


@on_gradients
def test_frozen_kernels_are_scored_and_not_moved():
    model, (x, y) = dense_net(4), examples(10)
    weights, batches = weights_of(model), in_batches(4, x, y)
    model.get_layer("hidden").trainable = False
    assert_close(score(criteria.snip((x, y), CE), model), snip_by_hand(weights, x, y))
    found = score(criteria.movement(batches, CE, learning_rate=0.5, steps=4), model)
    assert_close(found, movement_by_hand(weights, batches, 0.5, 4, frozen=(0, 1)))


@on_gradients
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
        criterion, expected = criteria.snip((ids, y), "mse"), np.abs(table * gradient(table))
    else:
        criterion = criteria.movement((ids, y), "mse", learning_rate=0.1, steps=2)
        first = gradient(table)
        moved = table - 0.1 * first
        expected = -0.1 * (table * first + moved * gradient(moved))
    assert not expected[5].any()
    assert_close(score(criterion, model), {"rows/embeddings": expected})


@on_gradients
def test_prune_takes_criteria_of_data():
    model, (x, y) = dense_net(8), examples(10)
    expected = snip_by_hand(weights_of(model), x, y)["hidden/kernel"]
    pruning.prune(model, 0.75, criterion=criteria.snip((x, y), CE))
    kept = ops.convert_to_numpy(model.get_layer("hidden").kernel) != 0
    assert kept.sum() == 12
    assert expected[kept].min() >= expected[~kept].max()


@on_gradients
@pytest.mark.parametrize("name", GRADIENT_CRITERIA)
def test_what_gradients_refuse(name, monkeypatch):
    model, (x, y) = dense_net(4, name="net"), examples(4)
    make = GRADIENT_CRITERIA[name]
    with pytest.raises(ValueError, match="'net', which is not compiled"):
        score(make((x, y)), model)
    for empty in ([], (x[:0], y[:0])):
        with pytest.raises(ValueError, match="need examples"):
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


@pytest.mark.parametrize("make", [*GRADIENT_CRITERIA.values(), criteria.wanda])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([(1, 2)]), "gone through anew"),
        (7, "gone through anew"),
        ((np.ones((3, 2)), np.ones(2)), "arrays of \\[2, 3\\] rows"),
    ],
    ids=["iterator", "number", "lengths"],
)
def test_data_that_will_not_do(make, data, message):
    with pytest.raises(ValueError, match=message):
        make(data)


@only_on("tensorflow", reason="a dataset that goes on forever")
@pytest.mark.parametrize("make", [criteria.snip, criteria.taylor, criteria.obd, criteria.wanda])
def test_a_mean_has_an_end(make):
    with pytest.raises(ValueError, match="goes on forever"):
        make(as_dataset(in_batches(4, *examples(4))).repeat())


@pytest.mark.parametrize(
    "arguments",
    [{"learning_rate": 0.0}, {"learning_rate": np.nan}, {"learning_rate": "1"}, {"steps": 0}, {"steps": 1.5}],
    ids=str,
)
def test_movement_refuses_numbers_out_of_range(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        criteria.movement(examples(4), **({"learning_rate": 0.1, "steps": 1} | arguments))


@on_gradients
def test_obd_is_half_the_curvature_times_the_squared_weight():
    """Of a linear model the Hessian is known; with orthogonal inputs it is diagonal, and one vector is exact."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False, name="one")])
    y = np.zeros((4, 2), "float32")
    ((w,),) = (weights_of(model),)
    x = np.diag([1.0, 2, 3, 4]).astype("float32")
    diagonal = 2 * (x.astype("float64") ** 2).sum(0)[:, None] / y.size
    found = score(criteria.obd((x, y), "mse"), model)
    assert_close(found, {"one/kernel": diagonal * w**2 / 2})
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    diagonal = 2 * (x.astype("float64") ** 2).sum(0)[:, None] / y.size
    found = score(criteria.obd((x, y), "mse", probes=2000), model)["one/kernel"]
    np.testing.assert_allclose(found, diagonal * w**2 / 2, rtol=0.1)


@on_gradients
def test_obd_foretells_what_a_weight_is_worth_at_the_minimum_of_a_curved_loss():
    x, y = examples(64)
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, use_bias=False, name="one")])
    w = weights_of(model)[0]

    def loss(w):
        logits = x.astype("float64") @ w
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(64), y])

    step, diagonal = 1e-3, np.empty(w.shape)
    for i in np.ndindex(*w.shape):
        moved = [w.copy(), w.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        diagonal[i] = (loss(moved[0]) + loss(moved[1]) - 2 * loss(w)) / step**2
    from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = score(criteria.obd((x, y), from_logits, probes=2000), model)["one/kernel"]
    np.testing.assert_allclose(found, diagonal * w**2 / 2, rtol=0.15, atol=1e-4)


@pytest.mark.parametrize("probes", [0, 1.5, True])
def test_obd_needs_vectors(probes):
    with pytest.raises(ValueError, match="an integer >= 1 of vectors"):
        criteria.obd(examples(4), probes=probes)


# Wanda.


def close_to_wanda(found, kernel, norms):
    """Norms as they broadcast over the kernel."""
    kernel = np.abs(np.array(ops.convert_to_numpy(kernel), "float64"))
    np.testing.assert_allclose(found, kernel * np.broadcast_to(norms, kernel.shape), rtol=1e-5)


def norm(x, axis):
    return np.sqrt((np.asarray(x, "float64") ** 2).sum(axis=axis))


@pytest.mark.parametrize("form", [*(f for f in FORMS if f != "dataset"), "x", "batches of x"])
def test_wanda_of_dense_layers(form):
    model, (x, y) = dense_net(4), examples(300)
    forms = {"x": lambda _: x, "batches of x": lambda _: in_batches(7, x), **FORMS}
    w1, b1, _, _ = weights_of(model)
    before = state(model)
    found = score(criteria.wanda(forms[form](in_batches(7, x, y))), model)
    assert state(model) == before
    close_to_wanda(found["hidden/kernel"], model.get_layer("hidden").kernel, norm(x, 0)[:, None])
    hidden = np.maximum(x.astype("float64") @ w1 + b1, 0)
    close_to_wanda(found["head/kernel"], model.get_layer("head").kernel, norm(hidden, 0)[:, None])


def test_wanda_by_output():
    model, (x, _) = dense_net(8), examples(40)
    scores = score(criteria.wanda(x), model)
    pruning.prune(model, 0.5, criterion=criteria.wanda(x), scope="output")
    for name, part in scores.items():
        kept = ops.convert_to_numpy(model.get_layer(name.split("/")[0]).kernel) != 0
        for j in range(part.shape[1]):
            assert kept[:, j].sum() == len(part) // 2
            assert part[kept[:, j], j].min() >= part[~kept[:, j], j].max()


def images(shape=(5, 6, 4), count=5):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32") * np.linspace(
        1, 2, shape[-1]
    )


def grouped_norms(x):
    """Of 4 channels in 2 groups: outputs 0 to 2 see channels 0 and 1, the others 2 and 3."""
    channels = norm(x, (0, 1, 2))
    return np.array([[channels[2 * (f // 3) + c] for f in range(6)] for c in range(2)])


CONVOLUTIONS = {
    "Conv2D": (lambda: layers.Conv2D(3, 2, 2, "same"), lambda x: norm(x, (0, 1, 2))[:, None]),
    "grouped": (lambda: layers.Conv2D(6, 2, groups=2), grouped_norms),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 2), lambda x: norm(x, (0, 1, 2))[None, :]),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=2),
        lambda x: norm(x, (0, 1, 2))[:, None],
    ),
    "Conv1D": (lambda: layers.Conv1D(3, 2), lambda x: norm(x, (0, 1))[:, None]),
    "Conv1D causal": (lambda: layers.Conv1D(3, 2, padding="causal"), lambda x: norm(x, (0, 1))[:, None]),
    "Conv3D": (lambda: layers.Conv3D(3, 2), lambda x: norm(x, (0, 1, 2, 3))[:, None]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_wanda_of_convolutions(name):
    make, norms = CONVOLUTIONS[name]
    x = images({"1": (6, 4), "3": (3, 3, 3, 4)}.get(name[4], (5, 6, 4)))
    model = keras.Sequential([keras.Input(x.shape[1:]), make()])
    found = score(criteria.wanda(in_batches(2, x)), model)
    ((_, scores),) = found.items()
    close_to_wanda(scores, model.layers[0].kernel, norms(x))


def test_grouped_convolutions_see_what_their_norms_say():
    x = images()
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(6, 2, groups=2)])
    x[..., :2] = 0
    ((_, scores),) = score(criteria.wanda(x), model).items()
    outputs = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(scores.any(axis=(0, 1, 2)), outputs.any(axis=(0, 1, 2)))
    assert not outputs[..., :3].any()


@pytest.mark.parametrize("strides", [1, 2])
def test_wanda_of_separable_convolutions(strides):
    x = images()
    layer = layers.SeparableConv2D(3, 2, strides, depth_multiplier=2)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    found = score(criteria.wanda(in_batches(2, x)), model)
    prefix = layer.name
    close_to_wanda(found[f"{prefix}/depthwise_kernel"], layer.depthwise_kernel, norm(x, (0, 1, 2))[:, None])
    depthwise = ops.convert_to_numpy(layer.depthwise_kernel).astype("float64")
    total = np.zeros(8)
    for i in range(0, 4, strides):
        for j in range(0, 5, strides):
            middle = np.einsum("nijc,ijcm->ncm", x[:, i : i + 2, j : j + 2], depthwise)
            total += (middle.reshape(len(x), 8) ** 2).sum(axis=0)
    close_to_wanda(found[f"{prefix}/pointwise_kernel"], layer.pointwise_kernel, np.sqrt(total)[:, None])


def test_wanda_of_embeddings_counts_rows():
    ids = np.array([[0, 1, 1], [4, 1, 0], [4, 4, 4]])
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(6, 2, name="rows")])
    found = score(criteria.wanda(in_batches(2, ids)), model)
    close_to_wanda(found["rows/embeddings"], model.layers[0].embeddings, np.sqrt([2, 3, 0, 0, 4, 0])[:, None])


def test_wanda_of_an_embedding_that_is_the_head_too():
    ids = np.array([[0, 1, 1], [4, 1, 0]])
    inputs = keras.Input((3,), dtype="int32")
    rows = layers.ReversibleEmbedding(6, 2, name="rows")
    model = keras.Model(inputs, rows(rows(inputs), reverse=True))
    found = score(criteria.wanda([ids]), model)
    table = ops.convert_to_numpy(rows.embeddings).astype("float64")
    norms = np.sqrt(np.array([2, 3, 0, 0, 1, 0])[:, None] + (table[ids] ** 2).sum(axis=(0, 1)))
    close_to_wanda(found["rows/embeddings"], rows.embeddings, norms)


X = np.random.default_rng(1).normal(size=(5, 3, 4)).astype("float32")
EINSUMS = {
    "abc,cd->abd": ((3, 7), norm(X, (0, 1))[:, None]),
    "...c,cd->...d": ((3, 7), norm(X, (0, 1))[:, None]),
    "abc,cde->abde": ((3, 2, 7), norm(X, (0, 1))[:, None, None]),
    "abc,dcb->ad": ((7,), norm(X, 0).T[None]),
    "abc,bcd->abd": ((3, 7), norm(X, 0)[:, :, None]),  # a kernel of its own at each b
    "abc,cd->ad": ((7,), norm(X.astype("float64").sum(axis=1), 0)[:, None]),
    "ab...,bd->ad...": ((7, 4), norm(X, (0, 2))[:, None]),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_wanda_of_einsum_dense(equation):
    shape, norms = EINSUMS[equation]
    model = keras.Sequential([keras.Input((3, 4)), layers.EinsumDense(equation, shape, name="einsum")])
    found = score(criteria.wanda(in_batches(2, X)), model)
    close_to_wanda(found["einsum/kernel"], model.layers[0].kernel, norms)


def test_wanda_inside_attention_and_nested_models():
    inputs = keras.Input((3, 4))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    attended = attention(inputs, inputs)
    inner = keras.Sequential([keras.Input((3, 4)), layers.Dense(2, name="inside")], name="nested")
    model = keras.Model(inputs, inner(attended))
    found = score(criteria.wanda(in_batches(2, X)), model)

    weights = {
        w.path.split("/", 1)[-1]: np.array(ops.convert_to_numpy(w), "float64") for w in attention.weights
    }
    q, k, v = (
        np.einsum("btc,chd->bthd", X, weights[f"{n}/kernel"]) + weights[f"{n}/bias"]
        for n in ("query", "key", "value")
    )
    logits = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(3)
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhts,bshd->bthd", shares, v)
    output = np.einsum("bthd,hdc->btc", mixed, weights["attention_output/kernel"])
    output += weights["attention_output/bias"]
    for name in ("query", "key", "value"):
        norms = norm(X, (0, 1))[:, None, None]
        close_to_wanda(found[f"attention/{name}/kernel"], weights[f"{name}/kernel"], norms)
    norms = norm(mixed, (0, 1))[:, :, None]
    close_to_wanda(found["attention/attention_output/kernel"], weights["attention_output/kernel"], norms)
    close_to_wanda(found["nested/inside/kernel"], inner.layers[0].kernel, norm(output, (0, 1))[:, None])


def test_wanda_takes_all_uses_of_a_kernel_together():
    x = examples(10)[0]
    inputs = keras.Input((FEATURES,))
    shared = layers.Dense(FEATURES, use_bias=False, name="shared")
    twin = layers.Dense(FEATURES, use_bias=False, name="twin")
    shared.build((None, FEATURES))
    twin._kernel, twin.bias, twin.built = shared.kernel, None, True
    outputs = layers.TimeDistributed(shared)(ops.expand_dims(twin(shared(inputs)), 1))
    model = keras.Model(inputs, outputs)
    found = score(criteria.wanda(in_batches(4, x)), model)
    kernel = ops.convert_to_numpy(shared.kernel).astype("float64")
    seen = [x, x @ kernel, x @ kernel @ kernel]
    close_to_wanda(found["shared/kernel"], kernel, norm(np.concatenate(seen), 0)[:, None])


def test_wanda_runs_inference_and_leaves_no_trace(tmp_path):
    x = examples(10)[0]
    inputs = keras.Input((FEATURES,))
    y = layers.Dropout(0.5)(Twice()(layers.BatchNormalization(name="norm")(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(y))
    norms = model.get_layer("norm")
    norms.moving_mean.assign(np.arange(FEATURES, dtype="float32"))
    before = state(model)
    attributes = [(layer, dict(vars(layer))) for layer in model._flatten_layers()]
    found = score(criteria.wanda([x]), model)["dense/kernel"]
    normed = (x - np.arange(FEATURES)) / np.sqrt(1 + norms.epsilon)
    close_to_wanda(found, model.get_layer("dense").kernel, norm(normed, 0)[:, None])
    with pytest.raises(ValueError, match="is incompatible"):
        score(criteria.wanda([x, x[:, :3]]), model)  # fails in the middle
    assert state(model) == before
    for layer, own in attributes:
        assert set(vars(layer)) == set(own)
        assert "call" not in vars(layer)
    layer = model.get_layer("dense")
    layer.__dict__["call"] = own = layer.call  # whoever did so finds it again
    score(criteria.wanda([x]), model)
    assert vars(layer)["call"] is own


def test_wanda_of_half_precision_is_added_up_in_full():
    x = np.full((4, FEATURES), 300.0, "float32")  # its square is infinite in float16
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(2, dtype="mixed_float16", name="dense")])
    found = score(criteria.wanda([x]), model)["dense/kernel"]
    close_to_wanda(found, model.layers[0].kernel, np.full((FEATURES, 1), 600.0))


class Own(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)

    def get_prunable_weights(self):
        return [self.kernel]


class Idle(keras.Model):
    """A model that does not run one of its layers."""

    def __init__(self):
        super().__init__(name="lazy")
        self.used, self.idle = layers.Dense(2, name="used"), layers.Dense(2, name="idle")
        self.idle.build((None, FEATURES))

    def call(self, inputs):
        return self.used(inputs)


def test_wanda_says_which_inputs_it_does_not_see():
    x = examples(4)[0]
    recurrent = keras.Sequential(
        [keras.Input((3, 4)), layers.LSTM(2, name="lstm"), layers.Dense(2, name="dense")], name="recurrent"
    )
    with pytest.raises(ValueError, match=r"lstm/lstm_cell/kernel.*lstm/lstm_cell/recurrent_kernel") as raised:
        score(criteria.wanda([X]), recurrent)
    assert "exclude=['lstm/lstm_cell']" in str(raised.value)
    assert "dense" not in str(raised.value).split("Received")[1]
    found = score(criteria.wanda([X]), recurrent, exclude=["lstm/lstm_cell"])
    assert set(found) == {"dense/kernel"}

    own = keras.Sequential([keras.Input((FEATURES,)), Own(name="own")])
    with pytest.raises(ValueError, match=r"own/kernel \(in a Own\)"):
        score(criteria.wanda([x]), own)
    idle = Idle()
    idle(x)
    with pytest.raises(ValueError, match="Received: idle/kernel"):
        score(criteria.wanda([x]), idle)
    assert set(score(criteria.wanda([x]), idle, exclude="idle")) == {"used/kernel"}
    for empty in ([], x[:0]):
        with pytest.raises(ValueError, match="need examples"):
            score(criteria.wanda(empty), dense_net(4))


@only_on("tensorflow", reason="loops of a graph")
def test_wanda_does_not_see_into_a_loop():
    class Looped(layers.Layer):
        """Runs a layer in a graph of its own."""

        def build(self, shape):
            self.dense = layers.Dense(2, name="dense")
            self.dense.build(shape)

        def call(self, inputs):
            import tensorflow as tf

            return tf.function(self.dense)(inputs)

    model = keras.Sequential([keras.Input((FEATURES,)), Looped(name="looped")])
    with pytest.raises(ValueError, match=r"Received: looped/dense/kernel"):
        score(criteria.wanda([examples(4)[0]]), model)
    assert "call" not in vars(model.layers[0].dense)

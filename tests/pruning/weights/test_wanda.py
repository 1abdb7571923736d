"""wanda, against the norms of what each kernel is multiplied with."""

import keras
import numpy as np
import pytest
from backend import only_on
from conftest import FEATURES, dense_net
from keras import layers, ops
from scoring import FORMS, Twice, examples, in_batches, score, state, weights_of

from distill import pruning
from distill.pruning.weights import importance


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
    found = score(importance.wanda(forms[form](in_batches(7, x, y))), model)
    assert state(model) == before
    close_to_wanda(found["hidden/kernel"], model.get_layer("hidden").kernel, norm(x, 0)[:, None])
    hidden = np.maximum(x.astype("float64") @ w1 + b1, 0)
    close_to_wanda(found["head/kernel"], model.get_layer("head").kernel, norm(hidden, 0)[:, None])


def test_wanda_by_output():
    model, (x, _) = dense_net(8), examples(40)
    scores = score(importance.wanda(x), model)
    pruning.prune(model, 0.5, importance=importance.wanda(x), scope="output")
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
    found = score(importance.wanda(in_batches(2, x)), model)
    ((_, scores),) = found.items()
    close_to_wanda(scores, model.layers[0].kernel, norms(x))


def test_grouped_convolutions_see_what_their_norms_say():
    x = images()
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(6, 2, groups=2)])
    x[..., :2] = 0
    ((_, scores),) = score(importance.wanda(x), model).items()
    outputs = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(scores.any(axis=(0, 1, 2)), outputs.any(axis=(0, 1, 2)))
    assert not outputs[..., :3].any()


@pytest.mark.parametrize("strides", [1, 2])
def test_wanda_of_separable_convolutions(strides):
    x = images()
    layer = layers.SeparableConv2D(3, 2, strides, depth_multiplier=2)
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    found = score(importance.wanda(in_batches(2, x)), model)
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
    found = score(importance.wanda(in_batches(2, ids)), model)
    close_to_wanda(found["rows/embeddings"], model.layers[0].embeddings, np.sqrt([2, 3, 0, 0, 4, 0])[:, None])


def test_wanda_of_an_embedding_that_is_the_head_too():
    ids = np.array([[0, 1, 1], [4, 1, 0]])
    inputs = keras.Input((3,), dtype="int32")
    rows = layers.ReversibleEmbedding(6, 2, name="rows")
    model = keras.Model(inputs, rows(rows(inputs), reverse=True))
    found = score(importance.wanda([ids]), model)
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
    found = score(importance.wanda(in_batches(2, X)), model)
    close_to_wanda(found["einsum/kernel"], model.layers[0].kernel, norms)


def test_wanda_inside_attention_and_nested_models():
    inputs = keras.Input((3, 4))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    attended = attention(inputs, inputs)
    inner = keras.Sequential([keras.Input((3, 4)), layers.Dense(2, name="inside")], name="nested")
    model = keras.Model(inputs, inner(attended))
    found = score(importance.wanda(in_batches(2, X)), model)

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
    found = score(importance.wanda(in_batches(4, x)), model)
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
    found = score(importance.wanda([x]), model)["dense/kernel"]
    normed = (x - np.arange(FEATURES)) / np.sqrt(1 + norms.epsilon)
    close_to_wanda(found, model.get_layer("dense").kernel, norm(normed, 0)[:, None])
    with pytest.raises(ValueError, match="is incompatible"):
        score(importance.wanda([x, x[:, :3]]), model)  # fails in the middle
    assert state(model) == before
    for layer, own in attributes:
        assert set(vars(layer)) == set(own)
        assert "call" not in vars(layer)
    layer = model.get_layer("dense")
    layer.__dict__["call"] = own = layer.call  # whoever did so finds it again
    score(importance.wanda([x]), model)
    assert vars(layer)["call"] is own


def test_wanda_of_half_precision_is_added_up_in_full():
    x = np.full((4, FEATURES), 300.0, "float32")  # its square is infinite in float16
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(2, dtype="mixed_float16", name="dense")])
    found = score(importance.wanda([x]), model)["dense/kernel"]
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
        score(importance.wanda([X]), recurrent)
    assert "exclude=['lstm/lstm_cell']" in str(raised.value)
    assert "dense" not in str(raised.value).split("Received")[1]
    found = score(importance.wanda([X]), recurrent, exclude=["lstm/lstm_cell"])
    assert set(found) == {"dense/kernel"}

    own = keras.Sequential([keras.Input((FEATURES,)), Own(name="own")])
    with pytest.raises(ValueError, match=r"own/kernel \(in a Own\)"):
        score(importance.wanda([x]), own)
    idle = Idle()
    idle(x)
    with pytest.raises(ValueError, match="Received: idle/kernel"):
        score(importance.wanda([x]), idle)
    assert set(score(importance.wanda([x]), idle, exclude="idle")) == {"used/kernel"}
    for empty in ([], x[:0]):
        with pytest.raises(ValueError, match="must have at least one example"):
            score(importance.wanda(empty), dense_net(4))


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
        score(importance.wanda([examples(4)[0]]), model)
    assert "call" not in vars(model.layers[0].dense)

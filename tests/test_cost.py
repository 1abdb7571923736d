import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def counted_by_ones(model):
    """Products in a forward pass: with inputs and kernels of ones and no bias, each adds 1 to an output."""
    model.set_weights([np.ones(w.shape) for w in model.weights])
    (shape,) = [t.shape[1:] for t in model.inputs]
    return int(np.sum(model(np.ones((1, *shape), "float32"), training=False)))


def small_cnn():
    return sequential(
        (8, 8, 1), layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)
    )


def test_parameters_count_non_trainable_weights_and_shared_layers_once():
    assert cost.parameters(small_cnn()) == (9 * 2 + 2) + 4 * 2 + (72 * 3 + 3)
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    assert cost.parameters(keras.Model(inputs, shared(shared(inputs)))) == 4 * 4 + 4


def test_parameters_of_an_unbuilt_model_are_refused():
    with pytest.raises(
        ValueError, match=r"exist only once a model is built\. Received: headless, .*keras\.Input"
    ):
        cost.parameters(keras.Sequential([layers.Dense(2)], name="headless"))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6,), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.EinsumDense("abc,cde->abde", (None, 2, 3))),
        ((5, 6), layers.EinsumDense("abc,bcd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,cd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,bcd->abd", (5, 3))),
        ((4, 5, 6), layers.EinsumDense("...x,xy->...y", (3,))),
        ((11, 6), layers.Conv1D(4, 3, strides=2, use_bias=False)),
        ((11, 6), layers.Conv1D(4, 3, groups=2, dilation_rate=3, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, (3, 2), strides=(2, 3), use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, groups=2, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, dilation_rate=2, use_bias=False)),
        ((5, 6, 7, 2), layers.Conv3D(3, 2, use_bias=False)),
        ((11, 6), layers.DepthwiseConv1D(3, strides=2, use_bias=False)),
        ((9, 8, 6), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)),
        ((9, 6), layers.Conv1DTranspose(4, 3, use_bias=False)),
        ((9, 8, 6), layers.Conv2DTranspose(4, (3, 2), strides=2, use_bias=False)),
        ((4, 5, 3, 2), layers.Conv3DTranspose(3, 2, use_bias=False)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value.name,
)
def test_macs_are_the_products_that_the_layer_does(shape, layer):
    model = sequential(shape, layer)
    assert cost.macs(model) == counted_by_ones(model)


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        # Products with the zeros of the padding count: output pixels × kernel × input channels × filters.
        ((9, 8, 6), layers.Conv2D(4, 3, strides=2, padding="same"), 5 * 4 * 9 * 6 * 4),
        ((9, 6), layers.Conv1D(4, 3, strides=2, padding="causal"), 5 * 3 * 6 * 4),
        ((9, 8, 6), layers.DepthwiseConv2D(3, padding="same"), 9 * 8 * 9 * 6),
        # Each depthwise product once, then a 1 × 1 convolution of 6 · 2 channels to 4.
        (
            (9, 8, 6),
            layers.SeparableConv2D(4, 3, strides=2, depth_multiplier=2),
            4 * 3 * (9 * 6 * 2 + 6 * 2 * 4),
        ),
        ((9, 6), layers.SeparableConv1D(4, 3), 7 * (3 * 6 + 6 * 4)),
        ((9, 8, 6), layers.Conv2DTranspose(4, 3, strides=2, padding="same"), 9 * 8 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2D(4, 3, data_format="channels_first"), 7 * 6 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2DTranspose(4, 3, data_format="channels_first"), 9 * 8 * 9 * 6 * 4),
    ],
)
def test_macs_by_hand(shape, layer, expected):
    assert cost.macs(sequential(shape, layer)) == expected


def test_layers_without_kernels_are_free():
    model = sequential(
        (8, 8, 4),
        layers.Rescaling(1 / 255),
        layers.BatchNormalization(),
        layers.GroupNormalization(2),
        layers.LayerNormalization(),
        layers.RMSNormalization(),
        layers.PReLU(),
        layers.MaxPooling2D(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Softmax(),
    )
    assert cost.macs(model) == 0
    tokens = sequential((7,), layers.Embedding(10, 3), layers.GlobalAveragePooling1D(), layers.Dense(2))
    assert cost.macs(tokens) == 3 * 2


def test_nested_and_shared_parts_count_once_per_call_at_the_size_of_that_call():
    head = sequential((None, None, 4), layers.Conv2D(2, 1))
    backbone_input = keras.Input((None, None, 3))
    backbone = keras.Model(backbone_input, layers.Conv2D(4, 3, padding="same")(backbone_input))
    inputs = keras.Input((8, 6, 3))
    large = backbone(inputs)
    small = layers.MaxPooling2D()(large)
    model = keras.Model(inputs, [head(large), head(inputs=small)])
    assert cost.macs(model) == 48 * 9 * 3 * 4 + (48 + 12) * 4 * 2


def test_dict_inputs_and_raw_operations():
    inputs = {key: keras.Input((4,), name=key) for key in "ab"}
    model = keras.Model(inputs, {"sum": layers.Dense(2)(inputs["a"] + keras.ops.relu(inputs["b"]))})
    assert cost.macs(model) == 4 * 2
    outer = {key: keras.Input((4,), name=key) for key in "ab"}
    assert cost.macs(keras.Model(outer, layers.Dense(3)(model(outer)["sum"]))) == 4 * 2 + 2 * 3


def test_layers_of_several_outputs_are_free_unless_they_have_weights():
    class Halves(layers.Layer):
        def call(self, inputs):
            return inputs[:, :2], inputs[:, 2:]

    inputs = keras.Input((4,))
    first, _ = Halves()(inputs)
    assert cost.macs(keras.Model(inputs, layers.Dense(3)(first))) == 2 * 3


def test_rows_folded_into_the_batch_are_counted():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.Dense(7)(keras.ops.reshape(inputs, (-1, 6))))
    assert cost.macs(model) == 5 * 6 * 7


def test_macs_of_mobilenet_are_those_of_its_paper():
    """Howard et al. 2017, arXiv:1704.04861, table 6: 0.75 MobileNet-224 has 325 million multiply-adds and
    2.6 million parameters."""
    model = keras.applications.MobileNet(alpha=0.75, weights=None)
    assert round(cost.macs(model) / 1e6) == 325
    assert round(cost.parameters(model) / 1e6, 1) == 2.6


class Unbranched(keras.Model):
    def __init__(self):
        super().__init__(name="unbranched")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class Doubled(layers.Dense):
    def call(self, inputs):
        return super().call(super().call(inputs))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Unbranched(), r"need a model's graph.*Received: unbranched of type Unbranched.*keras\.Input"),
        (keras.Sequential([layers.Dense(2)]), r"need a model's graph.*of type Sequential"),
        (
            sequential((None, 8, 1), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D()),
            r"sizes must be known\. Received: sequential\w* with shape \(None, 8, 1\)\. Rebuild",
        ),
        (
            sequential((4, 3), layers.LSTM(2, name="memory")),
            r"never guessed\. Received: layer memory of type LSTM",
        ),
        (sequential((4, 3), layers.TimeDistributed(layers.Dense(2))), "of type TimeDistributed"),
        (sequential((3,), Doubled(3)), "of type Doubled"),
    ],
)
def test_what_cannot_be_counted_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        cost.macs(model)


def test_a_size_lost_inside_the_graph_is_refused():
    class Ragged(layers.Layer):
        def compute_output_shape(self, input_shape):
            return (input_shape[0], None, input_shape[-1])

        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"Received: late with shape \(1, None, 3\)"):
        cost.macs(sequential((4, 3), Ragged(), layers.Dense(2, name="late")))


def test_counting_leaves_the_model_alone():
    model = small_cnn()
    before = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    cost.macs(model)
    assert (model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]) == before


def test_file_bytes_is_the_size_of_a_file_that_loads(tmp_path):
    model = small_cnn()
    model.save(tmp_path / "model.keras")
    assert zipfile.is_zipfile(tmp_path / "model.keras")
    assert cost.file_bytes(model) == (tmp_path / "model.keras").stat().st_size
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 8, 8, 1)), np.zeros((2, 3)), verbose=0)
    model.save(tmp_path / "training.keras")
    shipped, training = ((tmp_path / f"{name}.keras").stat().st_size for name in ("model", "training"))
    # A rebuilt model's config lacks the shapes it was built with: a few bytes.
    assert cost.file_bytes(model) == pytest.approx(shipped, rel=0.02)
    assert training > 1.1 * shipped
    wider = sequential((8, 8, 1), layers.Flatten(), layers.Dense(1000))
    assert 4 * cost.parameters(wider) < cost.file_bytes(wider) < 4 * cost.parameters(wider) + 40_000


def test_latency_summarises_its_runs():
    times = [3.0, 1.0, 2.0, 5.0, 4.0]
    assert cost._summary(times) == cost.Latency(median_ms=3.0, low_ms=2.0, high_ms=4.0, runs=5)
    measured = cost.latency(small_cnn(), runs=7)
    assert measured.runs == 7
    assert 0 < measured.low_ms <= measured.median_ms <= measured.high_ms < 1000


def test_latencies_take_turns(monkeypatch):
    called = []
    monkeypatch.setattr(cost, "_invoker", lambda model: lambda: called.append(model))
    clock = iter(range(100))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock) / 4)
    result = cost.latencies({"a": "A", "b": "B"}, runs=20)
    assert called == ["A", "B"] * (3 + 20)
    assert list(result) == ["a", "b"]
    assert result["b"] == cost.Latency(250.0, 250.0, 250.0, runs=20)


def test_latency_runs_the_model_itself():
    """Integer inputs, several inputs: the LiteRT form answers as the model does."""
    tokens = keras.Input((50,), dtype="int32")
    images = keras.Input((4, 4, 1))
    embedded = layers.Flatten()(layers.Embedding(10, 2)(tokens))
    model = keras.Model([tokens, images], layers.Concatenate()([embedded, layers.Flatten()(images)]))
    interpreter = cost._invoker(model).__self__
    interpreter.invoke()
    fed = {
        d["name"].split("_")[-1]: interpreter.get_tensor(d["index"]) for d in interpreter.get_input_details()
    }
    (output,) = interpreter.get_output_details()
    ordered = sorted(fed.values(), key=lambda x: x.ndim)
    assert [x.shape for x in ordered] == [(1, 50), (1, 4, 4, 1)]
    assert not ordered[0].any()
    assert 0.5 < ordered[1].std() < 2
    expected = keras.ops.convert_to_numpy(model(ordered))
    np.testing.assert_allclose(interpreter.get_tensor(output["index"]), expected, rtol=1e-6)


def test_latency_refuses_what_it_cannot_time(monkeypatch):
    with pytest.raises(ValueError, match=r"Received: runs=0\. Pass 100 or more"):
        cost.latency(small_cnn(), runs=0)
    with pytest.raises(ValueError, match=r"sizes must be known"):
        cost.latency(sequential((None, 3), layers.Dense(2)))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match="pip install ai-edge-litert"):
        cost.latency(small_cnn())


def test_zeros_make_files_smaller_that_leave_them_out():
    model = sequential((64,), layers.Dense(256, use_bias=False))
    kernel = np.random.default_rng(0).normal(size=(64, 256)).astype("float32")
    model.set_weights([kernel])
    dense = cost.sizes(model)
    model.set_weights([np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.9), 0, kernel)])
    pruned = cost.sizes(model)
    assert pruned.keras == dense.keras == cost.file_bytes(model)
    assert pruned.litert == dense.litert > 4 * kernel.size
    saved = 0.9 * 4 * kernel.size
    # The positions of what is left take room too: half a byte or less for each weight there was.
    for name in ("keras_gzip", "litert_gzip", "litert_sparse"):
        less = getattr(dense, name) - getattr(pruned, name)
        assert saved - kernel.size / 2 < less < saved, name
    assert dense.litert_sparse == pytest.approx(dense.litert, abs=2000)

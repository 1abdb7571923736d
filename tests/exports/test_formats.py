"""What the formats hold: loops over time, groups, sizes that are free, structures, integers."""

import re

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers, ops

from distill.exports import Exported, export, inputs_by_name


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def ids(*shape, dtype="int32"):
    return np.random.default_rng(0).integers(0, 9, shape).astype(dtype)


def functional(shape, body, **options):
    inputs = keras.Input(shape, **options)
    return keras.Model(inputs, body(inputs), name="net")


def holds(model, x, path, atol=1e-5, **options):
    """The file answers as the model's own call does."""
    found = Exported(export(model, path, **options)).predict(inputs_by_name(model, x))
    np.testing.assert_allclose(found, np.asarray(model(x)), atol=atol)


# Loops over time.

LOOPS = {
    "LSTM": lambda: layers.LSTM(3),
    "GRU": lambda: layers.GRU(3, return_sequences=True),
    "SimpleRNN": lambda: layers.SimpleRNN(3, go_backwards=True),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(2)),
    "cells": lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch"), list(zip(LOOPS, (1, 4, 1, 3, 2), strict=True)))
@pytest.mark.sweep(2)
def test_a_fixed_batch_lets_litert_loop_over_time(kind, batch, tmp_path):
    model = functional((5, 4), LOOPS[kind](), batch_size=batch)
    path = export(model, tmp_path / "m.tflite")
    x = normal(2 * batch + 1, 5, 4)  # the last batch is not full
    expected = [
        np.asarray(model(x[[i % len(x) for i in range(s, s + batch)]])) for s in range(0, len(x), batch)
    ]
    np.testing.assert_allclose(Exported(path).predict(x), np.concatenate(expected)[: len(x)], atol=1e-5)


@pytest.mark.slow
def test_the_advice_for_loops_builds_a_trained_model_again(tmp_path):
    model = functional(
        (5, 4), lambda x: layers.Dense(2)(layers.LSTM(3)(layers.GRU(3, return_sequences=True)(x)))
    )
    for variable in model.weights:
        variable.assign(normal(*variable.shape))
    x = normal(7, 5, 4)
    with pytest.raises(ValueError, match=r"loops over time .* begins at layer 'gru\w*' \(GRU\)") as error:
        export(model, tmp_path / "m.tflite")
    said = re.findall(r"new = (keras\.models\.clone_model\(.*?\)); new\.set_weights", str(error.value))
    assert len(said) == 2
    for code, options in zip(said, ({}, {"precision": "int8", "examples": x}), strict=True):
        new = eval(code, {"keras": keras, "model": model, "shape": (5, 4)})
        new.set_weights(model.get_weights())
        found = Exported(export(new, tmp_path / "m.tflite", **options)).predict(x)
        np.testing.assert_allclose(found, np.asarray(model(x)), atol=0.2 if options else 1e-5)
    assert [layer.unroll for layer in new.layers[1:3]] == [True, True]


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.sweep(1)
def test_what_makes_the_converter_crash_is_refused_before(precision, tmp_path):
    x = normal(4, 5, 4)
    looping = functional((5, 4), lambda i: layers.LSTM(3, name="memory")(i), batch_size=1)
    stateful = functional(
        (5, 4), lambda i: layers.GRU(3, stateful=True, unroll=True, name="memory")(i), batch_size=1
    )
    words = functional((3,), lambda i: layers.StringLookup(vocabulary=["a"], name="words")(i), dtype="string")
    text = np.full((4, 3), "a", object)
    for model, given, message in (
        (looping, x, "no loops over time.*begins at layer 'memory'"),
        (stateful, x, "keeps no state.*begins at layer 'memory'"),
        (words, text, "which takes strings"),
    ):
        with pytest.raises(ValueError, match=message):
            export(model, tmp_path / "m.tflite", precision=precision, examples=given)
    assert not list(tmp_path.iterdir())


# ONNX, where its converter has no way.

ONNX = {
    "gelu": ((6,), lambda x: layers.Dense(4, activation="gelu")(x)),
    "celu": ((6,), lambda x: layers.Activation("celu")(x)),
    "log1p": ((6,), lambda x: ops.log1p(ops.abs(x))),
    "grouped 1D": ((9, 4), lambda x: layers.Conv1D(6, 3, groups=2, padding="causal", dilation_rate=2)(x)),
    "grouped 2D": (
        (8, 8, 4),
        lambda x: layers.Conv2D(8, 3, groups=4, strides=2, padding="same", use_bias=False)(x),
    ),
    "grouped 3D": ((4, 4, 4, 4), lambda x: layers.Conv3D(4, 2, groups=2, activation="relu")(x)),
    "grouped in a wrapper": (
        (2, 6, 6, 4),
        lambda x: layers.TimeDistributed(layers.Conv2D(4, 3, groups=2))(x),
    ),
    "larger": ((10, 10, 3), lambda x: layers.Resizing(29, 7)(x)),
    "nearest": ((10, 10, 3), lambda x: layers.Resizing(23, 31, interpolation="nearest")(x)),
    "constants": ((8,), lambda x: layers.Normalization(mean=np.arange(8.0), variance=np.ones(8))(x)),
    "argmax": ((6, 4), lambda x: ops.argmax(x, axis=-1, keepdims=True)),
}


@pytest.mark.parametrize("kind", ONNX)
def test_onnx_computes_what_its_converter_cannot(kind, tmp_path):
    shape, body = ONNX[kind]
    model = functional(shape, body, name="x")
    holds(model, normal(5, *shape), tmp_path / "m.onnx")
    (entry,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_inputs()
    assert entry.name == "x"  # constants are no inputs


def test_an_onnx_file_that_takes_what_numpy_has_not_is_refused(tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, [1, 2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.onnx', whose input 'x' is tensor\(bfloat16\)"):
        Exported(tmp_path / "m.onnx")


def test_grouped_convolutions_in_three_dimensions_in_litert(tmp_path):
    shape, body = ONNX["grouped 3D"]
    holds(functional(shape, body), normal(5, *shape), tmp_path / "m.tflite")


# Free sizes.


def decoder(way):
    def body(x):
        small = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same")(x))
        return layers.Conv2D(2, 3, padding="same")(layers.UpSampling2D(interpolation=way)(small))

    return body


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
@pytest.mark.sweep(1)
def test_free_sizes_are_upsampled(name, tmp_path):
    for way in ("nearest", "bilinear"):
        model = functional((None, None, 3), decoder(way))
        file = Exported(export(model, tmp_path / name))
        for size in ((16, 16), (6, 10)):
            x = normal(3, *size, 3)
            np.testing.assert_allclose(file.predict(x), np.asarray(model(x)), atol=1e-5)
    lengths = functional((None, 4), lambda x: layers.Conv1D(3, 3)(layers.UpSampling1D(3)(x)))
    holds(lengths, normal(2, 7, 4), tmp_path / name)


def test_sizes_that_a_model_cannot_take_ask_for_examples(tmp_path):
    model = functional((None, None, 3), lambda x: layers.Reshape((35, 3))(x))
    with pytest.raises(ValueError, match=r"does not run on random ones.*Pass examples"):
        export(model, tmp_path / "m.tflite")
    export(model, tmp_path / "m.tflite", examples=normal(4, 5, 7, 3))


# Structures.

STRUCTURES = {
    "nested": lambda u, v, w: {"heads": {"u": u, "v": [v, w]}, "w": w},
    "lists": lambda u, v, w: [u, [v, w]],
    "one": lambda u, v, w: [u],
    "twice": lambda u, v, w: {"first": u, "again": u},
}
NAMES = {
    "nested": {"heads/u", "heads/v/0", "heads/v/1", "w"},
    "lists": {"output_0", "output_1/0", "output_1/1"},
    "twice": {"first", "again"},
}


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m", "int8.tflite"])
@pytest.mark.sweep(1)
def test_nested_outputs_go_by_their_paths(name, tmp_path):
    a, b = keras.Input((4,), name="image-1"), keras.Input((4,), name="self")
    u, v, w = (layers.Dense(units)(layers.Concatenate()([a, b])) for units in (1, 2, 3))
    x = [normal(9, 4), [normal(9, 4)[::-1].copy()]]
    options = {"precision": "int8", "examples": x} if name == "int8.tflite" else {}
    for kind, structure in STRUCTURES.items():
        model = keras.Model([a, [b]], structure(u, v, w))
        found = Exported(export(model, tmp_path / name, **options)).predict(inputs_by_name(model, x))
        expected = keras.tree.flatten(model(x))
        if kind == "one":
            found = {"": found}
        else:
            assert set(found) == NAMES[kind]
        paths = ["/".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(model.output)]
        for path, value in zip(paths, expected, strict=True):
            path = path if path in found else f"output_{path}"
            np.testing.assert_allclose(found.get(path, found.get("")), value, atol=0.1 if options else 1e-5)


class Features(keras.Model):
    """Takes a dictionary, without a graph."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(inputs["b"] - 2 * inputs["a"])


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
def test_a_subclassed_model_takes_its_features_by_name(name, tmp_path):
    model, x = Features(), {"b": normal(5, 3), "a": normal(5, 3)[::-1].copy()}
    model(x)
    holds(model, x, tmp_path / name)


# Integers.

INTEGERS = {
    "int32": lambda: functional((6,), lambda x: layers.Dense(2)(layers.Embedding(9, 3)(x)), dtype="int32"),
    "int64": lambda: functional((6,), lambda x: layers.Dense(2)(layers.Embedding(9, 3)(x)), dtype="int64"),
    "tied": lambda: functional((6,), tied, dtype="int32"),
}


def tied(x):
    table = layers.ReversibleEmbedding(9, 4)
    return table(layers.Dense(4)(table(x)), reverse=True)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.sweep(1)
def test_integer_inputs_stay_integers_in_int16x8(kind, tmp_path):
    model = INTEGERS[kind]()
    x = ids(40, 6, dtype=model.inputs[0].dtype)
    path = export(model, tmp_path / "m.tflite", precision="int16x8", examples=x)
    span = np.ptp(np.asarray(model(x)))
    np.testing.assert_allclose(Exported(path).predict(x), np.asarray(model(x)), atol=0.02 * span)
    from ai_edge_litert.interpreter import Interpreter

    (entry,) = Interpreter(str(path)).get_signature_runner().get_input_details().values()
    assert entry["dtype"] == x.dtype
    assert not entry["quantization"][0]


def test_ids_and_numbers_together_in_int16x8(tmp_path):
    a, b = keras.Input((6,), dtype="int32", name="ids"), keras.Input((5,), name="numbers")
    joined = layers.Concatenate()([layers.Flatten()(layers.Embedding(9, 3)(a)), b])
    model, x = keras.Model([a, b], layers.Dense(2)(joined)), [ids(40, 6), normal(40, 5)]
    holds(model, x, tmp_path / "m.tflite", atol=0.05, precision="int16x8", examples=x)


def test_routes_leave_no_trace(tmp_path):
    shape, body = ONNX["grouped 2D"]
    model = functional(shape, body)
    before = {layer.name: dict(vars(layer)) for layer in model.layers}
    export(model, tmp_path / "m.onnx")
    assert all("call" not in vars(layer) for layer in model.layers)
    assert before.keys() == {layer.name for layer in model.layers}


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_words_that_are_padding_stay_masked(name, tmp_path):
    def averaged(x):
        return layers.GlobalAveragePooling1D()(layers.ReversibleEmbedding(9, 4, mask_zero=True)(x))

    tokens = 1 + ids(6, 5) % 8
    tokens[:, 3:] = 0
    holds(functional((5,), averaged, dtype="int32"), tokens, tmp_path / name)

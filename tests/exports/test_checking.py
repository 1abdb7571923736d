"""A file is right before it is there: it runs, and answers as its model within a bound for its precision."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import distill.exports._export as exporting
from distill import quantization
from distill.exports import Exported, export, inputs_by_name
from distill.exports._parts import flat_twin


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def functional(shape, body):
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, body(inputs), name="net")
    rng = np.random.default_rng(1)
    for variable in model.weights:
        variable.assign(0.3 * rng.normal(size=variable.shape))
    return model


def conv(x):
    return layers.Conv2D(4, 3, name="conv")(x)


def masked(x):
    scores = ops.matmul(x, ops.transpose(x, (0, 2, 1))) + np.triu(np.full((10, 10), -1e9, "float32"), 1)
    return ops.softmax(scores)


# Networks of which the converter writes files that do not run or answer otherwise, with what they come from.
WRONG = {
    "sum over positions": ((8, 8, 4), lambda x: ops.sum(conv(x), axis=(1, 2)), "Sum"),
    "variance": ((8, 8, 4), lambda x: ops.var(conv(x), axis=(1, 2)), "Var"),
    "padding": (
        (8, 8, 4),
        lambda x: ops.pad(conv(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=5.0),
        "Pad",
    ),
    "mask": ((10, 6), masked, "Softmax|Add"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.sweep(1)
def test_int16x8_files_that_are_wrong_are_refused_with_their_layer(kind, tmp_path):
    shape, body, begins = WRONG[kind]
    model, x = functional(shape, body), normal(60, *shape)
    with pytest.raises(
        ValueError, match=rf"'net' in int16x8, .* It begins at operation '\w+' \((?:{begins})\)"
    ):
        export(model, tmp_path / "m.tflite", precision="int16x8", examples=x)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.sweep(1)
def test_units_that_never_fire(precision, tmp_path):
    def body(x):
        return layers.Add()([layers.Dense(4)(layers.Dense(8, "relu", name="dead")(x)), layers.Dense(4)(x)])

    model, x = functional((6,), body), normal(60, 6)
    model.get_layer("dead").bias.assign(np.full(8, -100.0))
    expected = np.asarray(model(x))
    try:
        found = Exported(export(model, tmp_path / "m.tflite", precision=precision, examples=x)).predict(x)
    except ValueError as error:
        assert "It begins at layer" in str(error)  # noqa: PT017
        assert not list(tmp_path.iterdir())
    else:
        np.testing.assert_allclose(found, expected, atol=0.2 * np.ptp(expected))


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m"])
@pytest.mark.sweep(1)
def test_what_answers_otherwise_leaves_the_older_file(name, tmp_path, monkeypatch):
    model, other = (functional((6,), lambda x: layers.Dense(3, name="head")(x)) for _ in range(2))
    x = normal(9, 6)
    path = export(model, tmp_path / name)
    expected = Exported(path).predict(x)
    other.get_layer("head").kernel.assign_add(0.01 * np.ones((6, 3)))
    for writer in ("write_litert", "write_onnx", "write_saved_model"):
        write = getattr(exporting, writer)
        monkeypatch.setattr(exporting, writer, lambda model, *args, write=write: write(other, *args))
    with pytest.raises(
        ValueError, match=r"within 0\.001 of their span.*'output_0' is wrong .* layer 'head' \(Dense\)"
    ):
        export(model, path, examples=x)
    np.testing.assert_array_equal(Exported(path).predict(x), expected)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_values_that_are_not_numbers_are_seen(tmp_path):
    # LiteRT's kernel divides by the norm, and Keras by no less than a small number.
    model = functional((4,), lambda x: layers.UnitNormalization(name="unit")(x))
    x = normal(20, 4)
    x[::2] = 0
    with pytest.raises(ValueError, match=r"not finite where the model's are\. It begins at layer 'unit'"):
        export(model, tmp_path / "m.tflite", examples=x)
    assert np.isfinite(np.asarray(model(x))).all()


def test_examples_are_used_in_every_format(tmp_path):
    # On random numbers around zero the logarithm is not finite, and nothing would be compared.
    model = functional((4,), lambda x: ops.log(x))
    for name in ("m.tflite", "m.onnx", "m"):
        export(model, tmp_path / name, examples=np.abs(normal(9, 4)) + 0.1)
        export(model, tmp_path / name)
    aware = quantization.quantize_aware(functional((6,), lambda x: layers.Dense(3)(x)), normal(20, 6))
    export(aware, tmp_path / "m.tflite", precision="int8", examples=normal(20, 6))


def test_constant_and_zero_outputs_are_compared_too(tmp_path):
    model = functional((4,), lambda x: layers.Dense(2, name="head")(x))
    for bias in (0.0, 1000.0):
        model.get_layer("head").kernel.assign(np.zeros((4, 2)))
        model.get_layer("head").bias.assign(np.full(2, bias))
        for name in ("m.tflite", "m.onnx", "m"):
            np.testing.assert_allclose(Exported(export(model, tmp_path / name)).predict(normal(3, 4)), bias)


def test_a_state_that_onnx_forgets_is_refused(tmp_path):
    inputs = keras.Input((5, 4), batch_size=1)
    model = keras.Model(inputs, layers.GRU(3, stateful=True, name="memory")(inputs))
    with pytest.raises(ValueError, match=r"wrong in the file.*begins at layer 'memory' \(GRU\)"):
        export(model, tmp_path / "m.onnx")


def test_nested_layers_are_named_by_their_path(tmp_path):
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 3), layers.MaxPooling2D()], name="backbone"
    )
    deep = keras.Sequential([keras.Input((5, 4)), layers.LSTM(3, name="memory")], name="inner")
    for model, shape, path in (
        (functional((5, 4), lambda x: layers.Dense(2)(deep(x))), (5, 4), "inner/memory"),
        (functional((8, 8, 4), lambda x: ops.sum(inner(x), axis=(1, 2))), (8, 8, 4), "sum"),
    ):
        with pytest.raises(ValueError, match=rf"It begins at (layer|operation) '{path}\w*'"):
            export(model, tmp_path / "m.tflite", precision="int16x8", examples=normal(20, *shape))


def test_exports_and_their_runs_are_silent(tmp_path, capfd):
    model, x = functional((8, 8, 4), conv), normal(20, 8, 8, 4)
    capfd.readouterr()
    for name, options in (
        ("m.tflite", {}),
        ("m.tflite", {"precision": "int8", "examples": x}),
        ("m.tflite", {"precision": "int16x8", "examples": x}),
        ("m.onnx", {}),
        ("m", {}),
    ):
        Exported(export(model, tmp_path / name, **options)).predict(inputs_by_name(model, x))
    assert capfd.readouterr() == ("", "")


def test_layers_of_nested_models_may_share_a_name():
    def tower():
        inputs = keras.Input((3,))
        return keras.Model(inputs, layers.Dense(2, name="embed")(inputs))

    one, other = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([one, other], layers.Add(name="sum")([tower()(one), tower()(other)]))
    flat, paths = flat_twin(model)
    x = [np.ones((2, 3), "float32"), np.zeros((2, 3), "float32")]
    np.testing.assert_array_equal(flat(x), model(x))
    assert sorted(path for path in paths.values() if path.endswith("embed")) == [
        f"{layer.name}/embed" for layer in model.layers if isinstance(layer, keras.Model)
    ]


def test_whatever_a_runtime_raises_is_named_with_its_file(tmp_path, monkeypatch):
    class OfItsOwn(
        Exception
    ):  # as those of ONNX Runtime and TensorFlow are, which have nothing else in common
        pass

    def fails(file, batch):
        raise OfItsOwn("no kernel for this")

    monkeypatch.setattr(Exported, "run", fails)
    with pytest.raises(ValueError, match="run on examples before it takes its place.*no kernel for this"):
        export(functional((4,), lambda x: layers.Dense(2)(x)), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())

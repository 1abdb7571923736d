"""All costs of a model at once: numbers, table, picture, several side by side."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from distill import cost
from distill.cost import calls_of
from distill.cost._memory import activations_of


def sequential(shape, *parts, name=None):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


def branching():
    """Four numbers become eight, then two; both are read at the end."""
    inputs = keras.Input((4,))
    wide = layers.Dense(8, name="wide")(inputs)
    narrow = layers.Dense(2, name="narrow")(wide)
    model = keras.Model(inputs, layers.Concatenate(name="both")([wide, narrow]), name="branching")
    kernel = np.arange(32.0).reshape(4, 8) % 4  # a quarter of it zero
    model.set_weights([kernel, np.ones(8), np.ones((8, 2)), np.zeros(2)])
    return model


def test_a_profile_by_hand():
    profile = cost.profile(branching())
    assert (profile.model, profile.parameters, profile.trainable) == ("branching", 40 + 18, 40 + 18)
    assert profile.nonzero == 24 + 8 + 16
    assert profile.sparsity == pytest.approx(10 / 58)
    assert profile.macs == 4 * 8 + 8 * 2
    # Of four bytes each: at the end 8 + 2 + 10 numbers are alive, before it 4 + 8, then 8 + 2.
    assert profile.activations == cost.Activations(all_bytes=4 * (4 + 8 + 2 + 10), peak_bytes=4 * 20)
    assert profile.layers == (
        cost.LayerCost("wide", "Dense", (8,), 40, 32, 32, 32),
        cost.LayerCost("narrow", "Dense", (2,), 18, 16, 16, 8),
        cost.LayerCost("both", "Concatenate", (10,), 0, 0, 0, 40),
    )
    assert (profile.unknown, profile.sizes, profile.latencies) == ({}, None, {})
    assert str(profile).splitlines() == [
        "Cost of 'branching'",
        "parameters         58",
        "trainable          58",
        "not zero           48 (17.2% zeros)",
        "multiply-adds      48",
        "activations, all   96 B",
        "activations, peak  80 B",
        "",
        "layer   type   output  parameters  zeros  MACs  share  activations",
        "wide    Dense       8          40    20%    32  66.7%         32 B",
        "narrow  Dense       2          18    11%    16  33.3%          8 B",
    ]


def test_tensors_live_until_they_are_last_read():
    inputs = keras.Input((10,))
    x = layers.Dense(100)(inputs)
    x = layers.Dense(1)(x)
    first = layers.Dense(50)(x)
    model = keras.Model(inputs, [layers.Dense(30)(first), layers.Dense(20)(inputs)])
    found = activations_of(calls_of(model))
    assert found.all_bytes == 4 * (10 + 100 + 1 + 50 + 30 + 20)
    # The inputs are read at the very end again.
    assert found.peak_bytes == 4 * (10 + 100 + 1)


def test_an_output_stays_to_the_end():
    inputs = keras.Input((1,))
    early = layers.Dense(7)(inputs)
    x = early
    for _ in range(3):
        x = layers.Dense(5)(x)
    # Without the output that was made first there would be 5 + 5.
    assert activations_of(calls_of(keras.Model(inputs, [early, x]))).peak_bytes == 4 * (7 + 5 + 5)
    assert activations_of(calls_of(keras.Model(inputs, x))).peak_bytes == 4 * (7 + 5)


def test_a_tensor_takes_the_bytes_of_its_type():
    inputs = keras.Input((6,), dtype="int8")
    model = keras.Model(inputs, [ops.cast(inputs, "bool"), ops.cast(inputs, "bfloat16")])
    assert activations_of(calls_of(model)).all_bytes == 6 + 6 + 12
    half = keras.Sequential([keras.Input((3,)), layers.Dense(5, dtype="mixed_float16")])
    assert activations_of(calls_of(half)).all_bytes == 3 * 4 + 5 * 2


class Scaled(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense", dtype=self.dtype_policy)
        self.gain = self.add_weight(name="gain", shape=(4,), initializer="ones")

    def call(self, inputs):
        return self.dense(inputs) * self.gain


def test_weights_of_a_layer_in_half_precision_are_read_in_half_precision():
    model = sequential((3,), Scaled(dtype="mixed_float16"))
    assert activations_of(calls_of(model)).all_bytes == 3 * 4 + 4 * 2 + 4 * 2


def test_layers_in_layers_and_models_have_rows_of_their_own():
    inner = sequential((5, 4), layers.Dense(4, name="dense"), name="inner")
    inputs = keras.Input((5, 4))
    x = inner(Scaled(name="scaled")(inner(inputs)))
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both")(x)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.get_layer("inner").trainable = False
    profile = cost.profile(model)
    rows = {
        row.name: (row.kind, row.parameters, row.macs) for row in profile.layers if row.parameters or row.macs
    }
    assert rows == {
        "inner/dense": ("Dense", 20, 2 * 5 * 16),  # called twice
        "scaled/dense": ("Dense", 20, 5 * 16),
        "scaled": ("Scaled", 4, 0),
        "attention/query": ("EinsumDense", 4 * 6 + 6, 5 * 24),
        "attention/key": ("EinsumDense", 4 * 6 + 6, 5 * 24),
        "attention/value": ("EinsumDense", 4 * 6 + 6, 5 * 24),
        "attention": ("MultiHeadAttention", 0, 2 * 5 * 5 * 6),
        "attention/attention_output": ("EinsumDense", 6 * 4 + 4, 5 * 24),
        "both/forward_lstm": ("LSTM", (4 + 3 + 1) * 12, 5 * (4 + 3) * 12),
        "both/backward_lstm": ("LSTM", (4 + 3 + 1) * 12, 5 * (4 + 3) * 12),
        "norm": ("BatchNormalization", 4 * 6, 0),
        "head": ("Dense", 14, 12),
    }
    assert sum(row.parameters for row in profile.layers) == profile.parameters == model.count_params()
    assert sum(row.macs for row in profile.layers) == profile.macs == cost.macs(model)
    inputs_bytes = 4 * 5 * 4
    assert sum(row.activation_bytes for row in profile.layers) + inputs_bytes == profile.activations.all_bytes
    assert profile.trainable == profile.parameters - 20 - 12


def test_a_weight_that_layers_share_is_the_first_ones():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    tied = layers.ReversibleEmbedding(10, 4, name="tied")
    tokens = keras.Input((3,), dtype="int32")
    language = keras.Model(tokens, tied(tied(tokens), reverse=True))
    (row,) = cost.profile(model).layers
    assert (row.parameters, row.macs, row.activation_bytes) == (20, 32, 32)
    (row,) = cost.profile(language).layers
    assert (row.parameters, row.macs) == (40, 3 * 4 * 10)


class Around(layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


def test_a_layer_that_two_others_hold_is_the_first_ones():
    inner = layers.Dense(4, name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Around(inner, name="two")(Around(inner, name="one")(inputs)))
    profile = cost.profile(model)
    rows = [(row.name, row.parameters, row.macs) for row in profile.layers]
    assert rows == [("one/inner", 20, 16), ("two/inner", 0, 16)]
    assert profile.parameters == 20


class Hidden(layers.Layer):
    """Keras cannot see what it does."""

    def call(self, inputs):
        return tf.square(inputs)


def test_what_is_not_known_is_said_and_left_out():
    model = sequential((4,), layers.Dense(8, name="known"), Hidden(name="hidden"), name="partly")
    profile = cost.profile(model)
    assert profile.macs is None
    assert [(row.name, row.macs) for row in profile.layers] == [("known", 32), ("hidden", None)]
    assert list(profile.unknown) == ["hidden"]
    assert profile.activations.all_bytes == 4 * (4 + 8 + 8)
    lines = str(profile).splitlines()
    assert "multiply-adds      unknown" in lines
    assert "hidden  Hidden       8           0         unknown                32 B" in lines
    assert lines[-1].startswith(
        "unknown: Multiply-adds are counted where the arithmetic is known, never guessed"
    )
    macs = profile.plot().axes[0]
    assert [text.get_text() for text in macs.texts] == [" unknown"]


class Own(keras.Model):
    """No graph; a weight of its own and layers in a list."""

    def __init__(self):
        super().__init__(name="own")
        self.token = self.add_weight(name="token", shape=(3,), initializer="zeros")
        self.parts = [layers.Dense(4, name="first"), layers.Dense(2, name="second")]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs + self.token))


def test_a_model_without_a_graph_has_all_but_multiply_adds_and_memory():
    model = Own()
    model(np.zeros((1, 3), "float32"))
    model.compile("adam", "mse")
    profile = cost.profile(model, files=True, latency=[cost.LiteRT(), cost.TFFunction()], runs=2)
    assert (profile.parameters, profile.macs, profile.activations) == (3 + 16 + 10, None, None)
    assert [(row.name, row.kind, row.parameters, row.nonzero, row.macs) for row in profile.layers] == [
        ("own", "Own", 3, 0, None),
        ("first", "Dense", 16, 12, None),
        ("second", "Dense", 10, 8, None),
    ]
    assert "need a model's graph" in profile.unknown["own"]
    assert profile.sizes.keras == cost.file_bytes(model)
    assert list(profile.latencies) == ["LiteRT, 1 thread, batch of 1", "tf.function, batch of 1"]


def test_what_litert_cannot_hold_leaves_the_rest():
    half = sequential((4,), layers.Dense(2, dtype="mixed_float16"), name="half")
    runtimes = [cost.LiteRT(), cost.TFFunction()]
    found = cost.profiles({"half": half, "branching": branching()}, files=True, latency=runtimes, runs=1)
    profile, other = found.profiles.values()
    assert (profile.macs, profile.sizes.keras) == (4 * 2, cost.file_bytes(half))
    assert (profile.sizes.litert, profile.sizes.litert_gzip, profile.sizes.litert_sparse) == (None,) * 3
    assert profile.latencies["LiteRT, 1 thread, batch of 1"] is None
    assert profile.latencies["tf.function, batch of 1"].runs == 1
    assert list(profile.unknown) == ["LiteRT", "LiteRT, 1 thread, batch of 1"]
    assert "computes in float16" in profile.unknown["LiteRT"]
    assert other.unknown == {}
    assert other.latencies["LiteRT, 1 thread, batch of 1"].runs == 1
    for table in (str(profile), str(found)):
        assert table.splitlines()[-1] == f"unknown: {profile.unknown['LiteRT']}"
        assert table.count("unknown: ") == 1
    rows = {
        line[:28].strip(): line[28:].split()[0]
        for line in str(found).splitlines()
        if line.startswith("LiteRT")
    }
    assert rows == dict.fromkeys(
        ["LiteRT", "LiteRT, gzipped", "LiteRT, sparse", "LiteRT, 1 thread, batch of 1"], "unknown"
    )
    with pytest.raises(ValueError, match="runs=0"):
        cost.profile(half, latency=[cost.LiteRT()], runs=0)


def test_sizes_that_are_not_known_leave_parameters():
    profile = cost.profile(sequential((None, 8, 1), layers.Conv2D(2, 3, name="conv")))
    assert (profile.parameters, profile.macs, profile.activations) == (20, None, None)
    assert [row.name for row in profile.layers] == ["conv"]


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="Only a built model has parameters"):
        cost.profile(keras.Sequential([layers.Dense(2)]))


def test_nothing_is_written_or_timed_unless_asked(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(keras.Model, "save", refuse)
    monkeypatch.setattr(keras.Model, "export", refuse)
    assert cost.profile(branching()).macs == 48


def timed(profile, **times):
    return cost.Profile(
        **{
            **{name: getattr(profile, name) for name in profile.__dataclass_fields__},
            "latencies": {name: cost.Latency(ms, ms / 2, 2 * ms, runs=3) for name, ms in times.items()},
        }
    )


def two():
    small = sequential((4,), layers.Dense(2, use_bias=False, kernel_initializer="ones"), name="small")
    profiles = cost.profiles({"teacher": branching(), "student": small}).profiles
    return cost.Profiles({"teacher": timed(profiles["teacher"], board=8.0), "student": profiles["student"]})


def test_profiles_stand_side_by_side():
    assert str(two()).splitlines() == [
        "                            teacher                 student",
        "parameters                       58               8   13.8%",
        "trainable                        58               8   13.8%",
        "not zero           48 (17.2% zeros)  8 (0.0% zeros)   16.7%",
        "multiply-adds                    48               8   16.7%",
        "activations, all               96 B            24 B   25.0%",
        "activations, peak              80 B            24 B   30.0%",
        "board                   8 ms (4–16)               –",
    ]


def test_models_are_timed_in_turn():
    turns = []

    class Recorder:
        def __str__(self):
            return "recorder"

        def prepare(self, model):
            return lambda: turns.append(model.name)

    models = {"a": branching(), "b": sequential((4,), layers.Dense(2), name="small")}
    found = cost.profiles(models, latency=[Recorder()], runs=2).profiles
    rounds = [sorted(turns[i : i + 2]) for i in range(0, len(turns), 2)]
    assert rounds == [["branching", "small"]] * 3
    assert found["b"].latencies["recorder"].runs == 2


def test_pictures():
    profile = cost.profile(branching())
    macs, parameters, activations = profile.plot().axes
    assert [label.get_text() for label in macs.get_yticklabels()] == ["wide", "narrow"]
    assert [bar.get_width() for bar in macs.patches] == [32, 16]
    assert [bar.get_width() for bar in parameters.patches] == [40, 18, 8, 2]  # the zeros over them
    assert [bar.get_width() for bar in activations.patches] == [32, 8]
    (axes,) = two().plot().axes
    quantities = [
        "parameters",
        "trainable",
        "not zero",
        "multiply-adds",
        "activations, all",
        "activations, peak",
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == quantities
    shares = [100] * 6 + [100 * share for share in (8 / 58, 8 / 58, 8 / 48, 8 / 48, 24 / 96, 24 / 80)]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], shares)

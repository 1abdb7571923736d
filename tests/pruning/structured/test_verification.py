"""The proof: it finds what is wrong, and nothing where nothing is."""

import keras
import numpy as np
import pytest
from backend import as_tensor
from channel_cases import (
    CASES,
    RULES,
    concatenated,
    depthwise,
    einsums,
    flattened,
    model_of,
    recurrent_modes,
    residual,
    sequence,
    some_of,
    squeezed,
)
from keras import layers, ops
from keras.layers import Dense
from small_nets import Turned, half, net

from distill import pruning
from distill.pruning.structured import importance
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import _difference, _tensors, largest_error


@pytest.mark.parametrize(
    "build",
    [  # these have more slices than all others together
        pytest.param(
            build, marks=pytest.mark.slow if build in (sequence, recurrent_modes) else [], id=build.__name__
        )
        for build in CASES
    ],
)
@pytest.mark.sweep(3)
def test_every_slice_matters(build):
    """What is off by one in any weight changes a tensor, all of which the proof compares."""
    model = model_of(build)
    structure = read(model, RULES)
    keep = some_of(structure, 4)
    small = rebuild(structure, keep)
    kept, layers_of = keep[structure.atoms.of], read(small, RULES).operations
    x = np.random.default_rng(0).integers(0, 2, (2, *model.input_shape[1:])).astype(model.inputs[0].dtype)
    expected = _tensors(small, x, {}, kept)
    cut = [slot for slot in structure.slots if not kept[slot.labels].all()]
    assert cut
    for wrong in cut:
        if wrong.variable.path.endswith("key/bias"):
            continue  # adds the same to all that a softmax is over
        value = wrong.variable.numpy()
        for slot in structure.slots:
            if slot.variable is wrong.variable:
                value = np.compress(np.roll(kept[slot.labels], slot is wrong), value, slot.axis)
        at = [id(variable) for variable in wrong.layer.variables].index(id(wrong.variable))
        variable = layers_of[wrong.path].variables[at]
        right = variable.numpy()
        variable.assign(value)
        found = _tensors(small, x, {}, kept)
        variable.assign(right)
        assert max(_difference(expected[key], found[key]) for key in expected) > 1e-4, wrong.variable.path


def roll(value, axis):
    return np.roll(value, 1, axis)


def swap(value, axis):
    order = np.arange(value.shape[axis])
    order[[0, 1]] = order[[1, 0]]
    return np.take(value, order, axis)


@pytest.mark.parametrize("mutate", [roll, swap])
@pytest.mark.parametrize(
    ("build", "name", "axis"),
    [
        (residual, "stem", -1),
        (residual, "narrow", -2),
        (flattened, "head", 0),
        (depthwise, "depthwise", 2),
        (squeezed, "excite", -1),
        (concatenated, "last", -2),
        (einsums, "joined", 0),
    ],
)
@pytest.mark.sweep(2)
def test_a_wrong_slice_is_found(build, name, axis, mutate):
    model = model_of(build)
    structure = read(model, RULES)
    keep = some_of(structure, 4)
    small = rebuild(structure, keep)
    kernel = small.get_layer(name).weights[0]
    kernel.assign(mutate(kernel.numpy(), axis))
    assert largest_error(structure, keep, small, RULES)[0] > 1e-3


def test_a_wrong_rule_is_found():
    class Turned(layers.Layer):
        def call(self, x):
            return x[:, ::-1]

    model = keras.Sequential([keras.Input((6,)), layers.Dense(16), Turned(), layers.Dense(3)])
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        pruning.prune_channels(model, 0.5, rules={Turned: lambda call: call.inputs[0]}, verify=True)


def test_what_a_layer_was_told_later_is_missed_by_the_proof():
    @keras.saving.register_keras_serializable("test_verification")
    class Shifted(layers.Layer):
        shift = 0.0

        def call(self, x):
            return x + self.shift

    shifted = Shifted()
    shifted.shift = 5.0
    model = keras.Sequential([keras.Input((6,)), shifted, Dense(16), Dense(3)])
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model)


def masked_attention(x, wrong):
    weights = ops.softmax(ops.where(np.tril(np.ones((5, 5), bool)), wrong, -np.inf))
    return Dense(3)(ops.matmul(weights, x))


def test_a_dropout_that_is_always_on_is_no_error():
    inputs = keras.Input((6,))
    hidden = layers.Dropout(0.5)(Dense(8, "relu", name="hidden")(inputs), training=True)
    model = keras.Model(inputs, Dense(3)(hidden))
    proof = pruning.Proof()
    small = pruning.prune_channels(model, 0.5, verify=proof)
    assert small.get_layer("hidden").units == 4
    assert proof.largest_error < 1e-6
    x = np.ones((2, 6), "float32")
    assert np.abs(small(x) - small(x)).max() > 0  # and stays on


def test_infinities_hide_no_error():
    model = net(lambda x: masked_attention(x, Dense(5)(Turned()(Dense(8)(x))) * 0.0), (5, 6))
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model, importance=importance.random(0), rules={Turned: lambda call: call.inputs[0]})


@pytest.mark.parametrize(
    "build",
    [
        lambda x: masked_attention(x, Dense(5)(Dense(8)(x))),
        lambda x: Dense(3)(ops.log(Dense(8, activation="softplus")(x))),
        lambda x: Dense(3)(Dense(8)(x) / ops.max(ops.abs(Dense(8)(x)), axis=1, keepdims=True)),
        lambda x: Dense(3)(Dense(8)(ops.log(x))),
    ],
)
@pytest.mark.sweep(1)
def test_infinities_are_no_error(build):
    half(net(build, (5, 6)))


@pytest.mark.parametrize(
    "pool",
    [
        layers.MaxPooling3D(2),
        layers.AveragePooling3D(2),
        lambda x: ops.max_pool(x, 2),
        lambda x: ops.average_pool(x, 2),
    ],
)
def test_what_float64_has_no_kernel_for_is_verified(pool):
    def build(x):
        return Dense(3)(layers.Flatten()(pool(layers.Conv3D(8, 2, name="conv")(x))))

    assert half(net(build, (5, 5, 5, 2))).get_layer("conv").filters == 4


def test_arrays_in_operations_are_verified_in_float64():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 4)).astype("float32")
    half(
        net(
            lambda x: Dense(3)(Dense(8)(layers.Flatten()(ops.conv(layers.Conv2D(8, 3)(x), kernel)))),
            (9, 9, 2),
        )
    )


def test_layers_that_compute_in_integers_or_in_float32_alone_are_verified():
    """Hashing takes only integer types; the mel filters of Keras are float32."""
    ids = net(lambda x: Dense(3)(Dense(8)(layers.Embedding(7, 4)(layers.Hashing(7)(x)))), (5,), dtype="int32")
    signal = net(lambda x: Dense(3)(Dense(8)(layers.MelSpectrogram(32, 16, num_mel_bins=8)(x))), (64,))
    for model in (ids, signal):
        proof = pruning.Proof()
        assert half(model, verify=proof).get_layer(index=-2).units == 4
        assert proof.largest_error < 1e-6


def test_a_proof_keeps_the_largest_error():
    model = net(lambda x: Dense(3)(layers.MultiHeadAttention(2, 4)(x, x)), (5, 6))
    proof = pruning.Proof()
    assert proof.largest_error is None
    half(model, verify=proof)
    assert 0 < proof.largest_error < 1e-6  # rescaled weights are rounded to float32
    given = pruning.Proof(np.zeros((1, 5, 6)))
    half(model, verify=given)
    assert given.largest_error == 0
    wrong = pruning.Proof()
    model = net(lambda x: Dense(3)(Turned(name="turned")(Dense(8)(x))), (6,))
    with pytest.raises(RuntimeError, match="at 'turned'"):
        half(model, verify=wrong, rules={Turned: lambda call: call.inputs[0]}, rounds=2)
    assert wrong.largest_error > 1e-3
    assert wrong.where == "turned"


def test_half_precision_is_verified_to_its_own_rounding():
    attention = layers.MultiHeadAttention(2, 8, dtype="bfloat16")
    half(net(lambda x: Dense(3, dtype="bfloat16")(attention(x, x)), (5, 6), dtype="bfloat16"))


def test_implicit_masks_reach_attention_in_the_proof():
    def build(x):
        embedded = layers.Embedding(5, 8, mask_zero=True)(x)
        return Dense(3)(layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(embedded, embedded)))

    half(net(build, (7,), dtype="int32"))


@keras.saving.register_keras_serializable("test_verification")
class Positions(layers.Layer):
    """Adds a constant that stays in float32, whatever the layer computes in."""

    def build(self, shape):
        self.table = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape[1:]), "float32")

    def call(self, x):
        return backend_add(x, self.table)


@keras.saving.register_keras_serializable("test_verification")
class QuietPositions(Positions):
    """Its output is inferred without its code."""

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("test_verification")
class AroundDense(layers.Layer):
    """Its own layer must compute in float32 then too."""

    def build(self, shape):
        self.dense = Dense(shape[-1])
        self.dense.build(shape)

    def call(self, x):
        return backend_add(self.dense(x), as_tensor(np.ones(8, "float32")))


def backend_add(one, other):
    """Adds as TensorFlow does, which wants both of one type."""
    if str(one.dtype) != str(other.dtype):
        raise TypeError(f"{one.dtype} and {other.dtype} do not add up.")
    return one + other


def shifted(x):
    return backend_add(x, ops.zeros_like(x, dtype="float32"))


@pytest.mark.parametrize(
    "layer",
    [
        Positions,
        QuietPositions,
        AroundDense,
        lambda: layers.Lambda(shifted),
        lambda: layers.Lambda(shifted, output_shape=(6, 8)),
        lambda: Dense(8, activation=shifted),
        lambda: layers.GRU(8, activation=shifted, return_sequences=True),
        lambda: layers.TimeDistributed(layers.Lambda(shifted)),
    ],
    ids=["constant", "quiet", "around", "lambda", "shaped", "activation", "recurrent", "wrapped"],
)
@pytest.mark.parametrize("kind", ["functional", "sequential"])
@pytest.mark.sweep(2)
def test_layers_that_bring_constants_are_verified_in_their_own_precision(kind, layer):
    stack = [Dense(16, "relu", name="free"), Dense(8), layer(), Dense(16), Dense(3)]
    model = keras.Sequential([keras.Input((6, 5)), *stack])
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs)
    proof = pruning.Proof()
    assert half(model, verify=proof).get_layer("free").units == 8
    assert proof.largest_error < 1e-6

"""Parameters and multiply-adds by what stays."""

import keras
import numpy as np
import pytest
from backend import as_numpy, since_keras
from channel_cases import RULES, cases, model_of, some_of
from keras import layers, ops
from keras.layers import Dense
from small_nets import kernel_macs, net

from distill import cost, pruning
from distill.cost import calls_of
from distill.pruning.structured._costs import macs_of, parameters_of
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read


@cases
@pytest.mark.sweep(3)
def test_costs_are_those_of_the_model_that_comes_out(build):
    model = model_of(build)
    structure = read(model, RULES)
    keep = some_of(structure, 2)
    small = rebuild(structure, keep)
    assert parameters_of(structure)(keep) == cost.parameters(small)
    again = read(small, RULES)
    assert macs_of(structure)(keep) == macs_of(again)(np.ones(again.atoms.count, bool))
    # What goes between two activations is no product with a kernel.
    assert macs_of(structure)(keep) == calls_of(small).products.weights


def test_products_of_attention_count_the_length_of_what_they_read():
    model = net(lambda x, y: layers.MultiHeadAttention(2, 3)(x, y), (5, 4), (9, 4))
    structure = read(model, rules_with())
    assert macs_of(structure)(np.ones(structure.atoms.count, bool)) == 4 * 6 * (5 + 9 + 9) + 6 * 4 * 5
    model = net(layers.TimeDistributed(Dense(3)), (7, 4))
    structure = read(model, rules_with())
    assert macs_of(structure)(np.ones(structure.atoms.count, bool)) == 7 * 4 * 3


@pytest.mark.parametrize(("length", "lengths"), [(5, None), (None, 5)])
def test_sizes_that_keras_leaves_open_are_those_of_the_inputs(length, lengths):
    def build(x):
        x = layers.EinsumDense("btc,cd->btd", (None, 8), activation="relu", name="up")(x)
        return Dense(4)(x)

    model = net(build, (length, 6))
    small = pruning.prune_channels(model, macs=0.5, lengths=lengths, verify=True)
    assert cost.macs(model, lengths=lengths) == 5 * (6 * 8 + 8 * 4)
    assert cost.macs(small, lengths=lengths) == 5 * (6 * 4 + 4 * 4)


def test_each_call_of_a_shared_layer_has_its_own_sizes():
    up = layers.EinsumDense("btc,cd->btd", (None, 8))
    x, y = keras.Input((5, 6)), keras.Input((3, 6))
    model = keras.Model([x, y], [Dense(4)(up(x)), Dense(2)(up(y))])
    structure = read(model, rules_with(), counted=True)
    every = np.ones(structure.atoms.count, bool)
    assert macs_of(structure)(every) == cost.macs(model) == (5 + 3) * 6 * 8 + 5 * 8 * 4 + 3 * 8 * 2


def lora(x):
    dense = Dense(8)
    x = dense(x)
    dense.enable_lora(2)
    return x


GATED = since_keras("3.14", reason="attention has a gate")


def mixed_tokens(x):
    x = layers.Permute((2, 1))(Dense(8)(x))
    return layers.Permute((2, 1))(layers.TimeDistributed(Dense(7))(Dense(6)(x)))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda x: layers.MultiHeadAttention(4, 4, use_gate=True)(x, x), marks=GATED),
        pytest.param(lambda x: layers.GroupQueryAttention(4, 4, 2, use_gate=True)(x, x), marks=GATED),
        lambda x: layers.SpectralNormalization(Dense(5))(x),
        lambda x: layers.Bidirectional(layers.LSTM(8, return_state=True), name="states")(x)[0][:, None],
        lora,
        mixed_tokens,
        lambda x: ops.matmul(Dense(8)(x), np.ones((8, 8), "float32")),
        lambda x: ops.einsum("btc,cd->btd", Dense(8)(x), np.ones((8, 8), "float32")),
        lambda x: ops.swapaxes(ops.matmul(ops.swapaxes(Dense(8)(x), 1, 2), np.ones((5, 4), "float32")), 1, 2),
    ],
)
@pytest.mark.sweep(3)
def test_all_multiply_adds_with_kernels_count(build):
    model = net(lambda x: Dense(3)(Dense(32, name="cut")(build(x))), (5, 6))
    structure = read(model, rules_with())
    everything = np.ones(structure.atoms.count, bool)
    assert macs_of(structure)(everything) == kernel_macs(model)
    keep = structure.atoms.locked | (np.random.default_rng(0).random(everything.size) < 0.5)
    assert macs_of(structure)(keep) == kernel_macs(rebuild(structure, keep))
    small = pruning.prune_channels(model, macs=0.9)
    assert kernel_macs(small) == pytest.approx(0.9 * kernel_macs(model), rel=0.02)


def test_multiply_adds_that_are_not_known_are_no_target():
    class Hidden(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4))

        def call(self, x):
            return as_numpy(x) @ self.kernel  # which no symbolic tensor has

        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

    model = net(lambda x: Dense(3)(Dense(8)(Hidden(name="own")(x))), (5, 6))
    with pytest.raises(ValueError, match="Received: own of type Hidden, whose call cannot be followed"):
        pruning.prune_channels(model, macs=0.5)


def test_a_rule_of_ones_own_says_how_often_weights_are_used():
    @keras.saving.register_keras_serializable("test_channel_costs")
    class Linear(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4))

        def call(self, x):
            return ops.matmul(x, self.kernel)

    def rule(call):
        call.unite(call.inputs[0][-1], call.weight(call.operation.kernel, inputs=[0])[0])
        return (None,) * len(call.output_shapes[0])

    def counting(call):
        call.multiplies(call.operation.kernel, call.shapes[0][1:-1])
        return rule(call)

    model = net(lambda x: Dense(3)(Linear(name="mine")(Dense(8)(x))), (5, 6))
    with pytest.raises(ValueError, match="the rule of 'mine', without call.multiplies"):
        pruning.prune_channels(model, macs=360, rules={Linear: rule})
    small = pruning.prune_channels(model, macs=360, round_to=1, rules={Linear: counting}, verify=True)
    assert kernel_macs(small) == 5 * (6 * 6 + 6 * 4 + 4 * 3) == 360

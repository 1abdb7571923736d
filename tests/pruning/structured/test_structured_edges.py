"""What structured pruning got wrong once, each the smallest model that showed it."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.ops import numpy as numpy_ops

from distill import cost, pruning
from distill.cost import calls_of
from distill.pruning.structured import importance
from distill.pruning.structured._costs import macs_of
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read

Dense = layers.Dense


def net(build, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, build(*inputs))


def half(model, **options):
    return pruning.prune_channels(model, 0.5, **{"round_to": 1, "verify": True, **options})


def free(model, name):
    return sum(group.atoms.size for group in pruning.explain(model).groups if group.name == name)


def test_what_a_layer_has_adapted_to_is_kept():
    x = np.random.default_rng(0).normal(5, 3, (100, 6)).astype("float32")
    adapted = layers.Normalization()
    adapted.adapt(x)
    model = keras.Sequential([keras.Input((6,)), adapted, Dense(16), Dense(3)])
    np.testing.assert_array_equal(half(model).layers[0](x), adapted(x))
    words = layers.StringLookup(name="words")
    words.set_vocabulary(["c", "d", "e"])
    inputs = keras.Input((2,), dtype="string")
    model = keras.Model(inputs, Dense(3)(layers.Flatten()(layers.Embedding(5, 8)(words(inputs)))))
    small = pruning.prune_channels(model, 0.5)
    assert small.get_layer("words").get_vocabulary() == words.get_vocabulary()
    with pytest.raises(ValueError, match="Random examples can only be numbers"):
        half(model)


def test_what_a_layer_was_told_later_is_missed_by_the_proof():
    @keras.saving.register_keras_serializable("test_structured_edges")
    class Shifted(layers.Layer):
        shift = 0.0

        def call(self, x):
            return x + self.shift

    shifted = Shifted()
    shifted.shift = 5.0
    model = keras.Sequential([keras.Input((6,)), shifted, Dense(16), Dense(3)])
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model)


def test_a_nested_model_takes_its_inputs_by_name():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    inner = keras.Model([b, a], layers.Add()([Dense(3, name="ia")(a), Dense(3, name="ib")(b)]), name="inner")
    x, y = keras.Input((5,)), keras.Input((5,))
    made = Dense(8, name="da"), Dense(8, name="db")
    model = keras.Model([x, y], inner({"a": made[0](x), "b": made[1](y)}))
    for dense, reader, alive in zip(made, ("ia", "ib"), (np.arange(8) > 3, np.arange(8) < 4), strict=True):
        dense.kernel.assign(dense.kernel * alive)
        inner.get_layer(reader).kernel.assign(inner.get_layer(reader).kernel * alive[:, None])
    examples = [np.ones((1, 5), "float32")] * 2
    np.testing.assert_allclose(half(model)(examples), model(examples), rtol=1e-6)


def test_data_are_given_to_inputs_by_name():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    made = [Dense(6, "relu", name=name)(tensor) for name, tensor in (("da", a), ("db", b))]
    model = keras.Model([b, a], Dense(2)(layers.Concatenate()(made)))
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(8, 4)).astype("float32"), "b": rng.normal(2, 3, (8, 4)).astype("float32")}
    structure = read(model, rules_with())
    scores = {id(labels): values for labels, values in importance.activation_mean(data)(structure)}
    for name in ("da", "db"):
        (labels,) = (slot.labels for slot in structure.slots if slot.path == name and slot.role == "output")
        found = np.concatenate([scores[key] for key in scores if key == id(labels)])
        expected = np.abs(model.get_layer(name)(data[name[1]])).mean(0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


class Turned(layers.Layer):
    def call(self, x):
        return x[..., ::-1]


def masked_attention(x, wrong):
    weights = ops.softmax(ops.where(np.tril(np.ones((5, 5), bool)), wrong, -np.inf))
    return Dense(3)(ops.matmul(weights, x))


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
def test_infinities_are_no_error(build):
    half(net(build, (5, 6)))


@pytest.mark.parametrize("name", ["MultiHeadAttention", "GroupQueryAttention"])
def test_scores_of_attention_keep_the_heads_that_are_put_out(name):
    attention = layers.MultiHeadAttention(16, 4) if name[0] == "M" else layers.GroupQueryAttention(4, 16, 8)
    model = net(lambda x: list(attention(x, x, return_attention_scores=True)), (5, 6))
    assert half(model).output_shape == [(None, 5, 6), (None, 16, 5, 5)]
    attention = layers.MultiHeadAttention(4, 4)
    model = net(lambda x, mask: attention(x, x, attention_mask=mask), (5, 6), (4, 5, 5))
    assert half(model)([np.ones((2, 5, 6)), np.ones((2, 4, 5, 5))]).shape == (2, 5, 6)
    model = net(
        lambda x: Dense(3)(layers.MultiHeadAttention(4, 4)(x, x, return_attention_scores=True)[1]), (5, 6)
    )
    half(model)


def test_attention_puts_out_what_it_did_where_its_query_is_cut():
    def build(x):
        stream = Dense(8, name="stream")(x)
        return Dense(3)(layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(stream, stream)))

    small = half(net(build, (5, 6)))
    assert small.get_layer("stream").units == 4


def test_products_of_attention_count_the_length_of_what_they_read():
    model = net(lambda x, y: layers.MultiHeadAttention(2, 3)(x, y), (5, 4), (9, 4))
    structure = read(model, rules_with())
    assert macs_of(structure)(np.ones(structure.atoms.count, bool)) == 4 * 6 * (5 + 9 + 9) + 6 * 4 * 5
    model = net(layers.TimeDistributed(Dense(3)), (7, 4))
    structure = read(model, rules_with())
    assert macs_of(structure)(np.ones(structure.atoms.count, bool)) == 7 * 4 * 3


def kernel_macs(model):
    return calls_of(model).products.weights


def lora(x):
    dense = Dense(8)
    x = dense(x)
    dense.enable_lora(2)
    return x


def mixed_tokens(x):
    x = layers.Permute((2, 1))(Dense(8)(x))
    return layers.Permute((2, 1))(layers.TimeDistributed(Dense(7))(Dense(6)(x)))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.MultiHeadAttention(4, 4, use_gate=True)(x, x),
        lambda x: layers.GroupQueryAttention(4, 4, 2, use_gate=True)(x, x),
        lambda x: layers.SpectralNormalization(Dense(5))(x),
        lambda x: layers.Bidirectional(layers.LSTM(8, return_state=True), name="states")(x)[0][:, None],
        lora,
        mixed_tokens,
        lambda x: ops.matmul(Dense(8)(x), np.ones((8, 8), "float32")),
        lambda x: ops.einsum("btc,cd->btd", Dense(8)(x), np.ones((8, 8), "float32")),
        lambda x: ops.swapaxes(ops.matmul(ops.swapaxes(Dense(8)(x), 1, 2), np.ones((5, 4), "float32")), 1, 2),
    ],
)
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
    model = net(lambda x: Dense(3)(Dense(8)(layers.RNN(layers.GRUCell(4), name="own")(x))), (5, 6))
    with pytest.raises(ValueError, match="Received: own of type RNN, whose call cannot be followed"):
        pruning.prune_channels(model, macs=0.5)


def test_a_rule_of_ones_own_says_how_often_weights_are_used():
    @keras.saving.register_keras_serializable("test_structured_edges")
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


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: Dense(3)(layers.Reshape((-1, 4))(Dense(8)(x))), (None, 8)),
        (lambda x: Dense(3)(layers.Reshape((-1, 8))(layers.Conv2D(8, 1)(x))), (None, 4, 3)),
        (lambda x: Dense(3)(ops.reshape(Dense(8)(ops.reshape(x, (-1, 6))), (-1, 5, 8))), (5, 6)),
    ],
)
def test_reshapes_of_unknown_sizes_end(build, shape):
    assert {group.name: group.locked for group in pruning.explain(net(build, shape)).groups}


@pytest.mark.parametrize("layer", [layers.Cropping1D(1), layers.UpSampling1D(), layers.ZeroPadding1D()])
def test_layers_that_know_channels_last_only(layer):
    half(net(lambda x: Dense(3)(layer(Dense(8)(x))), (6, 4)))


def mean_error(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable("test_structured_edges")
class Own(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return mean_error(y_true, y_pred)


@pytest.mark.parametrize("loss", [mean_error, lambda y, p: ops.mean((y - p) ** 2), Own(), "mse"])
def test_losses_and_metrics_of_ones_own_are_carried_over(loss):
    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(2)])
    metric = keras.metrics.MeanSquaredError(name="m")
    model.compile(keras.optimizers.Adam(0.123), loss, metrics=[metric, mean_error])
    small = half(model)
    x, y = np.ones((4, 4)), np.zeros((4, 2))
    assert set(small.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "m", "mean_error"}
    assert float(small.optimizer.learning_rate) == pytest.approx(0.123)
    assert metric.total == 0  # the copy has its own


def test_a_model_without_an_optimizer_stays_so():
    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(2)])
    model.compile(optimizer=None, loss="mse")
    small = half(model)
    assert small.optimizer is None
    assert small.evaluate(np.ones((4, 4)), np.zeros((4, 2)), verbose=0) >= 0


def test_functions_in_layers_are_passed_on():
    scale = 3.0

    def stretched(x):
        return x * scale

    def penalty(kernel):
        return 0.1 * ops.sum(kernel**2)

    model = keras.Sequential(
        [
            keras.Input((4,)),
            Dense(8, activation=stretched),
            layers.Activation(lambda x: ops.tanh(x) * scale),
            layers.Lambda(lambda x: x + scale),
            Dense(8, kernel_regularizer=penalty, name="cut"),
            Dense(3),
        ]
    )
    small = half(model)
    assert small.get_layer("cut").units == 4
    assert len(small.losses) == 1


def test_a_layer_without_a_config_is_named():
    class Made(layers.Layer):
        def __init__(self, function):
            super().__init__(name="made")
            self.function = function

        def call(self, x):
            return self.function(x)

    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(8), Made(ops.tanh)])
    with pytest.raises(ValueError, match="'made', a Made, which cannot be. Implement its get_config"):
        half(model)


def test_implicit_masks_are_no_states():
    model = net(
        lambda x: Dense(3)(
            layers.LSTM(8, name="lstm")(
                layers.Bidirectional(layers.GRU(4, return_sequences=True))(
                    layers.Embedding(5, 8, mask_zero=True)(x)
                )
            )
        ),
        (7,),
        dtype="int32",
    )
    small = half(model)
    assert small.get_layer("lstm").units == 4
    assert small.get_layer("bidirectional").forward_layer.units == 2


def test_layers_that_are_called_at_two_widths_have_one_config():
    shape = layers.Reshape((2, 4))
    half(
        net(lambda x: Dense(3)(layers.Flatten()(shape(x) + shape(Dense(8)(x)))) + Dense(3)(Dense(6)(x)), (8,))
    )
    norm = layers.GroupNormalization(4, scale=False, center=False)
    half(net(lambda x: Dense(3)(norm(x) + norm(Dense(8)(x))) + Dense(3)(Dense(6)(x)), (8,)))
    slope = layers.PReLU()
    half(net(lambda x: Dense(3)(slope(x) + slope(Dense(8)(x))) + Dense(3)(Dense(6)(x)), (8,)))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: layers.Bidirectional(layers.RNN(layers.LSTMCell(4)))(Dense(8)(x)), (5, 3)),
        (lambda x: ops.cast(ops.count_nonzero(Dense(8)(x), axis=1), "float32"), (5, 3)),
        (lambda x: ops.softmax(Dense(8)(x), axis=None), (5, 3)),
    ],
)
def test_what_is_not_followed_is_locked(build, shape):
    half(net(lambda x: [build(x), Dense(3)(Dense(8)(x))], shape))


def test_dropout_follows_the_channels_that_it_names():
    model = net(lambda x: Dense(3)(layers.Dropout(0.5, noise_shape=(None, 1, 8))(Dense(8)(x))), (5, 4))
    small = half(model)
    assert small(np.ones((2, 5, 4)), training=True).shape == (2, 5, 3)


def test_constants_of_nested_models_are_those_of_all_calls():
    inputs = keras.Input((8,))
    inner = keras.Model(inputs, ops.matmul(inputs, np.ones((8, 8), "float32")), name="inner")

    def build(x):
        return Dense(3)(inner(inner(Dense(8)(x))) + Dense(8)(x))

    half(net(build, (4,)))


def test_what_is_broadcast_is_cut():
    inputs = keras.Input(batch_shape=(2, 4))
    x = ops.broadcast_to(Dense(8, name="made")(inputs)[:, None], (2, 3, 8))
    assert half(keras.Model(inputs, Dense(3)(x))).get_layer("made").units == 4


@pytest.mark.parametrize("norm", [layers.LayerNormalization, layers.RMSNormalization])
def test_scales_of_normalizations_follow_their_channels(norm):
    model = net(lambda x: Dense(3)(norm(name="norm")(Dense(6, name="made")(x))), (5, 4))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    small = half(model, exact=False, verify=False)
    old, new = (one.get_layer("made").bias.numpy() for one in (model, small))
    kept = np.isin(old, new)
    assert kept.sum() == 3
    for one, other in zip(model.get_layer("norm").weights, small.get_layer("norm").weights, strict=True):
        np.testing.assert_array_equal(other, one.numpy()[kept])


def test_stacked_arrays_are_cut():
    inputs = keras.Input(batch_shape=(2, 4))
    x = ops.stack([Dense(8)(inputs), np.ones((2, 8), "float32")], 1)
    assert half(keras.Model(inputs, Dense(3)(x))).output_shape == (2, 2, 3)


def backbone():
    inner = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(8, 1, name="in_conv")], name="inner")

    def build(x):
        x = layers.Conv2D(6, 1, name="conv")(x)
        x = layers.BatchNormalization(name="bn")(layers.DepthwiseConv2D(3, padding="same", name="dw")(x))
        return Dense(3)(layers.GlobalAveragePooling2D()(inner(x)))

    return net(build, (8, 8, 3))


@pytest.mark.parametrize("exclude", ["dw", "bn", layers.DepthwiseConv2D, lambda layer: layer.name == "bn"])
def test_layers_that_scale_channels_can_be_excluded(exclude):
    small = half(backbone(), exclude=exclude)
    assert small.get_layer("conv").filters == 6
    assert small.get_layer("inner").get_layer("in_conv").filters == 4


@pytest.mark.parametrize("exclude", ["inner", keras.Sequential, "inner/*"])
def test_what_holds_for_a_model_holds_for_its_layers(exclude):
    small = half(backbone(), exclude=exclude)
    assert small.get_layer("conv").filters == 3
    assert small.get_layer("inner").get_layer("in_conv").filters == 8


@pytest.mark.parametrize("exclude", [{"conv"}, layers.Conv2D(3, 1), 3])
def test_a_selector_is_a_name_a_type_or_a_function(exclude):
    with pytest.raises(TypeError, match="exclude takes names of layers"):
        half(backbone(), exclude=exclude)


def test_recurrent_units_count_once_for_all_gates():
    model = net(lambda x: Dense(3)(layers.LSTM(32, name="lstm")(x)), (5, 4))
    (group, _) = pruning.explain(model).groups
    assert (group.width, group.multiple) == (32, 1)
    assert pruning.prune_channels(model, 0.3).get_layer("lstm").units == 24


def test_channels_that_stay_count_in_the_rounding():
    def build(x):
        stays, other = ops.split(Dense(24, name="made")(x), [8], -1)
        return [stays, Dense(3)(other)]

    model = net(build, (4,))
    assert free(model, "made") == 16
    assert pruning.prune_channels(model, 0.4).get_layer("made").units == 8 + 8


def test_each_part_of_a_split_keeps_a_channel():
    model = net(lambda x: [Dense(3)(part) for part in ops.split(Dense(16, name="made")(x), [2], -1)], (4,))

    def first_least(structure):
        slot = next(slot for slot in structure.slots if slot.path == "made" and slot.role == "output")
        yield slot.labels, np.arange(16) + 1.0

    assert half(model, importance=first_least).get_layer("made").units == 9


def test_flags_of_single_weights_are_kept():
    model = keras.Sequential([keras.Input((4,)), Dense(8, name="one"), Dense(3)])
    model.get_layer("one").kernel.trainable = False
    assert len(half(model).trainable_variables) == len(model.trainable_variables) == 3
    attention = layers.MultiHeadAttention(4, 4, name="attention")
    model = net(lambda x: Dense(3)(attention(x, x)), (5, 6))
    attention._query_dense.trainable = False
    assert len(half(model).trainable_variables) == len(model.trainable_variables)


def test_slopes_are_no_kernels():
    model = net(lambda x: Dense(3)(layers.PReLU()(Dense(8, name="made")(x))), (5, 4))
    structure = read(model, rules_with())
    assert len(list(importance.l1(structure))) == 2 * 2  # two axes of two kernels


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


def test_the_original_is_left_alone():
    model = backbone()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    half(model)
    pruning.explain(model)
    rebuild(read(model, rules_with()), np.ones(read(model, rules_with()).atoms.count, bool))
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    assert cost.parameters(model) == sum(int(np.prod(weight.shape)) for weight in model.weights)


def by_sum(h):
    return ops.sum(h, axis=-1, keepdims=True)


def by_product(h):
    return ops.sum(ops.matmul(h, ops.swapaxes(h, 1, 2)), axis=-1, keepdims=True)


def by_einsum(h):
    return ops.einsum("btc,btc->bt", h, h)[..., None]


@pytest.mark.parametrize(
    ("function", "vanishes"),
    [
        (ops.exp, False),
        (ops.sigmoid, False),
        (layers.Activation("softplus"), False),
        (layers.Rescaling(2.0, 1.0), False),
        (lambda h: h + 1.0, False),
        (lambda h: ops.transpose(ops.exp(ops.transpose(h, (0, 2, 1))), (0, 2, 1)), False),
        (lambda h: ops.exp(h) * ops.exp(-h), False),
        (layers.Softmax(axis=1), False),
        (lambda h: ops.pad(h, [[0, 0], [1, 0], [0, 0]], constant_values=1.0)[:, :5], False),
        (lambda h: ops.pad(h, [[0, 0], [1, 0], [0, 0]])[:, :5], True),
        (lambda h: Dense(5)(h + 1.0), True),
        (ops.square, True),
        (ops.relu, True),
        (lambda h: ops.exp(h) * h, True),
        (lambda h: ops.tanh(h) * np.linspace(1, 2, 8, dtype="float32"), True),
        (layers.BatchNormalization(), True),
    ],
)
def test_what_sums_channels_loses_those_that_are_zero(function, vanishes):
    def build(x, summing):
        h = function(Dense(8, bias_initializer="ones", name="made")(x))
        return Dense(3)(ops.concatenate([Dense(8)(x), summing(h)], axis=-1))

    for summing in (by_sum, by_product, by_einsum):
        model = net(lambda x, summing=summing: build(x, summing), (5, 6))
        assert (free(model, "made") > 0) == vanishes
    half(model)


def test_what_is_wrongly_summed_is_found():
    model = net(lambda x: Dense(3)(Dense(8)(x) / by_sum(ops.exp(Dense(8)(x)))), (5, 6))
    rules = {numpy_ops.Sum: lambda call: (*call.inputs[0][:-1], None)}
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model, rules=rules)


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_norms_are_those_of_what_is_not_zero(axis):
    model = net(lambda x: Dense(3)(layers.UnitNormalization(axis)(Dense(8, name="made")(x))), (5, 6))
    assert half(model).get_layer("made").units == 4
    model = net(lambda x: Dense(3)(layers.UnitNormalization()(Dense(8, "sigmoid", name="made")(x))), (5, 6))
    (group, _) = pruning.explain(model).groups
    assert group.locked.endswith("it sums over channels that are not zero when their weights are")


def across_positions(t):
    return ops.softmax(t, axis=1)


def test_an_unknown_activation_may_look_along_any_axis():
    def build(x):
        return Dense(3)(
            layers.Flatten()(
                Dense(5, activation=across_positions)(layers.Permute((2, 1))(Dense(8, name="d")(x)))
            )
        )

    with pytest.raises(ValueError, match="across_positions reaches across this axis"):
        half(net(build, (4, 6)))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Softmax(axis=1)(Dense(6)(x), Dense(6)(x) > 0),
        lambda x: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=Dense(5)(x) > 0),
        lambda x: layers.LSTM(4)(x, mask=layers.Flatten()(layers.Dense(1)(Dense(4)(x))) > 0),
        lambda x: layers.GRU(8)(x, initial_state=np.zeros((2, 8), "float32")),
        lambda x: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=np.ones((1, 4, 5, 5), bool)),
    ],
    ids=["softmax", "attention", "lstm", "state", "heads"],
)
def test_masks_and_arrays_of_a_call_are_cut_with_what_they_meet(build):
    model = net(lambda x: Dense(3)(Dense(8)(layers.Flatten()(build(Dense(8, name="first")(x))))), (5, 6))
    half(model)(np.ones((2, 5, 6)))


def test_implicit_masks_reach_attention_in_the_proof():
    def build(x):
        embedded = layers.Embedding(5, 8, mask_zero=True)(x)
        return Dense(3)(layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(embedded, embedded)))

    half(net(build, (7,), dtype="int32"))


def test_weights_that_start_as_an_array_are_cut():
    start = keras.initializers.Constant(np.ones((50, 16)))
    stack = [layers.Embedding(50, 16, embeddings_initializer=start), layers.LSTM(16), Dense(3)]
    small = half(keras.Sequential([keras.Input((7,), dtype="int32"), *stack]))
    assert small.layers[0].output_dim == 8


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("bias", [False, True])
def test_beside_quantized_layers_others_are_cut(mode, bias):
    model = net(
        lambda x: Dense(3)(Dense(12, name="free")(Dense(8, use_bias=bias, name="q")(Dense(16)(x)))), (6,)
    )
    model.get_layer("q").quantize(mode)
    small = half(model)
    assert small.get_layer("free").units == 6
    assert small.get_layer("q").quantization_mode == mode
    there, here = ({w.path: w.numpy() for w in one.get_layer("q").variables} for one in (model, small))
    assert there.keys() == here.keys()
    assert all(np.array_equal(value, here[path]) for path, value in there.items())


def test_functions_in_wrapped_layers_are_passed_on():
    model = net(lambda x: Dense(3)(layers.TimeDistributed(Dense(8, activation=across_positions))(x)), (5, 4))
    small = pruning.prune_channels(
        keras.Sequential([model, layers.Flatten(), Dense(8), Dense(2)]), 0.5, round_to=1
    )
    assert small.layers[0].layers[1].layer.activation is across_positions


def test_an_optimizers_own_schedule_and_what_does_not_decay_are_kept():
    class Slow(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

        def get_config(self):
            return {}

    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    optimizer = keras.optimizers.AdamW(Slow(), weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    new = half(model).optimizer
    assert float(new.learning_rate) == 0.5
    small = half(model)
    assert [small.optimizer._use_weight_decay(one) for one in small.trainable_variables] == [True, False] * 2


def test_a_metric_without_a_config_is_refused_before_any_work():
    class Own(keras.metrics.Mean):
        def __init__(self):
            super().__init__(name="own")

    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    model.compile("sgd", "mse", metrics=[Own()])
    with pytest.raises(ValueError, match="Received: 'own', a Own, which cannot be made from its config"):
        pruning.prune_channels(model, macs=1e-9)


def test_a_ratio_by_which_nothing_goes_is_refused():
    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    trained = []

    def train(one, callbacks):
        trained.append(one)

    refused = r"ratio=0\.0?1 removes no channel of .*, because .* Use a larger ratio or round_to=1"
    for options in (
        {},
        {"train": train},
        {"rounds": 2, "round_to": 64, "train": train},
    ):
        with pytest.raises(
            ValueError,
            match=refused,
        ):
            pruning.prune_channels(model, 0.01 if options.get("rounds") else 0.1, **options)
    assert not trained


def test_a_target_that_can_be_reached_is():
    model = keras.Sequential([keras.Input((5,)), Dense(7), Dense(6), Dense(5), Dense(2)])
    assert cost.macs(pruning.prune_channels(model, macs=38)) == 38


def test_rounds_before_the_last_come_as_near_as_they_can():
    model = keras.Sequential([keras.Input((16,)), Dense(32), Dense(1)])
    widths = []
    small = pruning.prune_channels(
        model, macs=0.25, round_to=8, rounds=3, train=lambda one, _: widths.append(one.layers[0].units)
    )
    assert small.layers[0].units == 8
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == 3


def test_neighbours_that_were_only_found_are_said_to_be_that():
    model = keras.Sequential([keras.Input((3,)), *(Dense(40) for _ in range(3)), Dense(1)])
    with pytest.raises(ValueError, match="the nearest found are 6 and 8"):
        pruning.prune_channels(model, macs=7, round_to=1)


def test_arrays_in_operations_are_verified_in_float64():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 4)).astype("float32")
    half(
        net(
            lambda x: Dense(3)(Dense(8)(layers.Flatten()(ops.conv(layers.Conv2D(8, 3)(x), kernel)))),
            (9, 9, 2),
        )
    )


@pytest.mark.parametrize(
    ("inputs", "widths", "options", "expected"),
    [
        (16, (32,), {"macs": 0.25, "round_to": 8, "rounds": 3}, [[24], [16], [8]]),
        (16, (40,), {"macs": 0.6, "round_to": 8, "rounds": 3}, [[32], [32], [24]]),
        # Half way between the whole and the target lies nearer to [6, 5], which has fewer than the target.
        (3, (6, 6), {"macs": 0.886, "round_to": 1, "rounds": 2}, [[6, 6], [6, 5]]),
    ],
)
def test_a_round_takes_the_nearest_that_leaves_the_target_in_reach(inputs, widths, options, expected):
    stack = [Dense(width) for width in widths]
    model = keras.Sequential([keras.Input((inputs,)), *stack, Dense(1)])
    seen = []

    def train(small, callbacks):
        assert callbacks == []
        seen.append([layer.units for layer in small.layers[:-1]])

    pruning.prune_channels(model, **options, train=train)
    assert seen == expected

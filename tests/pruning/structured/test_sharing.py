"""A layer or weight that is used in several places is one in the smaller model too."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import cost, pruning
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._sharing import _names_in
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import Proof, prove


@keras.saving.register_keras_serializable("test_sharing")
class Block(layers.Layer):
    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def call(self, x):
        return ops.tanh(self.inner(x))

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


@keras.saving.register_keras_serializable("test_sharing")
class Raw(Block):
    """Its config holds the layer as it is."""

    def get_config(self):
        return {**layers.Layer.get_config(self), "inner": self.inner}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("test_sharing")
class Tied(Block):
    """The head of a language model, whose kernel is the table of the embedding."""

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.inner.embeddings))


def head(x):
    return Dense(3)(Dense(8)(x))


def randomized(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def distributed_and_direct():
    shared = Dense(40, name="shared")
    return net(lambda x: head(shared(x) + layers.TimeDistributed(shared)(x)), (7, 5))


def distributed_first():
    shared = Dense(40, name="shared")
    each = layers.TimeDistributed(shared, name="each")
    return net(lambda x, y: head(each(x) + shared(y)), (7, 5), (7, 5))


def distributed_twice():
    shared = Dense(40, name="shared")
    each = layers.TimeDistributed(shared), layers.TimeDistributed(shared)
    return net(lambda x: head(each[0](x) + each[1](x)), (7, 5))


def in_two_blocks(kind=Block):
    shared = Dense(40, name="shared")
    return net(lambda x: head(kind(shared)(x) + kind(shared)(x)), (7, 5))


def in_two_raw_blocks():
    return in_two_blocks(Raw)


def in_a_block_and_direct():
    shared = Dense(40, name="shared")
    return net(lambda x: head(Block(shared)(x) + shared(x)), (7, 5))


def in_a_nested_model_and_direct():
    shared = Dense(40, name="shared")
    inner = net(shared, (7, 5))
    return net(lambda x: head(inner(x) + shared(x)), (7, 5))


def a_model_in_a_wrapper_and_direct():
    inner = net(lambda x: Dense(6, name="shared")(Dense(8)(x)), (5,))
    return net(lambda x: head(layers.TimeDistributed(inner)(x) + inner(x[:, 0])[:, None]), (7, 5))


def a_model_in_a_block_and_direct():
    inner = net(lambda x: Dense(6, name="shared")(Dense(8)(x)), (7, 5))
    return net(lambda x: head(Block(inner)(x) + inner(x)), (7, 5))


def a_norm_in_a_wrapper():
    norm = layers.BatchNormalization(name="shared")
    return net(lambda x: head(norm(Dense(8)(x)) + layers.TimeDistributed(norm)(Dense(8)(x))), (7, 5))


def tied_to_a_table():
    table = layers.Embedding(9, 8, name="shared")
    return net(lambda x: Tied(table)(Dense(8)(Dense(16)(table(x)))), (7,), dtype="int32")


def backwards():
    shared = layers.GRU(6, go_backwards=True, return_sequences=True, name="shared")
    both = layers.Bidirectional(layers.GRU(6, return_sequences=True), backward_layer=shared)
    return net(lambda x: head(layers.Concatenate()([both(x), shared(x)])), (7, 5))


def a_weight_in_an_operation():
    shared = Dense(8, name="shared")
    shared.build((None, 8))
    return net(lambda x: ops.matmul(Dense(8)(Dense(16)(x)), shared.kernel) + shared(Dense(8)(x)), (7, 5))


def cells_of_two_networks():
    cell = layers.GRUCell(5, name="shared")
    return net(lambda x: head(layers.RNN(cell)(x) + layers.RNN([cell, cell])(x)), (7, 5))


SHARED = [
    distributed_and_direct,
    distributed_first,
    distributed_twice,
    in_two_blocks,
    in_two_raw_blocks,
    in_a_block_and_direct,
    in_a_nested_model_and_direct,
    a_model_in_a_wrapper_and_direct,
    a_model_in_a_block_and_direct,
    a_norm_in_a_wrapper,
    tied_to_a_table,
    backwards,
    a_weight_in_an_operation,
    cells_of_two_networks,
]


@pytest.mark.parametrize("build", SHARED, ids=lambda build: build.__name__)
@pytest.mark.sweep(2)
def test_what_is_shared_stays_shared(build):
    model = randomized(build())
    small = half(model)  # with a proof
    assert len(small.variables) == len(model.variables)
    assert small.count_params() < model.count_params()
    assert not {id(variable) for variable in small.variables} & {id(variable) for variable in model.variables}


def test_a_shared_layer_counts_once():
    model = distributed_first()
    small = pruning.prune_channels(model, 0.5, exclude=["shared"], verify=True)
    assert cost.parameters(small) == (5 * 40 + 40) + (40 * 4 + 4) + (4 * 3 + 3)
    assert small.get_layer("shared") is small.get_layer("each").layer
    model = pruning.prune_channels(distributed_first(), parameters=0.5, round_to=1)
    assert cost.parameters(model) == pytest.approx(cost.parameters(distributed_first()) / 2, rel=0.02)


def test_a_layer_in_a_layer_without_a_rule_stays_whole_everywhere():
    shared = Dense(40, name="shared")
    model = net(lambda x: head(Block(shared)(x)) + head(shared(x)), (7, 5))
    assert half(model).get_layer("shared").units == 40
    (group, *_) = pruning.explain(model).groups
    assert group.locked.endswith("no rule is known for Block")


def test_a_layer_is_excluded_by_any_of_its_paths():
    for name in ("shared", "each", layers.TimeDistributed):
        assert half(distributed_first(), exclude=[name]).get_layer("shared").units == 40


def test_two_functions_of_one_name_are_two():
    model = net(
        lambda x: head(
            layers.GRU(8, activation=lambda t: ops.tanh(t), recurrent_activation=lambda t: ops.sigmoid(t))(x)
        ),
        (7, 5),
    )
    half(randomized(model))


def test_sharing_that_no_config_tells_is_refused():
    class Later(layers.Layer):
        def build(self, shape):
            if not hasattr(self, "inner"):
                self.inner = Dense(shape[-1])

        def call(self, x):
            return self.inner(x)

    one, other = Later(name="one"), Later(name="other")
    one.inner = other.inner = Dense(5)
    model = net(lambda x: head(one(x) + other(x)), (7, 5))
    with pytest.raises(ValueError, match="'one' and 'other', which share 'kernel' but would no longer do so"):
        half(model)


def test_a_function_that_uses_a_layer_is_refused():
    table = layers.Embedding(9, 8, name="table")
    function = layers.Lambda(lambda x: ops.matmul(x, ops.transpose(table.embeddings)), name="function")
    model = net(lambda x: function(Dense(8)(Dense(16)(table(x)))), (7,), dtype="int32")
    with pytest.raises(ValueError, match="'<lambda>' of 'function', which uses 'table'"):
        half(model)


def test_a_layer_that_cannot_run_is_named():
    class Forgetful(Tied):
        def get_config(self):
            return layers.Layer.get_config(self)

        @classmethod
        def from_config(cls, config):
            return cls(None, **config)

    table = layers.Embedding(9, 8)
    model = net(lambda x: Forgetful(table, name="tied")(Dense(8)(Dense(16)(table(x)))), (7,), dtype="int32")
    with pytest.raises(ValueError, match="'tied', a Forgetful, which does not"):
        half(model)


def test_the_proof_sees_sharing():
    model = randomized(distributed_first())
    structure = read(model, rules_with())
    everything = np.ones(structure.atoms.count, bool)
    prove(structure, everything, rebuild(structure, everything), rules_with(), Proof())
    unshared = net(
        lambda x, y: head(layers.TimeDistributed(Dense(40, name="shared"))(x) + Dense(40, name="shared")(y)),
        (7, 5),
        (7, 5),
    )
    for one, other in zip(unshared.layers, model.layers, strict=True):
        one.name = other.name
        one.set_weights(other.get_weights())
    with pytest.raises(RuntimeError, match="which share 'kernel' but would no longer do so"):
        prove(structure, everything, unshared, rules_with(), Proof())


def test_an_attribute_is_not_a_variable_of_its_name():
    """Or a layer that is called softmax in a notebook would seem to be used by `ops.softmax`."""

    def own(x):
        return ops.softmax(x) + (lambda: half)()

    assert set(_names_in(own.__code__)) == {"ops", "half"}

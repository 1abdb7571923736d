"""Heads are found and taken apart exactly; layers are tapped in the same pass; the model stays as it was."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from backend import as_numpy, as_tensor, only_on, value_and_gradients
from conftest import dense_net
from keras import layers, ops

from distill.training._taps import Read, Taps

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def tapped(model, names=(), head=None, from_logits=None):
    """Returns a function that runs the model once and returns outputs, logits and layers by name."""
    reads = [Read(layer=name) for name in names] + [Read(head=head, from_logits=from_logits)]
    taps = Taps(model, reads, model.name)

    def run(inputs, training):
        outputs, (*layer_outputs, logits) = taps(inputs, training=training)
        return SimpleNamespace(
            outputs=outputs, logits=logits, layers=dict(zip(names, layer_outputs, strict=True))
        )

    return run


def sequential(*stack, shape=(6,)):
    return keras.Sequential([keras.Input(shape), *stack])


def functional(head):
    inputs = keras.Input((6,))
    return keras.Model(inputs, head(layers.Dense(3)(inputs)))


def nested(head):
    inputs = keras.Input((6,))
    return keras.Model(inputs, sequential(layers.Dense(3, name="inner"), *head)(layers.Dense(6)(inputs)))


def two_deep():
    inputs = keras.Input((6,))
    return keras.Model(inputs, nested([layers.Softmax()])(inputs))


SOFTMAX_HEADS = {
    "argument": lambda: sequential(layers.Dense(3, activation="softmax")),
    "functional": lambda: dense_net(4),
    "activation layer": lambda: sequential(layers.Dense(3), layers.Activation("softmax")),
    "softmax layer": lambda: sequential(layers.Dense(3), layers.Softmax()),
    "softmax of the last axis by number": lambda: sequential(layers.Dense(3), layers.Softmax(axis=1)),
    "log softmax": lambda: sequential(layers.Dense(3, activation="log_softmax")),
    "einsum dense": lambda: sequential(
        layers.EinsumDense("ab,bc->ac", 3, bias_axes="c", activation="softmax")
    ),
    "convolution": lambda: sequential(layers.Reshape((6, 1)), layers.Conv1D(3, 2, activation="softmax")),
    "cast afterwards": lambda: sequential(
        layers.Dense(3, activation="softmax"), layers.Activation("linear", dtype="float32")
    ),
    "nested model": lambda: nested([layers.Activation("softmax")]),
    "nested model, argument": lambda: nested([layers.Dense(3, activation="softmax")]),
    "two deep": two_deep,
    "operation": lambda: functional(ops.softmax),
    "identity": lambda: sequential(layers.Dense(3, activation="softmax"), layers.Identity()),
    "activity regularizer": lambda: sequential(
        layers.Dense(3, activation="softmax", activity_regularizer="l2")
    ),
}


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("head", SOFTMAX_HEADS)
def test_softmax_heads_are_taken_apart_exactly(head):
    model = SOFTMAX_HEADS[head]()
    expected = as_numpy(model(X))
    config, trained = model.get_config(), len(model.trainable_variables)
    result = tapped(model, head="softmax")(as_tensor(X), training=False)
    np.testing.assert_array_equal(as_numpy(result.outputs), expected)
    log_probabilities = (
        expected.astype("float64") if head == "log softmax" else np.log(expected.astype("float64"))
    )
    np.testing.assert_allclose(log_softmax(as_numpy(result.logits)), log_probabilities, atol=1e-6)
    # Not yet normalised: these are the logits, not the log-probabilities.
    assert np.abs(np.exp(as_numpy(result.logits)).sum(axis=-1) - 1).max() > 1e-3
    assert (model.get_config(), len(model.trainable_variables)) == (config, trained)


def test_logits_survive_where_probabilities_underflow():
    model = sequential(layers.Dense(3, activation="softmax", use_bias=False, name="head"))
    model.get_layer("head").set_weights([np.full((6, 3), [100.0, 0.0, -100.0], "float32")])
    x = np.ones((1, 6), "float32")
    assert as_numpy(model(x))[0, 2] == 0.0
    result = tapped(model, head="softmax")(as_tensor(x), training=False)
    np.testing.assert_array_equal(as_numpy(result.logits), [[600.0, 0.0, -600.0]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequential(layers.Dense(2, activation="sigmoid")),
        lambda: sequential(layers.Dense(2), layers.Activation("sigmoid")),
        lambda: functional(ops.sigmoid),
    ],
)
def test_sigmoid_heads_are_taken_apart_exactly(make):
    model = make()
    result = tapped(model, head="sigmoid")(as_tensor(X), training=False)
    expected = as_numpy(model(X)).astype("float64")
    np.testing.assert_array_equal(as_numpy(result.outputs), as_numpy(model(X)))
    np.testing.assert_allclose(
        as_numpy(result.logits), np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_linear_heads_are_logits(kind):
    model = sequential(layers.Dense(3), layers.Activation("linear"))
    result = tapped(model, head=kind)(as_tensor(X), training=False)
    np.testing.assert_array_equal(as_numpy(result.logits), as_numpy(model(X)))
    np.testing.assert_array_equal(as_numpy(result.outputs), as_numpy(model(X)))


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_activity_regularizer_of_a_head_is_for_its_outputs(head):
    dense = layers.Dense(3, activation=head, activity_regularizer=keras.regularizers.L2(0.5))
    model = sequential(dense)
    model(as_tensor(X))
    expected = [as_numpy(loss) for loss in model.losses]
    result = tapped(model, head=head)(as_tensor(X), training=True)
    np.testing.assert_array_equal([as_numpy(loss) for loss in model.losses], expected)
    assert len(expected) == 1
    np.testing.assert_array_equal(as_numpy(result.outputs), as_numpy(model(X)))


def test_gradient_reaches_the_models_own_variables():
    model = dense_net(4)
    taps = tapped(model, head="softmax")
    _, gradients = value_and_gradients(
        lambda: ops.sum(taps(as_tensor(X), training=True).logits ** 2), variables=model.trainable_variables
    )
    assert len(gradients) == 4
    assert all(gradient is not None for gradient in gradients)


@only_on("tensorflow", reason="elsewhere Keras' cross-entropy clips probabilities, of plain models too")
def test_keras_still_finds_the_logits_of_the_outputs():
    """Cross-entropy with from_logits=False reads them; without, a saturated student could not learn."""
    model = sequential(layers.Dense(3, activation="softmax", kernel_initializer="ones"))
    model.layers[-1].set_weights([np.full((6, 3), [50.0, 0.0, -50.0], "float32"), np.zeros(3, "float32")])
    x, y = np.ones((1, 6), "float32"), np.array([2])
    taken_apart = tapped(model, head="softmax")(as_tensor(x), training=False).outputs
    for outputs in (model(x), taken_apart):
        loss = keras.losses.sparse_categorical_crossentropy(y, outputs)
        np.testing.assert_allclose(as_numpy(loss), [600.0])


def own_softmax(x):
    return ops.softmax(x)


def masked_softmax():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Softmax()(inputs, mask=inputs > 0))


UNRECOGNISED = {
    "other activation": (lambda: sequential(layers.Dense(3, activation="relu")), "ends in Dense"),
    "reshaped": (
        lambda: sequential(layers.Dense(3, activation="softmax"), layers.Reshape((3, 1))),
        "Reshape",
    ),
    "pooled": (lambda: sequential(layers.Reshape((6, 1)), layers.GlobalAveragePooling1D()), "GlobalAverage"),
    "softmax of several axes": (
        lambda: sequential(layers.Reshape((2, 3)), layers.Softmax(axis=(1, 2))),
        r"ends in Softmax '.*' with axis=\(1, 2\)",
    ),
    "softmax over time": (
        lambda: sequential(layers.Reshape((2, 3)), layers.Dense(4), layers.Softmax(axis=1)),
        r"ends in Softmax '.*', a softmax over axis 1 of \(None, 2, 4\), whose channels are on axis 2",
    ),
    "another activation of Keras": (
        lambda: sequential(layers.Conv1D(3, 1, activation="swish"), shape=(6, 1)),
        "ends in Conv1D '.*' with activation='silu'. Heads",
    ),
    "a function": (
        lambda: sequential(layers.Dense(3, activation=own_softmax)),
        r"ends in Dense '.*' with an activation that is not one of Keras' own, 'own_softmax' of .*"
        "write activation='softmax'",
    ),
    "a function in a layer": (
        lambda: sequential(layers.Activation(own_softmax)),
        "ends in Activation .*own_softmax",
    ),
    "a subclass": (
        lambda: sequential(type("MyDense", (layers.Dense,), {})(3, activation="softmax")),
        "ends in MyDense '.*', of a class made from Dense, whose call may do anything. Use keras.layers.Dense itself",
    ),
    "a mask": (masked_softmax, "ends in Softmax '.*' with a mask"),
}


@pytest.mark.parametrize("case", UNRECOGNISED)
def test_what_cannot_be_recognized_is_refused_with_the_way_out(case):
    make, message = UNRECOGNISED[case]
    with pytest.raises(ValueError, match=rf"{message}.*from_logits=True"):
        tapped(make(), head="softmax")


class Subclassed(keras.Model):
    def __init__(self, activation=None):
        super().__init__()
        self.dense = layers.Dense(3, activation=activation)

    def call(self, inputs):
        return self.dense(inputs)


class OwnCall(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


@pytest.mark.parametrize("make", [Subclassed, lambda: OwnCall([keras.Input((6,)), layers.Dense(3)])])
def test_a_graph_that_cannot_be_read_is_refused(make):
    model = make()
    model(X)
    with pytest.raises(ValueError, match="whose graph cannot be read.*from_logits=True"):
        tapped(model, head="softmax")
    with pytest.raises(ValueError, match="Layers can only be read in Functional and Sequential"):
        tapped(model, ["dense"])


def test_from_logits_states_it_by_hand():
    for activation, from_logits in ((None, True), ("softmax", False)):
        model = Subclassed(activation)
        outputs = as_numpy(model(X))
        expected = as_numpy(model.dense(X)) if from_logits else np.log(outputs)
        result = tapped(model, head="softmax", from_logits=from_logits)(as_tensor(X), training=False)
        np.testing.assert_allclose(as_numpy(result.logits), expected, rtol=1e-6)
        np.testing.assert_array_equal(as_numpy(result.outputs), outputs)


def test_from_logits_false_gives_log_odds_to_sigmoid_losses():
    model = Subclassed("sigmoid")
    p = as_numpy(model(X)).astype("float64")
    result = tapped(model, head="sigmoid", from_logits=False)(as_tensor(X), training=False)
    np.testing.assert_allclose(as_numpy(result.logits), np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)


def test_the_other_kind_of_head_is_refused():
    with pytest.raises(ValueError, match="needs a softmax head.*ends in sigmoid.*BernoulliSoftTargets"):
        tapped(sequential(layers.Dense(3, activation="sigmoid")), head="softmax")
    with pytest.raises(ValueError, match=r"needs a sigmoid head.*ends in softmax.*SoftTargets"):
        tapped(sequential(layers.Dense(3, activation="softmax")), head="sigmoid")


def test_several_outputs_are_refused():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])
    with pytest.raises(ValueError, match="one output.*2 outputs"):
        tapped(model, head="softmax")


def test_layers_are_tapped_in_the_same_pass():
    model = dense_net(4)
    result = tapped(model, ["hidden", "head"], head="softmax")(as_tensor(X), training=False)
    kernel, bias = model.get_layer("hidden").get_weights()
    np.testing.assert_allclose(
        as_numpy(result.layers["hidden"]), np.maximum(X @ kernel + bias, 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(as_numpy(result.layers["head"]), as_numpy(model(X)))
    np.testing.assert_array_equal(as_numpy(result.outputs), as_numpy(model(X)))


def test_only_calls_inside_the_model_count():
    model = dense_net(4)
    elsewhere = keras.Input((6,))
    keras.Model(elsewhere, model.get_layer("hidden")(elsewhere))
    result = tapped(model, ["hidden"])(as_tensor(X), training=False)
    kernel, bias = model.get_layer("hidden").get_weights()
    np.testing.assert_allclose(
        as_numpy(result.layers["hidden"]), np.maximum(X @ kernel + bias, 0), rtol=1e-5, atol=1e-6
    )


def twice():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    return keras.Model(inputs, shared(shared(inputs)), name="twice")


def test_a_layer_called_twice_is_refused_with_its_calls():
    calls = r"called 2 times in 'twice': shared\[0\] on 'input.*'; shared\[1\] on 'shared'"
    for name in ("shared", "shared[2]"):
        with pytest.raises(
            ValueError, match=rf"must be read by the number of a call.*{calls}. Write 'shared\[0\]'"
        ):
            tapped(twice(), [name])

    with pytest.raises(ValueError, match=r"Received: 'shared\[2\]', called 2 times"):
        tapped(twice(), ["shared[2]"])


def test_a_name_may_end_in_a_number_in_brackets():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="block[0]")])
    result = tapped(model, ["block[0]"])(as_tensor(X), training=False)
    np.testing.assert_array_equal(as_numpy(result.layers["block[0]"]), as_numpy(model(X)))


def test_a_call_of_a_shared_layer_is_chosen_by_number():
    model = twice()
    kernel, bias = model.get_layer("shared").get_weights()
    result = tapped(model, ["shared[0]", "shared[1]"])(as_tensor(X), training=False)
    once = X @ kernel + bias
    np.testing.assert_allclose(as_numpy(result.layers["shared[0]"]), once, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        as_numpy(result.layers["shared[1]"]), once @ kernel + bias, rtol=1e-5, atol=1e-6
    )


def with_backbone():
    inputs = keras.Input((6,))
    block = sequential(layers.Dense(5, name="first"), layers.Dense(4, name="second"))
    backbone = sequential(keras.Sequential(block.layers, name="block"))
    backbone.name = "backbone"
    return keras.Model(
        inputs, layers.Dense(3, activation="softmax", name="head")(backbone(inputs)), name="whole"
    )


def test_layers_of_nested_models_are_tapped_in_the_same_pass():
    model = with_backbone()
    result = tapped(model, ["backbone/block/first", "backbone"], head="softmax")(as_tensor(X), training=False)
    first, first_bias, second, second_bias = model.get_weights()[:4]
    expected = X @ first + first_bias
    np.testing.assert_allclose(
        as_numpy(result.layers["backbone/block/first"]), expected, rtol=1e-5, atol=1e-6
    )
    expected = expected @ second + second_bias
    np.testing.assert_allclose(as_numpy(result.layers["backbone"]), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(as_numpy(result.outputs), as_numpy(model(X)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("first", r"'first'\. Did you mean one of \['backbone/block/first'\]"),
        ("backbone/block/frist", r"'whole/backbone/block' has no layer of that name.*one of \['first'\]"),
        ("head/kernel", "'head' is a Dense"),
    ],
)
def test_wrong_paths_suggest_right_ones(path, message):
    with pytest.raises(ValueError, match=message):
        tapped(with_backbone(), [path])


def test_a_missing_layer_suggests_near_names():
    with pytest.raises(ValueError, match=r"Received: 'hiden'\. Did you mean one of \['hidden'\]"):
        tapped(dense_net(4), ["hiden"])


def test_training_flag_reaches_the_layers():
    model = sequential(layers.Dropout(0.5, seed=1), layers.Dense(3, activation="softmax"))
    taps = tapped(model, head="softmax")
    expected = as_numpy(model(X, training=False))
    np.testing.assert_array_equal(as_numpy(taps(as_tensor(X), training=False).outputs), expected)
    assert np.abs(as_numpy(taps(as_tensor(X), training=True).outputs) - expected).max() > 1e-3

"""Heads are found and taken apart exactly; layers are tapped in the same pass; the model stays as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dense_net
from keras import layers

from distill.taps import Taps

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def sequential(*stack):
    return keras.Sequential([keras.Input((6,)), *stack])


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
}


def log_softmax(x):
    x = np.asarray(x, "float64")
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("head", SOFTMAX_HEADS)
def test_softmax_heads_are_taken_apart_exactly(head):
    model = SOFTMAX_HEADS[head]()
    expected = model(X).numpy()
    config, trained = model.get_config(), len(model.trainable_variables)
    tapped = Taps(model, head="softmax")(tf.constant(X), training=False)
    np.testing.assert_array_equal(tapped.outputs, expected)
    log_probabilities = (
        expected.astype("float64") if head == "log softmax" else np.log(expected.astype("float64"))
    )
    np.testing.assert_allclose(log_softmax(tapped.logits), log_probabilities, atol=1e-6)
    # Not yet normalised: these are the logits, not the log-probabilities.
    assert np.abs(np.exp(tapped.logits.numpy()).sum(axis=-1) - 1).max() > 1e-3
    assert (model.get_config(), len(model.trainable_variables)) == (config, trained)


def test_logits_survive_where_probabilities_underflow():
    model = sequential(layers.Dense(3, activation="softmax", use_bias=False, name="head"))
    model.get_layer("head").set_weights([np.full((6, 3), [100.0, 0.0, -100.0], "float32")])
    x = np.ones((1, 6), "float32")
    assert model(x).numpy()[0, 2] == 0.0
    tapped = Taps(model, head="softmax")(tf.constant(x), training=False)
    np.testing.assert_array_equal(tapped.logits, [[600.0, 0.0, -600.0]])


@pytest.mark.parametrize(
    "head", [[layers.Dense(2, activation="sigmoid")], [layers.Dense(2), layers.Activation("sigmoid")]]
)
def test_sigmoid_heads_are_taken_apart_exactly(head):
    model = sequential(*head)
    tapped = Taps(model, head="sigmoid")(tf.constant(X), training=False)
    expected = model(X).numpy().astype("float64")
    np.testing.assert_array_equal(tapped.outputs, model(X))
    np.testing.assert_allclose(tapped.logits, np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_linear_heads_are_logits(kind):
    model = sequential(layers.Dense(3), layers.Activation("linear"))
    tapped = Taps(model, head=kind)(tf.constant(X), training=False)
    np.testing.assert_array_equal(tapped.logits, model(X))
    np.testing.assert_array_equal(tapped.outputs, model(X))


def test_gradient_reaches_the_models_own_variables():
    model = dense_net(4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(Taps(model, head="softmax")(tf.constant(X), training=True).logits ** 2)
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_variables))


def test_keras_still_finds_the_logits_of_the_outputs():
    """Cross-entropy with from_logits=False reads them; without, a saturated student could not learn."""
    model = sequential(layers.Dense(3, activation="softmax", kernel_initializer="ones"))
    model.layers[-1].set_weights([np.full((6, 3), [50.0, 0.0, -50.0], "float32"), np.zeros(3, "float32")])
    x, y = np.ones((1, 6), "float32"), np.array([2])
    taken_apart = Taps(model, head="softmax")(tf.constant(x), training=False).outputs
    for outputs in (model(x), taken_apart):
        np.testing.assert_allclose(keras.losses.sparse_categorical_crossentropy(y, outputs), [600.0])


UNRECOGNISED = {
    "other activation": (lambda: sequential(layers.Dense(3, activation="relu")), "ends in Dense"),
    "reshaped": (
        lambda: sequential(layers.Dense(3, activation="softmax"), layers.Reshape((3, 1))),
        "Reshape",
    ),
    "pooled": (lambda: sequential(layers.Reshape((6, 1)), layers.GlobalAveragePooling1D()), "GlobalAverage"),
    "softmax over another axis": (
        lambda: sequential(layers.Reshape((2, 3)), layers.Softmax(axis=1)),
        "ends in Softmax",
    ),
    "activity regularizer": (
        lambda: sequential(layers.Dense(3, activation="softmax", activity_regularizer="l2")),
        "ends in Dense",
    ),
}


@pytest.mark.parametrize("case", UNRECOGNISED)
def test_what_cannot_be_recognised_is_refused_with_the_way_out(case):
    make, message = UNRECOGNISED[case]
    with pytest.raises(ValueError, match=rf"{message}.*from_logits=True"):
        Taps(make(), head="softmax")


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
        Taps(model, head="softmax")
    with pytest.raises(ValueError, match="Layers can be tapped where the graph can be read"):
        Taps(model, ["dense"])


def test_from_logits_states_it_by_hand():
    for activation, from_logits in ((None, True), ("softmax", False)):
        model = Subclassed(activation)
        expected = model.dense(X) if from_logits else np.log(model(X))
        tapped = Taps(model, head="softmax", from_logits=from_logits)(tf.constant(X), training=False)
        np.testing.assert_allclose(tapped.logits, expected, rtol=1e-6)
        np.testing.assert_array_equal(tapped.outputs, model(X))


def test_from_logits_false_gives_log_odds_to_sigmoid_losses():
    model = Subclassed("sigmoid")
    p = model(X).numpy().astype("float64")
    tapped = Taps(model, head="sigmoid", from_logits=False)(tf.constant(X), training=False)
    np.testing.assert_allclose(tapped.logits, np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)


def test_a_probability_of_zero_stays_finite():
    model = sequential(layers.Activation("linear"))
    p = tf.constant([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    tapped = Taps(model, head="softmax", from_logits=False)(p, training=False)
    assert np.isfinite(tapped.logits).all()


def test_the_other_kind_of_head_is_refused():
    with pytest.raises(ValueError, match="needs a softmax head.*ends in sigmoid.*BernoulliSoftTargets"):
        Taps(sequential(layers.Dense(3, activation="sigmoid")), head="softmax")
    with pytest.raises(ValueError, match=r"needs a sigmoid head.*ends in softmax.*SoftTargets"):
        Taps(sequential(layers.Dense(3, activation="softmax")), head="sigmoid")


def test_several_outputs_are_refused():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])
    with pytest.raises(ValueError, match="one output.*2 outputs"):
        Taps(model, head="softmax")


def test_layers_are_tapped_in_the_same_pass():
    model = dense_net(4)
    tapped = Taps(model, ["hidden", "head"], head="softmax")(tf.constant(X), training=False)
    kernel, bias = model.get_layer("hidden").get_weights()
    np.testing.assert_allclose(
        tapped.layers["hidden"], np.maximum(X @ kernel + bias, 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(tapped.layers["head"], model(X))
    np.testing.assert_array_equal(tapped.outputs, model(X))


def test_only_calls_inside_the_model_count():
    model = dense_net(4)
    elsewhere = keras.Input((6,))
    keras.Model(elsewhere, model.get_layer("hidden")(elsewhere))
    tapped = Taps(model, ["hidden"])(tf.constant(X), training=False)
    kernel, bias = model.get_layer("hidden").get_weights()
    np.testing.assert_allclose(
        tapped.layers["hidden"], np.maximum(X @ kernel + bias, 0), rtol=1e-5, atol=1e-6
    )


def test_a_layer_called_twice_is_refused():
    inputs = keras.Input((6,))
    twice = layers.Dense(6, name="twice")
    model = keras.Model(inputs, twice(twice(inputs)))
    with pytest.raises(ValueError, match="must be called once.*called 2 times.*Identity"):
        Taps(model, ["twice"])


def test_a_missing_layer_suggests_near_names():
    with pytest.raises(ValueError, match=r"Received: 'hiden'\. Did you mean one of \['hidden'\]"):
        Taps(dense_net(4), ["hiden"])


def test_training_flag_reaches_the_layers():
    model = sequential(layers.Dropout(0.5, seed=1), layers.Dense(3, activation="softmax"))
    taps = Taps(model, head="softmax")
    np.testing.assert_array_equal(taps(tf.constant(X), training=False).outputs, model(X, training=False))
    assert np.abs(taps(tf.constant(X), training=True).outputs - model(X, training=False)).max() > 1e-3

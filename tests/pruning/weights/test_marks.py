"""What prune_low_magnitude marks, and what UpdatePruningStep then prunes."""

import keras
import numpy as np
import pytest
from backend import BACKEND
from keras import layers
from marked_nets import each_step, fit, network, zeros_after_each_step

from distill import Distiller, losses, pruning
from distill.pruning import UpdatePruningStep, prune_low_magnitude, strip_pruning
from distill.pruning.weights._masks import Mask
from distill.pruning.weights._schedules import tfmot_schedule

if BACKEND != "tensorflow":
    pytest.skip("tfmot is TensorFlow", allow_module_level=True)


def functional():
    inputs = keras.Input((8,))
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="inside")], name="inner")
    x = layers.Dense(8, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(4, name="last")(inner(x)))


def pruned_kernels(model):
    """Paths of the kernels with a mask that cuts something."""
    masks = [(weight.path, weight.constraint) for weight in model.trainable_variables]
    return [
        path
        for path, mask in masks
        if isinstance(mask, Mask) and not keras.ops.convert_to_numpy(mask.kept).all()
    ]


def test_the_model_itself_comes_back_and_trains_sparse():
    model = functional()
    config = model.get_config()
    assert prune_low_magnitude(model, each_step) is model
    history = fit(model)
    assert pruned_kernels(model) == ["first/kernel", "inner/inside/kernel", "last/kernel"]
    assert history.history["sparsity"] == [0.5]
    for kernel in model.get_weights()[::2]:
        assert np.count_nonzero(kernel) == kernel.size / 2
    assert strip_pruning(model) is model
    assert pruned_kernels(model) == []
    assert model.get_config() == config
    assert all(weight.constraint is None for weight in model.trainable_variables)
    assert np.count_nonzero(model.get_weights()[0]) == 32
    fit(model, callbacks=[])


def test_without_the_callback_training_is_an_error():
    model = prune_low_magnitude(functional(), each_step)
    x, y = np.ones((4, 8)), np.ones((4, 4))
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    with pytest.raises(
        ValueError, match=r"must be trained with UpdatePruningStep. Received: a training step of 'first/"
    ):
        model.fit(x, y, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])
    assert len(pruned_kernels(model)) == 3
    model.fit(x, y, verbose=0)  # masks hold
    assert np.count_nonzero(model.get_weights()[0]) == 32


def test_a_model_that_was_trained_before_is_not_trained_unpruned():
    model = functional()
    x, y = np.ones((4, 8)), np.ones((4, 4))
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    prune_low_magnitude(model, each_step)
    with pytest.raises(ValueError, match="must be trained with UpdatePruningStep"):
        model.fit(x, y, verbose=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(4),
        lambda: layers.LSTM(4),
        lambda: layers.Bidirectional(layers.GRU(4)),
        lambda: layers.TimeDistributed(layers.Dense(4)),
        lambda: keras.Sequential([layers.Dense(4), layers.Dense(4)]),
        lambda: SelfAttention(),
    ],
)
@pytest.mark.sweep(1)
def test_layers_that_are_not_built_yet(make):
    part = prune_low_magnitude(make(), each_step)
    model = keras.Sequential([part, layers.Flatten(), layers.Dense(2, name="whole")])
    model.build((None, 5, 3))
    x, y = np.random.default_rng(0).normal(size=(4, 5, 3)), np.ones((4, 2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must be trained with UpdatePruningStep"):
        model.fit(x, y, verbose=0)
    model.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])
    kernels = [weight.path for weight in part.trainable_variables if len(weight.shape) > 1]
    kernels = [path for path in kernels if not path.endswith("bias")]
    assert sorted(pruned_kernels(model)) == sorted(kernels)


class SelfAttention(layers.Layer):
    """Whose parts are made when it is built."""

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(2, 4)
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


def test_layers_stripped_before_they_are_built_stay_whole():
    layer = prune_low_magnitude(layers.Dense(4), each_step)
    model = keras.Sequential([layer])
    strip_pruning(model)
    model.build((None, 3))
    assert layer.kernel.constraint is None


def test_a_list_of_layers_each_with_its_constraint():
    made = [layers.Dense(8, kernel_constraint="non_neg"), layers.Dropout(0.5), layers.Dense(8)]
    assert prune_low_magnitude(made, each_step) is made
    model = keras.Sequential([keras.Input((8,)), *made, layers.Dense(4)])
    constraint = made[0].kernel_constraint
    fit(model)
    assert len(pruned_kernels(model)) == 2
    assert (model.get_weights()[0] >= 0).all()
    strip_pruning(model)
    assert made[0].kernel.constraint is constraint


def test_inner_marks_go_first_and_each_plan_is_followed():
    model = functional()
    prune_low_magnitude(model.get_layer("first"), lambda step: (True, 0.75))
    prune_low_magnitude(model, each_step)
    prune_low_magnitude(model, lambda step: (True, 0.25))  # all are marked: nothing changes, as in tfmot
    prune_low_magnitude([model.get_layer("last")], lambda step: (True, 0.25))
    history = fit(model)
    assert [np.mean(kernel == 0) for kernel in model.get_weights()[::2]] == [0.75, 0.5, 0.5]
    assert history.history["sparsity"] == [pytest.approx((48 + 32 + 16) / 160)]
    with pytest.raises(ValueError, match="A layer can be marked only once. Received: 'first'"):
        prune_low_magnitude(model.get_layer("first"), each_step)


def test_layers_with_the_same_parameters_and_layers_that_are_shared_are_pruned_once():
    inputs = keras.Input((8,))
    params = {"pruning_schedule": each_step, "block_size": [2, 2]}
    shared = prune_low_magnitude(layers.Dense(8), **params)
    last = prune_low_magnitude(layers.Dense(4), **params)
    model = keras.Model(inputs, last(shared(shared(inputs))))
    fit(model)
    assert len(pruned_kernels(model)) == 2
    (held,) = vars(model)["_distill_pruning_callbacks"]
    assert [len(kernels) for _, kernels in held.callback.updates] == [2]


@pytest.mark.filterwarnings("ignore:Nothing was pruned")
def test_steps_count_on_with_another_callback():
    model = network(np.arange(1.0, 11.0)[:, None])
    prune_low_magnitude(model, lambda step: (step in (2, 4), step / 10))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    counts = []
    for _ in range(5):
        model.fit(np.ones((1, 10)), np.ones((1, 1)), verbose=0, callbacks=[UpdatePruningStep()])
        counts.append(10 - np.count_nonzero(model.get_weights()[0]))
    assert counts == [0, 2, 2, 4, 4]


def test_layers_that_are_marked_later_are_pruned_too():
    model = functional()
    prune_low_magnitude(model.get_layer("first"), each_step)
    fit(model)
    assert pruned_kernels(model) == ["first/kernel"]
    zeros = np.count_nonzero(model.get_layer("first").kernel.numpy() == 0)
    prune_low_magnitude(model.get_layer("last"), each_step)
    fit(model)
    assert pruned_kernels(model) == ["first/kernel", "last/kernel"]
    assert np.count_nonzero(model.get_layer("first").kernel.numpy() == 0) >= zeros > 0


def test_a_loop_of_ones_own():
    model = prune_low_magnitude(network(np.arange(1.0, 11.0)[:, None]), each_step)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callback = UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_train_batch_begin(batch=0)
    model.train_on_batch(np.ones((1, 10)), np.ones((1, 1)))
    callback.on_epoch_end(batch=0)
    callback.on_train_end()
    assert np.count_nonzero(model.get_weights()[0]) == 5


class Only:
    """A policy."""

    def __init__(self, *kinds):
        self.kinds, self.asked, self.ensured = kinds, [], []

    def allow_pruning(self, layer):
        self.asked.append(layer.name)
        return isinstance(layer, self.kinds)

    def ensure_model_supports_pruning(self, model):
        self.ensured.append(model.name)


def test_a_policy_is_asked_about_the_layers_of_models_and_models_inside():
    inputs = keras.Input((6, 8))
    inner = keras.Sequential([keras.Input((6, 8)), layers.Dense(8, name="inside")], name="inner")
    x = layers.TimeDistributed(layers.Dense(8, name="wrapped"), name="wrapper")(inner(inputs))
    model = keras.Model(inputs, layers.LSTM(4, name="lstm")(x), name="outer")
    policy = Only(layers.Dense)
    prune_low_magnitude(model, each_step, pruning_policy=policy)
    assert policy.asked == ["inside", "wrapper", "lstm"]
    assert policy.ensured == ["outer"]
    fit(model)
    assert pruned_kernels(model) == ["inner/inside/kernel"]


def test_policies_that_are_none_and_tfmots_own_are_refused():
    tfmot_schedule("ConstantSparsity")
    from tensorflow_model_optimization.sparsity import keras as tfmot

    with pytest.raises(ValueError, match="tfmot's own policies only know layers of tf_keras"):
        prune_low_magnitude(functional(), pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    with pytest.raises(ValueError, match="pruning_policy must have a method allow_pruning"):
        prune_low_magnitude(functional(), pruning_policy=object())
    model = prune_low_magnitude(functional(), each_step, pruning_policy=Only())
    with pytest.raises(ValueError, match="in which nothing is marked"):
        fit(model)


def test_the_default_prunes_half_at_step_100():
    model = prune_low_magnitude(network(np.arange(1.0, 11.0)[:, None]))
    assert zeros_after_each_step(model, 101)[98:] == [0, 5, 5]


def test_a_student_is_pruned(teacher, student, batch):
    distiller = Distiller(teacher, student, losses.LogitMSE())
    assert prune_low_magnitude(distiller, each_step) is distiller
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="must be trained with UpdatePruningStep"):
        distiller.fit(*batch, verbose=0)
    distiller.fit(*batch, verbose=0, callbacks=[UpdatePruningStep()])
    assert len(pruned_kernels(student)) == 2
    assert pruned_kernels(strip_pruning(distiller)) == []


def test_pruned_at_once_and_marked():
    model = network(np.arange(1.0, 11.0)[:, None])
    prune_low_magnitude(model, lambda step: (True, 0.8))
    pruning.prune(model, 0.5)
    with pytest.raises(ValueError, match="must be trained with UpdatePruningStep"):
        fit(model, callbacks=[])
    fit(model)
    assert np.count_nonzero(model.get_weights()[0]) == 2
    strip_pruning(model)
    assert model.trainable_variables[0].constraint is None


@pytest.mark.parametrize("thing", [object(), [], [object()], "model"])
def test_other_things_are_refused(thing):
    with pytest.raises(
        ValueError, match="prune_low_magnitude needs a Keras 3 model or layer, or a list of them"
    ):
        prune_low_magnitude(thing)
    with pytest.raises(ValueError, match="strip_pruning needs a Keras 3 model"):
        strip_pruning(thing)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_pooling_type": "SUM"}, "must be 'AVG' or 'MAX'. Received: block_pooling_type='SUM'"),
        ({"block_size": 2}, "A block's shape must be .rows, columns."),
        ({"block_size": (2, 0)}, "A block's shape must be .rows, columns."),
    ],
)
def test_arguments_are_checked_when_marking(params, message):
    model = functional()
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(model, **params)
    fit(model, callbacks=[])


def test_schedules_are_checked_when_marking():
    with pytest.raises(ValueError, match="never reaches its final sparsity"):
        prune_low_magnitude(functional(), tfmot_schedule("PolynomialDecay")(0.0, 0.8, 0, 55, frequency=10))


def test_the_share_of_zeros_is_that_of_what_is_pruned():
    """Three inputs are not a multiple of four, so the first kernel stays whole."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(8), layers.Dense(4)])
    model = prune_low_magnitude(model, each_step, sparsity_m_by_n=(2, 4))
    model.compile("sgd", "mse")
    found = model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0, callbacks=[UpdatePruningStep()])
    assert found.history["sparsity"] == [0.5]
    assert np.count_nonzero(model.get_weights()[0]) == 24

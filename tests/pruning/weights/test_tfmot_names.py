"""tfmot's names on Keras 3 do what tfmot does on Keras 2, to the bit; and what it gets wrong, they get right."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND
from keras import layers

from distill import pruning
from distill.pruning.weights._masks import Mask
from distill.pruning.weights._tfmot import (
    UpdatePruningStep,
    prune_low_magnitude,
    strip_pruning,
    tfmot_schedule,
)

if BACKEND != "tensorflow":
    pytest.skip("tfmot is TensorFlow", allow_module_level=True)

ROOT = Path(__file__).parents[3]

# --- the same training in both -----------------------------------------------------------------------------------

# Each in a process of its own: tfmot's has Keras 2 as its tf.keras.
TRAIN = """
import sys
import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(60 * 16, 24)).astype("float32"), rng.integers(4, size=60 * 16)
weights = []
for inputs, outputs in ((24, 32), (32, 16), (16, 4)):
    weights += [rng.normal(0, inputs**-0.5, (inputs, outputs)).astype("float32"), np.zeros(outputs, "float32")]
found = {}

def train(name, optimizer, **params):
    model = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(16, "relu"), layers.Dense(4)])
    model.build((None, 24))
    model.set_weights(weights)
    callbacks = []
    if params:
        model, callbacks = prune_low_magnitude(model, **params), [UpdatePruningStep()]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=callbacks)
    for i, weight in enumerate(strip_pruning(model).get_weights()):
        found[f"{name} {i}"] = weight

for name, optimizer in (
    ("sgd", lambda: keras.optimizers.SGD(0.02, momentum=0.9)),
    ("adam", lambda: keras.optimizers.Adam(0.001)),
):
    train(f"{name} dense", optimizer())
    decay = PolynomialDecay(0.0, 0.8, 0, 50, frequency=10)
    train(f"{name} polynomial", optimizer(), pruning_schedule=decay)
    train(f"{name} 2:4", optimizer(), sparsity_m_by_n=(2, 4))
train("sgd blocks", keras.optimizers.SGD(0.02, momentum=0.9), pruning_schedule=decay, block_size=(4, 2))

# A weight that is pruned at step 2 and pulled up by 5 at each step; two of four stay.
model = keras.Sequential([layers.Dense(4, use_bias=False)])
model.build((None, 1))
model.set_weights([np.array([[4.0, 3.0, 2.0, 1.0]], "float32")])
model = prune_low_magnitude(model, ConstantSparsity(0.5, 2, frequency=2))
pull = np.array([0.0, 0.0, 0.0, 20.0], "float32")
model.compile(keras.optimizers.SGD(1.0), lambda y, p: -tf.reduce_mean(y * p, axis=-1), jit_compile=False)
steps = np.ones((4, 1), "float32"), np.tile(pull, (4, 1)) * np.array([[0.0], [1.0], [1.0], [0.0]], "float32")
model.fit(*steps, batch_size=1, shuffle=False, verbose=0, callbacks=[UpdatePruningStep()])
found["comes back"] = strip_pruning(model).get_weights()[0]
np.savez(sys.argv[1], **found)
"""
TFMOT = """
import tf_keras as keras
from tf_keras import layers
from tensorflow_model_optimization.sparsity.keras import *
"""
OURS = """
import keras
from keras import layers
from distill.pruning.weights._tfmot import *
PolynomialDecay, ConstantSparsity = map(tfmot_schedule, ("PolynomialDecay", "ConstantSparsity"))
"""


def start(source, *arguments, **variables):
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | variables)


def require_success(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights that both trained, by name: (tfmot's, ours)."""
    folder = tmp_path_factory.mktemp("trained")
    theirs = start(TFMOT + TRAIN, folder / "theirs.npz", TF_USE_LEGACY_KERAS="1")
    ours = start(OURS + TRAIN, folder / "ours.npz")
    require_success(theirs)
    require_success(ours)
    with np.load(folder / "theirs.npz") as theirs, np.load(folder / "ours.npz") as ours:
        assert theirs.files == ours.files
        return {name: (theirs[name], ours[name]) for name in theirs.files}


@pytest.mark.parametrize(
    ("run", "zeros"),
    [
        ("sgd dense", (0, 0, 0)),
        ("sgd polynomial", (614, 410, 51)),
        ("sgd 2:4", (384, 256, 32)),
        ("sgd blocks", (616, 408, 48)),
        ("adam dense", (0, 0, 0)),
        ("adam polynomial", (614, 410, 51)),
        ("adam 2:4", (384, 256, 32)),
    ],
)
def test_sixty_steps_end_in_the_same_bits(trained, run, zeros):
    for i in range(6):
        theirs, ours = trained[f"{run} {i}"]
        np.testing.assert_array_equal(theirs, ours)
        if i % 2 == 0:
            assert theirs.size - np.count_nonzero(theirs) == zeros[i // 2]


def test_the_runs_compared_differ_from_each_other(trained):
    ends = [trained[f"{run} 0"][0] for run in ("sgd dense", "sgd polynomial", "sgd 2:4", "adam 2:4")]
    assert not any(np.array_equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


def test_only_in_tfmot_a_pruned_weight_comes_back(trained):
    theirs, ours = trained["comes back"]
    np.testing.assert_array_equal(theirs, [[4, 0, 0, 5]])
    np.testing.assert_array_equal(ours, [[4, 3, 0, 0]])


# --- what tfmot gets wrong ---------------------------------------------------------------------------------------


def network(kernel):
    """A network of the one kernel, which SGD leaves as it is."""
    kernel = np.asarray(kernel, "float32")
    made = {
        2: lambda: layers.Dense(kernel.shape[-1], use_bias=False),
        3: lambda: layers.Conv1D(kernel.shape[-1], kernel.shape[0], use_bias=False),
        4: lambda: layers.Conv2D(kernel.shape[-1], kernel.shape[:2], use_bias=False),
    }[kernel.ndim]()
    model = keras.Sequential([keras.Input((*kernel.shape[:-2], kernel.shape[-2])), made])
    model.set_weights([kernel])
    return model


def fit(model, steps=1, callbacks=None):
    """Trains with a rate of 0, so that only pruning changes weights."""
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x = np.ones((steps, *model.input_shape[1:]), "float32")
    y = np.ones((steps, *model.output_shape[1:]), "float32")
    callbacks = [UpdatePruningStep()] if callbacks is None else callbacks
    return model.fit(x, y, batch_size=1, verbose=0, callbacks=callbacks)


def each_step(step):
    return True, 0.5


def ours(kernel, sparsity=0.5, **params):
    """Our mask of a kernel, after one step."""
    model = network(kernel)
    prune_low_magnitude(model, lambda step: (True, sparsity), **params)
    fit(model)
    return kept(model)


def kept(model):
    (mask,) = (weight.constraint for weight in model.trainable_variables)
    return keras.ops.convert_to_numpy(mask.kept)


def theirs(kernel, sparsity=0.5, step=1, block_size=(1, 1), block_pooling_type="AVG", sparsity_m_by_n=None):
    """Their mask of a kernel, as their wrapper makes it at a step."""
    tfmot_schedule("ConstantSparsity")  # imports tfmot and leaves no trace
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

    weight = keras.Variable(np.asarray(kernel, "float32")).value
    mask, threshold = tf.Variable(tf.ones_like(weight)), tf.Variable(0.0)
    Pruning(
        training_step_fn=lambda: tf.constant(step),
        pruning_vars=[(weight, mask, threshold)],
        pruning_schedule=lambda step: (tf.constant(True), sparsity),
        block_size=block_size,
        block_pooling_type=block_pooling_type,
        sparsity_m_by_n=sparsity_m_by_n,
    ).conditional_mask_update()
    return mask.numpy() != 0


def test_without_ties_both_choose_the_same():
    kernel = np.random.default_rng(0).normal(size=(24, 16))
    for params in (
        {},
        {"sparsity": 0.83},
        {"sparsity_m_by_n": (2, 4)},
        {"sparsity_m_by_n": (3, 4)},
        {"sparsity_m_by_n": (1, 2)},
        {"block_size": (4, 4)},
        {"block_size": (1, 8), "block_pooling_type": "MAX"},
    ):
        np.testing.assert_array_equal(theirs(kernel, **params), ours(kernel, **params))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 4))
    for params in ({}, {"sparsity_m_by_n": (2, 4)}):
        np.testing.assert_array_equal(theirs(kernel, **params), ours(kernel, **params))


def test_ties_of_a_constant_kernel_are_cut_to_the_sparsity_asked_for():
    assert theirs(np.ones((10, 10))).mean() == 1.0
    assert ours(np.ones((10, 10))).mean() == 0.5


def test_a_kernel_that_is_sparse_already_is_held_at_the_sparsity_asked_for():
    kernel = np.where(np.arange(100) % 10, 0.0, 1.0).reshape(10, 10)
    assert theirs(kernel).mean() == 1.0
    assert ours(kernel).mean() == 0.5
    assert ours(kernel)[kernel != 0].all()


def test_values_of_half_precision_are_cut_to_the_sparsity_asked_for():
    kernel = np.random.default_rng(0).normal(size=(100, 100)).astype("float32")
    kernel = (kernel.view(np.uint32) & 0xFFFF0000).view(np.float32)  # bfloat16 has the upper 16 bits
    assert theirs(kernel, 0.8).mean() > 0.201
    assert ours(kernel, 0.8).mean() == 0.2


def test_two_of_four_are_cut_also_where_training_goes_on():
    kernel = np.random.default_rng(0).normal(size=(8, 4))
    assert theirs(kernel, step=1, sparsity_m_by_n=(2, 4)).mean() == 0.5
    assert theirs(kernel, step=1001, sparsity_m_by_n=(2, 4)).mean() == 1.0
    model = network(kernel)
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.iterations.assign(1000)
    prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    model.compile(optimizer, "mse", run_eagerly=True)
    model.fit(np.ones((1, 8)), np.ones((1, 4)), verbose=0, callbacks=[UpdatePruningStep()])
    assert int(optimizer.iterations) == 1001
    assert kept(model).mean() == 0.5


def test_two_of_four_are_cut_of_a_kernel_with_three_axes():
    kernel = np.random.default_rng(0).normal(size=(3, 8, 2))
    with pytest.raises(ValueError, match="is not supported"):
        theirs(kernel, sparsity_m_by_n=(2, 4))
    mask = ours(kernel, sparsity_m_by_n=(2, 4))
    assert (mask.reshape(3, 2, 4, 2).sum(axis=2) == 2).all()
    for tap in range(3):  # each as a dense kernel, of which tfmot knows
        np.testing.assert_array_equal(mask[tap], theirs(kernel[tap], sparsity_m_by_n=(2, 4)))


def test_blocks_of_a_ragged_kernel_are_those_that_are_cut():
    kernel = np.repeat([[0.1], [0.1], [0.1], [1.0], [0.2]], 4, axis=1)  # blocks of 4 rows: means .325 and .2
    np.testing.assert_array_equal(theirs(kernel, block_size=(4, 2)), [[0] * 4] * 4 + [[1] * 4])
    np.testing.assert_array_equal(ours(kernel, block_size=(4, 2)), [[1] * 4] * 4 + [[0] * 4])


def test_blocks_of_convolutions():
    kernel = np.arange(16.0).reshape(2, 2, 2, 2)
    with pytest.raises(ValueError, match="2-dimensional"):
        theirs(kernel, block_size=(2, 2))
    np.testing.assert_array_equal(ours(kernel, block_size=(2, 2)), kernel >= 8)


# --- tfmot's own examples: facts from its unit tests --------------------------------------------------------------


def test_half_of_a_hundred():
    np.testing.assert_array_equal(ours(np.arange(1.0, 101.0)[:, None])[:, 0], np.arange(100) >= 50)


def test_a_share_with_a_rounding_error():
    np.testing.assert_array_equal(ours(np.arange(1.0, 11.0)[:, None], 0.200000018)[:, 0], [0, 0] + [1] * 8)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_blocks(pooling):
    means = np.repeat(np.repeat([[0.1, 0.2], [0.3, 0.4]], 2, axis=0), 2, axis=1)
    kernel = means if pooling == "AVG" else means * np.tile([[1.0, 0.0], [0.0, -1.0]], (2, 2))
    mask = ours(kernel, block_size=(2, 2), block_pooling_type=pooling)
    np.testing.assert_array_equal(mask, [[0] * 4, [0] * 4, [1] * 4, [1] * 4])


def test_sparsity_that_rises_at_steps():
    model = network(np.arange(1.0, 101.0)[:, None])
    shares = [0.0, 0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5]
    prune_low_magnitude(model, lambda step: (True, shares[step - 1]))
    counts = zeros_after_each_step(model, 10)
    assert [100 - count for count in counts] == [100, 90, 90, 70, 70, 50, 50, 50, 50, 50]


def zeros_after_each_step(model, steps):
    counts = []

    def count(batch, logs):
        (kernel,) = model.get_weights()
        counts.append(kernel.size - np.count_nonzero(kernel))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    fit(model, steps, [UpdatePruningStep(), callback])
    return counts


@pytest.mark.parametrize(
    ("weights", "m_by_n", "expected"),
    [
        ([[0.25, -1.33, 0.43, -0.11], [0.47, 0.92, -0.13, -2.23]], (2, 4), [[0, 1, 1, 0], [0, 1, 0, 1]]),
        (
            [[1.71, -0.27, -0.3, -0.61, -0.19], [-0.4, 1.12, 0.46, -1.12, 0.17]],
            (3, 5),
            [[1, 0, 0, 1, 0], [0, 1, 0, 1, 0]],
        ),
    ],
)
def test_m_zeros_of_n(weights, m_by_n, expected):
    kernel = np.transpose(weights)
    np.testing.assert_array_equal(ours(kernel, sparsity_m_by_n=m_by_n).T, expected)
    np.testing.assert_array_equal(theirs(kernel, sparsity_m_by_n=m_by_n).T, expected)


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 2)])
def test_where_tfmot_fills_up_with_zeros_a_kernel_is_left_whole(m_by_n):
    kernel = np.transpose([[-0.49, -0.66, 0.42], [0.31, 0.63, -1.63]])
    assert theirs(kernel, sparsity_m_by_n=m_by_n).sum() == 4
    with pytest.raises(ValueError, match="3 input channels are no multiple"):
        ours(kernel, sparsity_m_by_n=m_by_n)


@pytest.mark.parametrize("m_by_n", [(4, 4), (5, 4), (0, 4), (2, 4, 1), 2, (2.0, 4)])
def test_m_is_less_than_n(m_by_n):
    with pytest.raises(ValueError, match="Of every n weights m are zero"):
        prune_low_magnitude(network(np.ones((4, 2))), sparsity_m_by_n=m_by_n)


def test_polynomial_decay():
    schedule = tfmot_schedule("PolynomialDecay")(0.2, 0.8, 100, 110, 3, 2)
    for step, sparsity in ((100, 0.2), (102, 0.4928), (105, 0.725), (110, 0.8)):
        np.testing.assert_allclose(float(schedule(step)[1]), sparsity, rtol=1e-6)
    model = network(np.arange(1.0, 10001.0).reshape(100, 100))
    prune_low_magnitude(model, schedule)
    counts = zeros_after_each_step(model, 112)
    # .8 − .6 (1 − p)³ with p = 0, .2, .4, .6, .8, 1, each held for two steps
    assert counts[98:] == [0, 2000, 2000, 4928, 4928, 6704, 6704, 7616, 7616, 7952, 7952, 8000, 8000, 8000]


def test_constant_sparsity_within_its_steps_and_at_its_frequency():
    constant = tfmot_schedule("ConstantSparsity")
    due = {
        step: bool(constant(0.5, 100, 200, 10)(step)[0]) for step in (90, 99, 100, 109, 110, 111, 200, 210)
    }
    assert [step for step, is_due in due.items() if is_due] == [100, 110, 200]
    forever = constant(0.5, 0, -1, 10)
    assert [(bool(due), float(share)) for due, share in map(forever, (10**4, 10**8))] == [(True, 0.5)] * 2


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("ConstantSparsity", (0.5, -1, 1000)),
        ("ConstantSparsity", (0.5, 10, -5)),
        ("ConstantSparsity", (0.5, 10, 5)),
        ("ConstantSparsity", (0.5, 10, 1000, 0)),
        ("ConstantSparsity", (1.0, 0)),
        ("ConstantSparsity", (-0.001, 0)),
        ("PolynomialDecay", (0.4, 0.8, 10, -1)),
        ("PolynomialDecay", (0.2, 1.0, 0, 10)),
    ],
)
def test_schedules_refuse(name, numbers):
    with pytest.raises(ValueError, match="should|must|can"):
        tfmot_schedule(name)(*numbers)


def test_schedules_have_two_names():
    with pytest.raises(AttributeError, match="tfmot's schedules are PolynomialDecay and ConstantSparsity"):
        tfmot_schedule("PruningSchedule")


# --- marking -----------------------------------------------------------------------------------------------------


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
        ValueError, match=r"trained with UpdatePruningStep. Received: a training step of 'first/"
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
    with pytest.raises(ValueError, match="trained with UpdatePruningStep"):
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
def test_layers_that_are_not_built_yet(make):
    part = prune_low_magnitude(make(), each_step)
    model = keras.Sequential([part, layers.Flatten(), layers.Dense(2, name="whole")])
    model.build((None, 5, 3))
    x, y = np.random.default_rng(0).normal(size=(4, 5, 3)), np.ones((4, 2))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="trained with UpdatePruningStep"):
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
    with pytest.raises(ValueError, match="A layer is marked once. Received: 'first'"):
        prune_low_magnitude(model.get_layer("first"), each_step)


def test_layers_with_the_same_parameters_and_layers_that_are_shared_are_pruned_once():
    inputs = keras.Input((8,))
    params = {"pruning_schedule": each_step, "block_size": [2, 2]}
    shared = prune_low_magnitude(layers.Dense(8), **params)
    last = prune_low_magnitude(layers.Dense(4), **params)
    model = keras.Model(inputs, last(shared(shared(inputs))))
    fit(model)
    assert len(pruned_kernels(model)) == 2
    (callback,) = vars(model)["_distill_pruning_callbacks"].values()
    assert [len(kernels) for _, kernels in callback.updates] == [2]


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

    with pytest.raises(ValueError, match="tfmot's own policies know layers of tf_keras only"):
        prune_low_magnitude(functional(), pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    with pytest.raises(ValueError, match="A policy has a method allow_pruning"):
        prune_low_magnitude(functional(), pruning_policy=object())
    model = prune_low_magnitude(functional(), each_step, pruning_policy=Only())
    with pytest.raises(ValueError, match="of which nothing is marked"):
        fit(model)


def test_the_default_prunes_half_at_step_100():
    model = prune_low_magnitude(network(np.arange(1.0, 11.0)[:, None]))
    assert zeros_after_each_step(model, 101)[98:] == [0, 5, 5]


def test_a_student_is_pruned(teacher, student, batch):
    from distill import Distiller, losses

    distiller = Distiller(teacher, student, losses.LogitMSE())
    assert prune_low_magnitude(distiller, each_step) is distiller
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="trained with UpdatePruningStep"):
        distiller.fit(*batch, verbose=0)
    distiller.fit(*batch, verbose=0, callbacks=[UpdatePruningStep()])
    assert len(pruned_kernels(student)) == 2
    assert pruned_kernels(strip_pruning(distiller)) == []


def test_pruned_at_once_and_marked():
    model = network(np.arange(1.0, 11.0)[:, None])
    prune_low_magnitude(model, lambda step: (True, 0.8))
    pruning.prune(model, 0.5)
    with pytest.raises(ValueError, match="trained with UpdatePruningStep"):
        fit(model, callbacks=[])
    fit(model)
    assert np.count_nonzero(model.get_weights()[0]) == 2
    strip_pruning(model)
    assert model.trainable_variables[0].constraint is None


@pytest.mark.parametrize("thing", [object(), [], [object()], "model"])
def test_other_things_are_refused(thing):
    with pytest.raises(ValueError, match="Keras 3 models and layers, or lists of them, are pruned"):
        prune_low_magnitude(thing)
    with pytest.raises(ValueError, match="Models are stripped"):
        strip_pruning(thing)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_pooling_type": "SUM"}, "pooled by 'AVG' or 'MAX'. Received: block_pooling_type='SUM'"),
        ({"block_size": 2}, "A block has rows and columns"),
        ({"block_size": (2, 0)}, "A block has rows and columns"),
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


# --- importing ---------------------------------------------------------------------------------------------------

IMPORT = """
import os, sys
import distill
before = dict(os.environ)
from distill.pruning.weights._tfmot import tfmot_schedule
loaded = [name for name in sys.modules if name.split(".")[0] in ("tensorflow_model_optimization", "tf_keras")]
assert not loaded, loaded
schedule = tfmot_schedule("PolynomialDecay")(0.0, 0.8, 0, 1000)
assert "tensorflow_model_optimization" in sys.modules
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
import keras, tensorflow as tf
assert tf.keras.__version__ == keras.__version__, tf.keras.__version__
assert tf.keras.Model is keras.Model
assert tfmot_schedule("PolynomialDecay") is type(schedule)
"""


def test_tfmot_is_imported_on_use_and_leaves_no_trace():
    require_success(start(IMPORT))

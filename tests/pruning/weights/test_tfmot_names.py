"""tfmot's names on Keras 3 do what tfmot does on Keras 2, to the bit; and what it gets wrong, they get right."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND
from marked_nets import fit, kept, network, zeros_after_each_step

from distill.pruning import UpdatePruningStep, prune_low_magnitude
from distill.pruning.weights._schedules import tfmot_schedule

if BACKEND != "tensorflow":
    pytest.skip("tfmot is TensorFlow", allow_module_level=True)


ROOT = Path(__file__).parents[3]


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
from distill.pruning.weights import *
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
@pytest.mark.slow
def test_sixty_steps_end_in_the_same_bits(trained, run, zeros):
    for i in range(6):
        theirs, ours = trained[f"{run} {i}"]
        np.testing.assert_array_equal(theirs, ours)
        if i % 2 == 0:
            assert theirs.size - np.count_nonzero(theirs) == zeros[i // 2]


@pytest.mark.slow
def test_the_runs_compared_differ_from_each_other(trained):
    ends = [trained[f"{run} 0"][0] for run in ("sgd dense", "sgd polynomial", "sgd 2:4", "adam 2:4")]
    assert not any(np.array_equal(a, b) for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.slow
def test_only_in_tfmot_a_pruned_weight_comes_back(trained):
    theirs, ours = trained["comes back"]
    np.testing.assert_array_equal(theirs, [[4, 0, 0, 5]])
    np.testing.assert_array_equal(ours, [[4, 3, 0, 0]])


def ours(kernel, sparsity=0.5, **params):
    """Our mask of a kernel, after one step."""
    model = network(kernel)
    prune_low_magnitude(model, lambda step: (True, sparsity), **params)
    fit(model)
    return kept(model)


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


# tfmot's own examples: facts from its unit tests.


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
    with pytest.raises(ValueError, match="3 input channels are not a multiple"):
        ours(kernel, sparsity_m_by_n=m_by_n)


@pytest.mark.parametrize("m_by_n", [(4, 4), (5, 4), (0, 4), (2, 4, 1), 2, (2.0, 4)])
def test_m_is_less_than_n(m_by_n):
    with pytest.raises(ValueError, match="m zeros in every n weights"):
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

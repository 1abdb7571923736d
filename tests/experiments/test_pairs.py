"""The study of the standard pairs: its networks are the published ones, and so is how they are trained."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from distill import cost, data, losses, studies
from distill.studies import _pools as pools
from experiments import _cifar_networks as networks
from experiments import pairs

pytestmark = pytest.mark.slow

ARMS = pairs.study.design.arms
# Trainable parameters and multiply-adds of one image, for 100 classes.
RESNETS = {
    "resnet20": (20, (16, 16, 32, 64)),
    "resnet32": (32, (16, 16, 32, 64)),
    "resnet56": (56, (16, 16, 32, 64)),
    "resnet110": (110, (16, 16, 32, 64)),
    "resnet8x4": (8, (32, 64, 128, 256)),
    "resnet32x4": (32, (32, 64, 128, 256)),
}
WIDE = {"wrn_16_2": 16, "wrn_40_2": 40}
VGGS = {"vgg8": 1, "vgg13": 2}


def resnet_costs(depth, widths):
    n, (stem, *_) = (depth - 2) // 6, widths
    parameters = 3 * 9 * stem + 2 * stem + 101 * widths[-1] + 100 - widths[-1]
    macs = 32 * 32 * 27 * stem + 100 * widths[-1]
    for before, width, side in zip(widths, widths[1:], (32, 16, 8), strict=False):
        shortcut = before * width if side < 32 or before != width else 0
        kernels = 9 * before * width + (2 * n - 1) * 9 * width**2 + shortcut
        parameters += kernels + 2 * width * (2 * n + (shortcut > 0))
        macs += side * side * kernels
    return parameters, macs


def wide_costs(depth):
    n, before = (depth - 4) // 6, 16
    parameters, macs = 27 * 16, 32 * 32 * 27 * 16
    for width, side in ((32, 32), (64, 16), (128, 8)):
        kernels = 9 * before * width + (2 * n - 1) * 9 * width**2 + before * width
        parameters += kernels + 2 * before + 2 * width * (2 * n - 1)
        macs += side * side * kernels
        before = width
    return parameters + 2 * 128 + 128 * 100 + 100, macs + 128 * 100


def vgg_costs(repeats):
    before, parameters, macs = 3, 512 * 100 + 100, 512 * 100
    for width, side in ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4)):
        kernels = 9 * before * width + (repeats - 1) * 9 * width**2
        parameters += kernels + repeats * 3 * width
        macs += side * side * kernels
        before = width
    return parameters, macs


COSTS = {
    **{name: resnet_costs(*how) for name, how in RESNETS.items()},
    **{name: wide_costs(depth) for name, depth in WIDE.items()},
    **{name: vgg_costs(repeats) for name, repeats in VGGS.items()},
}


@functools.cache
def built(name):
    return networks.build(
        name, input_shape=(32, 32, 3), classes=100, mean=(0.5, 0.4, 0.3), deviation=(0.2, 0.3, 0.4)
    )


@pytest.fixture
def run(tmp_path):
    split = pairs.synthetic(0, 100)
    return studies.Run(
        seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=False, _files={}
    )


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.sweep(3)
def test_networks_have_the_published_size(name):
    trainable = sum(int(np.prod(weight.shape)) for weight in built(name).trainable_weights)
    assert (trainable, cost.macs(built(name))) == COSTS[name]


def test_sizes_are_those_that_others_print():
    """Millions of parameters and of multiply-adds for 100 classes."""
    printed = {  # github.com/chenyaofo/pytorch-cifar-models, README
        "resnet20": (0.28, 40.82),
        "resnet32": (0.47, 69.13),
        "resnet56": (0.86, 125.75),
    }
    for name, expected in printed.items():
        assert tuple(round(value / 1e6, 2) for value in COSTS[name]) == expected
    assert round(COSTS["wrn_16_2"][0] / 1e6, 2) == 0.70  # github.com/clovaai/overhaul-distillation, README
    assert round(COSTS["resnet110"][0] / 1e6, 1) == 1.7  # He et al. 2016, table 6
    assert COSTS["resnet32x4"][0] == 7_433_860


@pytest.mark.parametrize(
    ("teacher", "student", "shapes"),
    [
        ("resnet56", "resnet20", [(32, 32, 16), (16, 16, 32), (8, 8, 64)]),
        ("resnet32x4", "resnet8x4", [(32, 32, 64), (16, 16, 128), (8, 8, 256)]),
        ("wrn_40_2", "wrn_16_2", [(32, 32, 32), (16, 16, 64), (8, 8, 128)]),
        ("vgg13", "vgg8", [(16, 16, 128), (8, 8, 256), (4, 4, 512), (4, 4, 512)]),
    ],
)
def test_teacher_and_student_have_maps_of_one_shape(teacher, student, shapes):
    for network in (built(teacher), built(student)):
        maps = networks.stages(network)
        assert maps == [f"stage{number}" for number in range(1, len(shapes) + 1)]
        assert [network.get_layer(name).output.shape[1:] for name in maps] == shapes
        assert network.get_layer("embedding").output.shape == (None, shapes[-1][-1])
        assert network.output_shape == (None, 100)


@pytest.mark.parametrize(("shape", "last"), [((28, 28, 1), (3, 3, 512)), ((64, 64, 3), (4, 4, 512))])
def test_other_images(shape, last):
    channels = [0.5] * shape[-1]
    network = networks.build("vgg8", input_shape=shape, classes=10, mean=channels, deviation=channels)
    assert network.get_layer("stage4").output.shape[1:] == last


def test_images_are_normalized_by_channel(run):
    network = pairs.network("vgg8", run)
    x = run.train[0].astype("float64")
    expected = (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(network.get_layer("normalization")(run.train[0]), expected, atol=1e-5)


def test_a_convolution_of_stride_2_pads_both_sides():
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, networks._convolution(inputs, 1, stride=2))
    model.set_weights([np.ones((3, 3, 1, 1), "float32")])
    x = np.arange(36, dtype="float32").reshape(1, 6, 6, 1)
    padded = np.pad(x[0, ..., 0], 1)
    expected = [[padded[i : i + 3, j : j + 3].sum() for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_allclose(model(x)[0, ..., 0], expected)


def test_weight_decay_is_part_of_the_gradient():
    variable = keras.Variable(np.array([1.0, -2.0], "float32"))
    optimizer = pairs.SGD(0.05, momentum=0.9, decay=0.1)
    value, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for step in range(6):
        gradient = np.array([0.3 * step, -0.2])
        optimizer.apply([gradient.astype("float32")], [variable])
        velocity = 0.9 * velocity + gradient + 0.1 * value
        value = value - 0.05 * velocity
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)


def test_the_learning_rate_falls_after_epochs_150_180_and_210():
    rate = pairs.schedule(steps=782)
    for epoch, before, after in ((150, 5e-2, 5e-3), (180, 5e-3, 5e-4), (210, 5e-4, 5e-5)):
        np.testing.assert_allclose([rate(782 * epoch - 1), rate(782 * epoch)], [before, after], rtol=1e-5)
    assert float(rate(0)) == pytest.approx(5e-2)


def test_images_are_cropped_and_mirrored_and_keep_their_labels_and_ids(run):
    (x, y, ids), (again, *_) = next(iter(pairs.batches(run))), next(iter(pairs.batches(run)))
    np.testing.assert_array_equal(y, run.train[1][ids])
    np.testing.assert_array_equal(x, again)
    padded = np.pad(run.train[0], ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1).reshape(len(padded), 81, 32, 32, 3)
    for image, number in zip(x.numpy()[:16], ids.numpy()[:16], strict=True):
        views = np.concatenate([windows[number], windows[number][:, :, ::-1]])
        assert (views == image).all(axis=(1, 2, 3)).sum() == 1


def test_losses_have_the_weights_of_the_reference_scripts():
    maps, y = ["stage1", "stage2", "stage3"], np.arange(20) % 10
    weights = {
        "kd": (0.1, 0.9), "fitnet": (1, 100), "at": (1, 1000), "sp": (1, 3000), "vid": (1, 1), "rkd": (1, 1),
        "pkt": (1, 30000), "nst": (1, 50), "crd": (1, 0.8),
    }  # fmt: skip
    made = {method: make(maps, y) for method, make in pairs.METHODS.items()}
    assert {method: tuple(loss.recipe.values()) for method, loss in made.items()} == weights
    assert isinstance(made["kd"], losses.SoftTargets)
    assert float(made["kd"].temperature) == 4
    assert made["sp"].student_layer_name == "stage3"
    assert made["fitnet"].teacher_layer_name == made["fitnet"].student_layer_name == "stage2"


def test_arms_and_published_numbers_belong_together():
    assert set(pairs.PUBLISHED) == set(ARMS)
    assert [name for name, arm in ARMS.items() if not arm.on_request] == [
        "resnet56",
        "resnet20",
        "resnet56_resnet20_kd",
    ]
    # Of different places in the published table.
    for name, accuracy in (
        ("resnet56_resnet20_kd", 70.66),
        ("resnet110_resnet32_sp", 72.69),
        ("resnet32x4_resnet8x4_rkd", 71.90),
        ("wrn_40_2_wrn_16_2_vid", 74.11),
        ("vgg13_vgg8_crd", 73.94),
    ):
        assert pairs.PUBLISHED[name] == accuracy


def test_a_student_starts_alike_with_a_teacher_and_without(run, monkeypatch):
    monkeypatch.setattr(pairs, "fit", lambda model, run: None)
    monkeypatch.setattr(studies.Run, "model", lambda *_: built("vgg13"))
    made = []
    for train in (
        functools.partial(pairs.alone, name="vgg8"),
        functools.partial(pairs.taught, teacher="vgg13", student="vgg8", method="crd"),
    ):
        keras.utils.set_random_seed(3)
        made.append(train(run).get_weights())
    assert all(map(np.array_equal, *made))


def test_where_images_come_from(monkeypatch, tmp_path):
    given = []

    def load(name, *, splits):
        given.append((name, splits))
        return dataclasses.replace(
            digits, train=digits.train.take(30), dev=digits.dev.take(20), test=digits.test.take(10)
        )

    digits, real = data.load("digits"), data.load
    monkeypatch.setattr(pairs.data, "load", load)
    (x, y), (dev, _), (test, _) = pairs.images(0)
    np.testing.assert_array_equal(x[30:], dev)
    assert (len(x), len(y), len(dev), len(test)) == (50, 50, 20, 10)
    (x, _), (dev, _), _ = pairs.images(0, "imagenet_resized/32x32", holdout=True)
    assert (len(x), len(dev)) == (30, 20)
    assert given == [("cifar100", None), ("imagenet_resized/32x32", pairs.SPLITS["imagenet_resized"])]
    monkeypatch.setattr(pairs.data, "load", functools.partial(real, data_dir=tmp_path))
    with pytest.raises(FileNotFoundError, match="load never downloads. Received: 'cifar100'"):
        pairs.images(0)


def test_synthetic_images_can_be_learned_and_no_split_repeats_another():
    train, dev, test = pairs.images(0, "synthetic")
    for x, _ in (train, dev, test):
        assert (x.dtype, x.shape[1:]) == (np.dtype("float32"), (32, 32, 3))
        assert 0 <= x.min() < x.max() <= 1
    assert set(train[1]) == set(range(100))
    nearest = [np.square(train[0][:100] - image).sum(axis=(1, 2, 3)).argmin() for image in test[0]]
    np.testing.assert_array_equal(nearest, test[1])
    assert (train[0][:50] != dev[0]).any()
    assert (dev[0] != test[0]).any()


def smoke(tmp_path, monkeypatch, arms):
    monkeypatch.setattr(pools, "workers", lambda *_, **__: pools.InThisProcess())
    return pairs.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=arms,
        data={"dataset": "synthetic"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )


def on(found, **data):
    """A study as if it had been run on other data."""
    arms = [
        dataclasses.replace(
            arm, cells=tuple(dataclasses.replace(cell, config={"data": data}) for cell in arm.cells)
        )
        for arm in found.arms
    ]
    return dataclasses.replace(found, arms=tuple(arms))


@pytest.mark.slow
def test_a_smoke_run_on_small_networks(tmp_path, monkeypatch):
    small = functools.partial(networks.resnet, depth=8, widths=(4, 4, 8, 8))
    for name in ("vgg13", "vgg8"):
        monkeypatch.setitem(networks.NETWORKS, name, small)
    found = smoke(tmp_path, monkeypatch, ["vgg13_vgg8_crd"])
    assert [arm.name for arm in found.arms] == ["vgg13", "vgg13_vgg8_crd"]
    assert list(pairs.published(found)) == []  # those numbers are of other images
    grid, _ = pairs.published(on(found, dataset="cifar100", holdout=False))
    assert list(pairs.published(on(found, dataset="cifar100", holdout=True))) == []
    measured = 100 * found.arm("vgg13_vgg8_crd").cells[0].test["accuracy"]
    row = ("vgg13_vgg8_crd", f"{measured:.2f}", "73.94", f"{measured - 73.94:+.2f}")
    assert grid.rows[-1] == row
    assert "Failed:" not in (tmp_path / "pairs-dataset=synthetic-smoke" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_smoke_run_of_the_smallest_pair(tmp_path, monkeypatch):
    arms = ["vgg8", *(name for name in ARMS if name.startswith("vgg13_"))]
    assert len(smoke(tmp_path, monkeypatch, arms).arms) == len(arms) + 1

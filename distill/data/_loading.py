"""Load data sets with fixed train, dev and test splits, without a network.

The embedded sets (`mnist5k`, `digits` and `mnist1d`) are builders of tensorflow-datasets (tfds). Importing this module
registers them, so `tfds.load("mnist5k")` works too. This module's `load` also takes every other name that tfds knows.
"""

import dataclasses
import itertools
import os
import re
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from distill._types import Arrays, PathLike
from distill.data._embedded import Embedded, global_random_state_kept


@dataclasses.dataclass(frozen=True)
class Splits:
    """A data set with splits for training, for making choices and for the final test.

    Attributes:
        name: name given to `load`.
        train: unbatched (x, y) in a fixed order, with x in float32 and y a scalar in int64; cached in memory on the
            first pass.
        dev: the same form; use it for every choice that training does not make.
        test: the same form; read it once.
        input_shape: shape of one x, with `None` where examples differ in size.
        num_classes: number of classes; y lies in [0, num_classes).

    Example:
        ```python
        from distill import data

        digits = data.load("digits")
        assert digits.input_shape == (8, 8, 1) and digits.num_classes == 10
        ```
    """

    name: str
    train: tf.data.Dataset
    dev: tf.data.Dataset
    test: tf.data.Dataset
    input_shape: tuple[int | None, ...]
    num_classes: int


def load(
    name: str = "mnist5k",
    *,
    splits: Mapping[str, str] | None = None,
    data_dir: PathLike | None = None,
    manual_dir: PathLike | None = None,
) -> Splits:
    """Load a classification data set, without ever downloading.

    An embedded set (`mnist5k`, `digits`, `mnist1d`) is written to `data_dir` on first use. Any other set of tfds must
    already be prepared there, or is prepared from the files in `manual_dir`.

    Integer images are divided by the maximum of their type (uint8: 255), so they lie in [0, 1]. Other inputs keep their
    values. `digits` is stored as pixel / 16. `mnist1d` has the shape (40, 1), as Conv1D expects.

    Args:
        name: name of a tfds data set; "name/config" and "name:version" work too.
        splits: tfds split strings under the keys train, dev and test, such as `{"train": "train[:80%]", …}`. The
            default is tfds' own train, validation and test; without a validation split, dev is the last tenth of train.
        data_dir: folder with tfds' prepared data; by default tfds' own, `~/tensorflow_datasets`.
        manual_dir: folder with files that you fetched by hand; it is read only if the set is not prepared yet.

    Returns:
        The splits; no example is in two of them.

    Raises:
        ValueError: the name is unknown, the set is not for classification, or `splits` is needed but missing, has
            other keys, or overlaps.
        FileNotFoundError: the set is not prepared and cannot be prepared without a download.

    Example:
        ```python
        from distill import data

        digits = data.load("digits")
        train = data.batches(digits.train, 64, seed=0)
        ```
    """
    if splits is not None and set(splits) != {"train", "dev", "test"}:
        raise ValueError(
            f"splits must have exactly the keys train, dev and test. Received: {sorted(splits)}. Give each a tfds "
            'split string, such as {"train": "train[:80%]", "dev": "train[80%:]", "test": "test"}.'
        )
    if not isinstance(name, str):
        raise ValueError(f"A data set is loaded by its name, such as 'digits'. Received: name={name!r}.")
    builder = _builder(name, data_dir)
    inputs, labels = _supervised_features(name, builder)
    if not builder.is_prepared():
        _prepare(name, builder, manual_dir)
        builder = _builder(name, data_dir)  # the old one read the metadata before there was any
    parts = dict(splits) if splits is not None else _default_splits(name, builder)
    _check_disjoint(name, builder, parts)

    is_integer_image = isinstance(inputs, tfds.features.Image) and inputs.tf_dtype.is_integer
    scale = float(inputs.tf_dtype.max) if is_integer_image else 1.0

    def example(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(x, tf.float32) / scale, tf.cast(y, tf.int64)

    def read(split: str) -> tf.data.Dataset:
        # tfds would cache the undecoded examples beside our decoded ones.
        config = tfds.ReadConfig(try_autocache=False)
        stored = builder.as_dataset(split=split, as_supervised=True, shuffle_files=False, read_config=config)
        return stored.map(example, num_parallel_calls=tf.data.AUTOTUNE).cache()

    return Splits(
        name=name,
        train=read(parts["train"]),
        dev=read(parts["dev"]),
        test=read(parts["test"]),
        input_shape=tuple(inputs.shape),
        num_classes=labels.num_classes,
    )


def arrays(dataset: tf.data.Dataset) -> tuple[Arrays, Arrays]:
    """Read a whole unbatched split into memory.

    Args:
        dataset: unbatched data set of (x, y), such as `Splits.test`. It must not be empty, and all x must have one
            shape.

    Returns:
        x (examples, …) and y (examples,), in the order of the data set and with the structure of its x and y.

    Raises:
        ValueError: `dataset` is not a data set of (x, y), is batched or empty, or the shapes of examples differ.

    Example:
        ```python
        from distill import data

        x, y = data.arrays(data.load("digits").test)
        assert x.shape == (539, 8, 8, 1) and y.shape == (539,)
        ```
    """
    rule = "arrays needs an unbatched data set of (x, y), such as load(...).test. "
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(f"{rule}Received: an object of type {type(dataset).__name__}.")
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(f"{rule}Received: a data set of {spec}. Map it to (x, y) first.")
    if all(part.shape.rank and part.shape[0] is None for part in tf.nest.flatten(spec)):
        raise ValueError(f"{rule}Received: batches of {spec}. Call dataset.unbatch() first.")
    try:
        parts = list(dataset.batch(1024).as_numpy_iterator())
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"The examples of an array must have one shape. Received: a data set of {spec} ({error.message:.200}). "
            "Resize or pad x with dataset.map first."
        ) from error
    if not parts:
        raise ValueError(f"{rule}Received: no example.")
    x, y = tf.nest.map_structure(lambda *one: np.concatenate(one), *parts)
    return x, y


def _builder(name: str, data_dir: PathLike | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        # Community sets would be listed over the network.
        known = tfds.list_builders(with_community_datasets=False)
        near = get_close_matches(re.split("[/:]", name)[0], known)
        raise ValueError(
            f"name must be a data set that tensorflow-datasets knows. Received: {name!r}. "
            f"Similar names: {', '.join(near) or 'none'}. tfds.list_builders() lists all."
        ) from None  # the original error lists all 450 names


def _supervised_features(
    name: str, builder: tfds.core.DatasetBuilder
) -> tuple[tfds.features.FeatureConnector, tfds.features.ClassLabel]:
    """The features of x and y; raises ValueError unless they are a numeric input and a class label."""
    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys is not None and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        x, y = features[keys[0]], features[keys[1]]
        is_one_tensor = isinstance(x.tf_dtype, tf.DType)  # a dict of features has a dict of types
        if is_one_tensor and x.tf_dtype != tf.string and isinstance(y, tfds.features.ClassLabel):
            return x, y
    raise ValueError(
        "load needs a classification set, for which tfds declares one numeric input and one class label as supervised "
        f"keys. Received: {name!r} with supervised keys {keys} and features {sorted(features)}. "
        "Read it with tfds.load and map it to (x, y): batches and arrays take the result."
    )


def _prepare(name: str, builder: tfds.core.DatasetBuilder, manual_dir: PathLike | None) -> None:
    """Prepare a set in a folder of its own, then move it into place as a whole.

    tfds draws the name of its temporary folder from `random`, so two processes with the same seed would write into the
    same one. Here both finish, and the second keeps the work of the first.
    """
    if not isinstance(builder, Embedded):
        _check_manual_dir(name, builder, manual_dir)
    os.makedirs(builder.data_dir_root, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preparing.", dir=builder.data_dir_root) as own:
        private = tfds.builder(name, data_dir=own)
        with global_random_state_kept():  # a run that finds the data prepared must draw the same numbers
            private.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
        os.makedirs(builder.data_path.parent, exist_ok=True)
        try:
            os.rename(private.data_path, builder.data_path)
        except OSError:
            if not builder.is_prepared():
                raise


def _check_manual_dir(name: str, builder: tfds.core.DatasetBuilder, manual_dir: PathLike | None) -> None:
    """Raise FileNotFoundError if tfds would use the network, which it tries for minutes before it gives up."""
    urls = {info.filename or url: url for url, info in (builder.url_infos or {}).items()}
    missing = [
        f"{file} from {url}"
        for file, url in urls.items()
        if manual_dir is None or not os.path.exists(os.path.join(manual_dir, file))
    ]
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    # If there are instructions, only the builder knows the names of the files. It looks for them itself.
    if manual_dir is not None and (instructions is not None or not missing):
        return
    by_hand = instructions or "\n".join(missing[:8])  # some data sets have hundreds
    raise FileNotFoundError(
        f"load never downloads. Received: {name!r}, which is not prepared in {builder.data_dir_root}, and "
        f"manual_dir={manual_dir}. Where there is a network, run "
        f'`python -c \'import tensorflow_datasets as tfds; tfds.load("{name}", data_dir="DIR")\'` '
        "and pass data_dir=DIR to load. Or put the missing files into one folder by hand and pass it as "
        f"manual_dir:\n{by_hand}"
    )


def _default_splits(name: str, builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    own = builder.info.splits
    if "train" not in own or "test" not in own:
        raise ValueError(
            "A data set must have tfds splits named train and test, unless splits is given. Received: "
            f"{name!r}, which has {sorted(own)}. Choose the parts yourself, such as splits="
            '{"train": "train[:80%]", "dev": "train[80%:90%]", "test": "train[90%:]"}.'
        )
    if "validation" in own:
        return {"train": "train", "dev": "validation", "test": "test"}
    return {"train": "train[:90%]", "dev": "train[90%:]", "test": "test"}


def _check_disjoint(name: str, builder: tfds.core.DatasetBuilder, parts: Mapping[str, str]) -> None:
    """Raise ValueError if two parts read the same stored example."""
    ranges = {
        part: [(file.filename, file.skip, file.skip + file.take) for file in info.file_instructions]
        for part, info in ((part, builder.info.splits[split]) for part, split in parts.items())
    }
    for (one, left), (two, right) in itertools.combinations(ranges.items(), 2):
        for (file, start, stop), (other, first, last) in itertools.product(left, right):
            if file == other and max(start, first) < min(stop, last):
                raise ValueError(
                    "train, dev and test must share no example, or the test result means nothing. Received: "
                    f"{one}={parts[one]!r} and {two}={parts[two]!r} of {name!r}, which overlap. "
                    'Separate them, such as "train[:90%]" and "train[90%:]".'
                )

"""Data sets with fixed train, dev and test splits.

Three need no network, since a Python package carries or computes them: `mnist5k`, `digits` and `mnist1d`.
They are tensorflow-datasets (tfds) builders, so importing this module also makes `tfds.load("mnist5k")`
work, and every other tfds name goes through the same `load`.
"""

import dataclasses
import itertools
import numbers
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from distill.data._embedded import Embedded, global_random_state_kept


@dataclasses.dataclass(frozen=True)
class Splits:
    """One data set, split for training, choosing and the final test.

    Attributes:
        name: the name given to `load`.
        train: unbatched (x, y) in a fixed order, cached in memory on the first pass; x float32, y int64 ().
        dev: the same, for every choice that training does not make.
        test: the same, to be read once.
        input_shape: shape of one x; None where examples differ in size.
        num_classes: number of classes; y lies in [0, num_classes).
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
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
) -> Splits:
    """Loads a classification data set; never downloads.

    An embedded set (`mnist5k`, `digits`, `mnist1d`) is written to `data_dir` on first use. Any other tfds
    name must be prepared there already, or is prepared from the files in `manual_dir`.

    Integer images are divided by their type's maximum (uint8: 255) and so lie in [0, 1]; other inputs keep
    their values. `digits` is stored as pixel / 16. `mnist1d` has shape (40, 1), as Conv1D expects.

    Args:
        name: a tfds name, "name/config" and "name:version" included.
        splits: tfds split strings under the keys train, dev and test, such as `{"train": "train[:80%]", …}`.
            By default tfds' own train, validation and test; without a validation split, dev is the last
            tenth of train.
        data_dir: where tfds keeps prepared data; by default tfds' own choice, `~/tensorflow_datasets`.
        manual_dir: folder of files fetched by hand, read only when the set is not prepared yet.

    Returns:
        The splits; no example is in two of them.

    Raises:
        ValueError: the name is unknown, the set is not a classification set, or `splits` is missing where it
            is needed, has other keys, or overlaps.
        FileNotFoundError: the set is not prepared and cannot be without a download.
    """
    if splits is not None and set(splits) != {"train", "dev", "test"}:
        raise ValueError(
            f"splits needs exactly the keys train, dev and test. Received {sorted(splits)}. Give each a tfds "
            'split string, such as {"train": "train[:80%]", "dev": "train[80%:]", "test": "test"}.'
        )
    builder = _builder(name, data_dir)
    inputs, labels = _supervised_features(name, builder)
    if not builder.is_prepared():
        _prepare(name, builder, manual_dir)
        builder = _builder(name, data_dir)  # the old one read its metadata before there were any
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


def batches(dataset: tf.data.Dataset, batch_size: int, *, seed: int | None = None) -> tf.data.Dataset:
    """Batches a data set, in its own order or shuffled.

    The nth pass over the result has an order that depends on `seed` and n alone: not on the process, nor on
    TensorFlow's global seed. Every iterator counts as a pass, so runs that must see equal batches each need
    a call of their own.

    Args:
        dataset: unbatched, of known length, such as `Splits.train`. A shuffle holds all of it in memory.
        batch_size: examples a batch, >= 1; the last batch may be smaller.
        seed: an integer in [0, 2³¹ − 1) shuffles, anew on each pass; None keeps the order.

    Returns:
        The batched and prefetched data set, each example once a pass.

    Raises:
        ValueError: an argument is out of range.
    """
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(
            f"batch_size counts examples, so it is an integer >= 1. Received {batch_size!r}. "
            "Use len(examples) for one batch."
        )
    if seed is not None:
        _check_seed(seed)
    count = int(dataset.cardinality())
    if count < 1:
        raise ValueError(
            "batches needs a non-empty data set of known length, to shuffle the whole and report progress. "
            f"Received cardinality {count}. If you know it, apply tf.data.experimental.assert_cardinality."
        )

    if seed is not None:
        unshuffled, seed = dataset, int(seed)
        dataset = _seeded(lambda: unshuffled.shuffle(count, seed=seed))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _seeded(make: Callable[[], tf.data.Dataset]) -> tf.data.Dataset:
    """The data set that `make` makes, without TensorFlow's global seed in what it draws."""

    @tf.function(autograph=False)
    def made() -> tf.data.Dataset:
        tf.random.set_seed(0)  # in a graph, what counts as global is the graph's own seed
        return make()

    with tf.device("CPU:0"):  # a data set lives on the host, also where a function would run on a GPU
        return made.get_concrete_function()()  # `made()` would warn of retracing after five calls


def _check_seed(seed: int) -> None:
    if not (isinstance(seed, numbers.Integral) and 0 <= seed < tf.int32.max):
        raise ValueError(
            f"seed is an integer in [0, {tf.int32.max}), the range that TensorFlow keeps apart. "
            f"Received {seed!r}. 0 is as good as any."
        )


def mixup(batches: tf.data.Dataset, *, seed: int, alpha: float = 1.0) -> tf.data.Dataset:
    """Mixes each example of a batch with the one before it: λ · x + (1 − λ) · before, λ from Beta(alpha, alpha).

    For function matching [1], where teacher and student see the same views and nothing else is learned:
    `Distiller(teacher, student, SoftTargets(1.0), student_loss_weight=0).fit(mixup(batches, seed=0))`.
    One λ holds for a batch; the nth pass over the result has λs of its own, which depend on `seed` and n alone.

    Args:
        batches: of x, or of (x, …) whose rest is left out: labels say nothing of mixed examples. x are floats.
        seed: an integer in [0, 2³¹ − 1).
        alpha: from 0.1 to 1000; 1, as published, makes every λ from 0 to 1 as likely.

    Returns:
        A data set of batches (x,).

    Raises:
        ValueError: alpha is not above 0, or x are not floats.

    References:
        [1] Beyer et al. 2022, arXiv:2106.05237, section 3.2.
    """
    _check_seed(seed)
    if not 0.1 <= alpha <= 1000:
        raise ValueError(
            f"Beta(alpha, alpha) is drawn for an alpha from 0.1 to 1000. Received alpha={alpha!r}. Published is 1."
        )
    whole = batches.element_spec
    spec = whole[0] if isinstance(whole, tuple) else whole
    if any(part.shape.rank == 0 for part in tf.nest.flatten(whole)):
        raise ValueError(
            f"mixup mixes the examples of batches. Received single examples {whole}. Batch them first."
        )
    if any(not part.dtype.is_floating for part in tf.nest.flatten(spec)):
        raise ValueError(f"mixup computes means of floats. Received {spec}. Divide images by 255 before.")

    def mixed(element: Any, number: tf.Tensor) -> tuple[Any]:
        x = element[0] if isinstance(element, tuple) else element
        # A Beta variate from two Gamma variates.
        a, b = tf.unstack(tf.random.stateless_gamma((2,), tf.stack([seed, number]), alpha))
        share = a / (a + b)

        def mix(part: tf.Tensor) -> tf.Tensor:
            weight = tf.cast(share, part.dtype)
            return weight * part + (1 - weight) * tf.roll(part, 1, axis=0)

        return (tf.nest.map_structure(mix, x),)

    # Unlike a counter, these go on from pass to pass.
    drawn = _seeded(lambda: tf.data.Dataset.random(seed=int(seed), rerandomize_each_iteration=True))
    return tf.data.Dataset.zip(batches, drawn).map(mixed)


def arrays(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole unbatched split.

    Args:
        dataset: non-empty, (x, y) with one shape for all x, such as `Splits.test`.

    Returns:
        x (examples, …) and y (examples,), in the data set's order.
    """
    xs, ys = zip(*dataset.batch(1024).as_numpy_iterator(), strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        # Community sets would be listed over the network.
        known = tfds.list_builders(with_community_datasets=False)
        near = get_close_matches(re.split("[/:]", name)[0], known)
        raise ValueError(
            f"name must be a data set that tensorflow-datasets knows. Received {name!r}. "
            f"Near names: {', '.join(near) or 'none'}; tfds.list_builders() gives all."
        ) from None  # the original lists all 450 names


def _supervised_features(name: str, builder: tfds.core.DatasetBuilder) -> tuple[Any, Any]:
    """Returns tfds' features for x and y, or raises if they are not a numeric input and a class label."""
    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys is not None and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        x, y = features[keys[0]], features[keys[1]]
        is_one_tensor = isinstance(x.tf_dtype, tf.DType)  # a dict of features has a dict of types
        if is_one_tensor and x.tf_dtype != tf.string and isinstance(y, tfds.features.ClassLabel):
            return x, y
    raise ValueError(
        "load serves classification: tfds must declare one numeric input and one class label as supervised "
        f"keys. Received {name!r} with supervised keys {keys} and features {sorted(features)}. "
        "Read it with tfds.load and map it to (x, y); batches and arrays take the result."
    )


def _prepare(name: str, builder: tfds.core.DatasetBuilder, manual_dir: str | os.PathLike[str] | None) -> None:
    """Prepares a set in a directory of its own, then moves it into place whole.

    tfds draws the name of its temporary directory from `random`, so two processes with one seed would write
    into the same. Here both finish, and the second keeps the work of the first.
    """
    if not isinstance(builder, Embedded):
        _check_manual_dir(name, builder, manual_dir)
    os.makedirs(builder.data_dir_root, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="preparing.", dir=builder.data_dir_root) as own:
        private = tfds.builder(name, data_dir=own)
        with global_random_state_kept():  # a run that finds the data ready draws the same numbers
            private.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
        os.makedirs(builder.data_path.parent, exist_ok=True)
        try:
            os.rename(private.data_path, builder.data_path)
        except OSError:
            if not builder.is_prepared():
                raise


def _check_manual_dir(
    name: str, builder: tfds.core.DatasetBuilder, manual_dir: str | os.PathLike[str] | None
) -> None:
    """Raises if tfds would turn to the network, which it tries for minutes before it gives up."""
    urls = {info.filename or url: url for url, info in (builder.url_infos or {}).items()}
    missing = [
        f"{file} from {url}"
        for file, url in urls.items()
        if manual_dir is None or not os.path.exists(os.path.join(manual_dir, file))
    ]
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    # With instructions, the files have names that only the builder knows; it looks for them itself.
    if manual_dir is not None and (instructions is not None or not missing):
        return
    by_hand = instructions or "\n".join(missing[:8])  # some data sets have hundreds
    raise FileNotFoundError(
        f"load never downloads. Received {name!r}, not yet prepared in {builder.data_dir_root}, and "
        f"manual_dir={manual_dir}. Where there is a network, run "
        f'`python -c \'import tensorflow_datasets as tfds; tfds.load("{name}", data_dir="DIR")\'` '
        "and pass data_dir=DIR to load. Or put what is missing into one folder by hand and pass it as "
        f"manual_dir:\n{by_hand}"
    )


def _default_splits(name: str, builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    own = builder.info.splits
    if "train" not in own or "test" not in own:
        raise ValueError(
            "Without the argument splits, a data set needs tfds splits named train and test. Received "
            f"{name!r}, which has {sorted(own)}. Choose the parts yourself, such as splits="
            '{"train": "train[:80%]", "dev": "train[80%:90%]", "test": "train[90%:]"}.'
        )
    if "validation" in own:
        return {"train": "train", "dev": "validation", "test": "test"}
    return {"train": "train[:90%]", "dev": "train[90%:]", "test": "test"}


def _check_disjoint(name: str, builder: tfds.core.DatasetBuilder, parts: Mapping[str, str]) -> None:
    """Raises if two parts read the same stored example."""
    ranges = {
        part: [(file.filename, file.skip, file.skip + file.take) for file in info.file_instructions]
        for part, info in ((part, builder.info.splits[split]) for part, split in parts.items())
    }
    for (one, left), (two, right) in itertools.combinations(ranges.items(), 2):
        for (file, start, stop), (other, first, last) in itertools.product(left, right):
            if file == other and max(start, first) < min(stop, last):
                raise ValueError(
                    "train, dev and test share no example, or the test result means nothing. Received "
                    f"{one}={parts[one]!r} and {two}={parts[two]!r} of {name!r}, which overlap. "
                    'Cut them apart, such as "train[:90%]" and "train[90%:]".'
                )

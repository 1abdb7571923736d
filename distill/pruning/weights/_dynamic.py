"""Training that is sparse from its first step: masks drawn at random, in which weights then change places."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from distill._keras import call_takes_training
from distill.pruning.weights._callbacks import MaskCallback
from distill.pruning.weights._kernels import Kernel, Selector
from distill.pruning.weights._masks import Mask, kept_at, require_sparsity
from distill.pruning.weights._patterns import Elements, is_whole, keep_largest
from distill.pruning.weights.criteria._weights import magnitude

Distribution = Literal["uniform", "erdos-renyi"]


class SET(MaskCallback):
    """Sparse evolutionary training: now and then the smallest weights go, and as many others come at random.

    Before the first step of training each kernel keeps as many weights as it is to have, drawn at random; a model that
    is pruned to these numbers already goes on with its own. At steps
    `frequency`, 2 · `frequency`, … below `end_step`, before they train, of each kernel

    - the smallest `drop_fraction` of its weights, by magnitude, is set to zero, rounded to the nearest number;
    - as many are drawn among those that were pruned until then (so what goes stays away until the next time) and
      start at 0. Where there are fewer, fewer are exchanged.

    The optimizer's memory of weights that come, such as momentum, is set to 0. Every kernel has the same number of
    weights all the time; one that has just come is 0 until a step trains it. Where several steps are due at once, as
    under `steps_per_execution`, one exchange stands for all; none is made when training ends.

    A draw depends on the seed and the step alone, so a run that is resumed with its optimizer, as by
    `keras.callbacks.BackupAndRestore`, draws as the whole run does.

    The paper takes its share of the smallest positive and of the largest negative weights apart, starts new
    weights at random values, and exchanges weights at the end of every epoch; zero and magnitudes over both signs
    are how RigL's authors compare it.

    Args:
        sparsity: share of all kernels' weights that is zero, 0 <= sparsity < 1.
        frequency: steps from one exchange to the next, >= 1.
        end_step: exchanges come before it, > `frequency`; say three quarters of the training.
        drop_fraction: share of a kernel's weights that is exchanged, 0 < drop_fraction < 1.
        distribution: "uniform", the same sparsity for each kernel; or "erdos-renyi", a density proportional to the
            sum of a kernel's dimensions over their product, at most 1, which leaves small kernels denser. The
            number of zeros in all kernels together is that of `sparsity`.
        seed: of the draws, an integer >= 0.
        include: which layers; see `find_kernels`. RigL's authors leave the first layer dense when the distribution
            is uniform.
        exclude: which not.
        log_layers: also log each kernel's share of zeros, as "sparsity/encoder/dense/kernel".

    Attributes:
        updates: for every change of the masks its step and the kernels' sparsities by name.

    Raises:
        ValueError: a number out of range, or a distribution of another name; at the start of training, whatever
            `find_kernels` refuses.

    References:
        Mocanu et al. 2018, arXiv:1707.04780.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        frequency: int = 100,
        end_step: int,
        drop_fraction: float = 0.3,
        distribution: Distribution = "uniform",
        seed: int,
        include: Selector | Sequence[Selector] | None = None,
        exclude: Selector | Sequence[Selector] | None = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)
        self._plan = _Plan(sparsity, frequency, end_step, drop_fraction, distribution, seed)

    def move(self, step: int) -> None:
        """Draws the masks, or exchanges weights if a step up to this one is due and has not been seen to."""
        due = self._plan.follow(self, step)
        if due is None:
            return
        kept = _kept(self._masks)
        free = [~mask for mask in kept]
        dropped = _smallest(self, kept, self._plan.drop_fraction, [mask.sum() for mask in free])
        rng = np.random.default_rng([self._plan.seed, due])
        grown = _largest([rng.random(mask.shape) for mask in kept], free, dropped)
        _exchange(self, step, kept, dropped, grown)


class RigL(MaskCallback):
    """The rigged lottery: now and then the smallest weights go, and those come that the loss asks for most.

    As `SET`, apart from three things. The share of weights that goes at step t is

        drop_fraction / 2 · (1 + cos(π t / end_step))

    What comes is where the gradient of the training loss to all weights, pruned ones included, is largest in
    magnitude, on the next batch of `data`. And what went a moment ago may come back: it has then never been away, so
    it keeps its value and the optimizer's memory, as in the authors' code.

    The loss is the one that the model was compiled with, penalties included; a `distill.Distiller`'s is the whole of
    it. The model runs as in training, with the batch's own statistics in BatchNormalization, and everything that a
    training step moves apart from weights is put back: moving statistics, random generators, metrics. In the paper a
    step that exchanges weights does not train; here it does, after the exchange.

    Args:
        sparsity: see `SET`, as for what follows below.
        data: batches for the gradients, one for each exchange, from the beginning again after the last: a
            `tf.data.Dataset` of batches as `fit` takes them, or a tuple of arrays (x, y) or (x, y, sample_weight).
            A resumed run goes on where the whole run would be, if the data set has an order.
        frequency: steps from one exchange to the next, >= 1.
        end_step: exchanges come before it, > `frequency`.
        drop_fraction: share of a kernel's weights that is exchanged at first, 0 < drop_fraction < 1.
        distribution: "uniform" or "erdos-renyi".
        seed: of the first masks, an integer >= 0.
        batch_size: of arrays; more examples make a gradient with less noise.
        include: which layers.
        exclude: which not.
        log_layers: also log each kernel's share of zeros.

    Attributes:
        updates: for every change of the masks its step and the kernels' sparsities by name.

    Raises:
        ValueError: as for `SET`; the data are empty; at the start of training, several replicas; later, a gradient
            that is not finite.
        TypeError: the data are something else.
        RuntimeError: Keras runs on another backend than TensorFlow.

    References:
        Evci et al. 2020, arXiv:1911.11134, section 3.
    """

    def __init__(
        self,
        sparsity: float,
        data: Any,
        *,
        frequency: int = 100,
        end_step: int,
        drop_fraction: float = 0.3,
        distribution: Distribution = "uniform",
        seed: int,
        batch_size: int = 128,
        include: Selector | Sequence[Selector] | None = None,
        exclude: Selector | Sequence[Selector] | None = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)
        self._plan = _Plan(sparsity, frequency, end_step, drop_fraction, distribution, seed)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "RigL takes its gradients with TensorFlow. Received: Keras on "
                f"{keras.backend.backend()!r}. Use SET, or KERAS_BACKEND=tensorflow."
            )
        self._batches = _Batches(data, batch_size)
        self._gradients: Callable[..., Any] | None = None

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels and gives them masks."""
        if (replicas := model.distribute_strategy.num_replicas_in_sync) > 1:
            raise ValueError(
                f"RigL takes its gradients on one device. Received: a model on {replicas} replicas. Use SET, or train "
                "on one device."
            )
        super().set_model(model)
        self._gradients = _gradients_of(model, [kernel.variable for kernel in self._kernels.found])

    def move(self, step: int) -> None:
        """Draws the masks, or exchanges weights if a step up to this one is due and has not been seen to."""
        plan = self._plan
        due = plan.follow(self, step)
        if due is None:
            return
        fraction = plan.drop_fraction / 2 * (1 + math.cos(math.pi * due / plan.end_step))
        kept = _kept(self._masks)
        dropped = _smallest(self, kept, fraction, [mask.sum() for mask in kept])
        batch = self._batches.at(due // plan.frequency - 1)
        scores = [np.abs(gradient) for gradient in _dense_gradients(self.model, self._gradients, batch)]
        free = [~mask | gone for mask, gone in zip(kept, dropped, strict=True)]
        _exchange(self, step, kept, dropped, _largest(scores, free, dropped))


@dataclasses.dataclass(frozen=True)
class _Plan:
    """When weights are exchanged, how many, and where they are at first."""

    sparsity: float
    frequency: int
    end_step: int
    drop_fraction: float
    distribution: Distribution
    seed: int

    def __post_init__(self) -> None:
        require_sparsity(self.sparsity)
        if not is_whole(self.frequency) or self.frequency < 1:
            raise ValueError(
                f"Weights are exchanged every so many steps, at least 1. Received: frequency={self.frequency!r}."
            )
        if not is_whole(self.end_step) or self.end_step <= self.frequency:
            raise ValueError(
                f"Weights are exchanged at least once before the end. Received: end_step={self.end_step!r}, "
                f"frequency={self.frequency}. Choose an end_step above frequency."
            )
        number = isinstance(self.drop_fraction, (int, float, np.number))
        if not number or not 0 < self.drop_fraction < 1:
            raise ValueError(
                "A part of the weights is exchanged, 0 < drop_fraction < 1. Received: "
                f"drop_fraction={self.drop_fraction!r}."
            )
        if self.distribution not in ("uniform", "erdos-renyi"):
            raise ValueError(
                "Zeros are distributed 'uniform' or 'erdos-renyi'. Received: "
                f"distribution={self.distribution!r}."
            )
        if not is_whole(self.seed) or self.seed < 0:
            raise ValueError(f"The seed is an integer >= 0. Received: seed={self.seed!r}.")

    def follow(self, callback: MaskCallback, step: int) -> int | None:
        """Draws the first masks, or says which exchange up to a step has not been seen to: the latest."""
        if step <= callback.steps_done:
            return None  # training ends, and nothing would train what comes
        # Read here and not when training begins: by then a backup has been restored.
        moved = callback.last_move
        if moved == 0:
            callback.set_masks(step, self._first(callback))
            return None
        latest = min(step, self.end_step - 1) // self.frequency * self.frequency
        return latest if latest > moved else None

    def _first(self, callback: MaskCallback) -> list[np.ndarray]:
        """The masks to begin with: those that are there, if they have the right numbers, or new ones."""
        drawn, there = self._draw(callback._kernels.found), _kept(callback._masks)
        if all(mask.all() for mask in there):
            return drawn
        wanted = [int(mask.sum()) for mask in drawn]
        found = [int(mask.sum()) for mask in there]
        if found != wanted:
            raise ValueError(
                "Sparse training begins dense, or goes on with a model of the same sparsity. Received: kernels "
                f"that keep {found} weights, for {wanted}. Call strip_pruning(model) to begin anew."
            )
        return there

    def _draw(self, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        shapes = [tuple(kernel.variable.shape) for kernel in kernels]
        rng = np.random.default_rng([self.seed, 0])
        scores = [rng.random(shape) for shape in shapes]
        if self.distribution == "uniform":
            counts = [kept_at(self.sparsity)(score) for score in scores]
        else:
            counts = _erdos_renyi(shapes, self.sparsity)
        return [keep_largest(score, count) for score, count in zip(scores, counts, strict=True)]


def _erdos_renyi(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[int]:
    """How many weights each kernel keeps: density ε · sum / product of its dimensions, but at most 1."""
    sizes = np.array([math.prod(shape) for shape in shapes])
    sums = np.array([sum(shape) for shape in shapes])
    kept = max(len(shapes), int(sizes.sum()) - round(int(sizes.sum()) * sparsity))
    dense = np.zeros(len(shapes), bool)
    wanted = sizes.astype(float)
    while not dense.all():
        epsilon = (kept - sizes[dense].sum()) / sums[~dense].sum()
        wanted[~dense] = epsilon * sums[~dense]
        if not (wanted > sizes).any():
            break
        # As the authors do, the densest first: each that is capped leaves the others more.
        densities = np.where(dense, 0, wanted / sizes)
        capped = densities == densities.max()
        wanted[capped], dense = sizes[capped], dense | capped
    counts = np.clip(np.floor(wanted).astype(int), 1, sizes)
    while counts.sum() < kept:
        counts[np.argmax(np.where(counts < sizes, wanted - counts, -np.inf))] += 1
    while counts.sum() > kept:
        counts[np.argmin(np.where(counts > 1, wanted - counts, np.inf))] -= 1
    return counts.tolist()


def _kept(masks: Sequence[Mask]) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(mask.kept)) for mask in masks]


def _smallest(
    callback: MaskCallback, kept: Sequence[np.ndarray], fraction: float, most: Sequence[int]
) -> list[np.ndarray]:
    """Where the smallest of the weights are that are kept, that fraction of them and so many at most."""
    dropped = []
    sizes = magnitude(callback.model, callback._kernels.found)
    for size, mask, limit in zip(sizes, kept, most, strict=True):
        stay = int(mask.sum()) - min(round(fraction * int(mask.sum())), int(limit))
        dropped.append(mask & ~keep_largest(np.where(mask, size, -np.inf), stay))
    return dropped


def _largest(
    scores: Sequence[np.ndarray], free: Sequence[np.ndarray], dropped: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Where the largest scores are of the places that are free, as many as have been dropped."""
    return [
        keep_largest(np.where(places, score, -np.inf), int(gone.sum()))
        for score, places, gone in zip(scores, free, dropped, strict=True)
    ]


def _exchange(
    callback: MaskCallback,
    step: int,
    kept: Sequence[np.ndarray],
    dropped: Sequence[np.ndarray],
    grown: Sequence[np.ndarray],
) -> None:
    """Moves the masks; what comes starts at 0, in its kernel and in the optimizer's memory."""
    slots = _slots(callback.model)
    for kernel, mask, old, new in zip(callback._kernels.found, callback._masks, kept, grown, strict=True):
        mask.apply(kernel.variable)  # what another callback may have written where it was pruned
        for slot in slots.get(id(kernel.variable), ()):
            value = ops.convert_to_tensor(slot)
            slot.assign(ops.where(new & ~old, ops.zeros_like(value), value))
    callback.set_masks(
        step, [(old & ~gone) | new for old, gone, new in zip(kept, dropped, grown, strict=True)]
    )


def _slots(model: keras.Model) -> dict[int, list[keras.Variable]]:
    """By the id of each trained variable what the optimizer remembers weight by weight."""
    found: dict[int, list[keras.Variable]] = {}
    prefixes = {id(variable): f"{variable.path.replace('/', '_')}_" for variable in model.trainable_variables}
    times: Counter[str] = Counter()
    for slot in model.optimizer.variables:
        # Keras names a slot by its variable. One name may begin with another, and in nested models two variables may
        # have the same: their slots come in the variables' order.
        owners = [
            variable
            for variable in model.trainable_variables
            if slot.name.startswith(prefixes[id(variable)]) and tuple(slot.shape) == tuple(variable.shape)
        ]
        if owners:
            longest = max(len(prefixes[id(owner)]) for owner in owners)
            owners = [owner for owner in owners if len(prefixes[id(owner)]) == longest]
            owner = owners[times[slot.name] % len(owners)]
            times[slot.name] += 1
            found.setdefault(id(owner), []).append(slot)
    return found


def _gradients_of(model: keras.Model, variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Batch and scale -> the gradient of the scaled training loss to each variable."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def gradients(x: Any, y: Any, sample_weight: Any, scale: Any) -> Any:
        with tf.GradientTape() as tape:
            values = [variable.value for variable in variables]
            tape.watch(values)  # those of frozen layers too
            y_pred = model(x, training=True) if call_takes_training(model) else model(x)
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            loss = loss * tf.cast(scale, loss.dtype)
        found = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]  # an embedding's is sparse

    return gradients


def _dense_gradients(model: keras.Model, gradients: Any, batch: Any) -> list[np.ndarray]:
    """The gradients to all weights but for a factor; nothing of the model is changed."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    weights = {id(variable) for variable in model.trainable_variables}
    others = [variable for variable in model.variables if id(variable) not in weights]
    others += model.metrics_variables
    before = [ops.copy(variable) for variable in others]
    scale = float(ops.convert_to_numpy(model.optimizer.scale_loss(1.0)))
    while True:
        try:
            found = [g.numpy() for g in gradients(x, y, sample_weight, tf.constant(scale))]
        finally:
            for variable, value in zip(others, before, strict=True):
                variable.assign(value)
        if all(np.isfinite(gradient).all() for gradient in found):
            return found
        if scale <= 1:
            raise ValueError(
                "Weights come where the gradient is large, so it is finite. Received: a gradient with inf or NaN. "
                "Look at the loss and the data: has training diverged?"
            )
        scale = max(1.0, scale / 16)  # half precision overflows until the optimizer has found its scale


class _Batches:
    """Batches by number, from the beginning again after the last."""

    def __init__(self, data: Any, batch_size: int) -> None:
        import tensorflow as tf

        if isinstance(data, tuple):
            if not is_whole(batch_size) or batch_size < 1:
                raise ValueError(f"A batch has at least 1 example. Received: batch_size={batch_size!r}.")
            data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
        if not isinstance(data, tf.data.Dataset):
            raise TypeError(
                "RigL takes its gradients on a tf.data.Dataset of batches, or a tuple of arrays (x, y). Received: "
                f"{type(data).__name__}."
            )
        size = int(data.cardinality())
        if size == 0 or (size < 0 and next(iter(data.take(1)), None) is None):
            raise ValueError(
                "RigL takes its gradients on data. Received: data without any batch. Give it at least one."
            )
        self._data = data.repeat()
        self._iterator: Iterator[Any] = iter(())
        self._next: int | None = None

    def at(self, number: int) -> Any:
        """That batch; those after the last that was asked for come fast."""
        if self._next is None or self._next > number:
            self._iterator, self._next = iter(self._data.skip(number)), number
        for _ in range(self._next, number):
            next(self._iterator)
        self._next = number + 1
        return next(self._iterator)

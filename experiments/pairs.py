"""Do the numbers that papers on distillation compare against come out here too?

The standard pairs of networks learn CIFAR-100 as in the paper and the code of contrastive representation distillation
[1]: for 240 epochs with SGD, on images that are cropped at random with four black pixels around them and mirrored half
the time. Students learn from labels, and with every method of that paper's table that `distill` has, each at its
published weights. The report shows the published accuracies beside the measured ones. No settings are chosen here, so
training uses all training images as in the paper, dev's too: dev only tells how well images are remembered. The test
split is read once, after the last epoch.

What differs from the paper: each seed has its own teacher, whereas the paper has one teacher for all; when the learning
rate falls, the earlier steps that SGD's momentum holds still count at the old rate, for about ten steps.

Command: scripts/study pairs. By default it trains the first pair with soft targets, and its two networks alone; --arms
vgg13_vgg8_crd trains another, and --arms all trains all. Images lie where tensorflow-datasets keeps its own, or in the
folder that TFDS_DATA_DIR names. --data dataset=cifar10, fashion_mnist or imagenet_resized/32x32 uses other images;
dataset=synthetic uses noise of the same shape, which shows that the study runs; holdout=true keeps dev's images out of
training.

The study has not been run on real images yet.

[1] Tian, Krishnan, Isola 2020, arXiv:1910.10699, table 1 (mean of 5 runs, last epoch), and
github.com/HobbitLong/RepDistiller, train_student.py and scripts/run_cifar_distill.sh.
"""

import math

import keras
import numpy as np

import distill
from distill import data, losses, studies, training
from distill.studies import tables
from experiments import _cifar_networks as networks

EPOCHS, BATCH = 240, 64
RATE, FALLS, FACTOR = 0.05, (150, 180, 210), 0.1  # after these epochs the rate is multiplied by the factor
MOMENTUM, DECAY = 0.9, 5e-4
BORDER = 4  # pixels
SMOKE = 64  # images of a smoke run

PAIRS = (
    ("resnet56", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"),
    ("vgg13", "vgg8"),
)
# The loss of each method, made from the names of the maps of the stages and the labels of all training images.
METHODS = {
    "kd": lambda maps, y: losses.SoftTargets(4.0),
    "fitnet": lambda maps, y: losses.Hint("stage2", "stage2"),
    "at": lambda maps, y: losses.AttentionTransfer(maps, maps),
    "sp": lambda maps, y: losses.SimilarityPreserving(maps[-1], maps[-1]),
    "vid": lambda maps, y: losses.VariationalInformation(maps, maps),
    "rkd": lambda maps, y: losses.Relational("embedding", "embedding"),
    "pkt": lambda maps, y: losses.ProbabilisticTransfer("embedding", "embedding"),
    "nst": lambda maps, y: losses.NeuronSelectivity(maps, maps),
    "crd": lambda maps, y: losses.ContrastiveRepresentation(y, "embedding", "embedding"),
}
# Accuracies in percent [1]: those of networks that learn from labels, and of the students of the pairs above.
ALONE = {
    "resnet56": 72.34, "resnet110": 74.31, "resnet32x4": 79.42, "wrn_40_2": 75.61, "vgg13": 74.64,
    "resnet20": 69.06, "resnet32": 71.14, "resnet8x4": 72.50, "wrn_16_2": 73.26, "vgg8": 70.36,
}  # fmt: skip
TAUGHT = {
    "kd": (70.66, 73.08, 73.33, 74.92, 72.98),
    "fitnet": (69.21, 71.06, 73.50, 73.58, 71.02),
    "at": (70.55, 72.31, 73.44, 74.08, 71.43),
    "sp": (69.67, 72.69, 72.94, 73.83, 72.68),
    "vid": (70.38, 72.61, 73.09, 74.11, 71.23),
    "rkd": (69.61, 71.82, 71.90, 73.35, 71.48),
    "pkt": (70.34, 72.61, 73.64, 74.54, 72.88),
    "nst": (69.60, 71.96, 73.30, 73.68, 71.53),
    "crd": (71.16, 73.48, 75.51, 75.48, 73.94),
}
PUBLISHED = ALONE | {
    f"{teacher}_{student}_{method}": value
    for method, values in TAUGHT.items()
    for (teacher, student), value in zip(PAIRS, values, strict=True)
}
# Splits for the sets that `data.load` does not divide into train, dev and test by itself.
SPLITS = {"imagenet_resized": {"train": "train[:99%]", "dev": "train[99%:]", "test": "validation"}}


def images(seed, dataset="cifar100", holdout=False):
    """The splits do not depend on the seed."""
    if dataset == "synthetic":
        return tuple(synthetic(split, count) for split, count in enumerate((200, 50, 50)))
    splits = data.load(dataset, splits=SPLITS.get(dataset.partition("/")[0]))
    train, dev, test = (data.arrays(split) for split in (splits.train, splits.dev, splits.test))
    if not holdout:
        train = tuple(np.concatenate(parts) for parts in zip(train, dev, strict=True))
    return train, dev, test


def synthetic(split, count):
    """Noise over one picture for each of 100 classes, in the shape of CIFAR-100."""
    pictures = np.random.default_rng(0).random((100, 32, 32, 3), dtype="float32")
    y = np.arange(count) % 100
    noise = np.random.default_rng(1 + split).random((count, 32, 32, 3), dtype="float32")
    return (pictures[y] + noise) / 2, y


study = studies.Study(
    "pairs",
    data=images,
    seeds=5,
    title="The standard pairs",
    question="Do the numbers that papers on distillation compare with come out?",
)


class SGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, as in PyTorch, so that momentum acts on it too."""

    def __init__(self, learning_rate, *, momentum, decay):
        super().__init__(learning_rate, momentum=momentum)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable."""
        decayed = keras.ops.add(gradient, keras.ops.multiply(self.decay, variable))
        super().update_step(decayed, variable, learning_rate)


def schedule(steps):
    """The learning rate by step; an epoch has as many steps."""
    # Keras changes the rate one step after a boundary.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps * epoch - 1 for epoch in FALLS], [RATE * FACTOR**falls for falls in range(len(FALLS) + 1)]
    )


def network(name, run):
    """A new network for the run's images."""
    x, y = run.train
    sample = x[:50_000]  # all of CIFAR, and enough of larger sets
    return networks.build(
        name,
        input_shape=x.shape[1:],
        classes=int(y.max()) + 1,
        mean=sample.mean(axis=(0, 1, 2), dtype="float64").tolist(),
        deviation=sample.std(axis=(0, 1, 2), dtype="float64").tolist(),
    )


def batches(run):
    """The batches of an epoch, (images, labels, ids), augmented anew in each."""
    x, y = (part[:SMOKE] if run.smoke else part for part in run.train)
    plain = data.batches((x, y, np.arange(len(x))), BATCH, seed=run.seed)
    return data.flip(data.shift(plain, BORDER, seed=run.seed, fill=0), seed=run.seed)


def fit(model, run):
    """Trains as published: a network on labels, a Distiller on what else it has."""
    given = batches(run).map(identified if isinstance(model, distill.Distiller) else labelled)
    model.compile(
        SGD(schedule(math.ceil(len(run.train[0]) / BATCH)), momentum=MOMENTUM, decay=DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False if run.smoke else "auto",  # compiling takes longer than a smoke run
    )
    model.fit(
        given.prefetch(2),
        epochs=1 if run.smoke else EPOCHS,
        validation_data=data.batches(tuple(part[:SMOKE] if run.smoke else part for part in run.dev), 500),
        callbacks=run.callbacks,
        verbose=0,
        shuffle=False,
    )


def labelled(x, y, ids):
    """A batch for a network."""
    return x, y


def identified(x, y, ids):
    """A batch for a Distiller, whose loss may remember examples."""
    return training.Identified(x, ids), y


def alone(run, name="resnet20"):
    """The network, trained on labels."""
    model = network(name, run)
    fit(model, run)
    return model


def taught(run, teacher="resnet56", student="resnet20", method="kd"):
    """The student, trained on labels and on what the method takes from the teacher."""
    model = network(student, run)
    loss = METHODS[method](networks.stages(model), run.train[1])
    # A loss that is used alone gets its published weight.
    fit(distill.Distiller(run.model(teacher), model, loss), run)
    return model


for pair in PAIRS:
    teacher, student = pair
    group, on_request = f"{teacher} teaches {student}", pair != PAIRS[0]
    for name in pair:
        study.arm(alone, name=name, settings={"name": name}, group=group, on_request=on_request)
    for method in METHODS:
        arm = f"{teacher}_{student}_{method}"
        study.arm(
            taught,
            name=arm,
            settings={"teacher": teacher, "student": student, "method": method},
            needs=teacher,
            group=group,
            on_request=on_request or method != "kd",
        )
        if method == "kd":
            study.compare(arm, student)
        else:
            study.compare(arm, f"{teacher}_{student}_kd", primary=False)


@study.section
def published(found):
    """Measured beside published."""
    told = found.arms[0].cells[0].config.get("data", {})
    if told.get("dataset", "cifar100") != "cifar100" or told.get("holdout"):
        return  # published numbers are of CIFAR-100, with all training images
    rows = []
    for arm in found.arms:
        measured = arm.values(studies.ACCURACY)
        mean = float(np.mean(measured))
        spread = f" ± {np.std(measured, ddof=1):.2f}" if len(measured) > 1 else ""
        expected = PUBLISHED[arm.name]
        rows.append((arm.name, f"{mean:.2f}{spread}", f"{expected:.2f}", f"{mean - expected:+.2f}"))
    yield tables.Grid("Accuracy on test, %", ("arm", "measured", "published", "difference"), tuple(rows))
    yield (
        "Published are accuracies on CIFAR-100 after the last epoch, means of 5 runs (Tian et al. 2020, table 1). "
        "Measured: mean and standard deviation over seeds, each with a teacher of its own."
    )


if __name__ == "__main__":
    study.main()

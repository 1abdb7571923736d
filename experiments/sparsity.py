"""How many weights of a CNN can be removed, and what matters most: which go, when they go, or how the rest recovers?

A CNN of 106,000 parameters learns to read 3,000 digits (mnist5k). Then 95 % of its weights are set to zero. They are
chosen by magnitude over all layers or at random, and removed at once or step by step, and the remaining weights learn
from the labels or from the unpruned network. Within a seed, all pruned networks start from the same weights and train
for as long, except lottery tickets, which train for twice as long. All arms that the primary comparisons judge have as
many settings to choose from on dev. The test split is read once.

On request: other shares of zeros, from 50 to 98 %, to draw accuracy against sparsity; zeros that are spread evenly over
the layers; lottery tickets, rewound to the end of the first epoch; and recovery on images that are moved anew in each
epoch. About these, the unpruned network may know more than their labels say, whereas it knows the others by heart.

Command: scripts/study sparsity. 16 seeds, 96 cells: about 20 minutes of one core. --tune chooses the settings on dev;
--arms all adds the arms on request.

Found, with 16 seeds and settings chosen on dev (accuracy 97.9 without zeros): choosing by magnitude instead of by
chance decides (+61 points, adjusted 95 % interval +48 to +74; the arm with chance had no settings to choose from then,
and kept the dense network's dropout of .4, so a part of that may be due to dropout). Pruning step by step is not shown
to differ from pruning at once (-.25, -.52 to +.03), nor the unpruned network as the teacher from labels (-.00, -.25 to
+.25). On moved images, labels are better than the teacher (.30, .11 to .49). An earlier form, of 8 seeds, found the
teacher worse on images as they are (-.38), at a temperature of 4 and with dropout, which are as good on dev; that did
not repeat.
"""

import functools

import keras
from matplotlib.figure import Figure

import distill
from distill import data, pruning, studies
from distill.pruning.weights import importance
from distill.studies import levels, plots
from experiments._networks import Network, plain_cnn
from experiments._training import BATCH, batches, fit, one_hot, prepare

EPOCHS, FURTHER = 30, 15  # before pruning, and from then on
RAMP = 10  # epochs of step-by-step pruning
PLACES = 2  # largest shift of an image, in pixels, in arms that move them
RATE, FURTHER_RATE = 6e-3, 2e-3
NETWORK = Network(filters=(16, 32), units=64, dropout=0.4)
PERCENTS, JUDGED = (50, 70, 80, 90, 95, 98), 95
LABELS = {"dropout": (0.0, 0.4), "smoothing": (0.0, 0.1)}
SOFT = {"dropout": (0.0, 0.4), "temperature": (1.0, 4.0)}


def images(seed, dataset="mnist5k"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "sparsity",
    data=images,
    seeds=16,
    title="How many weights can be removed",
    question="What decides how much accuracy a pruned network loses: which weights go, when they go, or how the rest "
    "recovers?",
)


def cnn(run):
    """A new network."""
    return plain_cnn(NETWORK, input_shape=run.train[0].shape[1:], classes=10)


def learn(model, run, *, epochs=FURTHER, rate=FURTHER_RATE, smoothing=0.0, places=0, callbacks=()):
    """Trains on labels, and on what else the model learns from."""
    x, y = run.train
    examples = x, one_hot(y, smoothing)
    fit(model, examples, run, epochs=epochs, rate=rate, places=places, callbacks=callbacks)


def unpruned(run, dropout):
    """The trained network, to go on from with another share of dropout."""
    network = run.model("dense")
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = dropout
    return network


def step_by_step(run, sparsity, scope):
    """Prunes by magnitude after each epoch, which is when Keras calls callbacks here, until the share is reached."""
    steps, epochs = -(-len(run.train[0]) // BATCH), 1 if run.smoke else RAMP
    schedule = pruning.PolynomialDecay(0.0, sparsity, 0, epochs * steps, frequency=steps)
    return pruning.GradualPruning(schedule, scope=scope)


@study.arm(group="no zeros")
def dense(run):
    """The network, trained on labels."""
    network = cnn(run)
    learn(network, run, epochs=EPOCHS, rate=RATE)
    return network


@study.arm(group="no zeros", needs="dense", tune=LABELS)
def longer(run, dropout=0.4, smoothing=0.0):
    """The network, trained for as long as the pruned ones."""
    network = unpruned(run, dropout)
    learn(network, run, smoothing=smoothing)
    return network


def one_shot(run, sparsity=0.0, scope="global", dropout=0.0, smoothing=0.1):
    """Pruned at once by magnitude, then trained on labels."""
    network = unpruned(run, dropout)
    pruning.prune(network, sparsity, scope=scope)
    learn(network, run, smoothing=smoothing)
    return network


def at_random(run, sparsity=0.0, scope="global", dropout=0.0, smoothing=0.1):
    """Pruned at once at random places, then trained on labels."""
    network = unpruned(run, dropout)
    pruning.prune(network, sparsity, importance=importance.random(run.seed), scope=scope)
    learn(network, run, smoothing=smoothing)
    return network


def gradual(run, sparsity=0.0, scope="global", dropout=0.0, smoothing=0.0, places=0):
    """Pruned by magnitude step by step, in two thirds of the further training, which is on labels."""
    network = unpruned(run, dropout)
    callbacks = [step_by_step(run, sparsity, scope)]
    learn(network, run, smoothing=smoothing, places=places, callbacks=callbacks)
    return network


def distilled(run, sparsity=0.0, scope="global", dropout=0.0, temperature=1.0, places=0):
    """Pruned step by step, while it learns from the unpruned network and, with a weight of .1, from labels."""
    network, loss = unpruned(run, dropout), distill.SoftTargets(temperature)
    distiller = distill.Distiller(run.model("dense"), network, loss, student_loss_weight=0.1)
    learn(distiller, run, places=places, callbacks=[step_by_step(run, sparsity, scope)])
    return network


def lottery(run, sparsity=0.0):
    """Pruned at once by magnitude, rewound to the end of the first epoch, and trained on labels for all others."""
    network, epochs = cnn(run), 2 if run.smoke else EPOCHS
    x, y = run.train
    steps = -(-len(x) // BATCH)

    def train(model, callbacks):
        recorded = run.callbacks if pruning.measure_sparsity(model).zeros else []  # only the second training
        given = batches((x, one_hot(y)), run)
        model.fit(given, epochs=epochs, callbacks=[*recorded, *callbacks], verbose=0, shuffle=False)

    prepare(network, rate=RATE, epochs=epochs, steps=steps)
    pruning.iterative(network, train, [sparsity], to_step=steps, scope="global")
    return network


METHODS = {
    "one-shot": (one_shot, LABELS),
    "random": (at_random, LABELS),
    "gradual": (gradual, LABELS),
    "distilled": (distilled, SOFT),
}
for percent in PERCENTS:
    group, settings = f"{percent} % zeros", {"sparsity": percent / 100}
    declare = functools.partial(study.arm, needs="dense", group=group, settings=settings)
    for method, (function, tune) in METHODS.items():
        judged = percent == JUDGED
        declare(function, name=f"{method}-{percent}", tune=tune if judged else None, on_request=not judged)
    study.arm(lottery, name=f"lottery-{percent}", group=group, settings=settings, on_request=True)
for method, (function, _) in METHODS.items():
    study.arm(
        function,
        name=f"{method}-{JUDGED}-evenly",
        needs="dense",
        group=f"{JUDGED} % zeros in each kernel",
        settings={"sparsity": JUDGED / 100, "scope": "layer"},
        on_request=True,
    )

for method in ("gradual", "distilled"):
    function, tune = METHODS[method]
    study.arm(
        function,
        name=f"{method}-{JUDGED}-moved",
        needs="dense",
        group=f"{JUDGED} % zeros, images moved anew in each epoch",
        settings={"sparsity": JUDGED / 100, "places": PLACES},
        tune=tune,
        on_request=True,
    )

study.compare(f"one-shot-{JUDGED}", f"random-{JUDGED}")
study.compare(f"gradual-{JUDGED}", f"one-shot-{JUDGED}")
study.compare(f"distilled-{JUDGED}", f"gradual-{JUDGED}")
for arm, baseline in (
    ("one-shot-95", "longer"),
    ("lottery-95", "one-shot-95"),
    ("gradual-98", "one-shot-98"),
    ("distilled-98", "gradual-98"),
    ("gradual-95-evenly", "one-shot-95-evenly"),
    ("distilled-95-evenly", "gradual-95-evenly"),
    ("distilled-95-moved", "gradual-95-moved"),
):
    study.compare(arm, baseline, primary=False)


@study.section
def accuracy_against_sparsity(found):
    """Accuracy against sparsity."""
    curves = levels.curves(found.arms)
    if any(len(curve.levels) > 1 for curve in curves):
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = figure.subplots()
        for curve, color in zip(curves, plots.PALETTE, strict=False):
            # The share that is kept, on a logarithmic axis that falls towards zero.
            levels.draw(axes, curve, [100 - level for level in curve.levels], color=color)
        if any(arm.name == "dense" for arm in found.arms):
            levels.draw_line(axes, found.arm("dense"), label="unpruned")
        axes.set(xscale="log", xlabel="zeros, %")
        axes.set_xticks([100 - percent for percent in PERCENTS], map(str, PERCENTS))
        axes.invert_xaxis()
        levels.error_axis(axes)
        axes.legend(fontsize="small", loc="lower left")
        yield figure
        yield "Line: mean over seeds. Band: its 95 % t interval. The vertical axis is logarithmic in the error."


if __name__ == "__main__":
    study.main()

"""Where does the usual recipe cost a student accuracy, and what repairs it?

There are two situations on made-up data. In each, students with the same initial weights train on the labels alone, by
the recipe (`SoftTargets(4.0)`, `student_loss_weight=0.1`), and by the recipe with one thing changed.

Command: scripts/checks/when_it_hurts. About 2½ minutes of CPU time; --seeds for more or fewer than 5.
Expected: in both situations the recipe is at least 5 points behind the labels alone. A weight of 1 for the labels
    repairs the first, a temperature of 1 the second. Exit status 1 otherwise.
"""

import dataclasses
import sys

import keras
import numpy as np
import tyro
from keras import layers

import distill

COST, REPAIRED = 5.0, 2.0  # points behind the labels alone
STEPS = 8  # in one call of the compiled step, for speed
LOSS = "sparse_categorical_crossentropy"
ONLY_LABELS = "labels alone"
# Name -> temperature, weights of the labels and of the teacher, and how many times the usual epochs.
RECIPES = {
    "recipe": (4.0, 0.1, 0.9, 1),
    "T = 1": (1.0, 0.1, 0.9, 1),
    "label weight 1": (4.0, 1.0, 0.9, 1),
    "epochs × 4": (4.0, 0.1, 0.9, 4),
}


@dataclasses.dataclass(frozen=True)
class Situation:
    """Classes around random centres, a teacher and a student.

    Attributes:
        name: what is particular about it.
        remedy: the recipe that repairs it.
        classes: number of classes.
        centres: number of centres of each class.
        features: number of features.
        examples: number of training examples.
        spread: distance of the centres, in standard deviations of a class.
        teacher: widths of the teacher's hidden layers.
        teacher_epochs: how long the teacher trains, with Adam.
        penalty: L2 penalty of the teacher's kernels, which keeps its logits small.
        student: width of the student's hidden layer.
        momentum: the student's optimizer is SGD at 0.01 with this momentum; `None` for Adam at 0.001.
    """

    name: str
    remedy: str
    classes: int
    centres: int
    features: int
    examples: int
    spread: float
    teacher: tuple[int, ...]
    teacher_epochs: int
    penalty: float
    student: int
    momentum: float | None


SITUATIONS = (
    Situation(
        "SGD, 60 classes, soft teacher", "label weight 1", 60, 1, 30, 2400, 1.2, (128,), 20, 1.5e-2, 64, 0.9
    ),
    Situation("Adam, few steps, sure teacher", "T = 1", 10, 2, 20, 1500, 1.2, (64, 64), 60, 0.0, 32, None),
)


@dataclasses.dataclass(frozen=True)
class Check:
    """Trains students where the usual recipe costs accuracy, and where a remedy repairs it.

    Attributes:
        seeds: number of data sets, teachers and students.
        epochs: how long the students train.
    """

    seeds: int = 5
    epochs: int = 10


def made_up(situation: Situation, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training inputs and labels, and 1,000 test inputs and labels."""
    rng, n = np.random.default_rng(seed), situation.examples
    centres = situation.spread * rng.normal(size=(situation.classes, situation.centres, situation.features))
    y = rng.integers(situation.classes, size=n + 1000)
    x = centres[y, rng.integers(situation.centres, size=len(y))]
    x += rng.normal(size=x.shape)
    x = ((x - x[:n].mean(axis=0)) / x[:n].std(axis=0)).astype("float32")
    return x[:n], y[:n], x[n:], y[n:]


def network(situation: Situation, widths: tuple[int, ...], seed: int, penalty: float = 0.0) -> keras.Model:
    """A multi-layer perceptron that ends in a softmax."""
    keras.utils.set_random_seed(seed)
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    hidden = [layers.Dense(width, "relu", kernel_regularizer=regularizer) for width in widths]
    head = layers.Dense(situation.classes, "softmax", kernel_regularizer=regularizer)
    return keras.Sequential([keras.Input((situation.features,)), *hidden, head])


def accuracies(situation: Situation, seed: int, epochs: int) -> dict[str, float]:
    """Test accuracy in percent of the teacher and of each student."""
    x, y, test_x, test_y = made_up(situation, seed)

    def accuracy(model: keras.Model) -> float:
        return 100 * float(np.mean(keras.ops.convert_to_numpy(model(test_x)).argmax(axis=-1) == test_y))

    def optimizer() -> keras.optimizers.Optimizer:
        if situation.momentum is None:
            return keras.optimizers.Adam()
        return keras.optimizers.SGD(0.01, momentum=situation.momentum)

    teacher = network(situation, situation.teacher, seed, situation.penalty)
    teacher.compile("adam", LOSS, steps_per_execution=STEPS)
    teacher.fit(x, y, batch_size=64, epochs=situation.teacher_epochs, verbose=0)
    found = {"teacher": accuracy(teacher)}
    for times in sorted({times for *_, times in RECIPES.values()}):
        student = network(situation, (situation.student,), 100 + seed)
        student.compile(optimizer(), LOSS, steps_per_execution=STEPS)
        student.fit(x, y, batch_size=64, epochs=times * epochs, verbose=0)
        found[ONLY_LABELS if times == 1 else f"{ONLY_LABELS}, epochs × {times}"] = accuracy(student)
    for name, (temperature, own, theirs, times) in RECIPES.items():
        student = network(situation, (situation.student,), 100 + seed)
        loss = distill.SoftTargets(temperature)
        distiller = distill.Distiller(
            teacher, student, loss, student_loss_weight=own, distillation_weight=theirs
        )
        distiller.compile(optimizer(), LOSS, steps_per_execution=STEPS)
        if seed == 0 and name == "recipe":
            print(distiller.check(x, y), "\n", flush=True)
        distiller.fit(x, y, batch_size=64, epochs=times * epochs, verbose=0)
        found[name] = accuracy(student)
        if seed == 0 and name == "recipe":
            after = distiller.check(x, y).advice
            print("after training:", *(f"- {one.text}" for one in after), "", sep="\n", flush=True)
    return found


def main(options: Check) -> int:
    """Prints what `Distiller.check` says of each situation, and a table of it; returns the exit status."""
    failed = False
    for situation in SITUATIONS:
        print(f"{situation.name}\n", flush=True)
        runs = [accuracies(situation, seed, options.epochs) for seed in range(options.seeds)]
        print("| student | test accuracy, % | − labels alone |\n|---|--:|--:|")
        columns = {name: np.array([run[name] for run in runs]) for name in runs[0]}
        for name, column in columns.items():
            behind = column - columns[ONLY_LABELS]
            failed |= name == "recipe" and behind.mean() > -COST
            failed |= name == situation.remedy and behind.mean() < -REPAIRED
            numbers = [
                f"{of.mean():{sign}.1f} ± {of.std(ddof=1):.1f}" for of, sign in ((column, ""), (behind, "+"))
            ]
            print(f"| {name} | {' | '.join(numbers)} |")
        print(flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check)))

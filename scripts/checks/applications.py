"""Removes channels from every network of keras.applications and keras_hub and compares the rest with the original.

Each network (random weights; 10 classes and images of 96 × 96 for keras.applications, small_backbones.py for keras_hub)
loses about 40 % of its channels, at random. Every tensor of the smaller network is compared, in float64, with that of
the original in which these channels are zero. The smaller network is then saved and loaded, and its weights and outputs
are compared again, bit by bit. With --use it also trains one step, which must change its outputs and leave them finite,
and is exported to LiteRT, which must answer as the network does. Channels that normalizations average over stay. If
keras_hub cannot save, train, export or compute a network with nothing removed, the table says so. If nothing can be
removed, it says why.

Command: scripts/checks/applications. It checks 40 networks and 74 backbones in an hour on two cores, or in several
hours with --use; give names to check only some of them. Prints a Markdown table.
Expected: no difference above 1e-9, and none above 1e-3 in LiteRT's outputs, which are float32. Exit status 1 otherwise.
"""

import dataclasses
import datetime
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import rich.box
import tyro
from keras import applications
from rich.console import Console
from rich.table import Table
from small_backbones import BACKBONES, examples

from distill.exports import Exported, export, inputs_by_name
from distill.pruning.structured import importance
from distill.pruning.structured._groups import find_groups
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._scoring import score_atoms
from distill.pruning.structured._selection import Choice
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import largest_error

APPLICATIONS = tuple(name for name in dir(applications) if name[0].isupper())
TOLERANCE = 1e-9
LITERT_TOLERANCE = 1e-3  # computed in float32, in another order


@dataclasses.dataclass(frozen=True)
class Check:
    """Removes channels from networks of keras.applications and keras_hub and compares the rest.

    Attributes:
        names: networks, such as ResNet50 or BertBackbone; all by default.
        size: height and width of the images for keras.applications, in pixels.
        ratio: share of the channels to remove.
        use: also trains the smaller network for a step and runs it in LiteRT.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = (*APPLICATIONS, *BACKBONES)
    size: int = 96
    ratio: float = 0.4
    use: bool = False


@dataclasses.dataclass(frozen=True)
class Checked:
    """The result for one network.

    Attributes:
        name: name of the network.
        groups: number of groups of channels that can be cut.
        locked: number of groups that cannot be cut.
        unknown: types of layers that no rule is known for.
        parameters: share of the parameters that is left.
        seconds: time to read, choose and build.
        error: largest difference; NaN if nothing was compared.
        where: tensor that differs most.
        litert: largest difference of LiteRT's outputs, as a share of the largest output; NaN if it did not run.
        notes: what could not be done with the uncut network either.
    """

    name: str
    groups: int
    locked: int
    unknown: tuple[str, ...]
    parameters: float = 1.0
    seconds: float = 0.0
    error: float = np.nan
    where: str = ""
    litert: float = np.nan
    notes: tuple[str, ...] = ()

    @property
    def wrong(self):
        """Whether it differs, or was not compared without a reason."""
        compared = self.error <= TOLERANCE or (np.isnan(self.error) and self.notes)
        return not compared or self.litert > LITERT_TOLERANCE


def check(name, options):
    """Cuts, compares, saves, loads and compares one network; with options.use also trains and exports it."""
    keras.utils.set_random_seed(0)
    if name in APPLICATIONS:
        shape = (options.size, options.size, 3)
        model = getattr(applications, name)(
            weights=None, input_shape=shape, classes=10, classifier_activation=None
        )
        inputs = np.random.default_rng(0).normal(size=(2, *shape))
    else:
        model = BACKBONES[name]()
        inputs = examples(name, model)
    start = time.perf_counter()
    rules = rules_with()
    structure = read(model, rules)
    groups = find_groups(structure)
    free = [group for group in groups if group.atoms.size > 1]
    unknown = tuple(sorted(set(structure.unknown.values())))
    found = Checked(name, len(free), len(groups) - len(free), unknown)
    if not free:
        reasons = dict.fromkeys(group.locked for group in groups)
        return dataclasses.replace(
            found, notes=(f"nothing to cut: {'; '.join(reasons) or 'no rule is known'}",)
        )
    choice = Choice(structure, free, score_atoms(structure, free, importance.random(0)), "local", 1, {})
    keep, everything = choice.keep(choice.counts(options.ratio)), np.ones(structure.atoms.count, bool)
    notes = []

    def same(attempt, uncut, what):
        """What `attempt` returns; `None` and a note if keras_hub fails with nothing cut too."""
        try:
            return attempt()
        except Exception as error:
            try:
                uncut()
            except Exception:
                if name in APPLICATIONS:
                    raise
                notes.append(f"{what}: {' '.join(str(error).split())[-160:] or type(error).__name__}")
                return None
            raise

    small = same(lambda: rebuild(structure, keep), lambda: rebuild(structure, everything), "not rebuilt")
    if small is None:
        return dataclasses.replace(found, notes=tuple(notes))
    seconds = time.perf_counter() - start
    error, where = same(
        lambda: largest_error(structure, keep, small, rules, inputs),
        lambda: largest_error(structure, everything, rebuild(structure, everything), rules, inputs),
        "not compared",
    ) or (np.nan, "")
    again = same(lambda: _reloaded(small), lambda: _reloaded(rebuild(structure, everything)), "not saved")
    if again is not None:
        for (path, before), (_, after) in zip(_values(small, inputs), _values(again, inputs), strict=True):
            if not np.array_equal(before, after, equal_nan=True):
                error, where = np.inf, f"{path} after loading"
    litert = np.nan
    if options.use:
        litert = same(
            lambda: _used(small, inputs), lambda: _used(rebuild(structure, everything), inputs), "not used"
        )
    parameters = small.count_params() / model.count_params()
    return dataclasses.replace(
        found,
        parameters=parameters,
        seconds=seconds,
        error=error,
        where=where,
        litert=np.nan if litert is None else litert,
        notes=tuple(notes),
    )


def _reloaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "small.keras")
        return keras.saving.load_model(Path(folder) / "small.keras")


def _outputs(model, inputs):
    return [np.asarray(value) for value in keras.tree.flatten(model(inputs, training=False))]


def _values(model, inputs):
    """Name and value of all outputs and weights."""
    outputs = [(f"output {i}", value) for i, value in enumerate(_outputs(model, inputs))]
    return outputs + [(weight.path, np.asarray(weight)) for weight in model.weights]


def _used(model, inputs):
    """Trains a step and exports to LiteRT; returns how far LiteRT's outputs are from the model's."""
    before, rng = _outputs(model, inputs), np.random.default_rng(0)
    targets = keras.tree.map_structure(lambda output: rng.normal(size=output.shape), model(inputs))
    model.compile("sgd", "mse")
    model.fit(inputs, targets, verbose=0)
    outputs = _outputs(model, inputs)
    if all(map(np.array_equal, outputs, before)):
        raise RuntimeError("A training step must change an output, but none has changed.")
    with tempfile.TemporaryDirectory() as folder:
        path = export(model, Path(folder) / "model.tflite")
        found = keras.tree.flatten(Exported(path).predict(inputs_by_name(model, inputs)))
    differences = [
        np.max(np.abs(one - other)) / (np.max(np.abs(other)) or 1)
        for one, other in zip(found, outputs, strict=True)
    ]
    if not np.isfinite(differences).all():
        raise RuntimeError(f"Outputs after a training step must be finite. Received: {differences}.")
    return float(max(differences))


def _in_processes(options):
    # TensorFlow never frees what it has compiled, so each large network gets a process, and so do ten small ones.
    for names, tasks in ((APPLICATIONS, 1), (tuple(BACKBONES), 10)):
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=tasks) as pool:
            chosen = [name for name in options.names if name in names]
            tried = {name: pool.apply_async(check, (name, options)) for name in chosen}
            for name, result in tried.items():
                try:
                    yield result.get()
                except Exception as error:
                    yield Checked(name, 0, 0, (), error=np.inf, where=repr(error))


def main(options):
    """Prints the table as it grows; returns the exit status."""
    known = (*APPLICATIONS, *BACKBONES)
    if unknown := sorted(set(options.names) - set(known)):
        raise SystemExit(
            "names must be networks of keras.applications or small_backbones.py. "
            f"Received: {unknown}. Known: {', '.join(known)}."
        )
    table = Table(
        *("network", "groups", "locked", "unknown", "parameters", "s", "largest error", "LiteRT", "notes"),
        box=rich.box.MARKDOWN,
    )
    failed = 0
    for found in _in_processes(options):
        failed += found.wrong
        compared = not np.isnan(found.error)
        table.add_row(
            found.name,
            str(found.groups),
            str(found.locked),
            ", ".join(found.unknown),
            f"{found.parameters:.0%}",
            f"{found.seconds:.1f}",
            (f"{found.error:.1e}" if compared else "-") + (f" at {found.where}" if found.wrong else ""),
            "-" if np.isnan(found.litert) else f"{found.litert:.1e}",
            "; ".join(found.notes).replace("|", "/"),
            style="red" if found.wrong else None,
        )
        print(f"{found.name}: {found.error:.1e} {'; '.join(found.notes)}", file=sys.stderr, flush=True)
    # In a file no row is wrapped.
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    console.print(table)
    console.print(
        f"{failed} of {table.row_count} differ. {options.ratio:.0%} of the channels removed; images of "
        f"{options.size} × {options.size}; Keras {keras.__version__}, {datetime.date.today()}."
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check)))

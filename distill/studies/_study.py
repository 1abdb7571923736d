"""A study of your own: each arm is a function that runs over several seeds, and a report compares the arms."""

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from distill.studies._code import file_of
from distill.studies._declarations import Surroundings
from distill.studies._declared import PLAIN, Data, Declared, Design, Function, is_plain, settings_of
from distill.studies._execution import TUNING_SEEDS, Plan, execute
from distill.studies._main import main
from distill.studies._measures import CLASSIFICATION, Measure
from distill.studies._ray import Ray
from distill.studies._results import StudyResult
from distill.studies._sections import Shown

SMOKE_SEEDS = 2


class Study:
    """A comparison of arms, which are ways to train, over the same seeds.

    An arm is a function that builds, compiles and fits a model, and returns it. Each arm with each seed is a cell with
    its own directory. A finished cell is never run again unless its settings or its code change. Its code is the arm's
    function, the data function and the functions of your own metrics, with the functions, classes and constants that
    these use from their own file and below its folder. The study scores what an arm returns on dev and on test; no arm
    sees test.

    Args:
        name: name of the study, and of its directory.
        data: function that takes a seed and returns the train, dev and test splits: (x, y) arrays, or `tf.data` data
            sets of single examples. Return the same test split for all seeds, unless you want the splits themselves to
            vary. Further parameters are settings of the data; they need defaults, and `run` can change them.
        seeds: number of seeds.
        metrics: ways to score a model; arms are compared and tuned by the first. Pass `CLASSIFICATION`, `REGRESSION`,
            `MULTI_LABEL`, `TOKENS`, or a list with `Measure`s of your own.
        title: title of the report; by default the name.
        question: the question that the study answers, for the report.

    Raises:
        ValueError: `seeds` is less than 1, there is no metric, or a setting of the data has no plain default.

    Example:
        ```python
        import keras

        import distill
        from distill import studies


        def digits(seed):
            splits = distill.data.load("digits")
            return splits.train, splits.dev, splits.test


        study = studies.Study("digits", data=digits, seeds=5)


        def fit(network, run):
            network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
            train = distill.data.batches(run.train, 64, seed=run.seed)
            dev = distill.data.batches(run.dev, 500)
            epochs = 1 if run.smoke else 20
            network.fit(train, epochs=epochs, validation_data=dev, callbacks=run.callbacks, verbose=0, shuffle=False)


        def net(width):
            layers = keras.layers
            hidden = [layers.Flatten(), layers.Dense(width, "relu")]
            return keras.Sequential([keras.Input((8, 8, 1)), *hidden, layers.Dense(10)])


        @study.arm
        def teacher(run):
            network = net(128)
            fit(network, run)
            return network


        @study.arm
        def alone(run):
            network = net(8)
            fit(network, run)
            return network


        @study.arm(needs="teacher", tune={"temperature": (2.0, 4.0)})
        def distilled(run, temperature=4.0):
            distiller = distill.Distiller(run.model("teacher"), net(8), distill.SoftTargets(temperature))
            fit(distiller, run)
            return distiller.student


        study.compare("distilled", "alone")

        if __name__ == "__main__":
            study.main()
        ```
    """

    def __init__(
        self,
        name: str,
        *,
        data: Data,
        seeds: int = 8,
        metrics: Sequence[Measure] = CLASSIFICATION,
        title: str | None = None,
        question: str = "",
    ) -> None:
        if not name or set(name) & set("/\\"):
            raise ValueError(f"A study needs a name that can be that of a folder. Received: {name!r}.")
        if seeds < 1 or not metrics:
            raise ValueError(
                f"A study needs at least one seed and one metric. Received: seeds={seeds}, metrics={metrics}."
            )
        keys = [measure.key for measure in metrics]
        if unscored := [
            measure.key for measure in metrics if measure.score is None or keys.count(measure.key) > 1
        ]:
            raise ValueError(
                "Each metric needs a function that scores, and a key of its own. "
                f"Received: {unscored}. Give Measure(key, score, name=...)."
            )
        self.design = Design(
            name=name,
            title=title or name,
            question=question,
            data=data,
            data_settings=settings_of(data, "the function of the data"),
            seeds=seeds,
            metrics=tuple(metrics),
        )

    def arm(
        self,
        function: Function | None = None,
        *,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        needs: str | Sequence[str] = (),
        tune: Mapping[str, Sequence[Any]] | None = None,
        group: str = "arms",
        on_request: bool = False,
    ) -> Any:
        """Declares an arm: decorates the function that trains it.

        The function is called as `function(run, **settings)` with a `Run`, and returns a model, or the path of a
        `.tflite` or `.onnx` file. Its parameters after the first are the arm's settings, and need defaults. The first
        line of its docstring is the arm's description. You can declare one function several times, as arms with
        different settings:

            for temperature in (1.0, 4.0):
                study.arm(distilled, name=f"t{temperature:g}", settings={"temperature": temperature}, needs="teacher")

        Args:
            function: the function.
            name: name of the arm, and of its cells' folders; by default the function's.
            settings: setting -> value to use instead of its default.
            needs: arms whose finished models this one uses; they must be declared first. Agreement is measured with the
                first of them, as the teacher.
            tune: setting -> values to try on dev, in all combinations, if the study runs with `tune`. Otherwise the
                defaults hold.
            group: heading under which tables and plots show the arm.
            on_request: whether the arm runs only if `arms` of `run` (or `--arms`) names it, or an arm that needs it.

        Returns:
            The function, unchanged.

        Raises:
            ValueError: the name is taken or cannot be that of a folder, an arm in `needs` is not declared, a setting
                has no plain default, or there is no such setting.
        """
        if function is None:
            return functools.partial(
                self.arm,
                name=name,
                settings=settings,
                needs=needs,
                tune=tune,
                group=group,
                on_request=on_request,
            )
        name = function.__name__ if name is None else name
        needed = (needs,) if isinstance(needs, str) else tuple(needs)
        defaults = settings_of(function, f"arm {name!r}")
        given = defaults | dict(settings or {})
        tried = {key: tuple(values) for key, values in (tune or {}).items()}
        if missing := [one for one in needed if one not in self.design.arms]:
            raise ValueError(
                f"needs must name arms that are declared before. Received: arm {name!r}, which needs {missing}; "
                f"declared are {sorted(self.design.arms) or 'none'}."
            )
        if not name or name in self.design.arms or set(name) & set("/\\<> \n"):
            raise ValueError(
                "Each arm needs a name of its own, without spaces, slashes and angle brackets; pass name=... "
                f"Received: {name!r}; declared are {', '.join(self.design.arms) or 'none'}."
            )
        if not is_plain([given, tried]):
            raise ValueError(f"{PLAIN} Received: arm {name!r} with {given}, tune={tried}.")
        if strangers := [
            one for one in {**given, **tried} if one not in defaults or (one in tried and not tried[one])
        ]:
            raise ValueError(
                "settings and tune must name parameters of the function, and tune at least one value of each. "
                f"Received: {strangers}; arm {name!r} has {', '.join(defaults) or 'none'}."
            )
        decides = self.design.metrics[0]
        if tried and decides.of_teacher and not needed:
            raise ValueError(
                "Settings are chosen by the study's first metric on dev. "
                f"Received: {decides.name}, which compares with a teacher, and the arm {name!r} with tune and without "
                "needs. Put a metric of labels first, or remove tune."
            )
        depth = 1 + max((self.design.arms[one].depth for one in needed), default=-1)
        self.design.arms[name] = Declared(
            function=function,
            needs=needed,
            tune=tried,
            group=group,
            depth=depth,
            settings=given,
            on_request=on_request,
        )
        return function

    def compare(self, arm: str, baseline: str, *, primary: bool = True) -> None:
        """Declares a comparison, which is paired by seed.

        Args:
            arm: name of an arm.
            baseline: name of the arm that it is compared with.
            primary: whether the comparison answers the study's question. Declare one to three of these: the more there
                are, the more seeds they need. The report shows the others as exploratory.

        Raises:
            ValueError: an arm is not declared, or the comparison is already declared.
        """
        if unknown := [one for one in (arm, baseline) if one not in self.design.arms]:
            raise ValueError(f"Declared arms are {sorted(self.design.arms)}. Received: {unknown}.")
        if (baseline, arm) in self.design.comparisons or arm == baseline:
            raise ValueError(
                f"Compare two different arms, and each pair once. Received: {arm!r} with {baseline!r}."
            )
        self.design.comparisons.append((baseline, arm))
        if primary:
            self.design.primary.append((baseline, arm))

    def section(self, function: Callable[[StudyResult], Shown]) -> Callable[[StudyResult], Shown]:
        """Adds a section to the study's report: decorates a function that takes the finished study.

        The function yields matplotlib figures, `tables.Grid`s and sentences. The report shows them in this order, under
        the first line of the function's docstring. The function is called in the report's style, once all arms that run
        are finished; what it yields is kept in sections.html. If it yields nothing, there is no section; if it fails,
        the section says so.

            @study.section
            def parameters(found):
                "Accuracy and parameters."
                figure = matplotlib.figure.Figure()
                axes = figure.subplots()
                for arm in found.arms:
                    axes.plot(arm.cells[0].cost["parameters"], arm.values(studies.ACCURACY)[0], "o", label=arm.name)
                axes.legend()
                yield figure
                yield "The first seed's models."

        Args:
            function: the function.

        Returns:
            The function, unchanged.
        """
        self.design.sections.append(function)
        return function

    def run(
        self,
        *,
        out: str | os.PathLike[str] = "runs",
        arms: Sequence[str] | Literal["all"] | None = None,
        seeds: int | None = None,
        first_seed: int = 0,
        data: Mapping[str, Any] | None = None,
        jobs: int | None = None,
        engine: Ray | None = None,
        tune: bool = False,
        smoke: bool = False,
        budget: float | None = None,
        surroundings: Surroundings | None = None,
        command: str | None = None,
    ) -> StudyResult:
        """Runs what is not finished yet, and writes the report.

        Arms of the first primary comparison are trained first, then those of the next, and the others last. A verdict
        of better or worse that no other primary comparison can change is printed before the remaining arms are trained.
        With `budget`, seeds are run one after another instead, and nothing is printed early.

        Cells run in processes that import the file that defines the study. If there is no such file, as in a notebook,
        they run in this process, one after the other. You can run the same study several times at once, also on several
        machines with one file system: the runs share its cells, and each waits for the cells that others run.

        Args:
            out: folder for the study's directory, whose name has the study's name, `data`'s values and "smoke" in it.
            arms: names of the arms to run and to report, along with those that they need; "all" for every arm; by
                default all that are not `on_request`. The finished cells of other arms stay in the directory.
            seeds: number of seeds; by default the study's, or 2 in a smoke run.
            first_seed: first seed; change it to repeat a study with other seeds.
            data: setting of the data -> value to use instead of its default.
            jobs: number of cells to run at a time; by default one for each core.
            engine: a Ray cluster, in place of processes on this machine.
            tune: first choose the settings of arms with `tune` on dev, with three seeds that comparisons do not use.
            smoke: only check that everything works.
            budget: minutes in which to run as many of the seeds as fit, judged by those that this run has trained, and
                at least two.
            surroundings: where metrics go besides the directory.
            command: the command to show in the report.

        Returns:
            The finished study; its report is report.html in its directory.

        Raises:
            ValueError: a number is out of range, there is no such arm, finished cells lack one of the metrics, or the
                functions cannot be sent to other processes.
            CellError: no arm finished a seed, cells failed while settings were chosen, or a worker was killed.
            ImportError: `engine` is given, but Ray is not installed.
        """
        default = SMOKE_SEEDS if smoke else self.design.seeds
        count = default if seeds is None else seeds
        _require(
            (bool(self.design.arms), "A study needs an arm", "none: decorate a function with @study.arm"),
            (count >= 1, "seeds must be at least 1", f"seeds={seeds}"),
            (jobs is None or jobs >= 1, "jobs must be at least 1", f"jobs={jobs}"),
            (
                jobs is None or engine is None,
                "jobs is for processes on this machine; a Ray cluster runs as many cells as it has room for",
                f"jobs={jobs}, engine={engine}",
            ),
            (
                first_seed >= 0 and not set(range(first_seed, first_seed + count)) & set(TUNING_SEEDS),
                f"first_seed must be at least 0, and keep clear of the seeds {TUNING_SEEDS} that choose settings",
                f"first_seed={first_seed}, seeds={count}",
            ),
            (budget is None or budget > 0, "budget must be above 0 minutes", f"budget={budget}"),
        )
        design = self.design.only(arms).on(data or {})
        return execute(
            design,
            Plan(
                # Absolute, since an arm may change the working directory.
                study_dir=Path(out).resolve() / design.folder(smoke=smoke),
                seeds=range(first_seed, first_seed + count),
                jobs=jobs or os.cpu_count() or 1,
                engine=engine,
                tune=tune,
                smoke=smoke,
                budget=budget,
                surroundings=surroundings or Surroundings(),
                command=command or f"study.run() in {file_of(self.design.data) or 'a notebook'}",
            ),
        )

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Runs the study from the command line, prints its tables, and ends the process.

        The processes that run cells import the file that calls this; in those processes it does nothing.

        Args:
            arguments: what was typed after the command; by default the arguments of this process.

        Raises:
            SystemExit: always, except in such a process; the status is 0, 1 after an error, 130 after Ctrl-C.
        """
        # By its name: while a worker imports the file, it does not know its parent yet.
        if multiprocessing.current_process().name != "MainProcess":
            return
        raise SystemExit(main(self.design, self.run, sys.argv[1:] if arguments is None else arguments))


def _require(*rules: tuple[bool, str, str]) -> None:
    """Raises ValueError for the first rule that does not hold; each has the rule itself, and what was received."""
    for holds, rule, received in rules:
        if not holds:
            raise ValueError(f"{rule}. Received: {received}.")

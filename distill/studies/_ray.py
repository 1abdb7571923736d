"""Runs the cells of a study on a Ray cluster."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from distill._extras import needed

# What a cell's process must know of the one that started the study.
_VARIABLES = ("KERAS_", "TF_", "WANDB_", "XLA_")


@dataclasses.dataclass(frozen=True)
class Ray:
    """A Ray cluster, and what one cell needs there.

    Ray chooses the machine on which a cell runs, and runs the cell again if the machine or the process is lost. All
    machines must see the study's directory and its code under the same paths. If there is no cluster that `ray start`
    made, one is started on this machine for as long as the study runs.

    Attributes:
        cpus: cores, which is also the number of threads.
        gpus: GPUs; below 1, cells share one.
        memory: GiB of memory, which keeps Ray from overfilling a machine; `None` to ignore memory.

    Raises:
        ValueError: a number is out of range.

    Example:
        ```python
        from distill import studies

        cluster = studies.Ray(cpus=4, gpus=0.5)  # two cells share a GPU: study.run(engine=cluster)
        ```
    """

    cpus: int = 1
    gpus: float = 0.0
    memory: float | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or (self.memory is not None and self.memory <= 0):
            raise ValueError(
                f"A cell needs at least one core, 0 GPUs or more, and memory above 0 GiB. Received: {self!r}."
            )

    @contextlib.contextmanager
    def workers(self, study_dir: Path) -> Iterator[Executor]:
        """Connects to the cluster, and leaves it afterwards, unless this process was connected before.

        Args:
            study_dir: directory of the study; what cells print goes to its `workers.log`.

        Raises:
            ImportError: Ray is not installed.
        """
        with needed("A Ray cluster", "ray"):
            import ray
        is_mine = not ray.is_initialized()
        if is_mine:
            ray.init(log_to_driver=False, include_dashboard=False)
        try:
            yield _Cluster(ray, self, study_dir.resolve() / "workers.log")
        finally:
            if is_mine:
                ray.shutdown()  # which also ends what is still running


class _Cluster(Executor):
    """Calls functions on the cluster."""

    def __init__(self, ray: Any, needs: Ray, log: Path) -> None:
        variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        if 0 < needs.gpus < 1:
            variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        folder, threads = Path.cwd(), needs.cpus

        # Inside, so that it is sent as it is: a worker that imported this module would import Keras before it knows
        # the backend.
        def call(content: bytes) -> Any:
            os.environ.update(variables)
            os.chdir(folder)
            with log.open("a") as file:
                for descriptor in (1, 2):
                    os.dup2(file.fileno(), descriptor)
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            function, arguments, named = ray.cloudpickle.loads(content)
            return function(*arguments, **named)

        memory = None if needs.memory is None else int(needs.memory * 2**30)
        self._ray = ray
        self._call = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, memory=memory)(call)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function on some machine of the cluster."""
        found: Future[Any] = self._call.remote(self._ray.cloudpickle.dumps((fn, args, kwargs))).future()
        return found

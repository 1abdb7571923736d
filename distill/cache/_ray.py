"""Records the answers of a teacher on a Ray cluster."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill._extras import needed
from distill._types import PathLike
from distill.cache._answers import Answers, open

# What a worker must know of the process that asks.
_VARIABLES = ("KERAS_", "TF_", "XLA_")


def record_on_ray(
    make: Callable[[], tuple[Any, Any]],
    folder: PathLike,
    *,
    workers: int,
    cpus: float = 1,
    gpus: float = 0,
    **given: Any,
) -> Answers:
    """Records as `record` does, on a Ray cluster, where each worker records its own shards of one cache.

    The cache is the one that `record` would write, as far as the processors compute alike. Existing shards
    are kept, so a call continues where an earlier one stopped, whether of `record` or of this function. If a
    worker is lost, Ray starts it again, and it continues too.

    If no cluster was started by `ray start`, one runs on this machine until this function returns. All
    machines must see the folder and this process' working directory under the same paths.

    Args:
        make: function without arguments that returns the teacher and the data, as `record` takes them. Each
            worker calls it, so neither is sent: the function reads them from a file that all machines see, or
            makes them.
        folder: folder of the cache.
        workers: number of workers, >= 1; each records every `workers`-th shard.
        cpus: cores for each worker.
        gpus: GPUs for each worker; below 1, workers share one.
        given: other arguments of `record`, except `shards` and `verbose`.

    Returns:
        The answers, a teacher for a `Distiller`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: `workers` is less than 1, or `shards` or `verbose` is given.
        ray.exceptions.RayError: a worker failed. An error that `record` raises there, such as a ValueError,
            is raised here.

    Example:
        ```python
        from distill import cache

        teacher.save("teacher.keras")
        np.save("x.npy", x)

        def make():
            return keras.models.load_model("teacher.keras"), np.load("x.npy", mmap_mode="r")

        # answers = cache.record_on_ray(make, "cache", workers=8, gpus=0.5, targets=cache.TopK(2))
        ```
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"workers must be an integer of at least 1. Received: workers={workers!r}.")
    if strangers := sorted({"shards", "verbose"} & given.keys()):
        raise ValueError(
            f"Workers share the shards among themselves, and show nothing. Received: {strangers}. Leave them out."
        )
    with needed("Recording on a Ray cluster", "ray"):
        import ray
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    here, path = Path.cwd(), str(Path(folder).absolute())

    # Inside, so that it is sent as it is: a worker that imported this module would import Keras before it knows the
    # backend.
    def work(content: bytes, number: int) -> None:
        os.environ.update(variables)
        os.chdir(here)
        from distill.cache._recording import record_part

        wanted, arguments = ray.cloudpickle.loads(content)
        teacher, data = wanted()
        record_part(teacher, data, path, number, workers, **arguments)

    is_mine = not ray.is_initialized()
    if is_mine:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        asked, content = ray.remote(num_cpus=cpus, num_gpus=gpus)(work), ray.cloudpickle.dumps((make, given))
        ray.get([asked.remote(content, number) for number in range(workers)])
    finally:
        if is_mine:
            ray.shutdown()
    return open(path)

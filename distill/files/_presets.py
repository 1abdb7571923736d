"""Load folders that keras_hub wrote: `backbone.save_to_preset` and `task.save_to_preset`."""

import contextlib
from pathlib import Path

import keras

from distill._types import Config
from distill.files import _hdf5 as hdf5
from distill.files._configs import complete
from distill.files._differences import table
from distill.files._guards import guarded
from distill.files._layouts import KERAS3
from distill.files._matching import matched
from distill.files._parts import Parts, numbers_in
from distill.files._planning import planned, require_held
from distill.files._safety import import_keras_hub, require_safe
from distill.files._stored import parsed


def load_preset(folder: Path, *, trust: bool) -> keras.Model:
    """Load the task of a preset, or its backbone if it has no task.

    Args:
        folder: folder that `save_to_preset` wrote.
        trust: whether code in it may run.

    Raises:
        ImportError: keras_hub is not installed.
        ValueError: a file is damaged, carries code or declares more than it holds.
    """
    import_keras_hub(str(folder))
    # keras_hub takes a name without slashes for one of its own presets, and downloads it.
    folder = folder.resolve()
    configs = {path.name: complete(parsed(path.read_bytes(), str(path))) for path in folder.glob("*.json")}
    if not trust:
        for name, config in configs.items():
            require_safe(config, str(folder / name))
    found: Parts = {}
    head = 0
    with contextlib.ExitStack() as stack:
        for path in sorted(folder.glob("*.h5")):
            parts = hdf5.keras3_parts(stack.enter_context(hdf5.opened(path, str(path))))
            if path.name.startswith("task."):
                head = numbers_in(parts)
                continue
            for place, part in parts.items():  # a large backbone is stored in several files
                known = found.get(place, part)
                found[place] = part._replace(weights={**known.weights, **part.weights})
        held = numbers_in(found)
        with planned(configs["config.json"], str(folder), held=held, trust=trust) as backbone:
            _, differences = matched(KERAS3.parts_of(backbone), found)
    if differences:
        raise ValueError(
            f"The weights of a preset must fit its backbone. Received: {folder}, where they differ:\n"
            f"{table(differences)}"
        )
    if "task.json" in configs and not (folder / "task.weights.h5").exists():
        raise ValueError(
            f"The preset of a task needs the weights of its head. Received: {folder}, without task.weights.h5. Copy "
            "the preset again, or remove task.json to load the backbone."
        )
    if "task.json" in configs and not _same_backbone(configs["task.json"], configs["config.json"]):
        raise ValueError(
            f"The task of a preset must be built on its backbone. Received: {folder}, where task.json has another "
            "backbone than config.json. Save the preset again."
        )
    kind = configs["task.json" if "task.json" in configs else "config.json"]
    require_held(kind, str(folder), held=held + head, trust=trust)
    try:
        with guarded(str(folder), held + head):
            return keras.saving.get_registered_object(kind["registered_name"]).from_preset(str(folder))
    except ValueError as error:
        raise ValueError(f"keras_hub cannot load this preset. Received: {folder}: {error}") from error


def _same_backbone(task: Config, backbone: Config) -> bool:
    """Whether a task is built on the backbone whose weights were checked."""
    own = task["config"].get("backbone")
    return isinstance(own, dict) and own["config"] == backbone["config"]

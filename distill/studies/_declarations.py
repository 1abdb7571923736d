"""What a study consists of: arms, their cells, and what surrounds a cell."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of the tables: cells that differ by seed alone.

    Attributes:
        name: in directories and W&B.
        group: the arms that it stands with.
        label: for readers, with its settings.
        description: one sentence.
        changes: to the config of the study's first arm.
    """

    name: str
    group: str
    label: str
    description: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        study: the study's name.
        arm: what is being compared, such as "distilled".
        seed: of weights, data order and everything else that is drawn.
        config: a frozen dataclass of plain values: all that the result may depend on but the seed.
    """

    study: str
    arm: str
    seed: int
    config: Any

    @property
    def name(self) -> str:
        """The name of its directory, another one for another config."""
        plain = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        return (
            f"{self.arm.replace('/', '_')}-seed{self.seed}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        )

    @property
    def folder(self) -> Path:
        """Its directory, relative to the study's."""
        return Path("cells") / self.name


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a cell needs and its result does not depend on.

    Attributes:
        data_dir: where prepared data sets are kept; `None` for the place tfds uses.
        manual_dir: a folder with files fetched by hand, for data sets that are not embedded.
        wandb: mode of Weights & Biases; `None` follows WANDB_MODE, or is offline.
        tensorboard: also write TensorBoard files.
    """

    data_dir: Path | None = None
    manual_dir: Path | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    tensorboard: bool = False

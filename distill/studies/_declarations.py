"""What a study declares: its arms, the cells that train them, and settings that no result depends on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train, which is one row of the tables; its cells differ only in their seed.

    Attributes:
        name: identifier, used in directory names and in W&B.
        group: heading under which tables and plots show the arm.
        label: short text for readers, with the arm's settings.
        description: one sentence for readers.

    Example:
        >>> from distill import studies
        >>> arm = studies.Arm(
        ...     "smoothing",
        ...     group="all labels",
        ...     label="label smoothing 0.1",
        ...     description="The student on smoothed labels.",
        ... )
    """

    name: str
    _: dataclasses.KW_ONLY
    group: str
    label: str
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a study: an arm with one seed.

    Attributes:
        study: name of the study.
        arm: name of the arm.
        seed: seed of the initial weights, the data order and everything else that is random.
        config: frozen dataclass of plain values with everything that the result depends on, except the seed.

    Example:
        >>> import dataclasses
        >>> from distill import studies
        >>> @dataclasses.dataclass(frozen=True)
        ... class Training:
        ...     epochs: int
        ...     label_smoothing: float = 0.0
        >>> studies.Cell(study="mine", arm="alone", seed=3, config=Training(epochs=30)).name
        'alone-seed3-35c0cece'
    """

    study: str
    arm: str
    seed: int
    config: Any

    @property
    def name(self) -> str:
        """Name of the cell's directory; its last part is a digest of the config."""
        plain = json.dumps(dataclasses.asdict(self.config), sort_keys=True)
        digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
        return f"{self.arm.replace('/', '_')}-seed{self.seed}-{digest}"

    @property
    def folder(self) -> Path:
        """Path to the cell's directory, relative to the study's."""
        return Path("cells") / self.name


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """Settings that a cell needs but its result does not depend on.

    Attributes:
        wandb: mode of Weights & Biases; by default the value of WANDB_MODE, or offline if it is not set.
        tensorboard: write TensorBoard files as well.

    Example:
        >>> from distill import studies
        >>> quiet = studies.Surroundings(wandb="disabled")
    """

    wandb: Literal["offline", "online", "disabled"] | None = None
    tensorboard: bool = False

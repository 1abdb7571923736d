"""How a cache describes itself: whose answers it holds, to which data, and how they are kept."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill._atomic import replacing
from distill.cache._sparse_targets import Sampled, TopK
from distill.cache._targets import Dense, Target
from distill.training._recorded import Answer

MANIFEST = "cache.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `cache.json` holds.

    Attributes:
        teacher: name of the teacher.
        fingerprint: fingerprint of the teacher's weights or file; `None` for a function, which has none.
        examples: number of examples.
        batches: number of batches of a data set; `None` for arrays.
        shard_size: number of examples in a shard; the last may have fewer.
        answers: what is recorded of each example.
        targets: how each of them is kept.
    """

    teacher: str
    fingerprint: str | None
    examples: int
    batches: int | None
    shard_size: int
    answers: tuple[Answer, ...]
    targets: tuple[Target, ...]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(self.examples / self.shard_size)

    def size_of(self, shard: int) -> int:
        """Number of examples in a shard."""
        return min(self.shard_size, self.examples - shard * self.shard_size)

    @functools.cached_property
    def row(self) -> np.dtype[Any]:
        """Dtype of what a shard holds of an example: a digest of its inputs, and the answers."""
        fields: list[Any] = [("inputs", "<u4")]
        for answer, target in zip(self.answers, self.targets, strict=True):
            fields += [(name, dtype, shape) for name, (dtype, shape) in target.fields(answer).items()]
        return np.dtype(fields)

    def write(self, folder: Path) -> None:
        """Writes the file."""
        content = dataclasses.asdict(self) | {
            "format": _FORMAT,
            "answers": [answer._asdict() for answer in self.answers],
            "targets": [target.config() for target in self.targets],
        }
        with replacing(folder / MANIFEST) as draft:
            draft.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another version.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"A cache is a folder with a {MANIFEST}. Received: {str(folder)!r}, which has none. Record one with "
                "cache.record(teacher, data, folder)."
            )
        try:
            content = json.loads(path.read_text())
            if content.pop("format") != _FORMAT:
                raise ValueError("another version of distill wrote it")
            answers = tuple(Answer(**{**one, "shape": tuple(one["shape"])}) for one in content.pop("answers"))
            targets = tuple(_target_of(one) for one in content.pop("targets"))
            manifest = cls(**content, answers=answers, targets=targets)
            if len(answers) != len(targets) or manifest.examples < 1 or manifest.shard_size < 1:
                raise ValueError("its numbers do not fit each other")
            manifest.row  # noqa: B018  # raises if shapes are none
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The description of a cache cannot be read. Received: {str(path)!r}: {error}. Record the cache anew, "
                "in another folder."
            ) from error
        return manifest

    def require_same(self, other: "Manifest", folder: Path) -> None:
        """Raises ValueError, naming what differs, unless what is recorded now goes with what was before.

        Args:
            other: what is recorded now.
            folder: folder of the cache, for the error.
        """
        layers, others = (
            [(one.layer, one.output, one.shape) for one in each.answers] for each in (self, other)
        )
        differ = [
            f"{what}: recorded {old}, now {new}"
            for what, old, new in (
                ("the number of examples", self.examples, other.examples),
                ("the number of batches", self.batches, other.batches),
                ("the weights of the teacher", self.fingerprint, other.fingerprint),
                ("the answers", layers, others),
                ("the targets", [*map(str, self.targets)], [*map(str, other.targets)]),
                ("shard_size", self.shard_size, other.shard_size),
                ("the heads", *([one.activation for one in each.answers] for each in (self, other))),
            )
            if old != new
        ]
        if differ:
            raise ValueError(
                "A cache holds the answers of one teacher to one set of examples, kept in one way. Received: "
                f"{str(folder)!r}, where these differ: {'; '.join(differ)}. Record into another folder, or delete this "
                "one first."
            )


def _target_of(config: Mapping[str, Any]) -> Target:
    """Returns the target that `Target.config` describes; raises KeyError or TypeError for what is none."""
    kinds: dict[str, type[Target]] = {kind.__name__: kind for kind in (Dense, TopK, Sampled)}
    return kinds[config["kind"]](**{key: value for key, value in config.items() if key != "kind"})

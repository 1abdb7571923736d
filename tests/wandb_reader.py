"""Read the transaction log of a W&B run: a LevelDB log of protobuf records."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_FILE_HEADER = 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """Content of a `run-*.wandb` file; `exit_code` is None if the run was not closed."""

    path: Path
    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def column(self, name: str) -> list[tuple[int, Any]]:
        """(step, value) of every row that has the metric."""
        return [(row["_step"], row[name]) for row in self.history if name in row]

    def table(self, name: str) -> dict[str, Any]:
        """The table logged under the name: "columns" and "data"."""
        ((_, path),) = self.column(f"{name}.path")
        return json.loads((self.path.parent / "files" / path).read_text())


def read_runs(directory: Path) -> list[OfflineRun]:
    """The runs below `directory`/wandb, oldest first."""
    return [_read(path) for path in sorted(directory.glob("wandb/*run-*/run-*.wandb"))]


def _read(path: Path) -> OfflineRun:
    result = OfflineRun(path)
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            result.run = record.run
            result.config |= _items(record.run.config.update)
        elif kind == "config":
            result.config |= _items(record.config.update)
        elif kind == "history":
            result.history.append(_items(record.history.item))
        elif kind == "summary":
            result.summary |= _items(record.summary.update)
        elif kind == "artifact":
            result.artifacts.append(record.artifact)
        elif kind == "request" and record.request.HasField("log_artifact"):
            result.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "exit":
            result.exit_code = record.exit.exit_code
    return result


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[Any]:
    """The complete records; a file that is still being written may end in half of one."""
    from wandb.proto.wandb_internal_pb2 import Record

    position, record = _FILE_HEADER, b""
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        chunk = data[position + 7 : position + 7 + size]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(chunk) < size:
            return
        position += 7 + size
        record = chunk if kind in (_FULL, _FIRST) else record + chunk
        if kind in (_FULL, _LAST):
            yield Record.FromString(record)

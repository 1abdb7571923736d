"""Feed one run to Weights & Biases from a process of its own, which `distill.tracking` starts.

W&B's SDK asks for keys on a terminal, sets environment variables and replaces `sys.exit`. If a server does not answer,
it waits in `log_artifact`, in `finish` and at exit, whatever its settings say. A process that can be killed bounds all
of that. It reads the numbers from metrics.jsonl, so the queue between training and W&B is a file on disk: it is never
full, and nothing is lost when either side dies.

This is run as a file, not as a module, because the package would import Keras. Standard input stays open while training
is alive. What arrives before it closes is the end of the run; if nothing arrives, training has died.
"""

import contextlib
import io
import json
import os
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2

DEFAULTS = {
    "WANDB_PROJECT": "distill",
    "WANDB_SILENT": "true",
    # There is no console to copy: this process prints nothing but its reports.
    "WANDB_CONSOLE": "off",
    # Error reporting looks up a host name, even offline.
    "WANDB_ERROR_REPORTING": "false",
    # The following would probe this process, its repository and its host. That is slow, and this is not the training
    # process.
    "WANDB_DISABLE_GIT": "true",
    "WANDB_SAVE_CODE": "false",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
    "WANDB_DISABLE_JOB_CREATION": "true",
    # `latest-run` links break when the directory of a run is moved.
    "WANDB_SYMLINK": "false",
}


def report(text: str) -> None:
    """Write one line for `distill.tracking` to log."""
    print(text.replace("\n", " "), flush=True)


def open_run(start: dict[str, Any]) -> Any:
    """Open the W&B run in the requested mode, or offline if that fails."""
    directory = Path(start["directory"])
    own = {
        "WANDB_NAME": directory.name,
        "WANDB_DIR": str(directory),
        # Staged artifacts and the service's log would land in the home directory.
        "WANDB_CACHE_DIR": str(directory / "wandb" / "cache"),
        "WANDB_DATA_DIR": str(directory / "wandb" / "data"),
        "WANDB_PROGRAM": start["program"],
        # Whole seconds. `log_artifact` asks the server through an API that reads no settings.
        "WANDB_HTTP_TIMEOUT": str(max(1, int(start["timeout"] / 3))),
    }
    for name, value in {**DEFAULTS, **own}.items():
        os.environ.setdefault(name, value)
    # A service inherited from another process that uses W&B would die with that process.
    os.environ.pop("WANDB_SERVICE", None)
    import wandb

    def init(mode: Any) -> Any:
        return wandb.init(
            mode=mode,
            project=start["project"],
            group=start["study"],
            job_type=start["arm"],
            tags=[tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag] + start["tags"],
            config=start["config"],
            settings=wandb.Settings(
                # A server that never answers costs the first time-out, which leaves time to start again offline. One
                # that dies later costs an HTTP time-out and the second. In both cases this process ends in time.
                init_timeout=start["timeout"] / 3,
                finish_timeout=start["timeout"] / 2,
                finish_timeout_raises=True,
                git_commit=commit_of(start["code"]),
                # This much is lost to kill -9. The default is 15 s.
                x_transaction_log_flush_interval=0.2,
            ),
        )

    try:
        return init(start["mode"])
    except Exception as error:
        if start["mode"] == "offline":
            raise
        run = init("offline")
        report(
            f"no {start['mode']} run could be opened ({type(error).__name__}: {error}). The run is kept offline; to "
            f"upload it: wandb sync {run.settings.sync_dir}"
        )
        return run


def forward(run: Any, data: bytes) -> bytes:
    """Log the whole lines of `data` and return the rest."""
    *lines, rest = data.split(b"\n")
    for line in lines:
        row = json.loads(line)
        step = row.pop("step")
        # Unless a row is committed, W&B holds it back until the next one.
        run.log({"epoch": step} | {name: float(value) for name, value in row.items()}, step=step, commit=True)
    return rest


def commit_of(folder: str) -> str | None:
    """The git commit of the code in a folder; `None` outside a repository."""
    command = ["git", "-C", folder, "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def record(run: Any, final: dict[str, Any], alias: str) -> None:
    """Log the final values, tables, media and artifacts."""
    import wandb

    run.summary.update(final["summary"])
    shown: dict[str, Any] = {
        name: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        for name, (columns, rows) in final["tables"].items()
    }
    for name, path in final["media"].items():
        if path.endswith((".html", ".svg")):
            content = Path(path).read_text(encoding="utf-8")
            shown[name] = wandb.Html(content, inject=False, data_is_not_path=True)
        else:
            shown[name] = wandb.Image(path)
    if shown:
        run.log(shown)
    for one in sorted(final["artifacts"], key=lambda one: bool(one["used"])):
        artifact = wandb.Artifact(plain(one["name"]), type=one["type"])
        if Path(one["path"]).is_dir():
            artifact.add_reference(Path(one["path"]).as_uri())
        else:
            # Immutable and uncached, so that the file stays where it is instead of being copied twice.
            artifact.add_file(one["path"], policy="immutable", skip_cache=True)
        if one["used"]:
            # What `use_artifact` does, which refuses offline, and online waits for the server.
            run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
        else:
            run.log_artifact(artifact, aliases=["latest", plain(alias)])


def plain(name: str) -> str:
    """A name of the characters that W&B takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def end(run: Any, final: dict[str, Any], alias: str) -> None:
    """Log what is final, and close the run."""
    try:
        record(run, final, alias)
    except Exception as error:
        report(
            f"a final table, picture or artifact could not be logged, nor those after it ({type(error).__name__}: "
            f"{error})."
        )
    try:
        run.finish(exit_code=final["exit_code"])
    except TimeoutError:
        report(
            "the server did not accept everything in time. To upload the rest: "
            f"wandb sync {run.settings.sync_dir}"
        )


def last_line(pipe: io.FileIO) -> bytes:
    """What is written before a line ends, or the pipe: processes that the writer has forked may hold it open."""
    read = b""
    while not read.endswith(b"\n") and (part := pipe.read(1 << 16)):
        read += part
    return read


def main(start: dict[str, Any]) -> None:
    """Follow the run described by `start` from its first line to its end."""
    ended: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Unbuffered, because a daemon thread inside a buffered read aborts the interpreter's shutdown.
    threading.Thread(target=lambda: ended.put(last_line(io.FileIO(0, closefd=False))), daemon=True).start()
    run = open_run(start)
    message, rest = None, b""
    with open(start["metrics"], "rb") as lines:
        lines.seek(start["offset"])
        while message is None:
            with contextlib.suppress(queue.Empty):
                message = ended.get(timeout=POLL_SECONDS)
            rest = forward(run, rest + lines.read())
    died = {"exit_code": 1, "summary": {}, "tables": {}, "media": {}, "artifacts": []}
    end(run, json.loads(message) if message else died, Path(start["directory"]).name)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    request = json.loads(path.read_text())
    path.unlink()
    try:
        main(request)
    except Exception as error:
        report(f"{type(error).__name__}: {error}")
        sys.exit(1)

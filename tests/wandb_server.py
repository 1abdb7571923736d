"""A local stand-in for the W&B server, which takes runs, files, artifacts and sweeps."""

import gzip
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


class WandbServer:
    """A server on a free local port, which runs until it is stopped; a context manager.

    Attributes:
        url: for WANDB_BASE_URL.
        runs: run id -> the variables that it was created with.
        histories: run id -> its rows, in the order of their arrival.
        summaries: run id -> its last summary.
        exit_codes: run id -> exit code, of the runs that were closed.
        artifacts: collection name -> type, state and file names.
        versions: id of a version -> "collection", "digest", "aliases", "made_by" (run id) and "used_by" (run ids); one
            with the digest of another is that one.
        files: upload path -> content.
        sweeps: sweep id -> its config, as YAML.
        runs_of_sweeps: run id -> sweep id, of the runs that said so.
        unknown: requests that it could not answer.
        streaming: set when a run has begun to stream; from then on W&B sends rows every 15 s.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.histories: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.exit_codes: dict[str, int] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, str] = {}
        self.runs_of_sweeps: dict[str, str] = {}
        self._trials: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.unknown: list[str] = []
        self.streaming = threading.Event()
        self._http = _HttpServer(("127.0.0.1", 0), _Handler)
        self._http.wandb = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop serving and cut every connection. A second call does nothing."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.cut()
            self._http.server_close()

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of the only run."""
        (rows,) = self.histories.values()
        return rows

    @property
    def summary(self) -> dict[str, Any]:
        """The last summary of the only run."""
        (summary,) = self.summaries.values()
        return summary

    @property
    def exit_code(self) -> int:
        """The exit code of the only run."""
        (exit_code,) = self.exit_codes.values()
        return exit_code

    def config(self, run: str) -> dict[str, Any]:
        """The config of a run."""
        return {
            name: one["value"]
            for name, one in json.loads(self.runs[run]["config"]).items()
            if name != "_wandb"
        }

    def command(self, line: str, *, home: Path, cwd: Path | None = None) -> str:
        """Run a command of W&B that talks to this server, as a shell would; returns what it printed."""
        variables = {
            "HOME": str(home),
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "k" * 40,
            "WANDB_ERROR_REPORTING": "false",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            f"wandb {line}",
            shell=True,
            cwd=cwd or home,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def stream(self, run: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one file_stream request."""
        files = request.get("files") or {}
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.histories.setdefault(run, []).append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summaries[run] = json.loads(line)
        if request.get("complete"):
            self.exit_codes[run] = request["exitcode"]
        self.streaming.set()
        return {}

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one GraphQL request."""
        name = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        answer = getattr(self, f"_answer_{name}", None)
        if answer is None:
            self.unknown.append(name)
            return {"data": None, "errors": [{"message": f"stand-in: {name} is unknown"}]}
        return {"data": answer(request.get("variables") or {})}

    def _answer_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u", "entity": "me", "username": "me", "email": "me@example.com", "flags": "{}"}
        return {"viewer": {**viewer, "name": "me", "admin": False, "teams": {"edges": []}}}

    def _answer_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _answer_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["name"]
        inserted = run not in self.runs
        # The run is sent again at its end, with the changes.
        self.runs[run] = self.runs.get(run, {}) | {k: v for k, v in variables.items() if v is not None}
        if variables.get("sweep"):
            self.runs_of_sweeps[run] = variables["sweep"]
        bucket = {
            "id": run,
            "name": run,
            "displayName": run,
            "description": "",
            "config": variables.get("config") or "{}",
            "sweepName": None,
            "project": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}},
            "historyLineCount": 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _answer_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": self._upload(name)} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _answer_ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}

    def _answer_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = variables["input"]
        name, digest = artifact["artifactCollectionName"], artifact["digest"]
        known = self.artifacts.setdefault(
            name, {"type": artifact["artifactTypeName"], "state": "PENDING", "files": []}
        )
        # Of equal content there is one version.
        found = [
            id for id, one in self.versions.items() if (one["collection"], one["digest"]) == (name, digest)
        ]
        version = found[0] if found else f"{name}:v{len(self.versions)}"
        new = {"collection": name, "digest": digest, "aliases": set(), "made_by": None, "used_by": set()}
        one = self.versions.setdefault(version, new)
        one["made_by"] = one["made_by"] or artifact["runName"]
        one["aliases"] |= {alias["alias"] for alias in artifact.get("aliases") or []}
        state = known["state"] if found else "PENDING"
        created = {"id": version, "state": state, "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": created}}

    def _answer_UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        used = variables["input"]
        self.versions[used["artifactID"]]["used_by"].add(used["runName"])
        return {"useArtifact": {"artifact": {"id": used["artifactID"]}}}

    def _answer_UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        import yaml

        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = variables["config"]
        parameters = {
            key: one["values"] for key, one in yaml.safe_load(variables["config"])["parameters"].items()
        }
        self._trials = [
            {"type": "run", "run_id": f"trial{number}", "program": None, "args": args}
            for number, values in enumerate(itertools.product(*parameters.values()))
            for args in [{key: {"value": one} for key, one in zip(parameters, values, strict=True)}]
        ]
        return {"upsertSweep": {"sweep": {"name": name, "project": _PROJECT}, "configValidationWarnings": []}}

    def _answer_SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        found = {"id": "s", "name": variables["sweep"], "config": self.sweeps[variables["sweep"]]}
        return {"project": {"sweep": {**found, "runs": {"edges": []}}}}

    def _answer_CreateAgent(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": "a"}}}

    def _answer_Heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        if json.loads(variables["runState"]):  # one at a time
            commands = []
        else:
            commands = [self._trials.pop(0)] if self._trials else [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}

    def _answer_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["artifactID"]
        file = {"id": "f", "uploadUrl": self._upload(f"{name}/manifest"), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    _answer_UpdateArtifactManifest = _answer_CreateArtifactManifest

    def _answer_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            collection = self.versions[file["artifactID"]]["collection"]
            self.artifacts[collection]["files"].append(file["name"])
            path = f"{file['artifactID']}/{file['name']}"
            node = {
                "storagePath": path,
                "uploadUrl": self._upload(path),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _answer_CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["artifactID"]
        self.artifacts[self.versions[name]["collection"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": name, "digest": "d"}}}

    def _upload(self, path: str) -> str:
        return f"{self.url}/upload/{path}"


_PROJECT = {"id": "p", "name": "distill", "entity": {"id": "e", "name": "me"}}


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    wandb: WandbServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client closed it first

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not report connections that were cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            self._reply(self.server.wandb.graphql(json.loads(body)))
        elif self.path.endswith("/file_stream"):
            self._reply(self.server.wandb.stream(self.path.split("/")[-2], json.loads(body)))
        else:
            self.server.wandb.unknown.append(self.path)
            self._reply({}, 404)

    def do_PUT(self) -> None:
        self.server.wandb.files[self.path.removeprefix("/upload/")] = self._body()
        self._reply({})

    def log_message(self, *_: object) -> None:
        """Do not write to the output of the tests."""

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

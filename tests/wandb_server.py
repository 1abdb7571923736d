"""A local stand-in for the W&B server, which takes the runs, files and artifacts of one client."""

import gzip
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class WandbServer:
    """A server on a free local port, which runs until it is stopped; a context manager.

    Attributes:
        url: for WANDB_BASE_URL.
        runs: run id -> the variables that it was created with.
        history: rows, in the order of their arrival.
        summary: the last summary.
        exit_code: exit code of the run that was closed last.
        artifacts: collection name -> type, state and file names.
        files: upload path -> content.
        unknown: requests that it could not answer.
        streaming: set when a run has begun to stream; from then on W&B sends rows every 15 s.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None
        self.artifacts: dict[str, dict[str, Any]] = {}
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

    def stream(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one file_stream request."""
        files = request.get("files") or {}
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.history.append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary = json.loads(line)
        if request.get("complete"):
            self.exit_code = request["exitcode"]
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
        name = artifact["artifactCollectionName"]
        self.artifacts[name] = {"type": artifact["artifactTypeName"], "state": "PENDING", "files": []}
        created = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": created}}

    def _answer_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["artifactID"]
        file = {"id": "f", "uploadUrl": self._upload(f"{name}/manifest"), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    _answer_UpdateArtifactManifest = _answer_CreateArtifactManifest

    def _answer_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            self.artifacts[file["artifactID"]]["files"].append(file["name"])
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
        self.artifacts[name]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": name, "digest": "d"}}}

    def _upload(self, path: str) -> str:
        return f"{self.url}/upload/{path}"


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
            self._reply(self.server.wandb.stream(json.loads(body)))
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

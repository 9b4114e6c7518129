"""A tracking server as MLflow's client sees one, in this process: it can be slow, and it can refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"


@dataclass(kw_only=True)
class Received:
    """What a server was sent, and how it behaves."""

    status: int = 200
    may_answer: threading.Event = field(default_factory=threading.Event)
    """Requests wait for it."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    """Name, value and step."""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    run_id: str = ""
    """Another one for each server: mlflow remembers by run where its files go."""

    def last(self, name: str) -> float:
        """Return the last value of a metric."""
        return [value for key, value, _ in self.metrics if key == name][-1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    received: Received


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Describe the run, which is how a client learns where files go."""
        begun = self._begin()
        if begun is None:
            return
        info = {
            "run_id": self.server.received.run_id,
            "run_uuid": self.server.received.run_id,
            "experiment_id": "0",
            "status": "RUNNING",
            "start_time": 1,
            "lifecycle_stage": "active",
            "artifact_uri": "mlflow-artifacts:/0/run/artifacts",
        }
        is_known = begun[0] == f"{API}/runs/get"
        self._answer({"run": {"info": info, "data": {}}} if is_known else {}, status=200 if is_known else 404)

    def do_POST(self) -> None:
        """Take parameters, tags and metrics."""
        begun = self._begin()
        if begun is None:
            return
        batch: dict[str, Any] = json.loads(begun[1])
        if begun[0] != f"{API}/runs/log-batch" or batch["run_id"] != self.server.received.run_id:
            self._answer({}, status=404)
            return
        received = self.server.received
        params = {item["key"]: item["value"] for item in batch.get("params", ())}
        changed = [key for key, value in params.items() if received.params.get(key, value) != value]
        if changed:
            self._answer({"error_code": "INVALID_PARAMETER_VALUE", "message": f"Changing {changed}"}, status=400)
            return
        received.params |= params
        received.tags |= {item["key"]: item["value"] for item in batch.get("tags", ())}
        received.metrics += [
            (item["key"], float(item["value"]), int(item.get("step", 0))) for item in batch.get("metrics", ())
        ]
        self._answer({})

    def do_PUT(self) -> None:
        """Take a file."""
        begun = self._begin()
        if begun is not None:
            self.server.received.artifacts[begun[0].removeprefix(ARTIFACTS)] = begun[1]
            self._answer({})

    def _begin(self) -> tuple[str, bytes] | None:
        """Return path and body of a request, ``None`` when it was refused."""
        received, path = self.server.received, urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        received.requests.append(f"{self.command} {path}")
        received.may_answer.wait()
        if received.status != 200:
            self._answer({"error_code": "INTERNAL_ERROR", "message": "no"}, status=received.status)
            return None
        return path, body

    def _answer(self, document: object, *, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@contextmanager
def tracking_server(*, status: int = 200, is_hanging: bool = False) -> Iterator[Received]:
    """A server on this machine; it answers at once unless told otherwise."""
    received = Received(status=status)
    if not is_hanging:
        received.may_answer.set()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.received = received
    received.run_id = f"r{server.server_port}"
    received.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield received
    finally:
        received.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()

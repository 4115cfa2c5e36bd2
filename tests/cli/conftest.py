"""A stand-in for the admin API, and a home that points at it."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from outpace.cli.app import app_for
from outpace.cli.credentials import Credentials
from outpace.values.home import Home

ADMIN_KEY = "sk-outpace-admin"


class FakeAdmin:
    """Answers what a test put into `answers`, by method and path; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(admin: FakeAdmin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            """`do_GET` and its like: all methods are answered alike."""
            if name.startswith("do_"):
                return self._answer
            raise AttributeError(name)

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            admin.asked.append((self.command, self.path, json.loads(raw) if raw else None))
            status, body = admin.answers.get((self.command, self.path), (404, _refused("no such path")))
            if self.headers["Authorization"] != f"Bearer {ADMIN_KEY}":
                status, body = 401, _refused("Invalid API key.")
            encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    return Handler


def _refused(message: str) -> dict[str, Any]:
    return {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}
    }


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    fake = FakeAdmin()
    yield fake
    fake.close()


@pytest.fixture
def home(tmp_path: Path, admin: FakeAdmin) -> Home:
    """A home whose credentials point at the stand-in."""
    place = Home(tmp_path / "home")
    place.make()
    credentials = Credentials(
        base_url="http://127.0.0.1:1/v1", admin_url=admin.url, api_key="sk-outpace-own", admin_key=ADMIN_KEY
    )
    place.credentials.write_bytes(msgspec.json.encode(credentials))
    return place


@pytest.fixture
def outpace(home: Home) -> Callable[..., Result]:
    """Run a command in this process against that home."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(app_for(list(words)), [*words, "--home", str(home.root)])

    return run


def deployment(name: str = "chat", state: str = "ready", **fields: Any) -> dict[str, Any]:
    """A deployment as the admin API tells it."""
    replica = {
        "id": f"{name}-1",
        "state": state,
        "pid": 7,
        "machine": None,
        "reason": None,
        "load_s": 0.91,
        "restarts": 0,
    }
    return {
        "name": name,
        "model": "smollm2-135m-instruct",
        "engine": "llamacpp",
        "state": state,
        "reason": None,
        "precision": "q4_1",
        "price": {"input_usd_per_mtok": "0.01", "output_usd_per_mtok": "0.02"},
        "spec": {},
        "replicas": [replica],
        "desired": 1,
        "created_at": 1_800_000_000.0,
    } | fields


def status(*deployments: dict[str, Any]) -> dict[str, Any]:
    """An answer of `GET /admin/status`."""
    workers = [{"name": "gateway-0", "pid": 5, "started_at": 1_800_000_000.0, "restarts": 0}]
    return {
        "version": "0.1.0",
        "started_at": 1_800_000_000.0,
        "workers": workers,
        "deployments": list(deployments),
        "machines": [],
    }

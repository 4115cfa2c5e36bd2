"""Control as the platform runs it: its own process under a supervisor, asked through the admin door."""

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fleet.launching import is_running, launch, supervisor, wait_until

from outpace.control.keys import new_secret
from outpace.fleet.supervisor import Program
from outpace.settings import Settings
from outpace.values import snapshot as snapshots
from outpace.values.home import Home


class Door:
    """The admin door of one home, and its keys."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.api_key, self.admin_key = new_secret(), new_secret()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        home.make()
        home.credentials.write_text(json.dumps({"api_key": self.api_key, "admin_key": self.admin_key}))
        self.settings_path = home.run / "settings.json"
        settings = Settings(home=str(home.root), admin_port=self.port)
        self.settings_path.write_bytes(msgspec.json.encode(settings))

    @property
    def program(self) -> Program:
        """Control's command."""
        argv = (sys.executable, "-m", "outpace.compose", "control", str(self.settings_path))
        return Program(name="control", argv=argv, grace_s=10.0)

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON (or text) of a raw call."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            raw = response.read()
            is_json = (response.headers["content-type"] or "").startswith("application/json")
            return response.status, json.loads(raw) if is_json else raw.decode()

    def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and answer of a call with the admin key."""
        body = None if document is None else json.dumps(document).encode()
        return self.send(method, path, body, {"Authorization": f"Bearer {self.admin_key}"})

    def status(self) -> dict[str, Any]:
        """The status page."""
        code, answer = self.ask("GET", "/admin/status")
        assert code == 200
        return dict(answer)

    def deployment(self, name: str) -> dict[str, Any]:
        """One deployment of it."""
        return next(one for one in self.status()["deployments"] if one["name"] == name)

    def is_open(self) -> bool:
        """Somebody answers."""
        try:
            return self.send("GET", "/healthz")[0] == 200
        except OSError:
            return False

    def wait_ready(self, name: str) -> dict[str, Any]:
        """The deployment once it is ready."""
        wait_until(lambda: self.deployment(name)["state"] == "ready", 40.0)
        return self.deployment(name)

    def pid(self, name: str) -> int:
        """Of a program."""
        return int(next(one["pid"] for one in self.status()["workers"] if one["name"] == name))


@contextmanager
def _platform(home: Home) -> Iterator[tuple[Door, "subprocess.Popen[str]"]]:
    door = Door(home)
    with supervisor(home, door.program) as process:
        wait_until(door.is_open, 40.0)
        yield door, process


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with _platform(Home(tmp_path_factory.mktemp("control") / "home")) as (opened, _):
        yield opened


@pytest.fixture(scope="module")
def chat(door: Door) -> str:
    """A ready deployment."""
    code, answer = door.ask("POST", "/admin/deployments", {"name": "chat", "model": "echo", "price": "free"})
    assert code == 201, answer
    door.wait_ready("chat")
    return "chat"


def test_kill_9_of_control_leaves_the_replica_serving_and_adopted(door: Door, chat: str) -> None:
    before = door.deployment(chat)["replicas"][0]
    control = door.pid("control")
    os.kill(control, signal.SIGKILL)
    wait_until(lambda: not is_running(control))
    wait_until(door.is_open, 40.0)
    after = door.deployment(chat)
    assert door.pid("control") != control
    assert after["state"] == "ready"
    assert (after["replicas"][0]["pid"], after["replicas"][0]["restarts"]) == (before["pid"], 0)
    entry = snapshots.decode(door.home.snapshot.read_bytes()).deployments[chat]
    assert [replica.id for replica in entry.replicas] == [before["id"]]


def test_a_locked_database_delays_changes_only(door: Door, chat: str) -> None:
    pid = door.deployment(chat)["replicas"][0]["pid"]
    with closing(sqlite3.connect(door.home.database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, refused = door.ask("POST", "/admin/keys", {"name": "late"})
        assert (code, refused["error"]["code"]) == (503, "overloaded")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: door.deployment(chat)["replicas"][0]["pid"] not in (pid, None))
        door.wait_ready(chat)
        assert door.ask("GET", "/admin/usage")[0] == 200
        other.execute("ROLLBACK")
    assert door.ask("POST", "/admin/keys", {"name": "late"})[0] == 201


def test_keys_are_shown_once_reach_the_gateway_and_leave_it(door: Door) -> None:
    code, made = door.ask(
        "POST", "/admin/keys", {"name": "team", "budget_usd": 5, "models": ["chat"], "rpm": 60}
    )
    assert (code, made["budget_usd"], made["models"], made["rpm"]) == (201, "5", ["chat"], 60)

    def known() -> list[str]:
        return [key.id for key in snapshots.decode(door.home.snapshot.read_bytes()).keys.values()]

    wait_until(lambda: made["id"] in known())
    listed = next(key for key in door.ask("GET", "/admin/keys")[1] if key["id"] == made["id"])
    assert "key" not in listed
    assert (listed["spent_usd"], listed["reserved_usd"], listed["revoked_at"]) == ("0", "0", None)
    code, revoked = door.ask("DELETE", f"/admin/keys/{made['id']}")
    assert code == 200
    assert revoked["revoked_at"] is not None
    wait_until(lambda: made["id"] not in known())
    for file in door.home.root.rglob("*"):
        if file.is_file() and file != door.home.credentials:
            content = file.read_bytes()
            assert made["key"].encode() not in content, file
            assert door.admin_key.encode() not in content, file


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer ' OR 1=1 --"},
        {"Authorization": "Bearer %s%n" + "x" * 4000},
        {"Authorization": "Bearer op-" + "x" * 43},
        {"x-api-key": "op-" + "x" * 43},
    ],
)
@pytest.mark.parametrize(
    "path", ["/admin/status", "/admin/openapi.json", "/nowhere", "/admin/../healthz", "//healthz"]
)
def test_without_a_valid_admin_key_nothing_opens(door: Door, headers: dict[str, str], path: str) -> None:
    code, refused = door.send("GET", path, headers=headers)
    # 429: many wrong keys from one address in a short time.
    assert (code, refused["error"]["code"]) in ((401, "invalid_api_key"), (429, "rate_limit_exceeded"))
    assert door.ask("GET", "/admin/status")[0] == 200


def test_guessing_is_slowed_down_and_right_keys_are_not(door: Door) -> None:
    headers = {"Authorization": "Bearer op-" + "y" * 43}
    codes = [door.send("GET", "/admin/keys", headers=headers)[0] for _ in range(60)]
    assert codes[-1] == 429
    assert door.ask("GET", "/admin/keys")[0] == 200


def test_an_inference_key_is_no_admin_key(door: Door) -> None:
    code, refused = door.send("GET", "/admin/keys", headers={"Authorization": f"Bearer {door.api_key}"})
    assert (code, refused["error"]["type"]) == (403, "permission_error")


def test_a_page_of_the_web_cannot_reach_a_loopback_door_under_its_own_name(door: Door) -> None:
    for host in ("evil.example", f"evil.example:{door.port}", "127.0.0.1.evil.example"):
        assert door.send("GET", "/healthz", headers={"Host": host})[0] == 400
    code, _ = door.send("GET", "/healthz", headers={"Host": f"localhost:{door.port}"})
    assert code == 200


@pytest.mark.parametrize(
    ("method", "path", "document", "code", "error_code", "param"),
    [
        ("GET", "/admin/nope", None, 404, "not_found", None),
        ("GET", "/admin/status/", None, 404, "not_found", None),
        ("POST", "/admin/status", {}, 405, "method_not_allowed", None),
        ("POST", "/admin/deployments", [], 400, "invalid_value", None),
        (
            "POST",
            "/admin/deployments",
            {"name": "x", "model": "no-such-model"},
            404,
            "model_not_found",
            "model",
        ),
        (
            "POST",
            "/admin/deployments",
            {"name": "x", "model": "echo", "replica": 2},
            400,
            "invalid_value",
            "replica",
        ),
        (
            "POST",
            "/admin/deployments",
            {"name": "x", "model": "echo", "engine": "warp"},
            400,
            "invalid_value",
            "engine",
        ),
        (
            "POST",
            "/admin/deployments",
            {"name": "x", "model": "echo", "engine_settings": {"turbo": True}},
            400,
            "invalid_value",
            "engine_settings.turbo",
        ),
        ("POST", "/admin/deployments", {"name": "chat", "model": "echo"}, 409, "conflict", None),
        ("PUT", "/admin/deployments/nobody", {"model": "echo"}, 404, "model_not_found", "model"),
        ("PUT", "/admin/deployments/chat", {"name": "other", "model": "echo"}, 400, "invalid_value", "name"),
        ("PATCH", "/admin/deployments/chat", {"replicas": 0}, 400, "invalid_value", "replicas"),
        ("PATCH", "/admin/deployments/chat", {"replicas": True}, 400, "invalid_value", "replicas"),
        ("PATCH", "/admin/deployments/chat", {"replicas": 1, "price": 0}, 400, "invalid_value", "price"),
        ("PATCH", "/admin/deployments/nobody", {"replicas": 1}, 404, "model_not_found", "model"),
        ("DELETE", "/admin/deployments/nobody", None, 404, "model_not_found", "model"),
        ("POST", "/admin/keys", {"name": "k", "role": "admin"}, 400, "invalid_value", "role"),
        ("DELETE", "/admin/keys/key_x", None, 404, "not_found", None),
        ("GET", "/admin/usage?since=yesterday", None, 400, "invalid_value", "since"),
        ("GET", "/admin/usage?since=nan", None, 400, "invalid_value", "since"),
        ("GET", "/admin/receipts?limit=0", None, 400, "invalid_value", "limit"),
        ("GET", "/admin/receipts/req-x", None, 404, "not_found", None),
        ("GET", "/admin/logs", None, 400, "invalid_value", "name"),
        ("GET", "/admin/logs?name=..%2F..%2Fetc%2Fpasswd", None, 404, "not_found", None),
        ("GET", "/admin/logs?name=control&lines=-1", None, 400, "invalid_value", "lines"),
    ],
)
def test_bad_requests_are_refused_by_name_in_the_envelope(
    door: Door,
    chat: str,
    method: str,
    path: str,
    document: object,
    code: int,
    error_code: str,
    param: str | None,
) -> None:
    answered, refused = door.ask(method, path, document)
    assert (answered, refused["error"]["code"], refused["error"]["param"]) == (code, error_code, param)
    assert set(refused["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"name":NaN}', 400),
        (b'{"name":"\xff"}', 400),
        (b"[" * 100_000, 400),
        (b'{"name":"' + b"x" * 200_000 + b'"}', 413),
    ],
)
def test_bodies_that_are_no_json(door: Door, body: bytes, code: int) -> None:
    headers = {"Authorization": f"Bearer {door.admin_key}"}
    answered, refused = door.send("POST", "/admin/keys", body, headers)
    assert answered == code
    assert refused["error"]["type"] == "invalid_request_error"


def test_the_same_deployment_again_is_fine_and_a_change_needs_put(door: Door, chat: str) -> None:
    assert (
        door.ask("POST", "/admin/deployments", {"name": "chat", "model": "echo", "price": "free"})[0] == 201
    )
    price = {"input_usd_per_mtok": "0.25", "output_usd_per_mtok": "1"}
    code, answer = door.ask("PUT", "/admin/deployments/chat", {"model": "echo", "price": price})
    assert (code, answer["price"]["output_usd_per_mtok"]) == (200, "1")
    assert door.ask("PUT", "/admin/deployments/chat", answer["spec"] | {"price": "free"})[0] == 200


def test_scale_and_stop_through_the_door(door: Door) -> None:
    assert door.ask("POST", "/admin/deployments", {"name": "brief", "model": "echo"})[0] == 201
    assert door.ask("PATCH", "/admin/deployments/brief", {"replicas": 2})[1]["desired"] == 2
    wait_until(lambda: [r["state"] for r in door.deployment("brief")["replicas"]] == ["ready", "ready"], 40.0)
    pids = [replica["pid"] for replica in door.deployment("brief")["replicas"]]
    assert door.ask("DELETE", "/admin/deployments/brief") == (200, {"name": "brief", "state": "stopped"})
    assert not any(is_running(pid) for pid in pids)


def test_metrics_have_bounded_labels_and_need_no_key_on_loopback(door: Door, chat: str) -> None:
    code, text = door.send("GET", "/metrics")
    assert code == 200
    assert 'outpace_replicas{deployment="chat",state="ready"} 1.0' in text
    assert "key_" not in text
    assert "_created" not in text


def test_logs_and_models(door: Door) -> None:
    code, answer = door.ask("GET", "/admin/logs?name=control&lines=5")
    assert code == 200
    assert all(json.loads(line)["event"] for line in answer["lines"])
    assert "echo" in {model["id"] for model in door.ask("GET", "/admin/models")[1]}


def test_control_stays_small(door: Door, chat: str) -> None:
    status = Path(f"/proc/{door.pid('control')}/status").read_text()
    resident_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident_kib < 110 * 1024


def test_deployments_and_keys_survive_a_restart_and_nothing_else_does(tmp_path: Path) -> None:
    door = Door(Home(tmp_path / "home"))
    with supervisor(door.home, door.program) as process:
        wait_until(door.is_open, 40.0)
        door.ask("POST", "/admin/deployments", {"name": "chat", "model": "echo"})
        replica = door.wait_ready("chat")["replicas"][0]["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not is_running(replica)
    with supervisor(door.home, door.program):
        wait_until(door.is_open, 40.0)
        assert door.wait_ready("chat")["replicas"][0]["pid"] != replica
        assert [key["name"] for key in door.ask("GET", "/admin/keys")[1]] == ["owner-admin", "owner"]


def test_a_database_of_a_newer_version_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    door = Door(Home(tmp_path / "home"))
    with closing(sqlite3.connect(door.home.database)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    with launch(door.home, door.program) as process:
        assert process.wait(40) == 1
        assert process.stderr is not None
        assert "control: the database has schema 9999" in process.stderr.read()

"""JOURNEY operating: start, scale, stop, look, break, and take down; nothing is ever left behind."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from openai import NotFoundError
from tests.journeys.conftest import CHAT, Platform, free_ports, until

EXTERNAL = """
name: mock
engine: external
external: {{base_url: "http://127.0.0.1:{port}/v1", model: m}}
price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
"""


def test_status_shows_what_runs(platform: Platform) -> None:
    status = platform.json("status")
    chat = next(deployment for deployment in status["deployments"] if deployment["name"] == CHAT)
    assert chat["state"] == "ready"
    assert chat["replicas"][0]["pid"] in platform.processes()
    assert {worker["name"] for worker in status["workers"]} >= {"control", "gateway-0"}
    assert CHAT in platform.run("status")


def test_the_logs_hold_no_prompt(platform: Platform) -> None:
    with platform.client() as client:
        client.completions.create(model=CHAT, prompt="a secret called xyzzy", max_tokens=1)
    names = platform.json("logs")
    assert {"control", "gateway-0", "supervisor"} <= set(names)
    for name in names:
        assert "xyzzy" not in platform.run("logs", name, "--lines", "100000")


def test_scale_there_and_back(other: Platform) -> None:
    other.up("--model", "echo")
    scaled = other.json("scale", "echo", "2")
    assert [replica["state"] for replica in scaled["replicas"]] == ["ready", "ready"]
    replicas = other.json("scale", "echo", "1")["replicas"]
    assert [replica["state"] for replica in replicas].count("ready") == 1
    assert other.run("scale", "nobody", "2", exit_code=1).count("\n") == 1


def test_stop_then_deploy_again(other: Platform) -> None:
    other.up("--model", "echo")
    assert other.json("stop", "echo")["name"] == "echo"
    with other.client() as client:
        until(lambda: "echo" not in {model.id for model in client.models.list()}, deadline_s=5.0)
        with pytest.raises(NotFoundError):
            client.completions.create(model="echo", prompt="hi", max_tokens=1)
        assert other.json("deploy", "echo", "--yes")["state"] == "ready"
        assert client.completions.create(model="echo", prompt="hi", max_tokens=1).choices


def test_a_deployment_file_with_a_typo_is_refused_by_name(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "mock.yaml"
    path.write_text(EXTERNAL.format(port=9) + "replica: 2\n")
    assert "replica" in platform.run("deploy", str(path), exit_code=1)


def test_deployments_and_keys_survive_a_restart(other: Platform) -> None:
    other.up("--model", "echo")
    made = other.json("keys", "create", "--name", "lasting")
    other.run("down")
    assert other.processes() == []
    assert "outpace up" in other.run("status", exit_code=1)
    other.up("--model", "none")
    until(lambda: [one["state"] for one in other.json("status")["deployments"]] == ["ready"])
    with other.client(made["key"]) as client:
        until(lambda: "echo" in {model.id for model in client.models.list()}, deadline_s=5.0)
        assert client.completions.create(model="echo", prompt="hi", max_tokens=1).choices


def test_a_second_start_here_is_refused(platform: Platform) -> None:
    said = platform.run("up", "--model", "none", "--port", "1", exit_code=1)
    assert "outpace down" in said
    assert platform.json("status")["deployments"]


def test_a_taken_port_is_refused_and_leaves_nothing(platform: Platform, other: Platform) -> None:
    said = other.run(
        "up",
        "--model",
        "none",
        "--port",
        str(platform.port),
        "--admin-port",
        str(free_ports(1)[0]),
        exit_code=1,
    )
    assert f"port {platform.port} is in use" in said
    assert other.processes() == []


def test_an_unknown_model_names_near_ones_and_leaves_nothing(other: Platform) -> None:
    said = other.run("up", "--model", "smollm2-135m", *other.ports, exit_code=1)
    assert "smollm2-135m-instruct" in said
    assert other.processes() == []


def test_a_gguf_that_is_none_is_refused_before_an_engine_opens_it(other: Platform, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    assert "broken.gguf" in other.run("up", "--model", str(path), *other.ports, exit_code=1)
    assert other.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_ends_gracefully_with_exit_0(other: Platform, number: signal.Signals) -> None:
    with foreground(other) as front:
        read_ready_line(front)
        assert len(other.processes()) >= 3
        front.send_signal(number)
        assert front.wait(timeout=60) == 0
    assert other.processes() == []


@pytest.mark.parametrize("victim", ["front", "supervisor"])
def test_kill_9_of_the_front_or_the_supervisor_leaves_no_orphan(other: Platform, victim: str) -> None:
    with foreground(other) as front:
        read_ready_line(front)
        pid = front.pid if victim == "front" else supervisor_pid(front.pid)
        os.kill(pid, signal.SIGKILL)
        assert front.wait(timeout=60) != 0
        until(lambda: other.processes() == [], deadline_s=10.0)


def test_control_may_die_while_answers_go_on(other: Platform) -> None:
    other.up("--model", "echo")
    control = next(worker for worker in other.json("status")["workers"] if worker["name"] == "control")
    os.kill(control["pid"], signal.SIGKILL)
    with other.client() as client:
        assert client.completions.create(model="echo", prompt="hi", max_tokens=1).choices
    replicas = {replica["pid"] for replica in replicas_of(other)}
    until(lambda: has_new_control(other, control["pid"]))
    assert {replica["pid"] for replica in replicas_of(other)} == replicas


def foreground(platform: Platform) -> subprocess.Popen[str]:
    """`outpace up` as a person runs it."""
    return subprocess.Popen(
        platform.command("up", "--model", "echo", *platform.ports),
        stdout=subprocess.PIPE,
        text=True,
        env=platform.env,
    )


def read_ready_line(front: subprocess.Popen[str]) -> str:
    """The line that says where it answers."""
    assert front.stdout is not None
    for line in front.stdout:
        if line.startswith("ready http"):
            return line
    raise AssertionError(f"it ended with {front.wait()} before it was ready")


def supervisor_pid(front_pid: int) -> int:
    """The front's only child."""
    children = Path(f"/proc/{front_pid}/task/{front_pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def replicas_of(platform: Platform) -> list[dict[str, int]]:
    """Replicas of all deployments, once control answers."""
    until(lambda: answers(platform))
    return [replica for one in platform.json("status")["deployments"] for replica in one["replicas"]]


def has_new_control(platform: Platform, old_pid: int) -> bool:
    """Control answers again, as another process."""
    if not answers(platform):
        return False
    workers = platform.json("status")["workers"]
    return any(worker["name"] == "control" and worker["pid"] not in (0, old_pid) for worker in workers)


def answers(platform: Platform) -> bool:
    """The admin door is open."""
    ran = subprocess.run(
        platform.command("status", "--json"), capture_output=True, env=platform.env, check=False, timeout=60
    )
    return ran.returncode == 0

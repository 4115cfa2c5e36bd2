"""Each command against the stand-in: what it asks of the admin API, and what it prints."""

import json
from collections.abc import Callable

import pytest
from tests.cli.conftest import FakeAdmin, deployment, status
from typer.testing import Result

from outpace.values.errors import EngineFailed, InvalidInput
from outpace.values.home import Home
from outpace.values.snapshot import DeploymentEntry, ReplicaEntry, Snapshot, encode

Outpace = Callable[..., Result]

USAGE = {
    "key_id": "key_1",
    "key_name": "search-team",
    "model": "chat",
    "requests": 1234,
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "cached_tokens": 0,
    "units": {},
    "cost_usd": "0.0000005",
}


def test_status_names_state_replicas_price_and_reason(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["GET", "/admin/status"] = 200, status(deployment(state="failed", reason="[disk] full"))
    ran = outpace("status")
    assert ran.exit_code == 0
    for told in ("chat", "failed", "0/1", "0.01 / 0.02", "[disk] full", "gateway-0"):
        assert told in ran.output
    assert "\x1b" not in ran.output
    assert json.loads(outpace("status", "--json").output)["deployments"][0]["reason"] == "[disk] full"


def test_status_says_who_counts_and_why(admin: FakeAdmin, outpace: Outpace) -> None:
    scaling = {
        "by": "load",
        "min": 0,
        "max": 4,
        "reason": "no request for 600 s",
        "changed_at": 1.0,
        "objective_attained": 0.975,
        "objective_answers": 40,
        "starts_last_hour": 3,
    }
    asleep = deployment(state="sleeping", replicas=[], desired=0, scaling=scaling)
    fixed = deployment("fixed", scaling=scaling | {"min": 1, "max": 1, "reason": "as deployed"})
    admin.answers["GET", "/admin/status"] = 200, status(asleep, fixed)
    said = outpace("status").output
    for told in ("sleeping", "0 and 4", "98 % of 40", "no request for 600 s"):
        assert told in said
    assert "as deployed" not in said


def test_deploy_takes_a_number_or_bounds(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["GET", "/admin/status"] = 200, status()
    admin.answers["POST", "/admin/deployments"] = 201, deployment("echo")
    said = outpace("deploy", "echo", "--replicas", "0-4", "--no-wait", "--yes").output
    assert "replicas 0 to 4 by load, asleep after 600 s without a request" in said
    outpace("deploy", "echo", "--replicas", "2", "--no-wait", "--yes")
    sent = [asked[2]["replicas"] for asked in admin.asked if asked[2]]
    assert sent == [{"min": 0, "max": 4}, {"min": 2, "max": 2}]
    for word in ("0", "-1", "a-b", "1-", "two"):
        assert outpace("deploy", "echo", f"--replicas={word}").exit_code == 2


def test_keys_create_sends_only_what_was_given(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["POST", "/admin/keys"] = 201, {"id": "key_1", "key": "sk-outpace-x"}
    ran = outpace(
        "keys",
        "create",
        "--name",
        "n",
        "--budget-usd",
        "0.50",
        "--models",
        "a, b",
        "--expires-in",
        "1d",
        "--json",
    )
    assert json.loads(ran.output) == {"id": "key_1", "key": "sk-outpace-x"}
    sent = {"name": "n", "budget_usd": "0.5", "models": ["a", "b"], "expires_in_s": 86_400}
    assert admin.asked == [("POST", "/admin/keys", sent)]


def test_keys_create_prints_the_key_alone_on_stdout(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["POST", "/admin/keys"] = 201, {"id": "key_1", "key": "sk-outpace-x"}
    assert outpace("keys", "create", "--name", "n").stdout == "sk-outpace-x\n"


@pytest.mark.parametrize("budget", ["-1", "nan", "1e-13", "a lot"])
def test_a_wrong_budget_is_refused_before_anything_is_asked(
    admin: FakeAdmin, outpace: Outpace, budget: str
) -> None:
    ran = outpace("keys", "create", "--name", "n", "--budget-usd", budget)
    assert isinstance(ran.exception, InvalidInput)
    assert "--budget-usd" in str(ran.exception)
    assert admin.asked == []


def test_keys_show_needs_no_running_platform(admin: FakeAdmin, outpace: Outpace) -> None:
    assert outpace("keys", "show").stdout == "sk-outpace-own\n"
    assert admin.asked == []


def test_usage_is_a_table_in_exact_money(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["GET", "/admin/usage?model=chat"] = 200, [USAGE]
    ran = outpace("usage", "--model", "chat")
    assert "1,234" in ran.output
    assert "$0.0000005" in ran.output
    admin.answers["GET", "/admin/usage"] = 200, []
    assert ran.exit_code == 0
    assert outpace("usage").output == "no usage yet\n"


def test_receipts_shows_nested_fields_by_name(admin: FakeAdmin, outpace: Outpace) -> None:
    receipt = {"request_id": "req-1", "usage": {"prompt_tokens": 7}, "cost_usd": None}
    admin.answers["GET", "/admin/receipts/req-1"] = 200, receipt
    lines = outpace("receipts", "req-1").output.splitlines()
    assert [line.split() for line in lines] == [
        ["request_id", "req-1"],
        ["cost_usd", "–"],
        ["usage.prompt_tokens", "7"],
    ]


def test_deploy_shows_the_plan_and_what_it_replaces(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["GET", "/admin/status"] = 200, status()
    admin.answers["POST", "/admin/deployments"] = 201, deployment("mock", state="starting")
    ran = outpace("deploy", "echo", "--name", "mock", "--no-wait")
    assert "deploys    mock → echo" in ran.output
    assert admin.asked[-1] == ("POST", "/admin/deployments", {"name": "mock", "model": "echo"})
    admin.answers["GET", "/admin/status"] = 200, status(deployment("mock", engine="echo"))
    replaced = outpace("deploy", "echo", "--name", "mock", "--replicas", "2", "--no-wait")
    assert "replaces" in replaced.output


def test_scale_waits_until_the_wanted_replicas_answer(
    admin: FakeAdmin, outpace: Outpace, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = DeploymentEntry(
        name="chat",
        model="echo",
        engine_model="echo",
        engine="echo",
        state="ready",
        created=0,
        owned_by="us",
        tasks=("chat",),
        replicas=(ReplicaEntry(id="chat-1", address="unix:/x"),),
    )
    home.snapshot.write_bytes(encode(Snapshot(version=1, written_at=0.0, deployments={"chat": entry})))
    admin.answers["PATCH", "/admin/deployments/chat"] = 200, deployment(desired=1)
    admin.answers["GET", "/admin/status"] = 200, status(deployment(state="starting"))
    waits: list[float] = []

    def waited(duration_s: float) -> None:
        waits.append(duration_s)
        admin.answers["GET", "/admin/status"] = 200, status(deployment())

    monkeypatch.setattr("outpace.cli.ready.sleep_blocking", waited)
    assert outpace("scale", "chat", "1").output == "chat   llamacpp · q4_1 · ready in 0.9 s\n"
    assert len(waits) == 2


def test_deploy_tells_why_it_failed(admin: FakeAdmin, outpace: Outpace) -> None:
    broken = deployment("mock", state="failed", reason="the memory is not enough")
    admin.answers["GET", "/admin/status"] = 200, status(broken)
    admin.answers["PUT", "/admin/deployments/mock"] = 200, broken
    ran = outpace("deploy", "echo", "--name", "mock")
    assert isinstance(ran.exception, EngineFailed)
    assert "the memory is not enough" in str(ran.exception)


def test_one_price_without_the_other_is_wrong_usage(admin: FakeAdmin, outpace: Outpace) -> None:
    assert outpace("deploy", "echo", "--price-in", "1").exit_code == 2
    assert admin.asked == []


def test_scale_and_stop(admin: FakeAdmin, outpace: Outpace) -> None:
    admin.answers["PATCH", "/admin/deployments/chat"] = 200, deployment(desired=2)
    admin.answers["DELETE", "/admin/deployments/chat"] = 200, {"name": "chat", "state": "stopped"}
    assert outpace("scale", "chat", "2", "--no-wait").output == "chat   2 replicas wanted\n"
    assert outpace("stop", "chat").output == "chat stopped\n"
    assert [asked[2] for asked in admin.asked] == [{"replicas": 2}, None]


def test_logs_by_process_and_by_deployment(outpace: Outpace, home: Home) -> None:
    (home.logs / "control.log").write_text("one\ntwo\nthree\n")
    (home.logs / "chat-1.log").write_text("first\n")
    (home.logs / "chat-2.log").write_text("second\n")
    assert outpace("logs", "control", "-n", "2").output == "two\nthree\n"
    assert outpace("logs", "chat").output == "chat-1  first\nchat-2  second\n"
    assert json.loads(outpace("logs", "--json").output) == ["chat-1", "chat-2", "control"]
    assert "there are chat-1, chat-2, control" in str(outpace("logs", "../secret").exception)

"""JOURNEY many users: two real engines behind one name; the second one comes with the load, and nobody notices."""

import threading
import time
from pathlib import Path

import pytest
from openai import OpenAI
from tests.journeys.conftest import CHAT, Platform, until
from tests.weights import made_artifacts

from outpace.cli.spec import spec_of
from outpace.compose import Models
from outpace.hardware.machine import detect, machine_name
from outpace.lab.profiled import conditions_of
from outpace.lab.profiles import ProfileStore
from outpace.values.profile import LoadPoint, Profile

# Well above the load at which the profiles below cross: on a slow machine part of each user's time is the client's.
_USERS = 6
# A proof takes minutes; without it a second variant comes only where the file says that this is no matter.
FILE = {"name": CHAT, "model": CHAT, "allow_unproven": True}


def keep_profile(platform: Platform, engine: str, *speeds: tuple[int, float]) -> None:
    """As if a sweep had found these speeds; a real one takes half a minute for each engine."""
    variant = Models(platform.home).variant(spec_of(FILE), engine)
    made = Profile(
        conditions=conditions_of(variant, machine_name(detect())),
        measured_at=time.time(),
        took_s=1.0,
        load_s=1.0,
        prefill_tokens_per_s=1000.0,
        points=tuple(LoadPoint(users=users, output_tokens_per_s=speed) for users, speed in speeds),
    )
    ProfileStore(platform.home.profiles).keep(made)


class Crowd:
    """So many users who ask one short question after the other."""

    def __init__(self, client: OpenAI) -> None:
        self._client = client
        self._leaves = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._users = [threading.Thread(target=self._ask) for _ in range(_USERS)]

    def __enter__(self) -> "Crowd":
        for user in self._users:
            user.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaves.set()
        for user in self._users:
            user.join()

    def _ask(self) -> None:
        while not self._leaves.is_set():
            try:
                chunks = list(one_answer(self._client))
            except Exception as error:  # noqa: BLE001 (every failure is one too many)
                self.failures.append(repr(error))
                return
            if not any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks):
                self.failures.append("a stream without an end")
            self.answers += 1


def one_answer(client: OpenAI) -> list:  # type: ignore[type-arg]
    return list(
        client.chat.completions.create(
            model=CHAT, messages=[{"role": "user", "content": "Count."}], max_tokens=24, stream=True
        )
    )


# The stages have bounds of their own, which add up to more than the usual limit.
@pytest.mark.timeout(300)
def test_the_second_variant_comes_with_the_load_and_no_request_fails(other: Platform, tmp_path: Path) -> None:
    # Converted weights are kept once per machine.
    other.home.artifacts.mkdir(parents=True)
    (made_artifacts() / "made").mkdir(parents=True, exist_ok=True)
    (other.home.artifacts / "made").symlink_to(made_artifacts() / "made")
    other.up("--model", "none", "--no-profile")
    file = tmp_path / "chat.yaml"
    file.write_text("".join(f"{key}: {str(value).lower()}\n" for key, value in FILE.items()))
    other.run("deploy", str(file), "--yes")
    # Told beforehand, as soon as the weights are here.
    assert "two: llamacpp" in other.run("deploy", str(file), "--yes")
    keep_profile(other, "llamacpp", (1, 100.0), (8, 110.0))
    keep_profile(other, "openvino", (1, 50.0), (2, 90.0), (8, 400.0))

    def chat() -> dict:  # type: ignore[type-arg]
        return next(each for each in other.json("status")["deployments"] if each["name"] == CHAT)

    until(lambda: "users on, at" in (chat()["variants_reason"] or ""))
    with other.client() as client:
        one_answer(client)
        with Crowd(client) as crowd:
            until(lambda: [each["serves"] for each in chat()["variants"]] == [False, True], deadline_s=60.0)
            before = crowd.answers
            until(lambda: crowd.answers >= before + 2 * _USERS, deadline_s=30.0)
        # Alone again, callers get the engine that is faster for one, as soon as the other had its time.
        until(lambda: one_answer(client) and _served_by(other) == "llamacpp", deadline_s=30.0)
        assert crowd.failures == []
    receipts = other.json("receipts", "--limit", "1000")
    assert {receipt["outcome"] for receipt in receipts} == {"completed"}
    assert {receipt["serving"]["variant"].split("/")[0] for receipt in receipts} == {"llamacpp", "openvino"}
    assert (chat()["state"], chat()["desired"], len(chat()["replicas"])) == ("ready", 1, 1)
    assert other.json("stop", CHAT)["state"] == "stopped"


def _served_by(platform: Platform) -> str:
    receipt = platform.json("receipts", "--limit", "1")[0]
    return str(receipt["serving"]["variant"].split("/")[0])

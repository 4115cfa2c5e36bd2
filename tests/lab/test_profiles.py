import fcntl
from pathlib import Path

import msgspec

from outpace.lab.profiles import ProfileStore, alone
from outpace.values.profile import Conditions, LoadPoint, Profile

CONDITIONS = Conditions(
    model="/home/me/own model.gguf",
    artifact_sha256="ab",
    engine="llamacpp",
    engine_version="1",
    machine="zen",
    settings={"parallel": 8},
)
PROFILE = Profile(
    conditions=CONDITIONS,
    measured_at=1.0,
    took_s=9.0,
    load_s=0.5,
    prefill_tokens_per_s=800.0,
    points=(LoadPoint(users=1, output_tokens_per_s=90.0),),
)


def test_a_profile_is_found_again(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    assert store.find(CONDITIONS).reason == "not measured yet"
    store.keep(PROFILE)
    assert store.find(CONDITIONS).profile == PROFILE


def test_one_of_another_machine_is_refused_and_replaced_by_a_new_one(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.keep(PROFILE)
    here = msgspec.structs.replace(CONDITIONS, machine="arm")
    assert "another machine: zen, this is arm" in (store.find(here).reason or "")
    store.keep(msgspec.structs.replace(PROFILE, conditions=here))
    assert store.find(here).profile is not None
    assert len(list(tmp_path.iterdir())) == 1


def test_other_settings_have_a_profile_of_their_own(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.keep(PROFILE)
    other = msgspec.structs.replace(CONDITIONS, settings={"parallel": 16})
    assert store.find(other).reason == "not measured yet"


def test_a_broken_file_is_no_profile(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    store.keep(PROFILE)
    next(tmp_path.iterdir()).write_text("{", encoding="utf-8")
    assert "cannot be read" in (store.find(CONDITIONS).reason or "")


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    def held() -> bool:
        with (tmp_path / "profiles" / ".measuring").open("a") as lock:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with alone(tmp_path / "profiles"):
        assert held()
    assert not held()

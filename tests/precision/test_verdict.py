"""Verdicts are kept by what they hold for."""

from pathlib import Path

import msgspec
from tests.precision.small import subject, verdict

from outpace.precision.verdict import VerdictStore


def test_a_verdict_is_found_for_its_subject_only(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.keep(verdict("pass"))
    assert store.find(subject()) == verdict("pass")
    assert store.find(subject("q8_0")) is None
    assert store.find(subject(kv_precision="q8_0")) is None


def test_a_newer_verdict_replaces_the_older(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.keep(verdict("pass"))
    store.keep(verdict("refuse"))
    assert [kept.outcome for kept in store.all()] == ["refuse"]


def test_a_broken_file_proves_nothing(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.keep(verdict("pass")).write_bytes(b"{")
    assert store.all() == []


def test_verdicts_of_another_machine_or_engine_do_not_count(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.keep(verdict("pass"))
    assert len(store.for_model("tiny", "here", "1")) == 1
    assert store.for_model("tiny", "elsewhere", "1") == []
    assert store.for_model("tiny", "here", "2") == []


def test_verdicts_under_other_limits_do_not_count(tmp_path: Path) -> None:
    store, made = VerdictStore(tmp_path), verdict("pass")
    older = msgspec.structs.replace(made.subject, limits_sha256="d" * 64)
    store.keep(msgspec.structs.replace(made, subject=older))
    assert store.for_model("tiny", "here", "1") == []


def test_the_summary_is_one_line_with_figures() -> None:
    assert verdict("pass").summary == "pass: KL 0.020 (≤ 0.05), top-1 agreement 98.0%, 60 items"

"""The gate's own parts: lock files, and what is shown while they are installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")


def pins(name: str) -> dict[str, tuple[str, int]]:
    """Package → version and number of hashes."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"^(?=[a-z0-9])", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE):
        head = re.match(r"([a-z0-9._-]+)==(\S+)", entry)
        if head:
            found[head[1]] = (head[2], entry.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_hashes_and_no_address(name: str) -> None:
    assert all(hashes > 0 for _, hashes in pins(name).values())
    assert not re.search(r"://|--(extra-)?index-url|--find-links|@ file", (ROOT / name).read_text("utf-8"))


def test_what_is_declared_is_locked_and_both_locks_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert set(map(package, project["project"]["dependencies"])) <= set(runtime)
    assert set(map(package, project["dependency-groups"]["dev"])) <= set(dev)
    assert {name: pin[0] for name, pin in dev.items() if name in runtime} == {
        name: pin[0] for name, pin in runtime.items()
    }


def package(requirement: str) -> str:
    """`huggingface-hub` of `huggingface_hub>=2.4`."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def install(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/installing.py", "requirements.lock", sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_an_installation_that_works_is_told_in_a_line() -> None:
    ran = install("print('Collecting one==1')\nprint('WARNING: noise')")
    assert ran.returncode == 0
    assert "noise" not in ran.stdout + ran.stderr
    assert re.search(r"installed requirements\.lock \(\d+ packages, \d+ s\)", ran.stdout)


def test_an_installation_that_fails_says_all_it_knows() -> None:
    ran = install("import sys\nprint('Collecting one==1')\nsys.exit('ERROR: no such hash')")
    assert ran.returncode == 1
    assert "Collecting one==1" in ran.stderr
    assert "ERROR: no such hash" in ran.stderr

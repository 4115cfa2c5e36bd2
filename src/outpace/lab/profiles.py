"""Profiles on disk: one file per variant under the home's `profiles/`."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from outpace.scheduling.profiles import refusal
from outpace.values.profile import Conditions, Profile


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A profile that holds, or why there is none; both where it is only a part of one."""

    profile: Profile | None = None
    reason: str | None = None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One sweep of an installation at a time, whoever began it: two would measure each other. Waits."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".measuring").open("a") as lock:
        # Ends with the process, whatever becomes of it.
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


class ProfileStore:
    """The profiles of one installation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, conditions: Conditions) -> Found:
        """The profile that holds under these conditions; one of another machine or version is refused by its reason."""
        path = self._path(conditions)
        try:
            profile = msgspec.json.decode(path.read_bytes(), type=Profile)
        except FileNotFoundError:
            return Found(reason="not measured yet")
        except (OSError, msgspec.DecodeError) as error:
            return Found(reason=f"{path.name} cannot be read: {error}; `outpace profile` measures again")
        reason = refusal(profile, conditions)
        return Found(reason=reason) if reason else Found(profile=profile)

    def keep(self, profile: Profile) -> None:
        """Write it whole, in place of an older one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(profile.conditions)
        # Not `write_whole`: control keeps live figures from within its loop, and a lost profile is measured again.
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(profile)))
        part.replace(path)

    def _path(self, conditions: Conditions) -> Path:
        """By what is served, not by machine and version: a new one of those takes the place of the old."""
        named = (conditions.artifact_sha256, conditions.engine, sorted(conditions.settings.items()))
        digest = hashlib.sha256(msgspec.json.encode(named)).hexdigest()[:16]
        model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(conditions.model).name)[:60]
        return self._folder / f"{model}-{conditions.engine}-{digest}.json"

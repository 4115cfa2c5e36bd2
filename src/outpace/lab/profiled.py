"""What is known of a variant here: its profile, and the way of speculation that follows from it or was asked for."""

from functools import cached_property
from pathlib import Path

import msgspec

from outpace.catalogue import ArtifactStore, gguf
from outpace.catalogue.folders import read_folder
from outpace.catalogue.resolve import resolve
from outpace.engines.speculation import (
    DRAFT,
    METHODS,
    OFF,
    SWITCHED,
    require_same_tokens,
    speculation_names,
    speculation_settings,
)
from outpace.hardware.machine import detect, machine_name
from outpace.lab.profiles import Found, ProfileStore
from outpace.scheduling.profiles import is_cut, is_disturbed
from outpace.scheduling.speculation import MANY_USERS, choose_method
from outpace.values.errors import InvalidInput
from outpace.values.profile import Conditions, Profile

Settings = dict[str, str | int | float | bool]
_SHA256_DIGITS = 64
# A sweep has time for one method of speculation, on texts that are copied from and on those that are not.
TRIED = ("ngram",)
TEXTS = ("code", "chat")
PARTIAL = "not all loads and kinds of text are measured yet"
DISTURBED = "other programs were at work when it was measured"
# A machine that is never quiet is measured as it is.
_MOST_TRIES = 3
# Engines that start soon enough for a sweep.
_MEASURED = frozenset({"llamacpp", "openvino"})
# Set by the sweep itself: what it measures does not depend on them.
_SWEEP_OWN = frozenset({"parallel", "context_tokens", "threads"})


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that speculation adds, its method for people (None: off) and why, and the profile behind it."""

    settings: Settings = {}
    method: str | None = None
    reason: str
    found: Found = Found()


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica serves, as far as its speed depends on it; `settings` are all of the engine's."""

    model: str
    artifact_path: str
    engine: str
    engine_version: str | None
    threads: int
    settings: Settings = {}
    is_text: bool = True
    # Where converted weights are kept.
    artifacts_dir: str = ""

    @property
    def is_measurable(self) -> bool:
        """The sweep knows how to measure it."""
        return self.is_text and self.engine in _MEASURED


class Profiled:
    """Profiles of one installation on this machine."""

    def __init__(self, artifacts: Path, profiles: Path) -> None:
        self._artifacts = artifacts
        self.store = ProfileStore(profiles)

    @cached_property
    def _machine(self) -> str:
        return machine_name(detect())

    def find(self, variant: Variant) -> Found:
        """The profile that holds for a variant, or why there is none; neither where nothing can be measured."""
        if not variant.is_measurable:
            return Found()
        found = self.store.find(conditions_of(variant, self._machine))
        if found.profile is not None and is_partial(found.profile):
            return Found(profile=found.profile, reason=PARTIAL)
        if found.profile is not None and is_to_repeat(found.profile):
            return Found(profile=found.profile, reason=DISTURBED)
        return found

    def tune(self, wanted: str, variant: Variant) -> Tuned:
        """The way of speculation that `wanted` means for a variant. Raises InvalidInput by name."""
        found = self.find(variant)
        if wanted == "auto":
            return self._auto(variant, found)
        if wanted in (OFF, "none"):
            return Tuned(reason="off by name", found=found)
        if not variant.is_text:
            raise InvalidInput("speculation", "this model writes no text; leave it `auto`")
        draft = self._draft(wanted, variant) if wanted.startswith(DRAFT) else None
        settings = speculation_settings(variant.engine, wanted, draft)
        return Tuned(settings=settings, method=wanted, reason="asked for by name", found=found)

    def _auto(self, variant: Variant, found: Found) -> Tuned:
        if not variant.is_measurable:
            return Tuned(reason="nothing to guess with here", found=found)
        if found.profile is None:
            return Tuned(reason=f"off: {found.reason}", found=found)
        choice = choose_method(
            found.profile.speculation,
            found.profile.stopped,
            is_switched=variant.engine in SWITCHED,
        )
        if choice.method is None:
            return Tuned(reason=f"off: {choice.reason}", found=found)
        settings = speculation_settings(variant.engine, choice.method)
        return Tuned(settings=settings, method=choice.method, reason=choice.reason, found=found)

    def _draft(self, wanted: str, variant: Variant) -> str:
        """The weights of a draft model with the same tokenizer. Raises InvalidInput, ModelNotFound, WeightsInvalid."""
        name = wanted.removeprefix(DRAFT)
        resolved = resolve(name, "auto", ArtifactStore(self._artifacts))
        if resolved.needs_pull or resolved.artifact_path is None:
            raise InvalidInput(
                "speculation", f"the weights of {name} are not here; `outpace pull {name}` first"
            )
        draft, main = _tokens_of(resolved.artifact_path), _tokens_of(Path(variant.artifact_path))
        require_same_tokens(name, draft, variant.model, main)
        return str(resolved.artifact_path)


def is_to_repeat(known: Profile) -> bool:
    """Worth another sweep at a quieter time."""
    return is_disturbed(known) and known.tries < _MOST_TRIES


def is_partial(known: Profile) -> bool:
    """How many are best at once, or whether to guess, is not known: the time was too short on a slow machine."""
    if is_cut(known.points):
        return True
    if known.conditions.engine not in METHODS:
        return False
    loads = {1} if known.conditions.engine in SWITCHED else {1, MANY_USERS}
    wanted = {(method, users, workload) for method in TRIED for users in loads for workload in TEXTS}
    return not wanted <= {(point.method, point.users, point.workload) for point in known.speculation}


def _tokens_of(weights: Path) -> str:
    return read_folder(weights).tokens_sha256 if weights.is_dir() else gguf.read(weights).tokens_sha256


def conditions_of(variant: Variant, machine: str) -> Conditions:
    """What a profile of a variant holds for: without its way of speculation, because the profile measures that."""
    left_out = speculation_names(variant.engine) | _SWEEP_OWN
    settings = {name: value for name, value in variant.settings.items() if name not in left_out}
    return Conditions(
        model=variant.model,
        artifact_sha256=artifact_name(Path(variant.artifact_path)),
        engine=variant.engine,
        engine_version=variant.engine_version or "unknown",
        machine=machine,
        settings={"threads": variant.threads, **settings},
    )


def artifact_name(path: Path) -> str:
    """The digest that names an artifact's folder; of a file elsewhere its size and time, which cost no reading."""
    for part in path.parts[::-1]:
        if len(part) == _SHA256_DIGITS and all(digit in "0123456789abcdef" for digit in part):
            return part
    status = path.stat()
    return f"file of {status.st_size} bytes at {status.st_mtime_ns} ns"

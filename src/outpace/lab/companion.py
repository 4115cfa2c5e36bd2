"""Whether a deployment may have a second variant, for many users, beside its main one."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from outpace.catalogue import gguf
from outpace.catalogue.resolve import Resolved
from outpace.engines.openvino_gguf import is_installed, why_unreadable
from outpace.values.deployment import DeploymentSpec
from outpace.values.units import GIB

MAIN_ENGINE, ENGINE = "llamacpp", "openvino"
# The only engine settings that mean the same to both engines.
_SHARED_SETTINGS = frozenset({"parallel", "context_tokens", "threads", "prefix_caching"})


def why_no_companion(spec: DeploymentSpec, found: Resolved) -> str | None:
    """Why a spec has one variant only; None when it may have two. Raises WeightsInvalid."""
    reason = _why_not_asked(spec, found)
    if reason is None and not is_installed():
        reason = "openvino-genai is not installed"
    if reason is not None or found.artifact_path is None:
        return reason or "the weights are not here yet"
    return _why_not_readable(found.artifact_path)


def why_no_room(main_bytes: int, companion_bytes: int, memory_bytes: int) -> str | None:
    """Why a machine cannot hold both variants."""
    needed_bytes = main_bytes + companion_bytes
    if needed_bytes <= memory_bytes:
        return None
    return f"both need {needed_bytes / GIB:.1f} GiB, this machine has {memory_bytes / GIB:.1f}"


def _why_not_asked(spec: DeploymentSpec, found: Resolved) -> str | None:
    foreign = sorted(set(spec.engine_settings) - _SHARED_SETTINGS)
    reasons: Mapping[str, bool] = {
        "`variants: off` in its file": spec.variants == "off",
        f"its file asks for {spec.engine}": spec.engine != "auto",
        f"the model runs on {found.engine} only": found.engine not in ("auto", MAIN_ENGINE),
        "the model writes no text": not {"chat", "completions"} & set(found.tasks),
        f"{spec.precision} is made for {MAIN_ENGINE}": spec.precision not in ("auto", found.precision),
        f"its engine_settings are {MAIN_ENGINE}'s: {', '.join(foreign)}": bool(foreign),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _why_not_readable(weights: Path) -> str | None:
    if not weights.is_file():
        return f"{weights.name} is no GGUF"
    return _why_unreadable(weights, weights.stat().st_mtime_ns)


# Asked again every few seconds; a header is megabytes.
@lru_cache(maxsize=64)
def _why_unreadable(weights: Path, changed_ns: int) -> str | None:
    facts = gguf.read(weights)
    return why_unreadable(facts.architecture, facts.tensor_types)

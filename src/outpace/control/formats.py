"""What an engine serves where no gate chooses the formats. Pure."""

import msgspec

from outpace.control.parts import Resolved
from outpace.engines.facts import DEFAULT_KV, UNPACKED, WHOLE_KV, is_unpacked, kv_settings
from outpace.values.deployment import DeploymentSpec, External
from outpace.values.errors import InvalidInput


def unpacked(resolved: Resolved) -> Resolved:
    """What an engine that reads no GGUF serves: the same numbers at 16 bit."""
    if not is_unpacked(resolved.engine, resolved.artifact_path):
        return resolved
    reason = f"{resolved.precision} unpacked; {resolved.engine} reads no GGUF"
    return msgspec.structs.replace(resolved, precision=UNPACKED, precision_reason=reason)


def elsewhere(external: External) -> Resolved:
    """What an external API serves: whatever it says."""
    return Resolved(
        engine="external",
        model=external.model,
        engine_model=external.model,
        owned_by="external",
        precision="unknown",
        tasks=("chat", "completions", "embeddings"),
    )


def forced_kv(spec: DeploymentSpec, resolved: Resolved) -> Resolved:
    """A KV format by name where no gate runs for the engine or the task: only with the flag, and marked.

    Raises InvalidInput.
    """
    if spec.kv_precision == "auto":
        return msgspec.structs.replace(resolved, kv_precision=DEFAULT_KV.get(resolved.engine))
    settings = kv_settings(resolved.engine, spec.kv_precision)
    forced = msgspec.structs.replace(
        resolved, kv_precision=spec.kv_precision, engine_settings=settings, variant=f"+{spec.kv_precision}"
    )
    if spec.kv_precision in WHOLE_KV:
        return forced
    if not spec.allow_unproven:
        told = f"no gate judges {spec.kv_precision} here; leave it `auto`, or set allow_unproven: true"
        raise InvalidInput("kv_precision", told)
    return msgspec.structs.replace(forced, is_proven=False, precision_reason="forced without a verdict")

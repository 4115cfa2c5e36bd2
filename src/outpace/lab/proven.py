"""What is proven here of an engine's KV formats with one artifact; quick, and no engine runs."""

from functools import cache
from pathlib import Path

from outpace.engines import facts
from outpace.hardware.machine import detect, machine_name
from outpace.precision.artifacts import digest_of
from outpace.precision.kv_choice import KvChoice, choose_kv, named_kv
from outpace.precision.verdict import VerdictStore
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput


def proven_kv(
    artifacts: Path, engine: str, model: str, artifact_path: Path, kv_precision: str = "auto"
) -> KvChoice:
    """The KV format that `engine` may use here with the weights at `artifact_path`, and whether a verdict backs it.

    `auto` takes the smallest one with a pass, else the one that rounds nothing, unproven. A name gives that format.
    `engine` is one of `facts.GATED_KV`; `artifacts` is HOME/artifacts; `model` as verdicts name it. It reads files (of
    weights that lie outside the home all bytes, once a process): call it in a thread.
    """
    version = facts.engine_version(engine) or f"{engine} is not installed"
    verdicts = VerdictStore(artifacts).for_model(model, _this_machine(), version)
    digest = digest_of(artifact_path)
    if kv_precision == "auto":
        return choose_kv(verdicts, digest, facts.GATED_KV[engine])
    return named_kv(verdicts, digest, kv_precision)


def served_kv(
    artifacts: Path, engine: str, model: str, artifact_path: Path, spec: DeploymentSpec
) -> KvChoice:
    """What a deployment gets: as `proven_kv`, with its own settings looked at and an unproven format refused.

    Raises InvalidInput for a KV format by name that rounds and has no pass, unless the spec allows it.
    """
    wanted = spec.kv_precision
    if wanted != "auto":
        facts.kv_settings(engine, wanted)
    kv = proven_kv(artifacts, engine, model, artifact_path, wanted)
    changed = [name for name in facts.GATED_SETTINGS.get(engine, ()) if name in spec.engine_settings]
    if changed:
        reason = f"engine_settings.{changed[0]} changes the numbers; no gate has judged it"
        whole = facts.GATED_KV[engine][-1] if wanted == "auto" else wanted
        kv = KvChoice(kv_precision=whole, is_proven=False, reason=f"KV {whole}: {reason}")
    if not (kv.is_proven or kv.kv_precision in facts.WHOLE_KV or spec.allow_unproven):
        raise InvalidInput("kv_precision", _how_to_prove(engine, model, kv))
    return kv


def _how_to_prove(engine: str, model: str, kv: KvChoice) -> str:
    command = f"outpace gate {model} --engine {engine} --kv-precision {kv.kv_precision}"
    outcome = f"{kv.reason}; " if kv.verdict else "it is not gated here yet; "
    return f"{outcome}`{command}` judges it, `auto` takes what passes, allow_unproven: true serves it all the same"


@cache
def _this_machine() -> str:
    return machine_name(detect())

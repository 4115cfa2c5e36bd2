"""What is proven here of what an engine makes of a model: weights and KV format; quick, and no engine runs."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from outpace.engines import facts
from outpace.hardware.machine import detect, machine_name
from outpace.precision.artifacts import MadeArtifact, MadeStore, digest_of
from outpace.precision.formats import weight_format
from outpace.precision.kv_choice import KvChoice, choose_kv, named_kv
from outpace.precision.verdict import Verdict, VerdictStore
from outpace.values.deployment import DeploymentSpec
from outpace.values.errors import InvalidInput

# Formats made of the shipped weights, best first: the same bits, the first with one scale per row, which OpenVINO
# multiplies faster (docs/lab/LOG.md, 2026-11-29), the second with one per 32 columns, which rounds finer.
SAFER_FORMATS = ("q8_row", "q8_0")
_NARROW_BITS = 8


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one model at one format, on this machine."""

    precision: str
    path: Path
    sha256: str


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine gets: weights, KV format, and what is proven of the two together."""

    weights: Weights
    kv: KvChoice
    # They are not the ones that were shipped.
    is_made: bool = False

    def fields(self, engine: str) -> dict[str, Any]:
        """As control knows what is served (`control.parts.Resolved`)."""
        kv = self.kv.kv_precision
        return {
            "artifact_path": str(self.weights.path),
            "precision": self.weights.precision,
            "kv_precision": kv,
            "engine_settings": facts.kv_settings(engine, kv),
            # Names weights and KV format among those of a deployment.
            "variant": f"{self.weights.sha256[:12] if self.is_made else ''}+{kv}",
            "is_proven": self.kv.is_proven,
            "precision_reason": self.kv.reason,
        }


def served(artifacts: Path, engine: str, model: str, shipped: Weights, spec: DeploymentSpec) -> Served:
    """What a deployment gets on `engine`: the first of `formats_best_first` with a pass, else the shipped weights.

    `engine` is one of `facts.GATED_KV`, `artifacts` is HOME/artifacts, `model` as verdicts name it. Reads files: call
    it in a thread. The KV format is the first of them with a pass. Without any pass the shipped weights serve at 16
    bit, unproven. Raises InvalidInput for a format by name that is not here, or that rounds and has no pass,
    unless the spec allows it.
    """
    if spec.kv_precision != "auto":
        facts.kv_settings(engine, spec.kv_precision)
    verdicts = _verdicts(artifacts, engine, model)
    options = [
        Served(
            weights=each,
            kv=_kv(verdicts, each.sha256, engine, spec.kv_precision),
            is_made=each is not shipped,
        )
        for each in _weights(artifacts, shipped, spec.precision)
    ]
    first = next((option for option in options if not option.is_made), options[0])
    taken = next((option for option in options if option.kv.is_proven), first)
    if taken is not first:
        why = f"{taken.weights.precision}, {taken.kv.reason}; {first.weights.precision}: {first.kv.reason}"
        taken = msgspec.structs.replace(taken, kv=msgspec.structs.replace(taken.kv, reason=why))
    taken = _with_own_settings(taken, engine, spec)
    _require_allowed(taken, engine, spec)
    return taken


def formats_best_first(shipped: str) -> tuple[str, ...]:
    """What may serve of a model that came at this format: narrower weights as they are, wider ones at 8 bit by row."""
    is_narrow = weight_format(shipped).bits < _NARROW_BITS
    names = (shipped, *SAFER_FORMATS) if is_narrow else (SAFER_FORMATS[0], shipped, *SAFER_FORMATS[1:])
    return tuple(dict.fromkeys(names))


def shipped_weights(precision: str, path: Path) -> Weights:
    """The weights that a model came with."""
    return Weights(precision=precision, path=path, sha256=digest_of(path))


def _weights(artifacts: Path, shipped: Weights, wanted: str) -> list[Weights]:
    """What may serve, best first; of a format by name only that. Raises InvalidInput."""
    if wanted == shipped.precision:
        return [shipped]
    made = {each.record.lineage.format: each for each in _made_of(artifacts, shipped)}
    if wanted == "auto":
        known = {name: _of(each) for name, each in made.items()} | {shipped.precision: shipped}
        return [known[name] for name in formats_best_first(shipped.precision) if name in known]
    if wanted not in made:
        raise InvalidInput(
            "precision", f"{wanted[:40]!r} is not here; `outpace quantize MODEL --to {wanted[:40]}` makes it"
        )
    return [_of(made[wanted])]


def _made_of(artifacts: Path, shipped: Weights) -> Iterator[MadeArtifact]:
    """Files made of these weights by this installation; folders are for other engines."""
    store = MadeStore(artifacts)
    for key, record in store.all():
        path = store.path_of(key)
        if record.lineage.source_sha256 == shipped.sha256 and path.is_file():
            yield MadeArtifact(path=path, record=record, was_present=True)


def _of(made: MadeArtifact) -> Weights:
    return Weights(precision=made.record.lineage.format, path=made.path, sha256=made.record.sha256)


def _with_own_settings(taken: Served, engine: str, spec: DeploymentSpec) -> Served:
    changed = [name for name in facts.GATED_SETTINGS.get(engine, ()) if name in spec.engine_settings]
    if not changed:
        return taken
    whole = facts.GATED_KV[engine][-1] if spec.kv_precision == "auto" else spec.kv_precision
    reason = f"KV {whole}: engine_settings.{changed[0]} changes the numbers; no gate has judged it"
    return msgspec.structs.replace(taken, kv=KvChoice(kv_precision=whole, is_proven=False, reason=reason))


def _require_allowed(taken: Served, engine: str, spec: DeploymentSpec) -> None:
    kv, precision = taken.kv, taken.weights.precision
    is_whole = kv.kv_precision in facts.WHOLE_KV
    if kv.is_proven or spec.allow_unproven or (is_whole and not taken.is_made):
        return
    command = f"outpace gate {spec.model} --engine {engine} --precision {precision} --kv-precision {kv.kv_precision}"
    outcome = f"{kv.reason}; " if kv.verdict else "it is not gated here yet; "
    raise InvalidInput(
        "precision" if is_whole else "kv_precision",
        f"{outcome}`{command}` judges it, `auto` takes what passes, allow_unproven: true serves it all the same",
    )


def _kv(verdicts: Sequence[Verdict], sha256: str, engine: str, wanted: str) -> KvChoice:
    if wanted == "auto":
        return choose_kv(verdicts, sha256, facts.GATED_KV[engine])
    return named_kv(verdicts, sha256, wanted)


def _verdicts(artifacts: Path, engine: str, model: str) -> list[Verdict]:
    version = facts.engine_version(engine) or f"{engine} is not installed"
    return VerdictStore(artifacts).for_model(model, _this_machine(), version)


@cache
def _this_machine() -> str:
    return machine_name(detect())

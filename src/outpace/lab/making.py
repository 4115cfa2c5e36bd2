"""Joins catalogue and precision: a model's weights at any format, shipped or made, ready to be served or gated."""

import hashlib
from pathlib import Path

import msgspec

from outpace.catalogue import gguf
from outpace.catalogue.resolve import Resolved, resolve
from outpace.catalogue.store import ArtifactStore
from outpace.lab.fitter import METHOD, fit
from outpace.lab.gate import Side
from outpace.precision.artifacts import Lineage, MadeArtifact, MadeStore, scratch_beside, sha256_of
from outpace.precision.calibration import shipped_calibration
from outpace.precision.formats import weight_format
from outpace.precision.ggml import quantizer_version
from outpace.precision.gguf_maker import Report, check_numbers, make_gguf, report_nothing, why_not_fitted
from outpace.precision.recipes import Recipe, recipe
from outpace.values.errors import InvalidInput

# Formats that lose nothing against what a publisher's 16-bit file holds.
_UNQUANTIZED = ("f32", "f16", "bf16")
REFERENCE = "f16"
# Keys, names and rounding to blocks, beside the weights themselves.
_OVERHEAD = 1.1
_KEYS_BYTES = 16 * 1024 * 1024


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model's weights as they were published or given: where, which, and what they hold."""

    model: str
    path: Path
    sha256: str
    precision: str
    parameters: int
    context_tokens: int


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """Weights at a wanted format; `lineage` None means: as shipped."""

    model: str
    precision: str
    path: Path
    sha256: str
    size_bytes: int
    source: Source
    was_present: bool
    lineage: Lineage | None = None

    @property
    def side(self) -> Side:
        """As one side of a gate, with the KV cache at 16 bit."""
        return Side(artifact_path=self.path, artifact_sha256=self.sha256, precision=self.precision)

    def at_kv(self, kv_precision: str) -> Side:
        """As one side of a gate, with the KV cache at this format."""
        return msgspec.structs.replace(self.side, kv_precision=kv_precision)


def source_of(model: str, artifacts: Path) -> Source:
    """The model's own weights on this machine, with a header that was checked.

    Raises ModelNotFound, WeightsInvalid, and InvalidInput for a model that is not here or has no GGUF.
    """
    store = ArtifactStore(artifacts)
    resolved = resolve(model, "auto", store)
    if resolved.needs_pull:
        raise InvalidInput(
            "model", f"the weights of {resolved.model} are not here; `outpace pull {model}` first"
        )
    if resolved.artifact_path is None:
        raise InvalidInput("model", f"{resolved.model} runs on an engine without weights")
    facts = gguf.read(resolved.artifact_path)
    return Source(
        model=resolved.model,
        path=resolved.artifact_path,
        sha256=_sha256(resolved, store),
        precision=resolved.precision,
        parameters=facts.parameters,
        context_tokens=resolved.context_tokens,
    )


def produce(source: Source, to: str, artifacts: Path, report: Report = report_nothing) -> Product:
    """The source at format `to`: itself, an artifact made before, or one made now.

    Raises InvalidInput for a format that is not known or not for this model, WeightsInvalid for NaN or infinity in
    the source, EngineFailed when a fitted format could not be made, and StorageFailed for a full disk; whatever
    happens, nothing half-made stays and the source is untouched.
    """
    if to.strip().lower() == source.precision:
        return _shipped(source)
    wanted = recipe(to)

    def make(folder: Path) -> None:
        target = folder / "weights.gguf"
        if not wanted.is_fitted:
            make_gguf(source.path, target, wanted, report)
            return
        reason = why_not_fitted(source.path)
        if reason is not None:
            raise InvalidInput("--to", f"{to} is not for {source.model}: {reason}; choose q4_mix or q8_0")
        check_numbers(source.path)
        ready = fit(source.path, scratch_beside(folder), wanted.name, report)
        make_gguf(source.path, target, wanted, ready=ready)

    # Fitted matrices lie beside the file until it is whole.
    needed_bytes = _needed_bytes(source, wanted.name) * (2 if wanted.is_fitted else 1)
    made = MadeStore(artifacts).make(_lineage(source, wanted), needed_bytes, make)
    gguf.read(made.path)
    return _product(source, made)


def find_product(source: Source, to: str, artifacts: Path) -> Product | None:
    """The source at format `to` if it is here; nothing is made. Raises as `produce` does."""
    if to.strip().lower() == source.precision:
        return _shipped(source)
    made = MadeStore(artifacts).find(_lineage(source, recipe(to)))
    return _product(source, made) if made else None


def reference_format(source: Source) -> str:
    """What a gate compares with: the source when it was never quantized, else its exact numbers at F16."""
    return source.precision if source.precision in _UNQUANTIZED else REFERENCE


def _lineage(source: Source, wanted: Recipe) -> Lineage:
    return Lineage(
        model=source.model,
        source_sha256=source.sha256,
        source_format=source.precision,
        format=wanted.name,
        tool=f"{quantizer_version()}; recipe {_recipe_digest(wanted)}{f'; {METHOD}' if wanted.is_fitted else ''}",
        calibration_sha256=shipped_calibration().sha256 if wanted.is_fitted else None,
    )


def _shipped(source: Source) -> Product:
    return Product(
        model=source.model,
        precision=source.precision,
        path=source.path,
        sha256=source.sha256,
        size_bytes=source.path.stat().st_size,
        source=source,
        was_present=True,
    )


def _product(source: Source, made: MadeArtifact) -> Product:
    return Product(
        model=source.model,
        precision=made.record.lineage.format,
        path=made.path,
        sha256=made.record.sha256,
        size_bytes=made.record.size_bytes,
        source=source,
        was_present=made.was_present,
        lineage=made.record.lineage,
    )


def _sha256(resolved: Resolved, store: ArtifactStore) -> str:
    if resolved.card is not None:
        weights = resolved.card.weights("auto")
        if weights is not None:
            return store.record_of(weights).sha256
    assert resolved.artifact_path is not None
    return sha256_of(resolved.artifact_path)


def _needed_bytes(source: Source, name: str) -> int:
    stored = weight_format(name)
    return int(source.parameters * max(stored.bits, stored.rest_bits) / 8 * _OVERHEAD) + _KEYS_BYTES


def _recipe_digest(wanted: Recipe) -> str:
    return hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()[:12]

"""Folders for engines that read no GGUF, made of safetensors or of a GGUF: Hugging Face's layout, OpenVINO's."""

import hashlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from outpace.lab.activations import columns_seen, require_quantizer
from outpace.lab.making import source_of
from outpace.lab.openvino_maker import make_openvino
from outpace.precision.artifacts import Lineage, MadeArtifact, MadeStore, scratch_beside, sha256_of
from outpace.precision.calibration import CalibrationSet, shipped_calibration
from outpace.precision.checkpoint import shards
from outpace.precision.fp8 import make_fp8_dynamic
from outpace.precision.from_gguf import make_checkpoint
from outpace.precision.gguf_maker import Report, report_nothing
from outpace.precision.integers import make_w4a16, make_w8a8
from outpace.precision.tokenizer_files import write_tokenizer
from outpace.values.errors import InvalidInput

# A GGUF unpacked to Hugging Face's layout at 16 bit; engines that read no GGUF load it.
PLAIN = "bf16-checkpoint"
OPENVINO = ("openvino-int8", "openvino-int4")
_CALIBRATED = {"w8a8": make_w8a8, "w4a16": make_w4a16}
# Name → how it is made and by which distributions, for the lineage.
_TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    PLAIN: ("unpacked with tokenizer", ()),
    "fp8-dynamic": ("compressed-tensors float-quantized with tokenizer", ()),
    "w8a8": ("compressed-tensors int-quantized, smoothed", ("torch", "transformers")),
    "w4a16": ("compressed-tensors pack-quantized, searched scales", ("torch", "transformers")),
    "openvino-int8": ("weights at INT8_ASYM", ("openvino-genai", "nncf")),
    "openvino-int4": ("weights at INT4_SYM, groups of 64", ("openvino-genai", "nncf")),
}
CHECKPOINTS = tuple(_TOOLS)
Make = Callable[[Path, Report], None]


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder is made from; `gguf` None: `folder` is a checkpoint already."""

    model: str
    precision: str
    sha256: str
    gguf: Path | None
    folder: Path
    # The BF16 checkpoint, or OpenVINO's model at 16 bit, stands beside the made one for a moment.
    needed_bytes: int


def checkpoint_format(to: str) -> str | None:
    """The format of this name, underscores or not; None for what is no folder."""
    wanted = to.strip().lower().replace("_", "-")
    return wanted if wanted in _TOOLS else None


def produce_checkpoint(
    model: str,
    to: str,
    artifacts: Path,
    report: Report = report_nothing,
    calibration: CalibrationSet | None = None,
) -> MadeArtifact:
    """The model as a folder at format `to`, made now unless it was made before; its tokenizer lies beside it.

    W8A8 and W4A16 look at `calibration`, the shipped set without one. Raises InvalidInput for what cannot be made
    here, WeightsInvalid for weights that lie or hold NaN, StorageFailed for a full disk; nothing half-made stays.
    """
    if to not in _CALIBRATED and calibration is not None:
        raise InvalidInput("--calibration", f"{to} needs no texts; leave it out")
    texts = (calibration or shipped_calibration()) if to in _CALIBRATED else None
    source = _source(model, to, artifacts)
    _require_tools(to)
    how, distributions = _TOOLS[to]
    lineage = Lineage(
        model=source.model,
        source_sha256=source.sha256,
        source_format=source.precision,
        format=to,
        tool="; ".join((f"outpace {version('outpace')}", how, *(f"{d} {version(d)}" for d in distributions))),
        calibration_sha256=texts.sha256 if texts else None,
    )

    def make(target: Path) -> None:
        _make(source, to, target, texts, report)

    return MadeStore(artifacts).make(lineage, source.needed_bytes, make)


def _make(source: _Source, to: str, target: Path, texts: CalibrationSet | None, report: Report) -> None:
    if to in OPENVINO:
        assert source.gguf is not None
        make_openvino(source.gguf, target, to, report)
    elif source.gguf is None:
        _quantize(source.folder, to, target, texts, report)
    elif to == PLAIN:
        _unpack(source.gguf, target)
    else:
        between = scratch_beside(target)
        _unpack(source.gguf, between)
        _quantize(between, to, target, texts, report)


def _quantize(folder: Path, to: str, target: Path, texts: CalibrationSet | None, report: Report) -> None:
    if texts is None:
        make_fp8_dynamic(folder, target, report)
        return
    _CALIBRATED[to](folder, target, columns_seen(folder, texts, report), report)


def _unpack(source: Path, target: Path) -> None:
    make_checkpoint(source, target)
    write_tokenizer(source, target)


def _source(model: str, to: str, artifacts: Path) -> _Source:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        source = source_of(model, artifacts)
        return _Source(
            model=source.model,
            precision=source.precision,
            sha256=source.sha256,
            gguf=source.path,
            folder=folder,
            needed_bytes=source.parameters * 4,
        )
    if to == PLAIN or to in OPENVINO:
        made_of = (
            "a checkpoint already" if to == PLAIN else "a checkpoint; OpenVINO's files are made of a GGUF"
        )
        raise InvalidInput("--to", f"{folder.name} is {made_of}")
    digest = hashlib.sha256("".join(map(sha256_of, shards(folder))).encode()).hexdigest()
    needed_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return _Source(
        model=folder.name,
        precision="checkpoint",
        sha256=digest,
        gguf=None,
        folder=folder,
        needed_bytes=needed_bytes,
    )


def _require_tools(to: str) -> None:
    if to in _CALIBRATED:
        require_quantizer(to)
    missing = [name for name in ("openvino_genai", "nncf") if importlib.util.find_spec(name) is None]
    if to in OPENVINO and missing:
        raise InvalidInput("--to", f"{to} needs {' and '.join(missing)}: pip install 'outpace[quantize]'")

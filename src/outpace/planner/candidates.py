"""Every way to run a model that is worth pricing: device x tensor/pipeline parallel x weights x KV format."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from outpace.hardware.devices import Device
from outpace.planner.cases import Case
from outpace.planner.engines import Generation, generation
from outpace.planner.setups import ENDLESS_REQUESTS, Load, Setup, parse_metric
from outpace.precision.formats import KvFormat, WeightFormat, kv_format, weight_format
from outpace.precision.memory import MemoryUse, Split, memory_use
from outpace.values.architecture import Architecture

_WIDTHS = (1, 2, 4, 8)
# Engines that have kernels for a family, by vendor; the newest generation is planned with, or that of a named version.
_ENGINES = {
    "NVIDIA": "vLLM",
    "AMD": "vLLM(ROCm)",
    "Huawei": "vllm-ascend",
    "Google": "vllm-tpu",
    "Apple": "mlx-lm",
}
_FULL = parse_metric("output_throughput")


@dataclass(frozen=True)
class Variant:
    """One instance of one way: what it runs on, in what precision, and whether it fits."""

    shape: Architecture
    device: Device
    weights: WeightFormat
    kv: KvFormat
    split: Split
    generation: Generation
    memory: MemoryUse
    # Of the engine; empty when any of those measured may run.
    engine_version: str = ""

    @property
    def label(self) -> str:
        """How people read it."""
        layout = f"TP{self.split.tp}" + (f" PP{self.split.pp}" if self.split.pp > 1 else "")
        return f"{self.split.devices}x {self.device.name} {layout} {self.weights.name} kv {self.kv.name}"

    def setup(self, isl: int, osl: int) -> Setup:
        """The variant filled with sequences of these lengths.

        A version that nobody named stays open: what the newest measured one, or any single one, does to itself
        predicts ITL of other versions worse than no version does (lab log, 2026-11-29).
        """
        return Setup(
            case=Case(engine=self.generation.name, engine_version=self.engine_version),
            shape=self.shape,
            device=self.device,
            weights=self.weights,
            kv=self.kv,
            generation=self.generation,
            split=self.split,
            replicas=1.0,
            isl=float(isl),
            osl=float(osl),
            load=Load.FULL,
            concurrency=0.0,
            rate_per_s=0.0,
            beams=1,
            metric=_FULL,
            slo_ttft_ms=0.0,
            slo_itl_ms=0.0,
            expert_groups=1,
            reading="",
            run_requests=ENDLESS_REQUESTS,
            method="",
        )


def variants(
    shape: Architecture,
    devices: Sequence[Device],
    tokens: int,
    only: WeightFormat | None = None,
    only_kv: KvFormat | None = None,
    engine_version: str = "",
) -> Iterator[Variant]:
    """All variants, those that do not fit included (their reason is a part of the answer).

    A version is one of the engine that a device is planned with, in the spelling of `asked_version`.
    """
    for on in devices:
        made = _generation(on, engine_version)
        for stored in [only] if only else _weight_formats(shape, on):
            for split in _splits(shape, on):
                for kept in [only_kv] if only_kv else _kv_formats(on):
                    memory = memory_use(shape, stored, kept, split, on.memory_bytes, tokens)
                    yield Variant(shape, on, stored, kept, split, made, memory, engine_version)


def _generation(on: Device, version: str) -> Generation:
    return generation(_ENGINES.get(on.vendor, "vLLM"), version, on.vendor)


def _weight_formats(shape: Architecture, on: Device) -> list[WeightFormat]:
    """Formats with an arithmetic unit or weight-only kernels on the device, and a checkpoint of the model."""
    names = ["bf16", "int4-awq"]
    if on.fp8_flops:
        names.append("fp8")
    elif on.int8_ops:
        names.append("int8")
    if on.fp4_flops:
        names.append("nvfp4")
    if shape.native_format in ("mxfp4", "int4-experts"):
        names = [shape.native_format] + (["nvfp4"] if on.fp4_flops and shape.native_format != "mxfp4" else [])
    elif shape.native_format in ("fp8", "int8"):
        names = [name for name in names if name != "bf16"]
    elif shape.native_format in ("int4-awq", "nvfp4"):
        # Nobody makes a wider checkpoint of a 4-bit one.
        names = [shape.native_format]
    return [weight_format(name) for name in names]


def _kv_formats(on: Device) -> list[KvFormat]:
    # Keys and values at 8 bit want hardware that converts them: vLLM's FP8 cache needs Ada, Hopper, MI300 or newer.
    names = ("bf16", "fp8") if on.fp8_flops else ("bf16",)
    return [kv_format(name) for name in names]


def _splits(shape: Architecture, on: Device) -> Iterator[Split]:
    most = 8 if on.link_bytes_per_s or on.pcie_bytes_per_s else 1
    for tp in _WIDTHS:
        if tp > most or shape.heads % tp or (shape.kv_heads % tp and tp % shape.kv_heads):
            continue
        for pp in (1, 2, 4):
            if tp * pp <= most and pp <= shape.layers and (pp == 1 or tp * pp > 1):
                yield Split(tp=tp, pp=pp)

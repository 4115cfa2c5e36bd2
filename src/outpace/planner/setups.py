"""From a case to a setup: every name resolved, every number checked, or a refusal that says what to change."""

import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from outpace.hardware.devices import Device, device
from outpace.planner.accelmark import published_processor
from outpace.planner.architectures import named_model
from outpace.planner.cases import Case
from outpace.planner.engines import Generation, generation, version_name
from outpace.planner.recipes import (
    Start,
    drafted_tokens,
    gather_steps,
    kv_name,
    poll_steps,
    published_requests,
)
from outpace.planner.splits import has_groups, split_of, whole_concurrency
from outpace.planner.workloads import mean_share, mlperf_workload, named_workload
from outpace.planner.written import number, positive
from outpace.precision.formats import KvFormat, WeightFormat, kv_format, weight_format
from outpace.precision.memory import MemoryUse, Split, memory_use
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

# A benchmark run at a given rate that does not say its length; overload builds a queue only that long.
_SHORT_RUN_REQUESTS = 200.0
_LONG_RUN_REQUESTS = 20_000.0
# A load without an end.
ENDLESS_REQUESTS = 1e9
# Words in notes by which ways of measuring are told apart; only these are read, never a measured figure.
_METHODS = (
    "sharegpt_standard",
    "sharegpt_edge",
    "sharegpt_longctx",
    "ttft grows with osl",
    "section:",
    "dataset means",
    "random dataset",
    "single stream",
    "1fp8-meta",
    "image=",
)
# Longer than any context that models are served with.
_LONGEST_TOKENS = 100_000_000


class Load(StrEnum):
    """How requests arrive."""

    STATIC = "static"  # one batch, all together, whole-run average
    CLOSED = "closed"  # a fixed number in flight
    BURST = "burst"  # N requests at once, then drained
    RATE = "rate"  # Poisson arrivals
    FULL = "full"  # as many as the instance holds
    OFFLINE = "mlperf-offline"
    SERVER = "mlperf-server"
    INTERACTIVE = "mlperf-interactive"


class Quantity(StrEnum):
    """What is asked for."""

    THROUGHPUT = "throughput"
    TTFT = "ttft"
    ITL = "itl"


@dataclass(frozen=True)
class Metric:
    """A parsed metric name: the quantity, its statistic, and whether it is per device or per sample."""

    name: str
    quantity: Quantity
    statistic: str = "mean"
    per_device: bool = False
    per_sample: bool = False

    @property
    def unit(self) -> str:
        """The unit of the answer."""
        if self.quantity is not Quantity.THROUGHPUT:
            return "ms"
        rate = "samples/s" if self.per_sample else "tok/s"
        return f"{rate}/GPU" if self.per_device else rate


@dataclass(frozen=True)
class Setup:
    """A case with every name resolved; counts are per instance, `replicas` instances work side by side."""

    case: Case
    shape: Architecture
    device: Device
    weights: WeightFormat
    kv: KvFormat
    generation: Generation
    split: Split
    replicas: float
    isl: float
    osl: float
    load: Load
    concurrency: float
    rate_per_s: float
    beams: int
    metric: Metric
    slo_ttft_ms: float
    slo_itl_ms: float
    expert_groups: int
    reading: str
    run_requests: float
    method: str
    # Decode steps between two looks at what has arrived.
    poll_steps: float = 1.0
    # Whether the first requests of the measurement were the engine's first, within which kernels are compiled.
    is_cold: bool = False
    # Tokens that the model's own heads draft per step, as published runs were started.
    drafted: int = 0
    # Decode steps that a prompt may wait for others to be read with.
    gather_steps: float = 0.0
    # Where lengths are drawn, `isl` and `osl` are the longest; the mean is this share of them.
    mean_share: float = 1.0
    # The processor beside the devices, as notes name it; empty when they do not.
    processor: str = ""

    @property
    def mean_isl(self) -> float:
        """Prompt tokens of the mean request."""
        return self.isl * self.mean_share

    @property
    def mean_osl(self) -> float:
        """Output tokens of the mean request."""
        return self.osl * self.mean_share

    @property
    def has_varied_lengths(self) -> bool:
        """Whether requests differ in length: means of a data set are not whole, fixed lengths are."""
        return (
            self.mean_share < 1
            or not (self.isl.is_integer() and self.osl.is_integer())
            or "sharegpt" in self.method
        )

    @property
    def is_compiling(self) -> bool:
        """Whether the time to the first token holds the compilation of kernels: up to minutes, shared out."""
        return self.is_cold and self.generation.compiles_late and self.metric.quantity is Quantity.TTFT

    @property
    def memory(self) -> MemoryUse:
        """What one device holds when requests are as long as the case says."""
        return self._memory(self.isl, self.osl)

    @property
    def mean_memory(self) -> MemoryUse:
        """What one device holds of mean requests."""
        return self._memory(self.mean_isl, self.mean_osl)

    def _memory(self, isl: float, osl: float) -> MemoryUse:
        """Use by requests of such lengths.

        A full instance is taken to admit only what can finish; under other loads engines admit by present use,
        so sequences are counted at their mean length.
        """
        grown = osl if self.load in (Load.FULL, Load.OFFLINE, Load.STATIC) else osl / 2
        tokens = max(1, round(isl + grown))
        step_tokens = int(min(8192, max(2048, self.isl)))
        capacity = self.device.memory_bytes
        return memory_use(self.shape, self.weights, self.kv, self.split, capacity, tokens, step_tokens)


def resolve(case: Case) -> Setup:
    """The setup of a case. Raises InvalidInput naming the column that is wrong or missing."""
    metric = parse_metric(case.metric)
    named = named_model(case.model)
    notes = case.notes.lower()
    on = device(case.gpu)
    stored = _weights(_written_format(case, notes), named.implied_format, named.shape)
    isl, osl = _lengths(case, notes, named.shape.name)
    load, concurrency = _load(case, metric, notes, named.shape)
    made = generation(case.engine, case.engine_version, on.vendor, notes)
    version = version_name(case.engine, case.engine_version)
    split, replicas, reading = split_of(case, named.shape, on, stored, notes)
    start = Start(
        engine=made.name,
        device=on.name,
        model=named.shape.name,
        stored=stored.name,
        tp=split.tp,
        version=case.engine_version,
        lengths=(isl, osl),
        callers=concurrency,
    )
    if has_groups(start, split, notes) and named.shape.moe_layers:
        # Callers per attention group: the tensor-parallel devices of the row are the groups.
        split = Split(attention_dp=split.tp, pp=split.pp)
    start = msgspec.structs.replace(start, tp=split.tp, has_groups=split.attention_dp > 1)
    return Setup(
        case=case,
        shape=named.shape,
        device=on,
        weights=stored,
        kv=_kv(case.kv_precision or (kv_name(start, notes) if load is Load.CLOSED else "")),
        generation=made,
        split=split,
        replicas=replicas,
        isl=isl,
        osl=osl,
        load=load,
        concurrency=concurrency / replicas,
        rate_per_s=_rate(case) / replicas,
        beams=_beams(notes, metric, named.shape.name),
        metric=metric,
        slo_ttft_ms=_promised(notes, "ttft"),
        slo_itl_ms=_promised(notes, "tpot"),
        expert_groups=_expert_groups(notes) if named.shape.moe_layers else 1,
        reading=reading,
        run_requests=_run_requests(load, notes, (isl, osl), replicas),
        method=_method(notes),
        poll_steps=poll_steps(start, notes) if load is Load.CLOSED else 1.0,
        is_cold="no warm-up" in notes,
        drafted=drafted_tokens(start, notes) if load is Load.CLOSED else 0,
        gather_steps=gather_steps(start) if load is Load.CLOSED else 0.0,
        mean_share=mean_share(notes),
        processor=_processor(notes)
        or on.processor.lower()
        or published_processor(on, named.shape.name, version, split.devices).lower(),
    )


def _processor(notes: str) -> str:
    found = re.search(r"\bhost: ([^;]+)", notes)
    return found[1].strip() if found else ""


def _beams(notes: str, metric: Metric, model: str) -> int:
    """MLPerf's GPT-J task searches with four beams, and its rows say so or not."""
    return 4 if "beam 4" in notes or ("mlperf" in metric.name and model == "gpt-j-6b") else 1


def parse_metric(name: str) -> Metric:
    """Quantity and statistic of a metric name. Raises InvalidInput listing the known ones."""
    latency = re.fullmatch(r"(ttft|itl|tpot)_ms_(mean|p50|p95|p99)", name)
    if latency:
        quantity = Quantity.TTFT if latency[1] == "ttft" else Quantity.ITL
        return Metric(name, quantity, latency[2])
    if name in ("output_throughput", "output_throughput_per_gpu", "output_throughput_sustained_30min"):
        return Metric(name, Quantity.THROUGHPUT, per_device=name.endswith("per_gpu"))
    if re.fullmatch(r"mlperf_(offline|server|interactive)_(output_throughput|samples)", name):
        return Metric(name, Quantity.THROUGHPUT, per_sample=name.endswith("samples"))
    raise InvalidInput(
        "metric",
        f"{name!r} is not known; known are output_throughput, output_throughput_per_gpu, "
        "mlperf_offline_output_throughput, mlperf_server_output_throughput, ttft_ms_*, itl_ms_* "
        "with mean, p50, p95 or p99",
    )


def _written_format(case: Case, notes: str) -> str:
    """The weight format as the case writes it; its notes tell Meta's own checkpoint from others at 8 bit."""
    return "fp8-rows" if "fp8-meta" in notes else case.weights_precision


def _weights(written: str, implied: str, shape: Architecture) -> WeightFormat:
    name = written or implied or "bf16"
    stored = weight_format(name)
    # A 4-bit claim for a model whose checkpoint quantizes experts only means that checkpoint.
    if shape.native_format in ("mxfp4", "int4-experts") and stored.bits < 8:
        return (
            stored
            if stored.name == "nvfp4" and shape.native_format == "int4-experts"
            else weight_format(shape.native_format)
        )
    return stored


def _kv(written: str) -> KvFormat:
    return kv_format(written or "auto")


def _lengths(case: Case, notes: str, model: str) -> tuple[float, float]:
    isl, osl = number(case.isl), number(case.osl)
    if isl is None or osl is None:
        known = named_workload(f"{notes} {case.isl.lower()}") or mlperf_workload(case.metric, model)
        isl = known[0] if isl is None and known else isl
        osl = known[1] if osl is None and known else osl
    if osl is None and case.metric.startswith("ttft"):
        osl = 1.0
    if isl is None or osl is None:
        name, written = ("isl", case.isl) if isl is None else ("osl", case.osl)
        problem = f"{written!r} is not a length" if written else "is missing"
        raise InvalidInput(name, f"{problem} and no known data set is named in notes; give a mean length")
    if isl < 0 or osl < 1:
        raise InvalidInput("osl" if osl < 1 else "isl", "must be positive")
    if max(isl, osl) > _LONGEST_TOKENS:
        raise InvalidInput("isl" if isl > osl else "osl", f"is beyond {_LONGEST_TOKENS:,} tokens")
    return max(isl, 1.0), osl


def _load(case: Case, metric: Metric, notes: str, shape: Architecture) -> tuple[Load, float]:
    """The kind of load and its size (sequences in flight, or requests of a burst; 0 when it has none)."""
    if "mlperf" in metric.name or "mlperf" in notes or "loadgen" in notes:
        return _mlperf_load(f"{metric.name}; {notes}"), 0.0
    written = case.batch_or_concurrency.lower()
    burst = re.fullmatch(r"all\((\d+)\)", written)
    if burst:
        return Load.BURST, float(burst[1])
    if "static" in notes or "fixed batch" in notes or "single prompt token" in notes:
        return Load.STATIC, positive(written or "1", "batch_or_concurrency")
    if case.request_rate_rps and case.request_rate_rps.lower() not in ("inf", "infinite"):
        return Load.RATE, 0.0
    if written == "max" or "infinite request rate" in notes or (not written and "max load" in notes):
        return Load.FULL, 0.0
    if (
        "submitted at once" in notes
        or "num_requests*" in notes
        or "at t=0" in notes
        or "speedup_vs_bf16" in notes
        or "scaling" in notes
    ):
        return Load.BURST, positive(written, "batch_or_concurrency")
    if not written:
        return _unsized_load(case, notes), _burst_size(notes)
    return Load.CLOSED, _noted_callers(notes, shape) or positive(written, "batch_or_concurrency")


def _noted_callers(notes: str, shape: Architecture) -> float:
    """Callers of a whole instance where a table counts them per attention group.

    For models without experts the whole is that of all copies beside each other.
    """
    return whole_concurrency(notes) if shape.moe_layers else 0.0


def _unsized_load(case: Case, notes: str) -> Load:
    if case.request_rate_rps.lower() in ("inf", "infinite") and _burst_size(notes):
        return Load.BURST
    if case.metric.startswith("output_throughput"):
        return Load.FULL
    raise InvalidInput(
        "batch_or_concurrency", "is missing and so is request_rate_rps; a latency follows only from a load"
    )


def _burst_size(notes: str) -> float:
    found = re.search(r"\b(\d+) requests\b", notes)
    return float(found[1]) if found else 0.0


def _run_requests(load: Load, notes: str, lengths: tuple[float, float], replicas: float) -> float:
    """How many requests a run has; MLPerf runs last ten minutes and more, so they have no such end."""
    if load in (Load.SERVER, Load.INTERACTIVE, Load.OFFLINE):
        return _LONG_RUN_REQUESTS
    if load is Load.FULL:
        return published_requests(notes, lengths) / replicas or ENDLESS_REQUESTS
    return _burst_size(notes) or _SHORT_RUN_REQUESTS


def _mlperf_load(text: str) -> Load:
    if "interactive" in text:
        return Load.INTERACTIVE
    return Load.SERVER if "server" in text else Load.OFFLINE


def _method(notes: str) -> str:
    return next((words for words in _METHODS if words in notes), "")


def _promised(notes: str, latency: str) -> float:
    """The bound in ms that a served benchmark must keep at p99; 0 when there is none."""
    found = re.search(rf"slo\b[^;]*\b{latency} (\d+) ms", notes)
    return float(found[1]) if found else 0.0


def _expert_groups(notes: str) -> int:
    """Over how many groups of devices experts are spread, as notes or an engine's flags say; 1 when they do not."""
    found = re.search(r"\bep=(\d+)|--ep[_-]size[ =](\d+)", notes)
    return max(1, int(found[1] or found[2])) if found else 1


def _rate(case: Case) -> float:
    written = case.request_rate_rps.lower()
    if written in ("", "inf", "infinite"):
        return 0.0
    return positive(written, "request_rate_rps")

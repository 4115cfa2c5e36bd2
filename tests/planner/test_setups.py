"""How cases are read: loads, splits, lengths, and what is refused by name."""

import pytest
from tests.planner.samples import CLOSED_8B, STATIC_70B, case

from outpace.planner.columns import columns, held_sequences
from outpace.planner.engines import generation
from outpace.planner.setups import Load, resolve
from outpace.values.errors import InvalidInput


@pytest.mark.parametrize(
    ("changes", "load", "concurrency"),
    [
        ({"notes": "static batch"}, Load.STATIC, 16),
        ({}, Load.CLOSED, 16),
        ({"batch_or_concurrency": "all(1000)", "request_rate_rps": "inf"}, Load.BURST, 1000),
        ({"notes": "all requests submitted at once"}, Load.BURST, 16),
        ({"batch_or_concurrency": "", "request_rate_rps": "4"}, Load.RATE, 0),
        ({"batch_or_concurrency": "max", "metric": "output_throughput"}, Load.FULL, 0),
        ({"metric": "mlperf_offline_output_throughput"}, Load.OFFLINE, 0),
        ({"metric": "mlperf_server_output_throughput"}, Load.SERVER, 0),
    ],
)
def test_load_is_read_from_numbers_and_notes(changes: dict[str, str], load: Load, concurrency: float) -> None:
    setup = resolve(case(**changes))
    assert (setup.load, setup.concurrency) == (load, concurrency)


def test_notes_with_measured_figures_do_not_change_a_setup() -> None:
    plain, told = (
        resolve(case(notes="")),
        resolve(case(notes="req/s 13.06; total tok/s 5482.59; p99 TTFT 24371")),
    )
    assert (plain.load, plain.concurrency, plain.rate_per_s) == (told.load, told.concurrency, told.rate_per_s)


def test_several_instances_share_the_load() -> None:
    setup = resolve(case(n_gpus="8", tp="2", batch_or_concurrency="64"))
    assert (setup.replicas, setup.concurrency) == (4, 16)


def test_dep_is_attention_data_parallelism_over_the_named_width() -> None:
    setup = resolve(
        case(
            model="Qwen3-235B-A22B",
            n_gpus="4",
            metric="output_throughput_per_gpu",
            batch_or_concurrency="max",
            notes="attention data-parallel + expert-parallel over 4 GPUs (DEP4)",
        )
    )
    assert (setup.split.tp, setup.split.attention_dp, setup.split.devices) == (1, 4, 4)


def test_a_count_that_multiplies_tp_by_ep_is_read_once_and_said() -> None:
    setup = resolve(case(model="DeepSeek-R1", gpu="B200", n_gpus="64", tp="64", weights_precision="fp4"))
    assert setup.split.devices == 8
    assert "64 devices read as 8" in setup.reading


MINIMAX = {"model": "MiniMax-M2.5", "gpu": "B200-SXM-180GB", "engine": "vLLM", "engine_version": "0.19.0"}


@pytest.mark.parametrize(("count", "tp", "callers"), [("4", "2", 128.0), ("16", "4", 256.0)])
def test_rows_that_square_their_devices_and_note_all_callers_are_one_instance(
    count: str, tp: str, callers: float
) -> None:
    noted = f"attention-dp={tp} ep={count}; silicon_concurrency={callers:.0f}"
    setup = resolve(case(**MINIMAX, n_gpus=count, tp=tp, batch_or_concurrency="64", notes=noted))
    assert (setup.split.tp, setup.split.attention_dp, setup.replicas) == (int(tp), 1, 1)
    assert setup.concurrency == callers
    assert f"{count} devices read as {tp}" in setup.reading


def test_published_runs_with_attention_groups_are_told_by_their_recipe() -> None:
    lengths = {"isl": "1024", "osl": "1024", "weights_precision": "fp4", "batch_or_concurrency": "256"}
    noted = "attention-dp=2 ep=4; silicon_concurrency=512"
    setup = resolve(case(**MINIMAX, **lengths, n_gpus="4", tp="2", notes=noted))
    assert (setup.split.tp, setup.split.attention_dp, setup.concurrency) == (1, 2, 512)


def test_without_experts_noted_callers_are_those_of_all_copies() -> None:
    noted = "silicon_concurrency=448"
    setup = resolve(case(model="Qwen3-32B", n_gpus="2", tp="2", batch_or_concurrency="14", notes=noted))
    assert (setup.concurrency, setup.split.devices) == (14, 2)


def test_four_devices_in_two_groups_stay_four_where_nothing_notes_all_callers() -> None:
    setup = resolve(case(**MINIMAX, n_gpus="4", tp="2", notes="attention-dp=2 ep=4"))
    assert setup.split.devices == 4


def test_data_set_lengths_are_known_by_name() -> None:
    setup = resolve(
        case(
            STATIC_70B,
            isl="dataset",
            osl="294.45",
            metric="mlperf_offline_output_throughput",
            notes="OpenOrca",
        )
    )
    assert (setup.isl, setup.osl) == (260, 294.45)


def test_mlperf_lengths_follow_from_the_model_when_notes_are_silent() -> None:
    setup = resolve(case(model="GPT-J-6B", isl="dataset", osl="", metric="mlperf_server_samples"))
    assert (setup.isl, setup.osl) == (778, 73)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "Nope-7B"}, "model"),
        ({"gpu": "H900"}, "gpu"),
        ({"tp": "3", "n_gpus": "3"}, "tp"),
        ({"pp": "64"}, "pp"),
        ({"tp": "1.5"}, "tp"),
        ({"isl": ""}, "isl"),
        ({"osl": "0"}, "osl"),
        ({"batch_or_concurrency": "-4"}, "batch_or_concurrency"),
        ({"batch_or_concurrency": "nan"}, "batch_or_concurrency"),
        ({"batch_or_concurrency": "", "request_rate_rps": ""}, "batch_or_concurrency"),
        ({"request_rate_rps": "0", "batch_or_concurrency": ""}, "request_rate_rps"),
        ({"weights_precision": "fp3"}, "weights_precision"),
        ({"metric": "happiness"}, "metric"),
    ],
)
def test_bad_cases_are_refused_by_column(changes: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        resolve(case(CLOSED_8B, **changes))
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("engine", "version", "vendor", "name"),
    [
        ("vLLM", "0.7.3", "NVIDIA", "vllm-v0"),
        ("vLLM", "0.11.0", "NVIDIA", "vllm-v1"),
        ("vllm", "nightly-5b8c30d", "NVIDIA", "vllm-v1-async"),
        ("vLLM 0.9.0.2.dev108+g71", "", "AMD", "vllm-rocm"),
        ("TensorRT 10.11", "", "NVIDIA", "trt-mlperf"),
        ("TensorRT-LLM", "0.9.0", "NVIDIA", "trtllm-cpp-early"),
        ("something new", "3", "NVIDIA", "unknown"),
    ],
)
def test_engine_generations(engine: str, version: str, vendor: str, name: str) -> None:
    assert generation(engine, version, vendor).name == name


@pytest.mark.parametrize(
    ("gpu", "held", "chunk"), [("H100-SXM-80GB", 1024, 1.0), ("A100-SXM-80GB", 256, 0.25), ("L4", 256, 0.25)]
)
def test_vllm_starts_with_smaller_defaults_on_small_devices_and_a100(
    gpu: str, held: float, chunk: float
) -> None:
    setup = resolve(case(model="Qwen2.5-0.5B", gpu=gpu, engine_version="0.11.0", isl="64", osl="32"))
    assert held_sequences(setup) == held
    assert columns([setup]).chunk_share[0] == chunk


def test_promises_are_read_from_notes() -> None:
    setup = resolve(
        case(request_rate_rps="2", batch_or_concurrency="", notes="p99 SLO TTFT 450 ms TPOT 40 ms; x")
    )
    assert (setup.slo_ttft_ms, setup.slo_itl_ms) == (450, 40)
    assert resolve(case(notes="p99 TTFT 13674 p99 TPOT 40 ms")).slo_itl_ms == 0


@pytest.mark.parametrize(
    ("notes", "groups"), [("attention-dp=1 ep=8; x", 8), ("flags: --tp-size 4 --ep-size 4", 4), ("", 1)]
)
def test_expert_groups_are_read_from_notes(notes: str, groups: int) -> None:
    wide = case(model="Qwen3-235B-A22B", n_gpus="8", tp="8", notes=notes)
    assert resolve(wide).expert_groups == groups


@pytest.mark.parametrize(
    ("label", "devices"), [("8xMI300 1FP8-amd", 8), ("4xMi300x 1FP8-amd", 4), ("8xMi300x 2FP8-amd", 4)]
)
def test_a_label_says_on_how_many_devices_one_copy_runs(label: str, devices: int) -> None:
    row = case(model="Llama-3.1-405B", gpu="MI300X", n_gpus="8", tp="8", weights_precision="FP8")
    setup = resolve(case(row, metric="output_throughput", notes=f"label '{label}'; value derived"))
    assert (setup.split.devices, setup.replicas) == (devices, 1)
    assert bool(setup.reading) == (devices == 4)


@pytest.mark.parametrize(
    ("model", "notes", "groups"),
    [
        ("DeepSeek-V3", "flags: --tp-size 8 --dp-size; dp=8", 8),
        ("DeepSeek-V3", "attention-dp=1 ep=8; x", 1),
        ("DeepSeek-V3", "dp=1", 1),
        ("Qwen3-235B-A22B", "dp=8", 1),
    ],
)
def test_attention_groups_are_read_from_cut_off_flags(model: str, notes: str, groups: int) -> None:
    setup = resolve(case(model=model, gpu="H200", n_gpus="8", tp="8", weights_precision="FP8", notes=notes))
    assert setup.split.attention_dp == groups


@pytest.mark.parametrize(
    ("gpu", "notes", "processor"),
    [
        ("GB200", "", "grace"),
        ("B200", "", ""),
        ("B200", "warm; Host: EPYC 9554; x", "epyc 9554"),
        ("GH200", "host: Xeon Gold 6530", "xeon gold 6530"),
    ],
)
def test_the_processor_beside_a_device_is_its_own_or_the_one_noted(
    gpu: str, notes: str, processor: str
) -> None:
    assert resolve(case(gpu=gpu, notes=notes)).processor == processor


@pytest.mark.parametrize(
    ("changes", "processor"),
    [
        ({}, "xeon platinum 8558"),
        ({"engine": "vLLM v0.7.3", "engine_version": ""}, "xeon platinum 8558"),
        ({"engine_version": "0.11.0"}, ""),
        ({"model": "Llama-2-70B", "n_gpus": "2", "tp": "2"}, ""),
        ({"notes": "host: EPYC 9554"}, "epyc 9554"),
    ],
)
def test_a_case_like_published_runs_is_beside_their_processor(
    changes: dict[str, str], processor: str
) -> None:
    asked = {"gpu": "H200", "engine_version": "0.7.3", **changes}
    assert resolve(case(**asked)).processor == processor

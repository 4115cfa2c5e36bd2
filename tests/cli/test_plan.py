"""`outpace plan` through the CLI."""

import json
from pathlib import Path

import msgspec
import pytest
from tests.weights import smollm2_gguf
from typer.testing import CliRunner, Result

from outpace.cli.app import app_for
from outpace.hardware.machine import detect, machine_name
from outpace.hardware.probe import Probe, save_probe
from outpace.lab.profiles import ProfileStore
from outpace.values.errors import InvalidInput
from outpace.values.profile import Conditions, LoadPoint, Profile

__all__ = ["smollm2_gguf"]


def run(*words: str) -> Result:
    return CliRunner().invoke(app_for(["plan"]), ["plan", *words])


def test_a_plan_names_the_best_its_cost_and_why_others_lost(tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"
    done = run(
        "Llama-3.1-70B", "--rate", "2", "--itl-ms", "60", "--gpu", "H100,H200,L4", "--plot", str(picture)
    )
    assert done.exit_code == 0, done.output
    assert "why the others lost" in done.output
    assert "$/Mtok" in done.output
    assert "GB weights" in done.output
    assert picture.read_text().startswith("<svg")


def test_the_document_has_every_figure() -> None:
    done = run("Llama-3.1-8B", "--gpu", "H100", "--gpu", "H200", "--api-usd-per-mtok", "0.5", "--json")
    document = json.loads(done.output)
    best = document["best"]
    assert (
        best["capacity_tokens_per_s_low"] < best["capacity_tokens_per_s"] < best["capacity_tokens_per_s_high"]
    )
    assert best["usd_per_mtok"]
    assert document["break_even"]["cheaper"] in ("plan", "api")
    assert {r["gpu"] for r in document["rejected"]} == {"H100-SXM-80GB", "H200-SXM-141GB"} - {best["gpu"]}


def test_the_engine_version_is_named_with_what_is_known_of_it() -> None:
    words = ("Llama-3.1-8B", "--gpu", "H100")
    assert "whichever measured version runs" in run(*words).output
    assert "vllm-v1 0.11.0, measured" in run(*words, "--engine-version", "0.11.0").output
    assert "vllm-v1-async latest, not measured" in run(*words, "--engine-version", "latest").output
    document = json.loads(run(*words, "--engine-version", "V99.1", "--json").output)
    assert document["engine_version"] == "99.1"
    assert document["best"]["engine"] == "vllm-v1-async"
    assert document["best"]["basis"] == "calibrated (version)"


@pytest.mark.parametrize(
    ("words", "problem"),
    [(("--engine-version", "vLLM"), "is not a version"), (("--here", "--engine-version", "1.0"), "--here")],
)
def test_a_version_that_cannot_be_kept_is_refused(words: tuple[str, ...], problem: str) -> None:
    refused = run("smollm2-135m-instruct", *words).exception
    assert isinstance(refused, InvalidInput)
    assert refused.param == "engine-version"
    assert problem in str(refused)


def test_nothing_that_meets_the_objective_fails_with_reasons() -> None:
    done = run("Llama-3.1-405B", "--gpu", "L4")
    assert done.exit_code == 1
    assert "Nothing meets this" in done.output
    assert "does not fit" in done.output


def test_speculation_is_shown_by_load() -> None:
    words = (
        "Llama-3.1-8B",
        "--gpu",
        "H100",
        "--itl-ms",
        "20",
        "--speculation",
        "head",
        "--acceptance",
        "0.7",
    )
    found = json.loads(run(*words, "--draft-tokens", "3", "--json").output)["speculation"]
    assert found["tokens_per_step"] == pytest.approx(2.533)
    speedups = [gain["speedup"] for gain in found["gains"]]
    assert speedups == sorted(speedups, reverse=True)
    assert "sequences in flight: 1: " in run(*words).output


@pytest.mark.parametrize(
    "words",
    [
        ("Nope-7B",),
        ("Llama-3.1-8B", "--gpu", "H900"),
        ("Llama-3.1-8B", "--rate", "0"),
        ("Llama-3.1-8B", "--rate", "nan"),
        ("Llama-3.1-8B", "--itl-ms", "inf"),
        ("Llama-3.1-8B", "--kv", "fp3"),
        ("Llama-3.1-8B", "--sure", "120", "--itl-ms", "30"),
        ("Llama-3.1-8B", "--sure", "80"),
        ("Llama-3.1-8B", "--speculation", "ngram"),
        ("Llama-3.1-8B", "--acceptance", "0.5"),
        ("Llama-3.1-8B", "--gpu", "H100", "--api-usd-per-mtok", "0"),
        ("none.gguf",),
    ],
)
def test_bad_input_is_refused(words: tuple[str, ...]) -> None:
    assert isinstance(run(*words).exception, InvalidInput)


def test_here_uses_the_kept_probe(tmp_path: Path) -> None:
    machine = detect()
    kept = Probe(
        processor=machine.processor,
        cores=machine.cores,
        read_bytes_per_s=1e10,
        multiply_flops=1e11,
        probed_at_s=1.0,
    )
    save_probe(kept, tmp_path / "machine.json")
    done = run("smollm2-135m-instruct", "--here", "--home", str(tmp_path), "--json")
    document = json.loads(done.output)
    assert document["probe"]["read_bytes_per_s"] == 1e10
    speeds = {option["format"]: option["decode_tokens_per_s"] for option in document["options"]}
    assert speeds["q4_0"] > speeds["q8_0"] > speeds["bf16"]


def test_a_real_run_corrects_the_profile(tmp_path: Path) -> None:
    machine = detect()
    kept = Probe(
        processor=machine.processor,
        cores=machine.cores,
        read_bytes_per_s=1e10,
        multiply_flops=1e11,
        probed_at_s=1.0,
    )
    save_probe(kept, tmp_path / "machine.json")
    words = ("smollm2-135m-instruct", "--here", "--home", str(tmp_path))
    assert "measured 77" in run(*words, "--measured", "q4_0=77").output
    again = json.loads(run(*words, "--json").output)
    [option] = [option for option in again["options"] if option["format"] == "q4_0"]
    assert option["decode_tokens_per_s"] == 77
    assert option["basis"].startswith("measured")
    for wrong in ("q4_0", "q4_0=fast", "q4_0=-1", "q9=5"):
        assert isinstance(run(*words, "--measured", wrong).exception, InvalidInput)


def test_a_profile_of_another_format_corrects_what_is_predicted(tmp_path: Path, smollm2_gguf: Path) -> None:
    machine = detect()
    kept = Probe(
        processor=machine.processor,
        cores=machine.cores,
        read_bytes_per_s=1e10,
        multiply_flops=1e11,
        probed_at_s=1.0,
    )
    save_probe(kept, tmp_path / "machine.json")
    words = ("smollm2-135m-instruct", "--here", "--home", str(tmp_path), "--json")

    def speed(name: str) -> dict[str, float]:
        options = json.loads(run(*words).output)["options"]
        return next(option for option in options if option["format"] == name)

    before = speed("q8_0")
    weights = tmp_path / "artifacts" / "sha256" / ("a" * 64) / "weights.gguf"
    weights.parent.mkdir(parents=True)
    weights.symlink_to(smollm2_gguf)
    conditions = Conditions(
        model="smollm2-135m-instruct",
        artifact_sha256="a" * 64,
        engine="llamacpp",
        engine_version="1",
        machine=machine_name(machine),
    )
    point = LoadPoint(users=1, output_tokens_per_s=20.0, itl_ms=50.0)
    profile = Profile(
        conditions=conditions,
        measured_at=1.0,
        took_s=1.0,
        load_s=1.0,
        prefill_tokens_per_s=1.0,
        points=(point,),
    )
    ProfileStore(tmp_path / "profiles").keep(profile)
    after = speed("q8_0")
    assert after["decode_tokens_per_s"] < before["decode_tokens_per_s"]
    assert "by 1 run here of other formats" in str(after["basis"])
    ProfileStore(tmp_path / "profiles").keep(
        msgspec.structs.replace(profile, conditions=msgspec.structs.replace(conditions, machine="another"))
    )
    assert speed("q8_0") == after

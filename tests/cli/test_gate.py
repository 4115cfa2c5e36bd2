"""`outpace gate`: its words, its exit codes, and what it refuses; the engines are played by a stand-in."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.precision.small import matrices, verdict, write_gguf
from typer.testing import Result

from outpace.lab import canaries as lab
from outpace.lab.gate import GateOrder
from outpace.precision.verdict import Example, Outcome, Verdict
from outpace.values.errors import InvalidInput

Outpace = Callable[..., Result]
ORDERS: list[GateOrder] = []


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    """Make the gate come to this outcome."""
    ORDERS.clear()

    def set_outcome(outcome: Outcome) -> None:
        async def gate(order: GateOrder, *rest: object) -> Verdict:
            ORDERS.append(order)
            worst = Example(
                item_id="i1", kind="code", kl=0.4, prompt="ask\x1b[31m", reference="right", candidate="wrong"
            )
            fields = {name: getattr(verdict(outcome), name) for name in Verdict.__struct_fields__}
            return Verdict(**{**fields, "worst": (worst,)})

        monkeypatch.setattr(lab, "gate_and_record", gate)

    return set_outcome


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_gguf(tmp_path / "own.gguf", matrices()))


def test_a_pass_exits_with_0_and_names_what_it_holds_for(
    outpace: Outpace, says: Callable[[Outcome], None], model: str
) -> None:
    says("pass")
    result = outpace("gate", model, "--precision", "q8_0", "--kv-precision", "q8_0", "--against", "f16")
    assert result.exit_code == 0
    assert "PASS" in result.stdout
    assert "holds for" in result.stdout
    order = ORDERS[0]
    assert (order.candidate.precision, order.candidate.kv_precision) == ("q8_0", "q8_0")
    assert (order.reference.precision, order.reference.kv_precision) == ("f16", "f16")


@pytest.mark.parametrize("outcome", ["refuse", "undecided"])
def test_what_does_not_pass_exits_with_1_and_shows_the_texts(
    outpace: Outpace, says: Callable[[Outcome], None], model: str, outcome: Outcome
) -> None:
    says(outcome)
    result = outpace("gate", model, "--precision", "q4_0")
    assert result.exit_code == 1
    assert "right" in result.stdout
    assert "wrong" in result.stdout
    assert "\x1b" not in result.stdout


def test_json_is_the_whole_verdict(outpace: Outpace, says: Callable[[Outcome], None], model: str) -> None:
    says("pass")
    told = json.loads(outpace("gate", model, "--precision", "q8_0", "--json").stdout)
    assert told["outcome"] == "pass"
    assert told["subject"]["engine_version"]
    assert told["metrics"][0]["limit"] == 0.05


def test_the_reference_of_a_model_that_was_never_quantized_is_itself(
    outpace: Outpace, says: Callable[[Outcome], None], model: str
) -> None:
    says("pass")
    outpace("gate", model, "--precision", "q8_0")
    assert ORDERS[0].reference.precision == "f32"


@pytest.mark.parametrize("content", ["", '{"id": "a"}\n' * 30])
def test_a_bad_items_file_is_refused(
    outpace: Outpace, says: Callable[[Outcome], None], model: str, tmp_path: Path, content: str
) -> None:
    says("pass")
    items = tmp_path / "items.jsonl"
    items.write_text(content)
    result = outpace("gate", model, "--precision", "q8_0", "--items", str(items))
    assert isinstance(result.exception, InvalidInput)
    assert ORDERS == []


def test_the_engine_of_the_candidate_is_told_and_unknown_ones_are_refused(
    outpace: Outpace, says: Callable[[Outcome], None], model: str
) -> None:
    says("pass")
    result = outpace("gate", model, "--engine", "openvino", "--precision", "q8_0", "--kv-precision", "u8")
    assert result.exit_code == 0
    assert (ORDERS[0].candidate.engine, ORDERS[0].reference.engine) == ("openvino", "llamacpp")
    assert ORDERS[0].subject.engine_version.startswith("openvino-genai")
    for options, named in (
        (("--engine", "vllm"), "it judges llamacpp, openvino"),
        (("--engine", "openvino", "--kv-precision", "q8_0"), "not known to openvino"),
        (("--kv-precision", "u8"), "not known to llamacpp"),
        (("--precision", "openvino-int8"), "--engine openvino"),
    ):
        refused = outpace("gate", model, *options)
        assert isinstance(refused.exception, InvalidInput)
        assert named in str(refused.exception)

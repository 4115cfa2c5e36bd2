"""`outpace predict` through the CLI."""

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from outpace.cli.app import app_for
from outpace.planner.cases import CASE_COLUMNS
from outpace.planner.predict import ANSWER_COLUMNS
from outpace.values.errors import InvalidInput

HEAD = (
    "id,model,gpu,n_gpus,tp,pp,weights_precision,engine,engine_version,isl,osl,"
    "batch_or_concurrency,metric,notes,more"
)
ROWS = """
a,Llama-3.1-8B,H100-SXM-80GB,1,1,1,BF16,vLLM,0.11.0,1000,200,8,itl_ms_mean,,kept out
b,Llama-3.1-405B,L4,1,1,1,FP8,vLLM,0.11.0,1000,200,8,output_throughput,,
c,Unknown-1B,L4,1,1,1,FP8,vLLM,0.11.0,1000,200,8,output_throughput,,
"""


def test_every_row_is_answered_in_order_with_the_case_columns(tmp_path: Path) -> None:
    cases, answers = tmp_path / "cases.csv", tmp_path / "answers.csv"
    cases.write_text(HEAD + ROWS)
    done = CliRunner().invoke(app_for(["predict"]), ["predict", str(cases), "-o", str(answers)])
    assert done.exit_code == 0, done.output
    assert "3 cases: 1 predicted, 1 cannot run, 1 not known" in done.output
    with answers.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert tuple(rows[0]) == (*CASE_COLUMNS, *ANSWER_COLUMNS)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert float(rows[0]["low"]) < float(rows[0]["predicted"]) < float(rows[0]["high"])
    assert (rows[0]["unit"], rows[1]["predicted"], rows[2]["predicted"]) == ("ms", "0", "")
    assert "does not fit" in rows[1]["reason"]
    assert "not known" in rows[2]["reason"]


@pytest.mark.parametrize(
    ("content", "words"), [("id,gpu\n1,L4\n", "lacks the columns model, metric"), ("", "lacks")]
)
def test_a_file_without_the_needed_columns_is_refused(tmp_path: Path, content: str, words: str) -> None:
    cases = tmp_path / "cases.csv"
    cases.write_text(content)
    done = CliRunner().invoke(app_for(["predict"]), ["predict", str(cases)])
    assert isinstance(done.exception, InvalidInput)
    assert words in str(done.exception)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app_for(["predict"]), ["predict", str(tmp_path / "none.csv")])
    assert isinstance(done.exception, InvalidInput)
    assert "none.csv" in str(done.exception)

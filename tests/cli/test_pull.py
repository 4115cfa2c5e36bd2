"""`outpace pull`, driven as a user does."""

import importlib
import json
from pathlib import Path

import pytest
import typer
from tests.catalogue.samples import file_weights, tiny_gguf
from typer.testing import CliRunner

from outpace.catalogue.cards import Card
from outpace.catalogue.store import Progress
from outpace.cli import pull
from outpace.cli.weights import fetch_weights
from outpace.values.errors import InvalidInput, ModelNotFound, WeightsInvalid
from outpace.values.home import Home


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue with one tiny model whose source is a file."""
    card = Card(
        id="tiny",
        family="tiny",
        publisher="us",
        tasks=("chat",),
        parameters=80,
        licence="MIT",
        source="here",
        checked_on="2026-11-23",
        context_tokens=64,
        artifacts=(file_weights(tmp_path, tiny_gguf()),),
    )
    # The room exports a function of the module's name.
    module = importlib.import_module("outpace.catalogue.resolve")
    monkeypatch.setattr(module, "shipped_cards", lambda: {"tiny": card})


def run(folder: Path, *words: str) -> str:
    """What the command prints; its errors are raised as they reach `main`."""
    app = typer.Typer()
    app.callback()(lambda: None)
    pull.register(app)
    result = CliRunner().invoke(app, ["pull", *words, "--home", str(folder / "home")])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("cards")
def test_a_pull_says_what_is_there_now(tmp_path: Path) -> None:
    assert "ok  pulled" in run(tmp_path, "tiny")
    assert "ok  was there" in run(tmp_path, "tiny")


@pytest.mark.usefixtures("cards")
def test_json_names_file_hash_and_source(tmp_path: Path) -> None:
    pulled = json.loads(run(tmp_path, "tiny", "--json"))
    assert Path(pulled["path"]).read_bytes() == tiny_gguf()
    assert pulled["sha256"] in pulled["path"]
    assert (pulled["model"], pulled["precision"], pulled["was_present"]) == ("tiny", "f32", False)
    assert pulled["source"].startswith("file:")
    again = json.loads(run(tmp_path, "tiny", "--verify", "--json"))
    assert again == pulled | {"was_present": True}


@pytest.mark.usefixtures("cards")
def test_verify_repairs_damage(tmp_path: Path) -> None:
    path = Path(json.loads(run(tmp_path, "tiny", "--json"))["path"])
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    run(tmp_path, "tiny", "--verify")
    assert path.read_bytes() == tiny_gguf()


def test_a_model_without_weights_needs_nothing(tmp_path: Path) -> None:
    assert "needs no weights" in run(tmp_path, "echo")


def test_a_file_of_the_users_own_is_only_checked(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").write_bytes(tiny_gguf())
    assert "sound GGUF" in run(tmp_path, str(tmp_path / "own.gguf"))
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsInvalid, match=r"own\.gguf"):
        run(tmp_path, str(tmp_path / "own.gguf"))


def test_an_unknown_model_is_refused_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="smollm2-135m-instruct"):
        run(tmp_path, "smollm-135m-instruct")


def test_a_terminal_sees_bytes_rate_and_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pull.watching("tiny") as watch:
        watch(Progress("downloading", 10_000_000, 98_000_000))
        watch(Progress("waiting", 50_000_000, 98_000_000))
    shown = capsys.readouterr().err
    assert "another process downloads it" in shown
    assert "50.0/98.0 MB" in shown


def test_a_pipe_sees_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with pull.watching("tiny") as watch:
        watch(Progress("downloading", 1, 2))
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("cards")
def test_a_format_that_is_made_here_starts_from_the_shipped_weights(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    fetch_weights(home, "tiny", "q8_0", is_quiet=True)
    assert list(home.artifacts.rglob("weights.gguf"))
    with pytest.raises(InvalidInput, match="has no weights at 'q9_9'"):
        fetch_weights(home, "tiny", "q9_9", is_quiet=True)

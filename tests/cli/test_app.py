import subprocess
import sys
from pathlib import Path

import pytest

from outpace.cli import app

SLOW_IMPORTS = {"rich", "aiohttp", "fastapi", "sqlalchemy", "alembic", "uvicorn", "huggingface_hub", "openai"}


def test_help_names_every_command_and_imports_nothing_slow() -> None:
    script = (
        "import sys; sys.argv = ['outpace', '--help']\n"
        "from outpace.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        f"slow = {SLOW_IMPORTS!r} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    listed = {line.split()[0] for line in ran.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert set(app.COMMANDS) <= listed


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["outpace", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    return int(ended.value.code or 0)


def test_expected_failure_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "status", "--home", str(tmp_path)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "outpace up" in said.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["outpace", "status", "--home", str(tmp_path), "--debug"])
    with pytest.raises(Exception, match="no platform was started") as raised:
        app.main()
    assert raised.traceback[-1].name == "read_credentials"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["scale", "chat"], ["scale", "chat", "-1"], ["status", "--nonsense"]]
)
def test_wrong_usage_is_exit_2(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    assert run(monkeypatch, *words) == 2


def test_unwritable_home_is_a_line_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert run(monkeypatch, "up", "--model", "none", "--home", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err.startswith("outpace: ")


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: list[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "app_for", broken)
    with pytest.raises(ZeroDivisionError):
        app.main()

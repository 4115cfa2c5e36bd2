"""What can be asked of Outpace is documented, and the documents are those that the code makes."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from outpace import __version__
from outpace.cli.app import COMMANDS
from outpace.settings import Settings, variable_of
from outpace.values.errors import OutpaceError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def script(name: str) -> ModuleType:
    """A file of docs/reference as a module."""
    found = importlib.util.spec_from_file_location(name, REFERENCE / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


GENERATE = script("generate")
SIZES = script("sizes")


def page(name: str) -> str:
    return (REFERENCE / name).read_text("utf-8")


def test_the_reference_is_what_the_code_says() -> None:
    assert GENERATE.main(["--check"]) == 0


@pytest.mark.parametrize("error", GENERATE.error_classes(), ids=lambda error: error.__name__)
def test_every_error_says_its_code_status_and_meaning(error: type[OutpaceError]) -> None:
    assert re.fullmatch(r"[a-z_]+", error.code or "")
    assert 400 <= error.status <= 599
    assert error.__doc__
    assert f"| `{error.code}` | {error.status} |" in page("errors.md")


def test_every_setting_is_documented_with_its_meaning() -> None:
    rows = {name: meaning for name, _, _, meaning in GENERATE.setting_rows()}
    assert list(rows) == list(Settings.__struct_fields__)
    for name, meaning in rows.items():
        assert len(meaning) > 10, f"{name} needs a comment above its field"
        assert f"`{variable_of(name)}`" in page("settings.md")


def test_every_command_is_documented_with_an_example_and_json() -> None:
    sections = re.split(r"^## outpace ", page("cli.md"), flags=re.MULTILINE)[1:]
    by_command = {section.splitlines()[0]: section for section in sections}
    assert set(COMMANDS) <= set(by_command)
    for command, text in by_command.items():
        if "COMMAND [ARGS]" in text:
            continue
        assert re.search(r"Examples?: (outpace|curl) ", text), f"{command} has no example"
        assert "--json" in text or command == "up", f"{command} has no --json"


def test_every_metric_is_documented_with_bounded_labels() -> None:
    rows = GENERATE.metric_rows()
    assert len(rows) >= 10
    for name, _, labels, meaning in rows:
        assert meaning, f"{name} does not say what it is"
        assert set(labels) <= {"deployment", "engine", "status", "outcome", "kind", "state"}
        assert f"| `{name}` |" in page("metrics.md")


def test_version_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == __version__
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_a_function_is_measured_without_its_docstring() -> None:
    assert list(SIZES.function_lines('def f():\n    """One."""\n    a = 1\n    return a\n')) == [3]
    assert SIZES.percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90) == 9
    assert SIZES.percentile([], 90) == 0

"""The README promises only what is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from outpace.cli.app import app_for
from outpace.cli.spec import spec_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def outpace_lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith("outpace ")]


def test_there_are_commands_to_check() -> None:
    assert len(outpace_lines()) >= 8


@pytest.mark.parametrize("line", outpace_lines())
def test_each_command_line_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    # Options are parsed before `--help` acts, so an unknown command or option is exit 2.
    ran = CliRunner().invoke(app_for(words), [*words, "--help"])
    assert ran.exit_code == 0, ran.output
    assert f"Usage: outpace {words[0]}" in ran.output


def test_each_deployment_file_is_one() -> None:
    for block in blocks("yaml"):
        assert spec_of(yaml.safe_load(block)).name


@pytest.mark.parametrize("target", re.findall(r"\bmake (\w+)", README))
def test_each_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)


def test_the_map_matches_the_disk() -> None:
    tree = next(block for block in re.findall(r"```\n(src/.*?)```", README, flags=re.DOTALL))
    rooms = set(re.findall(r"^  (\w+)/", tree, flags=re.MULTILINE))
    assert rooms == {path.name for path in (ROOT / "src/outpace").iterdir() if is_room(path)}
    for folder in re.findall(r"^(\w+)/", tree, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir()


def is_room(path: Path) -> bool:
    """A folder with code."""
    return path.is_dir() and any(path.glob("*.py"))


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "docs/guides/README.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert ((ROOT / name).parent / target).exists(), target


def test_architecture_names_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    for path in re.findall(
        r"`((?:gateway|control|cli|catalogue|engines|fleet|metering|scheduling|values)/[\w/.]+)`", text
    ):
        assert (ROOT / "src/outpace" / path).exists(), path


def test_every_guide_is_in_the_index() -> None:
    index = (ROOT / "docs/guides/README.md").read_text("utf-8")
    for guide in (ROOT / "docs/guides").glob("*.md"):
        assert guide.name == "README.md" or f"({guide.name})" in index

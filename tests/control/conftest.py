"""Homes for control's tests."""

from pathlib import Path

import pytest

from outpace.values.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made

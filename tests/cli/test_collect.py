"""`outpace collect`: what no deployment serves goes, the rest stays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.precision.small import matrices, write_gguf
from typer.testing import Result

from outpace.cli import collect as command


def test_only_made_weights_of_models_that_nobody_serves_are_removed(
    outpace: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(write_gguf(tmp_path / f"{name}.gguf", matrices())) for name in ("served", "idle")]
    made = [json.loads(outpace("quantize", path, "--to", "q8_0", "--json").stdout)["path"] for path in paths]

    class Client:
        def __init__(self, *place: object) -> None: ...

        def get(self, path: str) -> dict[str, Any]:
            return {"deployments": [{"name": "chat", "model": "served"}]}

    monkeypatch.setattr(command, "AdminClient", Client)
    told = json.loads(outpace("collect", "--json").stdout)
    assert (told["removed"], told["kept"]) == (1, 1)
    assert told["freed_bytes"] > 0
    assert [Path(path).exists() for path in made] == [True, False]

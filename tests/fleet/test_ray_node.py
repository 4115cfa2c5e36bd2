"""How a machine joins: what Ray is told, and the token."""

from pathlib import Path

import pytest

from outpace.fleet.ray_node import NodeOptions, ray_start, require_token
from outpace.values.errors import InvalidInput


def test_a_machine_tells_what_it_offers_in_words_that_ray_takes() -> None:
    options = NodeOptions(head="h:1", cpus=0, devices=2, accelerator="H100", labels={"zone": "a"})
    command = ray_start(options)
    assert {"--address=h:1", "--num-cpus=0", "--num-gpus=2", "--disable-usage-stats"} <= set(command)
    assert "--labels=zone=a,ray.io/accelerator-type=H100" in command
    assert "--include-dashboard=false" in ray_start(NodeOptions(head=None))


def test_only_the_head_makes_a_token_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="copy the head's"):
        require_token(tmp_path / "t", may_make=False)
    made = require_token(tmp_path / "t", may_make=True)
    assert made.stat().st_mode & 0o777 == 0o600
    assert require_token(made, may_make=False).read_text() == made.read_text()

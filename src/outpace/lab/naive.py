"""Naive serving, where the mission's story starts: `transformers`, one request at a time. For comparison only."""

from importlib.util import find_spec

import msgspec

from outpace.engines import child
from outpace.values.deployment import Launch, LaunchOrder


class NaiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the process is told: a Hugging Face folder, and the number format to compute in."""

    socket_path: str
    folder: str
    dtype: str = "float32"
    threads: int = 1


class Naive:
    """Starts `outpace.lab.naive_child`; enough of an engine for an experiment."""

    def launch(self, order: LaunchOrder) -> Launch:
        """How to start it; the artifact is a folder."""
        path = child.socket_path(order)
        config = NaiveConfig(
            socket_path=path,
            folder=str(order.artifact_path),
            dtype=str(order.engine_settings.get("dtype", "float32")),
            threads=order.threads,
        )
        return child.launch_module("outpace.lab.naive_child", config, path, order.token)


def is_installed() -> bool:
    """The optional extra `naive` is there."""
    return all(find_spec(name) is not None for name in ("torch", "transformers"))

"""How published runs start an engine, read from `recipes.toml`, and the flags that a case notes itself."""

import re
import tomllib
from functools import cache
from importlib.resources import files

import msgspec


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What starts a model on an engine and on devices; empty `formats` and a `tp` of 0 mean any."""

    engine: str
    devices: tuple[str, ...]
    models: tuple[str, ...]
    polls: tuple[tuple[float, float], ...]
    formats: tuple[str, ...] = ()
    tp: int = 0

    def is_for(self, start: "Start") -> bool:
        """Whether published runs of this start follow the recipe."""
        return (
            start.engine == self.engine
            and start.device in self.devices
            and start.model in self.models
            and (not self.formats or start.stored in self.formats)
            and self.tp in (0, start.tp)
        )


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is started with: its generation, the device, the model and its format, the split."""

    engine: str
    device: str
    model: str
    stored: str
    tp: int


def poll_steps(start: Start, callers: float, notes: str) -> float:
    """Decode steps between two looks of the scheduler at what has arrived; 1 is every step."""
    noted = re.search(r"--scheduler-recv-interval[ =](\d+)", notes)
    if noted:
        return max(1.0, float(noted[1]))
    found = next((recipe for recipe in recipes() if recipe.is_for(start)), None)
    steps = [every for least, every in found.polls if callers >= least] if found else []
    return steps[-1] if steps else 1.0


@cache
def recipes() -> tuple[Recipe, ...]:
    """Every known recipe, the narrower ones first."""
    text = files("outpace.planner").joinpath("recipes.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["recipe"], tuple[Recipe, ...])

"""GGUF formats as data: which ggml type each tensor of a file gets."""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import msgspec

from outpace.values.errors import InvalidInput

_SUFFIX = ".weight"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A type for the tensors of some roles; without roles for all of them."""

    type: str
    tensors: tuple[str, ...] = ()
    depth: float = 0.0
    fallback: str = "Q8_0"


# A field that is not said is not part of the digest in lineages: what was made before stays known.
class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How a file of one format is made."""

    name: str
    file_type: int
    rules: tuple[Rule, ...]
    source: str
    # 4-bit matrices are fitted to what flows through them; else each number goes to the nearest one.
    is_fitted: bool = False
    # All blocks of a row share one scale, which an engine may then hold once for the row.
    shares_scales: bool = False

    def rule_for(self, tensor: str, layers: int) -> Rule:
        """The first rule that fits a tensor such as `blk.3.ffn_up.weight` of a model with `layers` layers."""
        role, depth = _place(tensor, layers)
        for rule in self.rules:
            if (not rule.tensors or role in rule.tensors) and depth >= rule.depth:
                return rule
        raise InvalidInput(
            "recipe", f"{self.name} has no rule for tensor {tensor!r}; end it with one for all"
        )


def recipe(name: str) -> Recipe:
    """The recipe of this format. Raises InvalidInput listing the known ones."""
    known = recipes()
    wanted = name.strip().lower()
    if wanted not in known:
        raise InvalidInput("--to", f"{name[:40]!r} is not known; choose one of {', '.join(known)}")
    return known[wanted]


@cache
def recipes() -> dict[str, Recipe]:
    """Every GGUF format that can be made here, by name."""
    text = files("outpace.precision").joinpath("recipes.toml").read_text(encoding="utf-8")
    return {
        name: msgspec.convert({**table, "name": name}, Recipe) for name, table in tomllib.loads(text).items()
    }


def source_precision(precision: str, shipped: Sequence[str]) -> str:
    """What to look up for a wish: a format that is made here starts from the weights that `auto` stands for."""
    is_made = precision not in ("auto", *shipped) and precision in recipes()
    return "auto" if is_made else precision


def _place(tensor: str, layers: int) -> tuple[str, float]:
    """Role and relative depth: `blk.3.ffn_up.weight` of 30 layers is ("ffn_up", 0.1); outside layers depth 1."""
    bare = tensor.removesuffix(_SUFFIX)
    parts = bare.split(".", 2)
    if len(parts) == 3 and parts[0] == "blk" and parts[1].isdigit():
        return parts[2], int(parts[1]) / max(layers, 1)
    return bare, 1.0

"""How published runs start an engine, read from `recipes.toml`, and the flags that a case notes itself."""

import re
import tomllib
from functools import cache
from importlib.resources import files

import msgspec

from outpace.planner.engines import is_older


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What starts a model on an engine and on devices; empty `formats` and a `tp` of 0 mean any.

    One of: how seldom arrivals are looked for (`polls`); the format of keys and values (`kv`); tokens that the
    model's own heads draft per step (`drafts`); decode steps that a prompt may wait for others, so that a step reads
    a fuller batch (`gathers`); one attention group per device (`groups`). Pairs hold for one group of devices and for
    several groups of attention data parallelism. Versions, images, days, `words` in notes, `lengths` (prompt and
    output), `below_tp` and `least_callers` narrow a recipe.
    """

    engine: str
    devices: tuple[str, ...]
    models: tuple[str, ...]
    polls: tuple[tuple[float, float], ...] = ()
    kv: str = ""
    since: str = ""
    drafts: tuple[int, int] = (0, 0)
    gathers: tuple[float, float] = (0.0, 0.0)
    groups: bool = False
    lengths: tuple[float, float] = (0.0, 0.0)
    below_tp: int = 0
    least_callers: float = 0.0
    version: str = ""
    image: str = ""
    words: str = ""
    measured: tuple[str, ...] = ()
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
            and (not self.since or not is_older(start.version, self.since))
            and self.version in ("", start.version)
            and self.lengths in ((0.0, 0.0), start.lengths)
            and (not self.below_tp or start.tp < self.below_tp)
            and start.callers >= self.least_callers
        )


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is started with: its generation, the device, the model and its format, the split."""

    engine: str
    device: str
    model: str
    stored: str
    tp: int
    version: str = ""
    has_groups: bool = False
    lengths: tuple[float, float] = (0.0, 0.0)
    callers: float = 0.0


def poll_steps(start: Start, notes: str) -> float:
    """Decode steps between two looks of the scheduler at what has arrived; 1 is every step."""
    noted = re.search(r"--scheduler-recv-interval[ =](\d+)", notes)
    if noted:
        return max(1.0, float(noted[1]))
    found = next((recipe for recipe in recipes() if recipe.polls and recipe.is_for(start)), None)
    steps = [every for least, every in found.polls if start.callers >= least] if found else []
    return steps[-1] if steps else 1.0


def has_attention_groups(start: Start) -> bool:
    """Whether a published run had one attention group per device, which its table does not say."""
    return any(recipe.groups and recipe.is_for(start) for recipe in recipes())


def kv_name(start: Start, notes: str) -> str:
    """The format of keys and values that a published run was started with; `auto` is 16 bit."""
    noted = re.search(r"--kv[-_]cache[-_]dtype[ =]([\w.]+)", notes)
    if noted:
        return "fp8" if noted[1].startswith("fp8") else "auto"
    return next((recipe.kv for recipe in recipes() if recipe.kv and recipe.is_for(start)), "auto")


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests that published runs at full load consist of, by words in their notes and by lengths."""

    words: str
    requests: tuple[tuple[float, float, float], ...]


def published_requests(notes: str, lengths: tuple[float, float]) -> float:
    """How many requests a published run at full load had; 0 where nobody says so."""
    known = next((run.requests for run in _tables().run if run.words in notes), ())
    return next((count for isl, osl, count in known if (isl, osl) == lengths), 0.0)


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The version in the image that InferenceX's lists named for an engine on some days, and its scripts' flags."""

    engine: str
    measured: tuple[str, ...]
    version: str
    flags: str = ""


def published_image(engine: str, measured: str) -> Image | None:
    """What a run of InferenceX ran that names no version, by its day; None where it is not known."""
    images = (image for image in _tables().image if image.engine == engine and measured in image.measured)
    return next(images, None)


def recipes() -> tuple[Recipe, ...]:
    """Every known recipe, the narrower ones first."""
    return _tables().recipe


class _Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    recipe: tuple[Recipe, ...]
    run: tuple[Run, ...]
    image: tuple[Image, ...]


def drafted_tokens(start: Start, notes: str) -> int:
    """Tokens that a published run drafted per step where its recipe says so, which its table does not; else 0.

    A case whose notes speak of speculation (`speculation off`, `draft_len=3`) is taken at its word instead.
    """
    if re.search(r"\bspeculat|\bdraft_len\b", notes):
        return 0
    image = re.search(r"\bimage=([^\s;]+)", notes)
    measured = re.search(r"\bmeasured (\S+)", notes)
    for recipe in recipes():
        is_image = not recipe.image or (image is not None and image[1].endswith(recipe.image))
        is_day = not recipe.measured or (measured is not None and measured[1] in recipe.measured)
        if recipe.drafts[0] and is_image and is_day and recipe.words in notes and recipe.is_for(start):
            return recipe.drafts[1 if start.has_groups else 0]
    return 0


def gather_steps(start: Start) -> float:
    """Decode steps that a prompt may wait for others to be read with, the longest where several recipes hold."""
    place = 1 if start.has_groups else 0
    return max((recipe.gathers[place] for recipe in recipes() if recipe.is_for(start)), default=0.0)


@cache
def _tables() -> _Tables:
    text = files("outpace.planner").joinpath("recipes.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _Tables)

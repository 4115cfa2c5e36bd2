"""What is asked of a server in an experiment: described by lengths, arrivals and a seed, so it can be had again."""

import math
import random
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Literal

import msgspec

from outpace.lab.prompts import PROMPTS, PromptMaker, filler
from outpace.values.errors import InvalidInput

Distribution = Literal["fixed", "uniform", "lognormal", "either"]
Process = Literal["at_once", "even", "poisson"]


class Lengths(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A distribution of token counts.

    `fixed` takes `least`; `uniform` lies between `least` and `most`; `lognormal` has `mu` and `sigma` of the logarithm,
    cut to `least` and `most`; `either` is `most` with the probability `share`, else `least`.
    """

    kind: Distribution
    least: int = 1
    most: int = 1
    mu: float = 0.0
    sigma: float = 0.0
    share: float = 0.5

    def draw(self, dice: random.Random) -> int:
        """One length."""
        if self.kind == "fixed":
            return self.least
        if self.kind == "uniform":
            return dice.randint(self.least, self.most)
        if self.kind == "either":
            return self.most if dice.random() < self.share else self.least
        return max(self.least, min(self.most, round(math.exp(dice.gauss(self.mu, self.sigma)))))


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A described workload; the same description and seed give the same requests on every machine."""

    name: str
    about: str
    prompts: str
    output_tokens: Lengths
    # Filler before the question; None asks the bare question.
    input_tokens: Lengths | None = None
    turns: Lengths = Lengths(kind="fixed", least=1)
    # Words that every conversation starts with, as a shared system prompt; about one token each.
    system_tokens: int = 0
    seed: int = 1


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One question and the length of its answer."""

    text: str
    output_tokens: int


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Turns that follow each other, each with all before it; `at_s` is when it begins under an open loop."""

    turns: tuple[Turn, ...]
    # Messages before the first turn: a system prompt, or a history.
    before: tuple[dict[str, str], ...] = ()
    at_s: float | None = None


def named(name: str) -> Workload:
    """A workload that ships with Outpace. Raises InvalidInput listing the known ones."""
    known = shipped()
    if name not in known:
        raise InvalidInput(
            "workload", f"{name!r} is not known; known: {', '.join(known)}, or a .jsonl or .csv file"
        )
    return known[name]


def shipped() -> dict[str, Workload]:
    """The workloads that ship with Outpace, by name."""
    text = files("outpace.lab").joinpath("workloads.toml").read_text(encoding="utf-8")
    return {
        name: msgspec.convert({"name": name, **fields}, Workload)
        for name, fields in tomllib.loads(text).items()
    }


def conversations(workload: Workload, count: int, seed: int | None = None) -> list[Conversation]:
    """The first `count` conversations; a longer list begins with the shorter one."""
    dice = random.Random(f"{workload.name}/{workload.seed if seed is None else seed}")
    maker = PROMPTS.get(workload.prompts)
    if maker is None:
        raise InvalidInput("prompts", f"{workload.prompts!r} is not known; known: {', '.join(PROMPTS)}")
    return [_conversation(workload, maker, random.Random(dice.getrandbits(64))) for _ in range(count)]


def arriving(
    asked: Sequence[Conversation], process: Process, per_s: float, seed: int = 1
) -> list[Conversation]:
    """The same conversations with moments of arrival: at once, evenly, or as a Poisson process of `per_s`."""
    if process != "at_once" and not 0 < per_s < math.inf:
        raise InvalidInput("rate", "must be above 0 requests per second")
    dice, at_s, timed = random.Random(seed), 0.0, []
    for conversation in asked:
        timed.append(msgspec.structs.replace(conversation, at_s=at_s))
        if process == "even":
            at_s += 1 / per_s
        elif process == "poisson":
            at_s += dice.expovariate(per_s)
    return timed


def _conversation(workload: Workload, maker: PromptMaker, dice: random.Random) -> Conversation:
    before: tuple[dict[str, str], ...] = ()
    if workload.system_tokens:
        # The same for all conversations: what a prefix cache is for.
        shared = filler(random.Random(workload.name), workload.system_tokens)
        before = ({"role": "system", "content": f"You answer in plain words. {shared}"},)
    turns = tuple(_turn(workload, maker, dice) for _ in range(workload.turns.draw(dice)))
    return Conversation(turns=turns, before=before)


def _turn(workload: Workload, maker: PromptMaker, dice: random.Random) -> Turn:
    text = maker(dice)
    if workload.input_tokens is not None:
        text = f"{filler(dice, workload.input_tokens.draw(dice))}\n\n{text}"
    return Turn(text=text, output_tokens=workload.output_tokens.draw(dice))

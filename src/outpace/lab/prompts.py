"""The texts of workloads, made from a seed: questions, pieces of code, and filler of a wanted length."""

import random
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files

import msgspec

PromptMaker = Callable[[random.Random], str]


class _Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    names: tuple[str, ...]


class _Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    questions: tuple[str, ...]
    topics: tuple[str, ...]
    words: tuple[str, ...]
    new_names: tuple[str, ...]
    code: tuple[_Code, ...]


def question(dice: random.Random) -> str:
    """A short question about one of many topics."""
    texts = _texts()
    return dice.choice(texts.questions).format(topic=dice.choice(texts.topics))


def code_edit(dice: random.Random) -> str:
    """A piece of code with the request to rename one of its variables, whose names are new in every question."""
    texts = _texts()
    code = dice.choice(texts.code)
    text = code.text
    names = [f"{dice.choice(texts.words)}_{dice.choice(texts.words)}" for _ in code.names]
    for old, new in zip(code.names, names, strict=True):
        text = re.sub(rf"\b{old}\b", new, text)
    wanted = dice.choice(texts.new_names)
    return (
        f"Rename the variable `{dice.choice(names)}` to `{wanted}` in this code and print the whole code again:"
        f"\n\n{text}"
    )


def filler(dice: random.Random, tokens: int) -> str:
    """About `tokens` tokens of common words."""
    return " ".join(dice.choices(_texts().words, k=max(tokens, 1)))


PROMPTS: dict[str, PromptMaker] = {"chat": question, "code": code_edit}


@cache
def _texts() -> _Texts:
    raw = files("outpace.lab").joinpath("prompts.json").read_bytes()
    return msgspec.json.decode(raw, type=_Texts)

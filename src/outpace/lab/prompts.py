"""The texts of workloads, made from a seed: questions, pieces of code, and filler of a wanted length."""

import random
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files

import msgspec

PromptMaker = Callable[[random.Random], str]
# About 200 tokens of code.
_CODE_CHARACTERS = 700


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
    """Code with the request to rename one of its variables, whose names are new in every question.

    Several pieces, so that an answer of 160 tokens ends inside the code: what a model writes beyond it is no code.
    """
    texts = _texts()
    pieces: list[str] = []
    names: list[str] = []
    while sum(len(piece) for piece in pieces) < _CODE_CHARACTERS:
        code = dice.choice(texts.code)
        text = code.text
        for old in code.names:
            new = f"{dice.choice(texts.words)}_{dice.choice(texts.words)}"
            text = re.sub(rf"\b{old}\b", new, text)
            names.append(new)
        pieces.append(text.strip("\n"))
    wanted = dice.choice(texts.new_names)
    whole = "\n\n\n".join(pieces)
    return (
        f"Rename the variable `{dice.choice(names)}` to `{wanted}` in this code and print the whole code again:"
        f"\n\n{whole}"
    )


def filler(dice: random.Random, tokens: int) -> str:
    """About `tokens` tokens of common words."""
    return " ".join(dice.choices(_texts().words, k=max(tokens, 1)))


PROMPTS: dict[str, PromptMaker] = {"chat": question, "code": code_edit}


@cache
def _texts() -> _Texts:
    raw = files("outpace.lab").joinpath("prompts.json").read_bytes()
    return msgspec.json.decode(raw, type=_Texts)

"""The four prompt forms of completions and embeddings: a string, strings, token ids, lists of token ids."""

from collections.abc import Iterable
from itertools import chain

from outpace.values.errors import InvalidInput
from outpace.values.requests import CompletionRequest, EmbeddingRequest, EngineBound

_MAX_TOKEN_ID = 2**31 - 1
_MAX_TOKENS = 2_000_000


def check_prompt(prompt: object, name: str, most: int) -> None:
    """Raise InvalidInput unless `prompt` is one of the four forms, not empty, with at most `most` items."""
    if isinstance(prompt, str):
        if not prompt and name == "input":
            raise InvalidInput(name, "must not be empty")
        return
    if not isinstance(prompt, list):
        raise InvalidInput(name, "must be a string, strings, token ids, or lists of token ids")
    if not prompt:
        raise InvalidInput(name, "must not be empty")
    if isinstance(prompt[0], int) and not isinstance(prompt[0], bool):
        _check_ids(prompt, name)
        return
    if len(prompt) > most:
        raise InvalidInput(name, f"has {len(prompt)} items, at most {most} are allowed")
    if isinstance(prompt[0], str):
        _check_strings(prompt, name)
        return
    for index, item in enumerate(prompt):
        if not isinstance(item, list) or not item:
            raise InvalidInput(
                f"{name}[{index}]", "must be a string or a list of token ids that is not empty"
            )
        _check_ids(item, f"{name}[{index}]")


def check_vocabulary(request: EngineBound, vocabulary: int | None) -> None:
    """Raise InvalidInput for a token id that the model does not have; `vocabulary` None is not checked."""
    if vocabulary is None:
        return
    if isinstance(request, EmbeddingRequest):
        _require_within(_ids(request.input), vocabulary, "input")
        return
    if isinstance(request, CompletionRequest):
        _require_within(_ids(request.prompt), vocabulary, "prompt")
    if request.logit_bias:
        _require_within(map(int, request.logit_bias), vocabulary, "logit_bias")
    if request.stop_token_ids:
        _require_within(request.stop_token_ids, vocabulary, "stop_token_ids")


def _ids(prompt: object) -> Iterable[int]:
    if not isinstance(prompt, list) or isinstance(prompt[0], str):
        return ()
    return chain.from_iterable(prompt) if isinstance(prompt[0], list) else prompt


def _require_within(ids: Iterable[int], vocabulary: int, name: str) -> None:
    worst = max(ids, default=0)
    if worst >= vocabulary:
        raise InvalidInput(name, f"token id {worst} is outside the model's vocabulary of {vocabulary}")


def _check_strings(items: list[object], name: str) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidInput(f"{name}[{index}]", "must be a string, as the first item is one")
        if not item and name == "input":
            raise InvalidInput(f"{name}[{index}]", "must not be empty")


def _check_ids(ids: list[object], name: str) -> None:
    if len(ids) > _MAX_TOKENS:
        raise InvalidInput(name, f"has {len(ids)} token ids, at most {_MAX_TOKENS} are allowed")
    for index, token in enumerate(ids):
        if type(token) is not int or not 0 <= token <= _MAX_TOKEN_ID:
            raise InvalidInput(f"{name}[{index}]", "must be a token id (a whole number of at least 0)")

"""From a body to sequences for the engine: rendered, tokenized, measured against the context, limits applied."""

import random
from collections.abc import Sequence

import msgspec

from outpace.engines.openvino_library import Tokenizer
from outpace.engines.openvino_wire import Ask, Sampling
from outpace.values.errors import ContextTooLong, InvalidInput

_TOKEN_BYTES = 8
# The random generator behind a sequence is seeded with 32 bits.
_SEED_BITS = 32
_SEEDS = 1 << _SEED_BITS
_LARGEST_MIN_P = 0.999


class Prompt(msgspec.Struct, frozen=True):
    """64-bit token ids of one prompt."""

    tokens: bytes

    @property
    def num_tokens(self) -> int:
        """Its length."""
        return len(self.tokens) // _TOKEN_BYTES


def prompts_of(ask: Ask, tokenizer: Tokenizer, context_tokens: int) -> list[Prompt]:
    """The tokens of every prompt. Raises InvalidInput, and ContextTooLong when one leaves no room for the output."""
    if ask.messages is not None:
        try:
            text = tokenizer.rendered(ask.messages, ask.chat_template_kwargs)
        except ValueError as error:
            raise InvalidInput("messages", f"this model's chat template refuses them: {error}") from error
        prompts = [_encoded(text, tokenizer, ask, context_tokens, adds_first=False)]
    else:
        prompts = [
            _encoded(prompt, tokenizer, ask, context_tokens, adds_first=True)
            if isinstance(prompt, str)
            else _of_ids(prompt, tokenizer)
            for prompt in ask.prompts or ()
        ]
    if not prompts:
        raise InvalidInput("prompt", "is missing")
    for prompt in prompts:
        output_tokens = 1 if ask.max_tokens is None else ask.max_tokens
        if prompt.num_tokens + output_tokens > context_tokens:
            raise _too_long(ask, context_tokens, prompt.num_tokens, output_tokens)
    return prompts


def samplings(ask: Ask, prompts: Sequence[Prompt], context_tokens: int, schema: str | None) -> list[Sampling]:
    """How each choice is sampled, prompt by prompt."""
    return [
        _sampling(ask, prompt, context_tokens, schema, prompt_index * ask.n + choice)
        for prompt_index, prompt in enumerate(prompts)
        for choice in range(ask.n)
    ]


def _sampling(ask: Ask, prompt: Prompt, context_tokens: int, schema: str | None, index: int) -> Sampling:
    room_tokens = context_tokens - prompt.num_tokens
    max_tokens = room_tokens if ask.max_tokens is None else min(ask.max_tokens, room_tokens)
    return Sampling(
        max_tokens=max_tokens,
        seed=_seed(ask.seed, index),
        # top_p 0 keeps the likeliest token only, which is greedy.
        temperature=ask.temperature if ask.top_p else 0.0,
        top_p=ask.top_p or 1.0,
        top_k=max(ask.top_k, 0),
        min_p=min(ask.min_p, _LARGEST_MIN_P),
        repetition_penalty=ask.repetition_penalty,
        presence_penalty=ask.presence_penalty,
        frequency_penalty=ask.frequency_penalty,
        min_tokens=min(ask.min_tokens, max_tokens),
        ignore_eos=ask.ignore_eos,
        stop_token_ids=tuple(ask.stop_token_ids),
        wants_logprobs=ask.logprobs,
        json_schema=schema,
        speculates=ask.speculate,
        is_plain=schema is None and _is_plain(ask),
    )


def _is_plain(ask: Ask) -> bool:
    """Nothing that only the library does; and what is sampled with a seed is the same at every load."""
    has_penalties = ask.repetition_penalty != 1.0 or ask.presence_penalty or ask.frequency_penalty
    is_seeded = ask.seed is not None and ask.temperature > 0 and ask.top_p > 0
    return not (has_penalties or ask.min_tokens or ask.logprobs or is_seeded)


def _seed(seed: int | None, index: int) -> int:
    """32 bits: the caller's 64 folded, the choices of one request apart; random when none is given."""
    if seed is None:
        return random.getrandbits(_SEED_BITS)
    return ((seed ^ (seed >> _SEED_BITS)) + index) % _SEEDS


def _encoded(text: str, tokenizer: Tokenizer, ask: Ask, context_tokens: int, *, adds_first: bool) -> Prompt:
    # No token is longer than the longest: what cannot fit need not be tokenized to know it.
    fewest_tokens = len(text) // tokenizer.longest_piece_bytes
    if fewest_tokens > context_tokens:
        raise _too_long(ask, context_tokens, fewest_tokens, ask.max_tokens or 1)
    tokens = tokenizer.encode(text, adds_first=adds_first)
    if not len(tokens):
        return Prompt(_packed([tokenizer.first_token]))
    return Prompt(tokens.tobytes())


def _of_ids(ids: list[int], tokenizer: Tokenizer) -> Prompt:
    last = len(tokenizer.pieces) - 1
    if not ids or max(ids) > last or min(ids) < 0:
        raise InvalidInput("prompt", f"token ids must be at least one, and within 0 and {last}")
    return Prompt(_packed(ids))


def _packed(ids: Sequence[int]) -> bytes:
    return b"".join(token.to_bytes(_TOKEN_BYTES, "little") for token in ids)


def _too_long(ask: Ask, context_tokens: int, prompt_tokens: int, output_tokens: int) -> ContextTooLong:
    error = ContextTooLong(context_tokens, prompt_tokens, output_tokens)
    error.param = "messages" if ask.messages is not None else "prompt"
    return error

"""Upper bounds without a tokenizer: a token is at least one byte of UTF-8."""

from outpace.values.requests import ChatRequest, CompletionRequest, EngineBound, num_prompts

_PER_PROMPT_TOKENS = 8
_PER_MESSAGE_TOKENS = 16
# A chat template adds marks, and a system text of its own when there is none.
_TEMPLATE_TOKENS = 256
# It introduces tools with a text of its own, and writes their schemas with more white space than they came with.
_TOOLS_TOKENS = 512
_TOOLS_GROWTH = 2


def prompt_bound_tokens(request: EngineBound, raw_bytes: int) -> int:
    """Most tokens that the prompts of a request can have; `raw_bytes` is the length of its JSON body.

    JSON text is never shorter than the UTF-8 text in it, and token ids take at least two bytes each. All prompts
    of a request are in its body, so its length bounds their sum.
    """
    if isinstance(request, ChatRequest):
        bound = raw_bytes + _TEMPLATE_TOKENS + _PER_MESSAGE_TOKENS * len(request.messages)
        return bound + _TOOLS_TOKENS + raw_bytes * (_TOOLS_GROWTH - 1) if request.tools else bound
    prompt = request.prompt if isinstance(request, CompletionRequest) else request.input
    return raw_bytes + _PER_PROMPT_TOKENS * num_prompts(prompt)

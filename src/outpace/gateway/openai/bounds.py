"""How long prompts are, without a tokenizer: bounds, since a token is at least one byte of UTF-8, and their text."""

from outpace.values.requests import ChatRequest, CompletionRequest, EngineBound, num_prompts

_PER_PROMPT_TOKENS = 8
_PER_MESSAGE_TOKENS = 16
# A chat template adds marks, and a system text of its own when there is none.
_TEMPLATE_TOKENS = 256
# It introduces tools with a text of its own, and writes their schemas with more white space than they came with.
_TOOLS_TOKENS = 512
_TOOLS_GROWTH = 2
# The marks around a message, as if they were text.
_MESSAGE_BYTES = 24


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


def prompt_text_bytes(request: EngineBound, raw_bytes: int) -> int:
    """Bytes of the text that a model reads; of the whole body where it is not plain messages."""
    if not isinstance(request, ChatRequest) or request.tools:
        return raw_bytes
    contents = [message.content for message in request.messages]
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) < len(contents):
        return raw_bytes
    return sum(len(text.encode()) + _MESSAGE_BYTES for text in texts)

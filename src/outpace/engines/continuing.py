"""A request that goes on behind what another replica has said already (`Hints.sent_text`), for engines that can."""

import msgspec

from outpace.engines.protocol import Hints
from outpace.values.requests import AssistantMessage, ChatRequest, CompletionRequest, output_limit_tokens


def behind_chat(request: ChatRequest, hints: Hints) -> ChatRequest:
    """The chat with the text so far as an assistant message that is to be continued."""
    if not hints.sent_text:
        return request
    limit = output_limit_tokens(request)
    return msgspec.structs.replace(
        request,
        messages=[*request.messages, AssistantMessage(content=hints.sent_text)],
        max_tokens=None,
        max_completion_tokens=None if limit is None else limit - hints.sent_tokens,
    )


def behind_completion(request: CompletionRequest, hints: Hints) -> CompletionRequest:
    """The completion with the text so far behind its prompt, which is a text or token ids."""
    if not hints.sent_text:
        return request
    prompt, limit = request.prompt, output_limit_tokens(request) or 0
    longer = prompt + hints.sent_text if isinstance(prompt, str) else [*prompt, hints.sent_text]
    return msgspec.structs.replace(request, prompt=longer, max_tokens=limit - hints.sent_tokens)

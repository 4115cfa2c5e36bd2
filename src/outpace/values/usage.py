"""What one request consumed."""

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Token counts as the engine reports them; `cached_tokens` are part of `prompt_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    # Guessed by speculation, and those of them that the model confirmed (they are part of the completion).
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

"""What the OpenVINO processes are told, and the engine settings that a deployment may set."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class OpenVinoSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Engine settings of an OpenVINO deployment, besides `parallel`, `context_tokens` and `threads`."""

    # Where the processor computes in BF16, `f16` is kept in BF16 too.
    kv_cache: Literal["u8", "f16", "bf16", "f32"] = "f16"
    # Tokens whose keys and values are kept, over all sequences; 0: the full context of eight sequences. Sequences share
    # them by pages; when they run out the youngest sequence is computed again later.
    kv_tokens: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    # Most tokens of prompts and sequences together in one step: smaller keeps steps short while prompts are read.
    step_tokens: Annotated[int, Meta(ge=32, le=65_536)] = 256
    prefix_caching: bool = True
    # Compute in this format; `auto` is what the processor does fastest.
    compute: Literal["auto", "f32", "bf16"] = "auto"
    # Activations are quantized in groups of this many for 8-bit products; 0 keeps them, -1 is the engine's default.
    activation_group: Annotated[int, Meta(ge=-1, le=4096)] = -1
    # `lookup` guesses what follows from the text so far, for requests that are not told otherwise. It holds the
    # model twice, small ones three times. `draft` asks a smaller model besides.
    speculation: Literal["none", "lookup", "draft"] = "none"
    # Weights of the draft model, for `draft`: a GGUF, or a folder with OpenVINO's files.
    draft_path: str = ""


class OpenVinoConfig(
    OpenVinoSettings, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Everything that the processes need but for the token."""

    socket_path: str
    # A GGUF, or a folder with OpenVINO's files.
    model_path: str
    # Where converted weights are kept; empty: nowhere, every start converts.
    artifacts_dir: str = ""
    alias: str
    # Name of the model in the catalogue.
    model: str
    # Sequences at a time, and the context of each.
    parallel: int
    context_tokens: int
    threads: int
    # Before the first answer, not beside it: what only some requests need, and what makes guesses cheaper.
    loads_at_once: bool = False


# Weights up to this size are held once more, for steps that guess, and laid out for steps of few tokens.
SMALL_WEIGHTS_BYTES = 512 << 20


def graphs_that_guess(weights_bytes: int) -> int:
    """How often a process that guesses holds the weights for it: with a graph of its own for steps that guess, or not.

    The engine prepares for each step of another length, which takes milliseconds whatever the model's size.
    """
    return 2 if weights_bytes <= SMALL_WEIGHTS_BYTES else 1


# Sequences that may fill their context at the same time, unless the setting says otherwise.
_FULL_SEQUENCES = 8


def kept_tokens(config: OpenVinoConfig) -> int:
    """Tokens whose keys and values are kept, over all sequences."""
    return max(
        config.kv_tokens or config.context_tokens * min(config.parallel, _FULL_SEQUENCES),
        config.context_tokens,
    )

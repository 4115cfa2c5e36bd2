"""Hugging Face checkpoint folders of the user's own: what serving must know of them, read and checked, not believed."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from outpace.values.errors import WeightsInvalid

_LARGEST_FILE_BYTES = 256 * 1024 * 1024
_MOST_CONTEXT_TOKENS = 100_000_000


class FolderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one checkpoint folder."""

    architecture: str
    context_tokens: int
    vocabulary: int
    # `bfloat16`, `float16`, …, or what quantized it.
    precision: str
    # Texts of special tokens, in the order of their ids.
    control_texts: tuple[str, ...]
    has_chat_template: bool
    mentions_tools: bool
    # Of the vocabulary as the tokenizer's file writes it: equal for folders with the same one.
    tokens_sha256: str


class _Added(msgspec.Struct):
    content: str
    special: bool = False


class _Model(msgspec.Struct, frozen=True):
    vocab: msgspec.Raw = msgspec.Raw(b"")


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_Added] = []
    model: _Model = _Model()


def read_folder(folder: Path) -> FolderFacts:
    """The facts of a checkpoint folder. Raises WeightsInvalid with what is missing or makes no sense."""
    config = _json(folder / "config.json")
    text = config.get("text_config")
    inner = {**config, **text} if isinstance(text, dict) else config
    if not any(folder.glob("*.safetensors")):
        raise WeightsInvalid(f"{folder.name} has no .safetensors file")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise WeightsInvalid(f"config.json of {folder.name} names no architecture")
    template, tokenizer = _template(folder), _tokenizer(folder)
    return FolderFacts(
        architecture=architectures[0],
        context_tokens=_count(inner, "max_position_embeddings", folder, _MOST_CONTEXT_TOKENS),
        vocabulary=_count(inner, "vocab_size", folder, 1 << 28),
        precision=_precision(config),
        control_texts=tuple(token.content for token in tokenizer.added_tokens if token.special),
        has_chat_template=bool(template),
        mentions_tools="tools" in template,
        tokens_sha256=hashlib.sha256(tokenizer.model.vocab).hexdigest(),
    )


def _json(path: Path) -> dict[str, Any]:
    raw = _read(path)
    if raw is None:
        raise WeightsInvalid(f"{path.parent.name} holds no {path.name}; give a Hugging Face folder")
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsInvalid(f"{path.name} of {path.parent.name} is no JSON object: {error}") from error


def _read(path: Path) -> bytes | None:
    """The file's bytes; None when it is not there."""
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise WeightsInvalid(f"{path.name} of {path.parent.name} is too large to be what its name says")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsInvalid(f"{path.name} of {path.parent.name} cannot be read: {error.strerror}") from error


def _count(config: dict[str, Any], name: str, folder: Path, most: int) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise WeightsInvalid(f"config.json of {folder.name} does not say a sound {name}")
    return value


def _precision(config: dict[str, Any]) -> str:
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        return str(quantized.get("format") or quantized.get("quant_method") or "quantized")[:40]
    return str(config.get("dtype") or config.get("torch_dtype") or "unknown")[:40]


def _tokenizer(folder: Path) -> _Tokenizer:
    raw = _read(folder / "tokenizer.json")
    if raw is None:
        raise WeightsInvalid(f"{folder.name} holds no tokenizer.json; save its fast tokenizer there")
    try:
        return msgspec.json.decode(raw, type=_Tokenizer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsInvalid(f"tokenizer.json of {folder.name} is not sound: {error}") from error


def _template(folder: Path) -> str:
    """The chat template as text; "" when there is none."""
    raw = _read(folder / "chat_template.jinja")
    if raw is not None:
        return raw.decode(errors="replace")
    if _read(folder / "tokenizer_config.json") is None:
        return ""
    return str(_json(folder / "tokenizer_config.json").get("chat_template") or "")

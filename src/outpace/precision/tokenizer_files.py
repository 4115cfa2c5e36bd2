"""The tokenizer of a GGUF as the files that Hugging Face's tools read: tokenizer.json and tokenizer_config.json."""

from pathlib import Path
from typing import Any

import msgspec

from outpace.precision.gguf_maker import keys_of
from outpace.values.errors import InvalidInput

_CONTROL, _USER_DEFINED = 3, 4
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PIECES = {**_BYTES, "use_regex": False}
# How text is cut before merging, by `tokenizer.ggml.pre`. Source: the pre-tokenizer regular expressions of
# llama.cpp's llama-vocab.cpp and the tokenizer.json files that these names stand for.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_CUTS: dict[str, list[dict[str, Any]]] = {
    "default": [_BYTES],
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": [_split(_LLAMA3), _PIECES],
    "qwen2": [_split(_QWEN2), _PIECES],
}


def write_tokenizer(source: Path, target: Path) -> None:
    """Write the tokenizer of the GGUF `source` into the folder `target`.

    Raises InvalidInput for a kind of tokenizer that is not converted, WeightsInvalid for a file that is not sound.
    """
    keys = keys_of(source)
    cut = keys.get("tokenizer.ggml.pre", "default")
    if keys.get("tokenizer.ggml.model") != "gpt2" or cut not in _CUTS:
        kind = f"{keys.get('tokenizer.ggml.model')}/{cut}"
        raise InvalidInput(
            "model",
            f"its tokenizer ({kind}) is not converted from GGUF; give the model's Hugging Face folder",
        )
    (target / "tokenizer.json").write_bytes(msgspec.json.encode(_tokenizer(keys, _CUTS[cut])))
    (target / "tokenizer_config.json").write_bytes(msgspec.json.encode(_config(keys)))


def _tokenizer(keys: dict[str, Any], cuts: list[dict[str, Any]]) -> dict[str, Any]:
    tokens: list[str] = keys["tokenizer.ggml.tokens"]
    kinds: list[int] = keys.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(number, token, kind)
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
        "post_processor": None,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in keys.get("tokenizer.ggml.merges", [])],
            "ignore_merges": keys.get("tokenizer.ggml.pre") == "llama-bpe",
        },
    }


def _added(number: int, token: str, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": kind == _CONTROL}


def _config(keys: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(keys[f"{keys['general.architecture']}.context_length"]),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(keys.get("tokenizer.ggml.add_bos_token", False)),
    }
    tokens = keys["tokenizer.ggml.tokens"]
    for role, name in _ROLES.items():
        number = keys.get(f"tokenizer.ggml.{role}_token_id")
        if number is not None:
            config[f"{name}_token"] = tokens[int(number)]
    if keys.get("tokenizer.chat_template"):
        config["chat_template"] = keys["tokenizer.chat_template"]
    return config

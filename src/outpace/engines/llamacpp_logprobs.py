"""Log-probabilities of llama.cpp in the shapes of the two endpoints."""

from typing import Any


def chat_logprobs(given: dict[str, Any], num_top: int) -> dict[str, Any]:
    """The chat shape without llama.cpp's token ids, with as many alternatives as asked for."""
    entries = [
        {**_plain(entry), "top_logprobs": [_plain(top) for top in entry["top_logprobs"][:num_top]]}
        for entry in given.get("content") or ()
    ]
    return {"content": entries, "refusal": None}


def completion_logprobs(given: dict[str, Any], num_top: int, offset: int) -> tuple[dict[str, Any], int]:
    """The completions shape of the same figures, and the offset after them; `offset` counts characters."""
    entries = given.get("content") or ()
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    top = [{one["token"]: one["logprob"] for one in entry["top_logprobs"][:num_top]} for entry in entries]
    shaped = {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": top if num_top else None,
        "text_offset": offsets,
    }
    return shaped, offset


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry["bytes"]}

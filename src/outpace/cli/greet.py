"""One real answer through the OpenAI door, as any client would ask for it, and the curl line that repeats it."""

import http.client
import json
import shlex
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import msgspec

from outpace.cli.credentials import Credentials
from outpace.settings import default_home
from outpace.values.clock import Clock
from outpace.values.errors import EngineFailed
from outpace.values.home import Home

QUESTION = "What is the capital of France? Answer in one sentence."
_MOST_TOKENS = 32
_TIMEOUT_S = 120.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back, and how fast."""

    text: str
    completion_tokens: int
    ttft_s: float
    duration_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """Rate after the first token; None when there is no second one."""
        after_first_s = self.duration_s - self.ttft_s
        return (self.completion_tokens - 1) / after_first_s if after_first_s > 0 else None


def ask(credentials: Credentials, model: str, clock: Clock) -> Answer:
    """Ask the question with the owner's key, streamed. Raises EngineFailed with the door's words."""
    started_s = clock.monotonic_s()
    texts: list[str] = []
    first_s, num_tokens = None, 0
    for event in _events(credentials, model):
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                first_s = first_s or clock.monotonic_s()
                texts.append(text)
        num_tokens = (event.get("usage") or {}).get("completion_tokens", num_tokens)
    ended_s = clock.monotonic_s()
    return Answer(
        text="".join(texts).strip(),
        completion_tokens=num_tokens,
        ttft_s=(first_s or ended_s) - started_s,
        duration_s=ended_s - started_s,
    )


def answer_line(answer: Answer) -> str:
    """`> question   answer   14 tokens · 96 ms to first · 118 tok/s`."""
    rate = f" · {answer.tokens_per_s:.0f} tok/s" if answer.tokens_per_s else ""
    words = " ".join(answer.text.split())
    figures = f"{answer.completion_tokens} tokens · {answer.ttft_s * 1000:.0f} ms to first{rate}"
    return f"  > {QUESTION}   {words}   {figures}"


def curl_line(credentials: Credentials, model: str, home: Home) -> str:
    """The same question as a line for the shell; it reads the key from where it lies."""
    body = json.dumps(_question(model), ensure_ascii=False)
    return (
        f"curl -s {credentials.base_url}/chat/completions "
        f'-H "Authorization: Bearer $({own_command(home, "keys show")})" '
        f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


def own_command(home: Home, words: str) -> str:
    """How this shell calls a command of ours for this home."""
    on_path = shutil.which("outpace")
    own = sys.argv[0]
    program = "outpace" if on_path is not None and on_path == shutil.which(own) else shlex.quote(own)
    where = "" if home.root == Home(default_home()).root else f" --home {shlex.quote(str(home.root))}"
    return f"{program} {words}{where}"


def _question(model: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": _MOST_TOKENS,
        "temperature": 0,
    }


def _events(credentials: Credentials, model: str) -> Iterator[dict[str, Any]]:
    address = urllib.parse.urlsplit(credentials.base_url)
    body = _question(model) | {"stream": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {credentials.api_key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", f"{address.path}/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise EngineFailed(f"{model} did not answer: {_message(response.read())}")
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield _event(model, line[6:])
    except (OSError, http.client.HTTPException) as error:
        raise EngineFailed(f"{model} did not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _event(model: str, raw: bytes) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(raw)
    if "error" in event:
        raise EngineFailed(f"{model} failed: {_message(raw)}")
    return event


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")

"""The process of naive serving: `transformers.generate` behind a lock. The only user of transformers.

Run as `python -m outpace.lab.naive_child --config JSON`. One request runs, all others wait: no batching, no cache of
prefixes, no other number format than the one it was told.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import torch
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer

from outpace.engines import child
from outpace.lab.naive import NaiveConfig


class _Body(msgspec.Struct):
    messages: list[dict[str, str]]
    max_tokens: int = 16


class _Tokens:
    """Hands every token to the event loop; the first call carries the prompt."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_prompt = True
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()

    def put(self, value: Any) -> None:
        """One token, or the prompt."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._loop.call_soon_threadsafe(self.queue.put_nowait, int(value))

    def end(self) -> None:
        """No more tokens."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, None)


class Server:
    """One model, one request at a time."""

    def __init__(self, config: NaiveConfig) -> None:
        torch.set_num_threads(config.threads)
        self._tokenizer = AutoTokenizer.from_pretrained(config.folder)
        self._model = AutoModelForCausalLM.from_pretrained(
            config.folder, dtype=getattr(torch, config.dtype)
        ).eval()
        self._turn = asyncio.Lock()

    async def health(self, request: web.Request) -> web.Response:
        """It is up once the model is loaded."""
        return web.json_response({"status": "ok"})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """One streamed chat, after those before it."""
        body = msgspec.json.decode(await request.read(), type=_Body)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        async with self._turn:
            await self._answer(body, response)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _answer(self, body: _Body, response: web.StreamResponse) -> None:
        encoded = self._tokenizer.apply_chat_template(
            body.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        count = 0
        async for token in self._generate(encoded, body.max_tokens):
            count += 1
            delta = {"content": self._tokenizer.decode([token]) or " "}
            await _send(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        usage = {"prompt_tokens": int(encoded["input_ids"].shape[1]), "completion_tokens": count}
        await _send(response, {"choices": [], "usage": usage})

    async def _generate(self, encoded: Any, tokens: int) -> AsyncIterator[int]:
        """The tokens as they come, end mark or not, so that every answer has the length that was asked for."""
        streamer = _Tokens(asyncio.get_running_loop())
        thread = threading.Thread(target=self._run, args=(encoded, tokens, streamer), daemon=True)
        thread.start()
        while (token := await streamer.queue.get()) is not None:
            yield token

    def _run(self, encoded: Any, tokens: int, streamer: _Tokens) -> None:
        try:
            with torch.inference_mode():
                self._model.generate(
                    **encoded,
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    streamer=streamer,
                )
        finally:
            streamer.end()


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")


def main() -> None:
    """Load the model and serve until SIGTERM."""
    config = child.read_config(NaiveConfig)
    child.take_token()
    child.clear_socket(config.socket_path)
    server = Server(config)
    app = web.Application()
    app.router.add_get("/health", server.health)
    app.router.add_post("/v1/chat/completions", server.chat)
    web.run_app(app, path=config.socket_path, print=None)


if __name__ == "__main__":
    main()

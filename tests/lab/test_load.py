import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from outpace.lab.load import LoadClient, LoadRun, Target, in_turns
from outpace.lab.workload import Conversation, Turn, conversations, named

PIECES = 3


class Server:
    """Speaks the stream of chat completions; counts what it sees."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.target = Target(address="", model="")
        self.running = self.most = 0
        self.fails = self.is_cut = False
        self.tokens: list[str | None] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.tokens.append(request.headers.get("authorization"))
        if self.fails:
            return web.json_response({"error": {"code": "busy", "message": "too many"}}, status=503)
        self.running += 1
        self.most = max(self.most, self.running)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number in range(PIECES):
            await self._send(response, {"choices": [{"delta": {"content": f"w{number} "}}]})
            await asyncio.sleep(0)
        self.running -= 1
        if self.is_cut:
            return response
        usage = {"prompt_tokens": 9, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
        timings = {"draft_n": 5, "draft_n_accepted": 2}
        await self._send(response, {"choices": [], "usage": usage, "timings": timings})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, object]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    made.target = Target(address=f"unix:{tmp_path / 's'}", model="m", token="secret")
    yield made
    await runner.cleanup()


async def test_a_closed_loop_counts_by_usage(server: Server) -> None:
    async with LoadClient(server.target) as client:
        run = await client.closed(conversations(named("chat"), 12), 4)
    assert (run.figures.requests, run.figures.errors, run.figures.output_tokens) == (12, 0, 84)
    assert (run.figures.cached_tokens, run.figures.drafted_tokens, run.figures.accepted_tokens) == (
        48,
        60,
        24,
    )
    assert 1 < server.most <= 4
    assert server.tokens[0] == "Bearer secret"
    assert {"ignore_eos", "temperature", "max_tokens"} <= set(server.bodies[0])
    assert run.samples[0].text == "w0 w1 w2 "


async def test_later_turns_carry_the_answers_before(server: Server) -> None:
    talk = Conversation(
        turns=(Turn(text="one", output_tokens=3), Turn(text="two", output_tokens=3)),
        before=({"role": "system", "content": "s"},),
    )
    async with LoadClient(server.target) as client:
        await client.closed([talk], 1)
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.bodies[1]["messages"][2]["content"] == "w0 w1 w2 "


async def test_an_open_loop_asks_everything(server: Server) -> None:
    asked = [Conversation(turns=(Turn(text="x", output_tokens=2),), at_s=0.001 * n) for n in range(5)]
    async with LoadClient(server.target) as client:
        run = await client.opened(asked)
    assert run.figures.requests == 5
    assert sorted(sample.began_s for sample in run.samples)[-1] >= 0.004


async def test_errors_are_told_in_words(server: Server) -> None:
    server.fails = True
    async with LoadClient(server.target) as client:
        refused = await client.closed(conversations(named("chat"), 2), 1)
        server.fails, server.is_cut = False, True
        cut = await client.closed(conversations(named("chat"), 1), 1)
    assert refused.figures.error_texts == {"503 busy too many": 2}
    assert cut.figures.error_texts == {"the stream was cut": 1}


async def test_nobody_at_the_address_is_an_error_and_no_exception(tmp_path: Path) -> None:
    async with LoadClient(Target(address=f"unix:{tmp_path / 'none'}", model="m")) as client:
        run = await client.closed(conversations(named("chat"), 1), 1)
    assert run.figures.errors == 1


async def test_sides_take_turns(server: Server) -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[int], Awaitable[LoadRun]]:
        async def run(number: int) -> LoadRun:
            order.append(f"{name}{number}")
            async with LoadClient(server.target) as client:
                return await client.closed(conversations(named("chat"), 1), 1)

        return run

    found = await in_turns(2, [side("a"), side("b")])
    assert order == ["a0", "b0", "b1", "a1"]
    assert [len(figures) for figures in found] == [2, 2]

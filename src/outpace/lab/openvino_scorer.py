"""OpenVINO as a scorer: a process with the pipeline that serves and the logits of its graph."""

import asyncio
import contextlib
import itertools
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec

from outpace.engines.openvino_config import OpenVinoConfig, OpenVinoSettings
from outpace.fleet.reasons import last_words
from outpace.lab import openvino_talk as talk
from outpace.lab.llamacpp_scorer import ANSWER_TOKENS, positions_of
from outpace.lab.replica import LabVariant, die_with_parent
from outpace.precision.items import Item
from outpace.precision.traces import Step, Trace
from outpace.values.errors import EngineFailed, EngineTimedOut, InvalidInput

# A conversion may come first.
_START_DEADLINE_S = 600.0
_STOP_DEADLINE_S = 5.0
# Full contexts whose keys and values fit: one wave, and the beginnings that later ones share.
_KV_CONTEXTS = 4
_RECEIVED_BYTES = 1 << 20
_R = TypeVar("_R", talk.Followed, talk.Said, talk.Tokens)


class OpenVinoScorer:
    """One artifact at one KV format as `precision.traces.Scorer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Path) -> None:
        self._reader = reader
        self._writer = writer
        self._log = log
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[talk.Report]] = {}
        self.ready: talk.Ready

    @property
    def kv_bytes_per_token(self) -> float | None:
        """From the tensors that the compiled graph takes."""
        return self.ready.kv_bytes_per_token

    async def continue_greedily(self, item: Item, *, at_length: bool = False) -> Trace:
        """The most likely continuation as it is served, with the probabilities of its first positions."""
        positions = positions_of(item)
        said = await self._said(item, ANSWER_TOKENS if at_length else positions)
        return Trace(item.id, said.text, await self.follow(item, tuple(said.tokens[:positions])))

    async def follow(self, item: Item, tokens: tuple[int, ...]) -> tuple[Step, ...]:
        """How likely each of `tokens` is after the item and those before it."""
        if not tokens:
            return ()
        followed = await self._ask(talk.Follow(next(self._numbers), item, tokens), talk.Followed)
        return tuple(Step(token, top) for token, top in zip(tokens, followed.tops, strict=True))

    async def answer(self, item: Item) -> str:
        """The greedy answer, as it is served."""
        return (await self._said(item, ANSWER_TOKENS)).text

    async def prompt_tokens(self, item: Item) -> tuple[int, ...]:
        """The item as this engine's template and tokenizer write it."""
        return tuple((await self._ask(talk.Read(next(self._numbers), item), talk.Tokens)).tokens)

    async def listen(self) -> None:
        """Hand out reports until the process ends; then who waits learns its last words."""
        held = bytearray()
        while received := await self._reader.read(_RECEIVED_BYTES):
            held += received
            for report in talk.unframed(held, talk.REPORTS):
                self._take(report)
        self._give_up()

    async def wait_ready(self) -> None:
        """Until it is loaded and compared. Raises EngineFailed, EngineTimedOut."""
        waiting = self._waiting[0] = asyncio.get_running_loop().create_future()
        try:
            report = await asyncio.wait_for(waiting, _START_DEADLINE_S)
        except TimeoutError:
            raise EngineTimedOut(f"OpenVINO is not up after {_START_DEADLINE_S:.0f} s") from None
        assert isinstance(report, talk.Ready)
        self.ready = report

    async def _said(self, item: Item, max_tokens: int) -> talk.Said:
        return await self._ask(talk.Say(next(self._numbers), item, max_tokens), talk.Said)

    async def _ask(self, order: talk.Order, kind: type[_R]) -> _R:
        if self._reader.at_eof():
            raise EngineFailed(self._words())
        waiting = self._waiting[order.id] = asyncio.get_running_loop().create_future()
        self._writer.write(talk.framed(order))
        report = await waiting
        if isinstance(report, talk.TooLong):
            raise InvalidInput("--items", "an item is longer than the model's context; shorten it")
        assert isinstance(report, kind)
        return report

    def _take(self, report: talk.Report) -> None:
        waiting = self._waiting.pop(0 if isinstance(report, talk.Ready) else report.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(report)

    def _give_up(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(EngineFailed(self._words()))
        self._waiting.clear()

    def _words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return last_words(lines[-1]) if lines else "OpenVINO's process ended without a word"


@contextlib.asynccontextmanager
async def openvino_scorer(variant: LabVariant) -> AsyncIterator[OpenVinoScorer]:
    """A scorer of `variant`; its process ends when the block does. Enter it on the main thread.

    Raises EngineFailed with the engine's last words, WeightsInvalid's words among them, or EngineTimedOut.
    """
    with tempfile.TemporaryDirectory(prefix="outpace-lab-") as folder:
        log = Path(folder) / "log"
        ours, theirs = socket.socketpair()
        config = msgspec.json.encode(_config(variant)).decode()
        with log.open("wb") as words:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "outpace.lab.openvino_judged", "--config", config),
                stdin=theirs.fileno(),
                stdout=words,
                stderr=words,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        scorer = OpenVinoScorer(reader, writer, log)
        listening = asyncio.create_task(scorer.listen())
        try:
            await scorer.wait_ready()
            yield scorer
        finally:
            listening.cancel()
            writer.close()
            await _end(process)


def _config(variant: LabVariant) -> OpenVinoConfig:
    settings = msgspec.convert(variant.engine_settings, OpenVinoSettings)
    return OpenVinoConfig(
        **{
            name: getattr(settings, name)
            for name in OpenVinoSettings.__struct_fields__
            if name != "kv_tokens"
        },
        kv_tokens=_KV_CONTEXTS * variant.context_tokens,
        socket_path="",
        model_path=str(variant.artifact_path),
        artifacts_dir=variant.artifacts_dir,
        alias=variant.model,
        model=variant.model,
        parallel=variant.parallel,
        context_tokens=variant.context_tokens,
        threads=variant.threads,
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # It holds nothing that must be put away.
        process.kill()
    await asyncio.wait_for(process.wait(), _STOP_DEADLINE_S)

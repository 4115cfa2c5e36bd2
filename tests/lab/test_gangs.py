import asyncio

import pytest

from outpace.lab.gangs import Gangs


class Rig:
    """Requests that end when told, and the order in which they began."""

    def __init__(self, size: int) -> None:
        self.gangs = Gangs(size)
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, *names: str) -> None:
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._request(name))

    async def _request(self, name: str) -> None:
        async with self.gangs.turn():
            self.began.append(name)
            await self.ends[name].wait()

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
        await self.settle()


async def test_a_gang_waits_for_the_last_of_the_one_before() -> None:
    rig = Rig(2)
    rig.ask("a", "b", "c")
    await rig.settle()
    assert rig.began == ["a", "b"]
    await rig.end("a")
    assert rig.began == ["a", "b"]
    await rig.end("b")
    assert rig.began == ["a", "b", "c"]


async def test_who_comes_back_at_once_joins_the_next_gang() -> None:
    rig = Rig(8)
    rig.ask("a")
    await rig.settle()
    rig.ask("b", "c")
    await rig.settle()
    assert rig.began == ["a"]
    await rig.end("a")
    assert rig.began == ["a", "b", "c"]


@pytest.mark.parametrize("victim", ["a", "c"])
async def test_a_request_that_leaves_holds_nobody_up(victim: str) -> None:
    rig = Rig(2)
    rig.ask("a", "b", "c", "d")
    await rig.settle()
    rig.tasks[victim].cancel()
    await rig.end(*{"a", "b"} - {victim})
    await rig.end("c", "d")
    assert set(rig.began) | {victim} == {"a", "b", "c", "d"}
    assert all(task.done() for task in rig.tasks.values())

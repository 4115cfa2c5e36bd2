"""When a proof is asked for, and for what."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.control.rig import parts_in, resolve_echo, wanted

from outpace.control.proofs import SETTLE_S, Proofs, wants_proof
from outpace.control.served import Served
from outpace.values.clock import ManualClock
from outpace.values.home import Home


def served(home: Home, **changes: object) -> Served:
    """A deployment whose weights are here."""
    made = Served(wanted(), parts_in(home), lambda: None)
    resolved = msgspec.structs.replace(resolve_echo(made.wanted.spec), engine="llamacpp")
    made.resolved = msgspec.structs.replace(resolved, **changes)
    return made


def is_starting() -> bool:
    return False


async def prove_nothing(model: str, held: Callable[[], bool]) -> None:
    """A proof that finds nothing out."""


@pytest.mark.parametrize(
    ("changes", "is_wanted"),
    [
        ({}, True),
        ({"engine": "echo"}, False),
        ({"tasks": ("embeddings",)}, False),
        ({"needs_pull": True}, False),
    ],
)
async def test_what_can_be_proven(home: Home, changes: dict[str, object], is_wanted: bool) -> None:
    assert wants_proof(served(home, **changes)) is is_wanted


async def test_a_format_that_the_user_chose_is_left_alone(home: Home) -> None:
    made = served(home)
    made.wanted = msgspec.structs.replace(
        made.wanted, spec=msgspec.structs.replace(made.wanted.spec, precision="q8_0")
    )
    assert not wants_proof(made)


async def test_a_deployment_is_asked_about_once_and_not_at_its_start(home: Home) -> None:
    made = served(home)
    proofs = Proofs(prove_nothing, {"chat": made}, ManualClock(), asyncio.Lock(), is_starting)
    assert proofs.due(1_000.0) is None
    assert proofs.due(1_000.0 + SETTLE_S - 1) is None
    model = proofs.due(1_000.0 + SETTLE_S)
    assert model == made.wanted.spec.model
    await proofs.ask(str(model))
    assert proofs.due(2_000.0) is None


async def test_a_proof_waits_until_nothing_else_is_measured(home: Home) -> None:
    asked: list[str] = []

    async def prove(model: str, held: Callable[[], bool]) -> None:
        assert held is is_starting
        asked.append(model)

    alone = asyncio.Lock()
    proofs = Proofs(prove, {}, ManualClock(), alone, is_starting)
    await alone.acquire()
    asking = asyncio.ensure_future(proofs.ask("m"))
    await asyncio.sleep(0)
    assert asked == []
    alone.release()
    await asking
    assert asked == ["m"]

"""Last lines of dead processes, told to people."""

import pytest

from outpace.fleet.reasons import why_ended


@pytest.mark.parametrize(
    ("exit_code", "last_line", "told"),
    [
        (1, '{"event":"replica_failed","code":"x","reason":"no such file"}', "exit code 1: no such file"),
        (1, "OSError: [Errno 98] Address already in use", "port or socket is taken"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried", "GPU's memory is not enough"),
        (-9, "", "SIGKILL; the kernel does this when memory runs out"),
        (-11, "loading", "crashed (SIGSEGV): loading"),
        (-999, "", "crashed (signal 999)"),
        (2, "[1, 2]", "exit code 2: [1, 2]"),
    ],
)
def test_the_reason_says_how_and_why(exit_code: int, last_line: str, told: str) -> None:
    assert told in why_ended(exit_code, last_line)


def test_a_reason_is_short_whatever_was_written() -> None:
    assert len(why_ended(1, "x" * 100_000)) < 400

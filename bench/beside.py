"""`python -m bench.beside [--engines llamacpp,openvino] [--users 1,8] [--rounds N] [--niceness N] [--model NAME]`

What a replica still gives beside another process that keeps one core busy: tokens/s alone and beside it, in turns, the
same requests on both sides. Settings of OpenMP in the environment reach llama.cpp: `GOMP_SPINCOUNT=300000` is what
GNU's does by itself.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from outpace.cli.options import home_at
from outpace.engines.registry import engine
from outpace.hardware.machine import detect, machine_name
from outpace.lab.load import LoadClient, Target
from outpace.lab.replica import LabVariant, running
from outpace.lab.speculating import variant_here
from outpace.lab.workload import conversations, named
from outpace.values.clock import SystemClock
from outpace.values.home import Home

_clock = SystemClock()
_CONTEXT_TOKENS = 1024
# A side that has collapsed is not waited for.
_LONGEST_S = 120.0


def main() -> None:
    """Measure and print."""
    given = _arguments()
    print(machine_name(detect()), flush=True)
    for name in given.engines.split(","):
        asyncio.run(_measure(name, given))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--engines", default="llamacpp,openvino")
    parser.add_argument("--users", default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--niceness", type=int, default=9, help="of the busy process; 19 is the least urgent")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--home", type=Path, default=home_at(None).root)
    return parser.parse_args()


async def _measure(name: str, given: argparse.Namespace) -> None:
    home = Home(given.home)
    here = variant_here(home, given.model, threads=detect().cores, name=name)
    variant = LabVariant(
        model=here.model,
        artifact_path=Path(here.artifact_path),
        context_tokens=_CONTEXT_TOKENS,
        parallel=max(map(int, given.users.split(","))),
        threads=here.threads,
        artifacts_dir=here.artifacts_dir,
    )
    async with running(engine(name), variant, _clock) as replica:
        target = Target(address=replica.address, model=variant.model, token=replica.token, engine=name)
        async with LoadClient(target, _clock) as client:
            for users in map(int, given.users.split(",")):
                await _compare(name, client, users, given)


async def _compare(name: str, client: LoadClient, users: int, given: argparse.Namespace) -> None:
    alone, beside = [], []
    for number in range(given.rounds):
        alone.append(await _rate(client, users, seed=100 * users + number))
        with _busy(given.niceness):
            beside.append(await _rate(client, users, seed=100 * users + number + 50))
    share = median(beside) / median(alone)
    print(
        f"{name:10} {users:3} users   alone {_told(alone)}   beside {_told(beside)} tok/s   {share:.0%}",
        flush=True,
    )


async def _rate(client: LoadClient, users: int, seed: int) -> float:
    """Output tokens/s; 0 when it did not end in time."""
    asked = conversations(named("chat"), 2 * users, seed=seed)
    try:
        return (await asyncio.wait_for(client.closed(asked, users), _LONGEST_S)).figures.output_tokens_per_s
    except TimeoutError:
        return 0.0


@contextlib.contextmanager
def _busy(niceness: int) -> Iterator[None]:
    process = subprocess.Popen(["nice", "-n", str(niceness), sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _told(rates: list[float]) -> str:
    return ", ".join(f"{rate:.1f}" for rate in rates)


if __name__ == "__main__":
    main()

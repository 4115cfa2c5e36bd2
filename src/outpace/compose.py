"""Wires the rooms together; the only file that knows every room. `python -m outpace.compose PROCESS SETTINGS …`."""

import functools
import sys
from pathlib import Path

import msgspec
import structlog

from outpace import settings as settings_room
from outpace.settings import Settings
from outpace.values.clock import SystemClock


def load_settings(path: Path) -> Settings:
    """The settings that `outpace up` wrote for its processes."""
    return msgspec.json.decode(path.read_bytes(), type=Settings)


def main(argv: list[str]) -> None:
    """Become one of the platform's processes."""
    _log_as_json_lines()
    process, settings = argv[0], load_settings(Path(argv[1]))
    if process == "gateway":
        gateway_process(settings, int(argv[2]))
    elif process == "control":
        control_process(settings)
    else:
        raise SystemExit(f"unknown process {process!r}; known: control, gateway")


def gateway_process(settings: Settings, index: int) -> None:
    """One gateway worker."""
    from outpace.engines.registry import engine
    from outpace.gateway.app import Gateway
    from outpace.gateway.door import DoorLimits, door
    from outpace.gateway.keys import Keys
    from outpace.gateway.serve import Service
    from outpace.gateway.server import Worker, allow_many_files, run_worker
    from outpace.gateway.watch import SnapshotWatch
    from outpace.metering import Counters, JournalWriter, Meter, new_boot_id

    clock = SystemClock()
    home = settings_room.home_of(settings)
    allow_many_files()
    boot_id = new_boot_id(clock)
    journal = JournalWriter(home.journal, boot_id)
    column = Counters.open(home.counters).claim_column(boot_id)
    meter = Meter(journal, column, clock)
    service = Service(meter=meter, engine=functools.cache(engine), secret=settings_room.secret, clock=clock)
    watch = SnapshotWatch(home.snapshot, clock, service.take_over)
    gateway = Gateway(service=service, keys=Keys(clock), snapshot=lambda: watch.current, clock=clock)
    run_worker(
        Worker(gateway=gateway, service=service, watch=watch, journal=journal, clock=clock),
        host=settings.host,
        port=settings.port,
        grace_s=settings.grace_s,
        protocol=door(DoorLimits(max_body_bytes=settings.max_body_bytes)),
    )


def _log_as_json_lines() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])

"""The platform's settings: from the environment and the command line, complete and frozen."""

import os
from pathlib import Path

import msgspec
import platformdirs

from outpace.values.home import Home


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What `outpace up` runs with. Every field has a documented default."""

    # Folder of state, weights and logs. OUTPACE_HOME
    home: str
    # Address of the OpenAI door.
    host: str = "127.0.0.1"
    port: int = 8000
    # Address of the admin door (admin API, metrics); loopback unless said otherwise.
    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    # Gateway processes on the port.
    workers: int = 1
    # `sqlite` in the home folder, or a PostgreSQL URL.
    database: str | None = None
    # `auto` bills what has a price; `required` refuses deployments without one. OUTPACE_BILLING
    billing: str = "auto"
    # Largest request body. OUTPACE_MAX_BODY_BYTES
    max_body_bytes: int = 32 * 1024 * 1024
    # Seconds that running requests get to end when the platform stops. OUTPACE_GRACE_S
    grace_s: float = 30.0


def default_home() -> Path:
    """OUTPACE_HOME, or the user's data folder."""
    return Path(os.environ.get("OUTPACE_HOME") or platformdirs.user_data_dir("outpace"))


def home_of(settings: Settings) -> Home:
    """The folder layout of these settings."""
    return Home(Path(settings.home))


def secret(name: str) -> str | None:
    """The value of an environment variable that holds a secret, such as an external API's key."""
    return os.environ.get(name) or None

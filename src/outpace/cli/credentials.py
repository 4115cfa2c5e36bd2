"""HOME/credentials.json: where the platform answers, and the two keys that its owner holds."""

import os
import tempfile

import msgspec

from outpace.control.keys import new_secret
from outpace.settings import Settings
from outpace.values.errors import OutpaceError
from outpace.values.home import Home


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file; mode 0600."""

    base_url: str
    admin_url: str
    api_key: str
    admin_key: str


class NothingHere(OutpaceError):
    """A command needs a platform, and none was ever started in this home."""

    code = "not_running"
    status = 503


def read_credentials(home: Home) -> Credentials:
    """What `outpace up` wrote. Raises NothingHere with the remedy."""
    try:
        raw = home.credentials.read_bytes()
    except FileNotFoundError:
        raise NothingHere(f"no platform was started in {home.root}; start one with `outpace up`") from None
    try:
        return msgspec.json.decode(raw, type=Credentials)
    except msgspec.DecodeError as error:
        raise NothingHere(
            f"{home.credentials} is damaged ({error}); remove it, and `outpace up` makes new keys"
        ) from None


def write_credentials(home: Home, settings: Settings) -> Credentials:
    """The file for these settings; keys that exist are kept, addresses are renewed."""
    kept = read_credentials(home) if home.credentials.exists() else None
    credentials = Credentials(
        base_url=f"http://{reachable(settings.host)}:{settings.port}/v1",
        admin_url=f"http://{reachable(settings.admin_host)}:{settings.admin_port}",
        api_key=kept.api_key if kept else new_secret(),
        admin_key=kept.admin_key if kept else new_secret(),
    )
    _replace_private(home, msgspec.json.format(msgspec.json.encode(credentials)) + b"\n")
    return credentials


def reachable(host: str) -> str:
    """The host as a client on this machine writes it in a URL."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def _replace_private(home: Home, content: bytes) -> None:
    # mkstemp makes the file 0600 from the start; the keys are never readable by others, not for a moment.
    fd, path = tempfile.mkstemp(dir=home.root, prefix=".credentials-")
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, home.credentials)

"""The platform's settings: from the environment and the command line, complete and frozen."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import platformdirs
from msgspec import Meta

from outpace.values.errors import InvalidInput
from outpace.values.home import Home


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `outpace up` runs with: a field's option, else its variable `OUTPACE_<FIELD>`, else its default."""

    # Folder of state, weights and logs.
    home: str
    # Address of the OpenAI door.
    host: str = "127.0.0.1"
    # Port of the OpenAI door.
    port: Annotated[int, Meta(ge=1, le=65_535)] = 8000
    # Address of the admin door (admin API, metrics); loopback unless said otherwise.
    admin_host: str = "127.0.0.1"
    # Port of the admin door.
    admin_port: Annotated[int, Meta(ge=1, le=65_535)] = 8001
    # Gateway processes on the port.
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    # URL of a PostgreSQL database; without it SQLite in the home folder.
    database: str | None = None
    # Head of a Ray cluster, HOST:PORT: replicas run on its machines; this machine must be one of them.
    ray: str | None = None
    # `none` accepts a Ray cluster that asks nobody for a token: whoever reaches it runs code on all its machines.
    ray_auth: Literal["token", "none"] = "token"
    # `auto` bills what has a price; `required` refuses deployments without one.
    billing: Literal["auto", "required"] = "auto"
    # `background` makes and gates faster formats of what is served with precision `auto`, two minutes after its start
    # and at the lowest priority; `off` leaves that to `outpace gate`.
    prove: Literal["background", "off"] = "background"
    # `background` measures what a deployment does on this machine, once per variant, while nobody asks it: speeds by
    # load, and whether speculation pays; `off` leaves that to `outpace profile`.
    profile: Literal["background", "off"] = "background"
    # How requests wait for a model: `fair` by tokens between keys; `fifo` and `gang` (static batching) are there to
    # compare with.
    queue_order: Literal["fair", "fifo", "gang"] = "fair"
    # Largest request body.
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 32 * 1024 * 1024
    # Seconds that running requests get to end when the platform stops.
    grace_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0


def settings_from(options: Mapping[str, object]) -> Settings:
    """The settings of these options (None: not given) and the environment. Raises InvalidInput by name."""
    fields: dict[str, object] = {name: _variable(name) for name in Settings.__struct_fields__}
    fields |= {name: value for name, value in options.items() if value is not None}
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert({"home": str(default_home()), **given}, Settings, strict=False)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        raise InvalidInput(place.rstrip("`") or None, problem[:1].lower() + problem[1:]) from None


def variable_of(field: str) -> str:
    """Name of the environment variable behind a field of the settings."""
    return f"OUTPACE_{field.upper()}"


def environment() -> dict[str, str]:
    """What the platform's processes inherit."""
    return dict(os.environ)


def default_home() -> Path:
    """OUTPACE_HOME, or the user's data folder."""
    return Path(os.environ.get("OUTPACE_HOME") or platformdirs.user_data_dir("outpace"))


def home_of(settings: Settings) -> Home:
    """The folder layout of these settings."""
    return Home(Path(settings.home))


def secret(name: str) -> str | None:
    """The value of an environment variable that holds a secret, such as an external API's key."""
    return os.environ.get(name) or None


def _variable(field: str) -> str | None:
    return os.environ.get(variable_of(field)) or None

"""Who answers at a Ray address, and to whom: asked by a process of its own, which can be ended when Ray waits for ever.

`python -m outpace.fleet.ray_knock HOST:PORT` asks with what the environment says of tokens, and writes one word.
"""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from outpace.values.errors import InvalidInput

Answer = Literal["welcome", "token_needed", "no_ray"]
_CONNECT_S = 3.0
_ASK_S = 10.0
_TIMEOUT_S = 5.0
OPTION = "--ray"


def require_cluster(address: str, *, is_open: bool, env: Mapping[str, str] = MappingProxyType({})) -> None:
    """Return when a Ray head answers at `address` and takes our token. Raises InvalidInput with the remedy.

    A cluster without tokens runs any code of anyone who reaches it: it is refused unless `is_open` says that this is
    known. `env` adds to the environment where the token is. Blocks for some seconds at most.
    """
    require_installed()
    _require_listener(address)
    without = ask(address, {"RAY_AUTH_MODE": "disabled"})
    if without == "no_ray":
        raise InvalidInput(OPTION, f"something answers at {address}, but it is no Ray head")
    if without == "welcome" and not is_open:
        raise InvalidInput(
            OPTION,
            f"the cluster at {address} asks for no token: whoever reaches it runs any code on all its machines. "
            "Start it with RAY_AUTH_MODE=token, or with `outpace node join --head`; "
            "OUTPACE_RAY_AUTH=none accepts it as it is",
        )
    if without == "token_needed" and ask(address, {**env, "RAY_AUTH_MODE": "token"}) != "welcome":
        raise InvalidInput(
            OPTION,
            f"the cluster at {address} does not take our token; copy the head's ~/.ray/auth_token here, "
            "or name it in RAY_AUTH_TOKEN_PATH",
        )


def require_installed() -> None:
    """Raises InvalidInput when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise InvalidInput(OPTION, "Ray is not installed here; `pip install 'outpace[ray]'`")


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT. Raises InvalidInput."""
    if "://" in address:
        raise InvalidInput(
            OPTION, f"{address!r} is a client's address; give the head's own, such as 10.0.0.1:6379"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise InvalidInput(OPTION, f"{address!r} is no HOST:PORT, such as 10.0.0.1:6379")
    return host.strip("[]"), int(port)


def ask(address: str, env: dict[str, str]) -> Answer:
    """What the head at `address` says to these credentials."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "outpace.fleet.ray_knock", address],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no_ray"
    said = asked.stdout.strip()
    return "welcome" if said == "welcome" else "token_needed" if said == "token_needed" else "no_ray"


def _require_listener(address: str) -> None:
    host, port = host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise InvalidInput(
            OPTION,
            f"nothing answers at {address} ({error.strerror or error}); is the head running, and is this its address?",
        ) from None


def _knock(address: str) -> Answer:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        GcsClient(address=address).get_all_node_info(timeout=_TIMEOUT_S)
    except AuthenticationError:
        return "token_needed"
    except Exception:  # noqa: BLE001 (a door: whatever else it says, it is no head)
        return "no_ray"
    return "welcome"


if __name__ == "__main__":
    print(_knock(sys.argv[1]))

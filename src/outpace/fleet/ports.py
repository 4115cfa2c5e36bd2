"""A port is free, or the refusal says so before anything starts."""

import errno
import socket

from outpace.values.errors import InvalidInput

_LAST_PORT = 65_535


def require_free(host: str, port: int, setting: str) -> None:
    """Raises InvalidInput naming `setting` when nobody could listen at this address now."""
    if not 1 <= port <= _LAST_PORT:
        raise InvalidInput(setting, f"{port} is no port; choose 1 to {_LAST_PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as attempt:
            # Without SO_REUSEPORT, so that it fails also when the holder shares the port with its own kind.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
    except socket.gaierror as error:
        raise InvalidInput(setting, f"{host!r} is no address of this machine ({error.strerror})") from None
    except OSError as error:
        raise InvalidInput(setting, _problem(host, port, error)) from None


def _problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is taken by another program; choose another port or end it"
    if error.errno == errno.EACCES:
        return f"{port} needs rights that this user does not have; choose a port above 1023"
    return f"cannot listen at {host}:{port} ({error.strerror})"

"""The admin API's client: one call, one answer, one clear sentence when it fails."""

import http.client
import json
import urllib.parse
from typing import Any

from outpace.cli.credentials import read_credentials
from outpace.values.errors import OutpaceError
from outpace.values.home import Home

_TIMEOUT_S = 30.0


class AdminRefused(OutpaceError):
    """The platform answered with an error, told in its own words."""


class Unreachable(OutpaceError):
    """No answer from the admin address of this home."""

    code = "not_running"
    status = 503


class AdminClient:
    """Calls the admin API of the platform whose credentials lie in `home`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.credentials = read_credentials(home)
        self._address = urllib.parse.urlsplit(self.credentials.admin_url)

    def get(self, path: str, **query: object) -> Any:
        """The answer of GET; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path)

    def post(self, path: str, body: object) -> Any:
        """The answer of POST."""
        return self._call("POST", path, body)

    def put(self, path: str, body: object) -> Any:
        """The answer of PUT."""
        return self._call("PUT", path, body)

    def patch(self, path: str, body: object) -> Any:
        """The answer of PATCH."""
        return self._call("PATCH", path, body)

    def delete(self, path: str) -> Any:
        """The answer of DELETE."""
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        status, raw = self._exchange(method, path, None if body is None else json.dumps(body).encode())
        answer = _parse(raw)
        if status >= 400:
            raise _refusal(status, answer)
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(
            self._address.hostname or "127.0.0.1", self._address.port, timeout=_TIMEOUT_S
        )
        headers = {
            "Authorization": f"Bearer {self.credentials.admin_key}",
            "Content-Type": "application/json",
        }
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._why(error)) from error
        finally:
            connection.close()

    def _why(self, error: Exception) -> str:
        if isinstance(error, ConnectionRefusedError) and not self._home.supervisor.exists():
            return f"the platform of {self._home.root} does not run; start it with `outpace up`"
        return (
            f"no answer from {self.credentials.admin_url} ({error or type(error).__name__}); "
            "if the platform runs it restarts control by itself: try again, or see `outpace logs control`"
        )


def path_of(*parts: str) -> str:
    """An admin path whose parts are escaped, so that a name cannot leave its place."""
    return "/admin/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _refusal(status: int, answer: Any) -> AdminRefused:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return AdminRefused(f"the admin API answered {status} without saying why; see `outpace logs control`")
    refused = AdminRefused(str(error.get("message")), param=error.get("param"))
    refused.code, refused.status = error.get("code"), status
    return refused

"""The admin door's paths (decision 0004); the only file that knows FastAPI. Work is the desk's."""

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from outpace.control.desk import Desk
from outpace.control.guard import error_body, error_headers
from outpace.control.keys import Key
from outpace.values.errors import InvalidInput, MethodNotAllowed, NotFound, OutpaceError

_LOG = structlog.get_logger()
_JSON = "application/json"


class Json(Response):
    """msgspec's JSON; money and counts stay exact."""

    media_type = _JSON

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def create_app(desk: Desk, metrics_text: Callable[[], bytes], metrics_type: str) -> FastAPI:
    """The admin API. Keys are checked before it, by `guard`."""
    app = FastAPI(
        title="Outpace admin API",
        docs_url=None,
        redoc_url=None,
        openapi_url="/admin/openapi.json",
        default_response_class=Json,
        redirect_slashes=False,
    )
    _add_errors(app)
    _add_platform(app, desk, metrics_text, metrics_type)
    _add_deployments(app, desk)
    _add_keys(app, desk)
    _add_usage(app, desk)
    return app


def _add_platform(app: FastAPI, desk: Desk, metrics_text: Callable[[], bytes], metrics_type: str) -> None:
    @app.get("/healthz")
    async def healthz() -> Json:
        return Json({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(metrics_text(), headers={"content-type": metrics_type})

    @app.get("/admin/status")
    async def status() -> Json:
        return Json(await desk.status())

    @app.get("/admin/models")
    async def models() -> Json:
        return Json(await desk.models())

    @app.get("/admin/logs")
    async def logs(name: str, lines: int = 100) -> Json:
        return Json(await desk.logs(name, lines))


def _add_deployments(app: FastAPI, desk: Desk) -> None:
    @app.post("/admin/deployments", status_code=201)
    async def deploy(request: Request) -> Json:
        return Json(await desk.deploy(await _document(request)), status_code=201)

    @app.put("/admin/deployments/{name}")
    async def replace(name: str, request: Request) -> Json:
        return Json(await desk.replace(name, await _document(request)))

    @app.patch("/admin/deployments/{name}")
    async def scale(name: str, request: Request) -> Json:
        return Json(await desk.scale(name, await _document(request)))

    @app.delete("/admin/deployments/{name}")
    async def stop(name: str) -> Json:
        return Json(await desk.stop(name))


def _add_keys(app: FastAPI, desk: Desk) -> None:
    @app.post("/admin/keys", status_code=201)
    async def create_key(request: Request) -> Json:
        creator: Key = request.state.key
        return Json(await desk.create_key(await _document(request), creator), status_code=201)

    @app.get("/admin/keys")
    async def keys() -> Json:
        return Json(desk.keys())

    @app.delete("/admin/keys/{key_id}")
    async def revoke_key(key_id: str) -> Json:
        return Json(await desk.revoke_key(key_id))


def _add_usage(app: FastAPI, desk: Desk) -> None:
    @app.get("/admin/usage")
    async def usage(
        key_id: str | None = None,
        model: str | None = None,
        since: float | None = Query(default=None, ge=0, allow_inf_nan=False),
    ) -> Json:
        return Json(await desk.usage(key_id, model, since))

    @app.get("/admin/receipts")
    async def receipts(limit: int = 20) -> Json:
        return Json(await desk.receipts(limit))

    @app.get("/admin/receipts/{request_id}")
    async def receipt(request_id: str) -> Json:
        return Json(await desk.receipt(request_id))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(OutpaceError)
    async def expected(_: Request, error: OutpaceError) -> Response:
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _refusal(InvalidInput(str(first["loc"][-1]), str(first["msg"]).lower()))

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        if error.status_code == MethodNotAllowed.status:
            refusal = _refusal(MethodNotAllowed(f"{request.method} is not possible here."))
            refusal.headers.update(error.headers or {})
            return refusal
        return _refusal(NotFound("No such path; the admin API is described in /admin/openapi.json."))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        _LOG.error("admin_request_crashed", path=request.url.path[:200], exc_info=error)
        return _refusal(OutpaceError("Outpace has a defect here; `outpace logs control` shows it."))


def _refusal(error: OutpaceError) -> Response:
    return Response(
        error_body(error), status_code=error.status, media_type=_JSON, headers=error_headers(error)
    )


async def _document(request: Request) -> Any:
    try:
        return msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(None, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidInput(None, "the body is nested too deeply") from error

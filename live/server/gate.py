"""What every request passes first: who may ask, from where, and what an answer says to browsers."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from live.server.engine import Engine
from live.server.errors import ApiError, stopping
from live.server.metrics import Metrics
from live.server.settings import ServerSettings

# Nothing is loaded from another host, and no script or style stands in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_API = ("/v1/", "/passages", "/metrics")  # what needs the key; the page itself and /health do not
_ALWAYS = ("/health", "/metrics")  # what is answered while the server is being stopped


class Gate:
    """ASGI middleware: keys, hosts, origins, sizes; security headers on every answer.

    A browser may be made to send requests by any page that its user looks at. So where no key is
    needed, a request must name this machine as its host (another name means that somebody's DNS
    points here), and one with an ``Origin`` must come from our own page.

    Args:
        app: What answers.
        settings: The settings of the server.
        engine: Says whether the server is being stopped.
        metrics: Counts the requests.
    """

    def __init__(
        self, app: Any, settings: ServerSettings, engine: Engine, metrics: Metrics
    ) -> None:
        self._app, self._settings = app, settings
        self._engine, self._metrics = engine, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it by what is wrong."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(_family(scope["path"]), message["status"]).inc()
                added = [
                    (name.lower().encode(), value.encode()) for name, value in _HEADERS.items()
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check(scope["path"], headers)
        except ApiError as error:
            await _answer(error, sent)
            return
        await self._app(scope, receive, sent)

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        settings = self._settings
        host = headers.get("host", "")
        if settings.api_key is None and _name_of(host) not in {*_LOCAL, settings.host}:
            raise ApiError(
                403,
                f"this server answers to localhost, got the host {host[:80]!r}; ask for 127.0.0.1, "
                "or start it with an API key",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and _place_of(origin) != host:
            raise ApiError(
                403,
                f"requests of other pages are not answered, got one of {origin[:80]!r}",
                code="wrong_origin",
            )
        if self._engine.is_draining and not path.startswith(_ALWAYS):
            raise stopping()
        if settings.api_key is not None and path.startswith(_API):
            kind, _, key = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(key.strip().encode(), settings.api_key.encode())
            if kind.lower() != "bearer" or not is_right:
                raise ApiError(
                    401,
                    "expected the server's API key: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > settings.max_body:
            raise too_large(settings.max_body)


def too_large(limit: int) -> ApiError:
    """The body of a request is too large."""
    return ApiError(
        413,
        f"the body has more than {limit} bytes; send less at once",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _place_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _family(path: str) -> str:
    """The path without what differs from request to request, for the counters."""
    known = ("/v1/chat/completions", "/v1/models", "/passages", "/health", "/metrics")
    return next(
        (each for each in known if path.startswith(each)), "page" if path == "/" else "other"
    )


async def _answer(error: ApiError, send: Any) -> None:
    body = json.dumps(error.body).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

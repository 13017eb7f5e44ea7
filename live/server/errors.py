"""Errors as OpenAI's clients understand them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that says what is wrong with a request, or with the server.

    Args:
        status: The HTTP status.
        message: What was expected, what came, and what to do.
        param: The field of the request that is at fault.
        code: A short name of the fault, for programs.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _KINDS.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def busy(what: str, seconds: int) -> ApiError:
    """A queue is full, of questions or of changes."""
    return ApiError(
        429,
        f"too many {what} are waiting; ask again in {seconds} s",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def stopping() -> ApiError:
    """The server is being stopped."""
    return ApiError(
        503,
        "the server is being stopped; it answers what it has begun and takes nothing new",
        code="stopping",
        headers={"Retry-After": "5", "Connection": "close"},
    )

"""The settings of the server, and the limits that protect it and its clients from one another."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from plumbing.mounts import SettingValueError
from plumbing.settings import check_positive, check_types


@dataclass(frozen=True)
class ServerSettings:
    """How the server listens, and what it takes.

    Attributes:
        host: The address that it binds to. Any other than loopback needs an API key.
        port: The port; 0 takes a free one.
        api_key: What clients send as ``Authorization: Bearer …``; None: they need none.
        max_batch: The most questions that are decoded together.
        max_queue: The most questions that wait; further ones are answered by 429.
        max_tokens: The most tokens of an answer, and how many it has unless a client says so.
        max_question: The most characters of a question.
        max_passage: The most characters of a passage's title and text together.
        max_passages: The most passages that are added at once.
        max_stored: The most passages that the session holds.
        max_body: The most bytes of a request's body.
        body_seconds: How long a client may take to send it.
        drain_seconds: How long running answers may take to end when the server is stopped.

    Raises:
        SettingValueError: If a setting is mistyped or out of range, or if the address is open to
            others and there is no key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_batch: int = 16
    max_queue: int = 64
    max_tokens: int = 64
    max_question: int = 4000
    max_passage: int = 20_000
    max_passages: int = 100
    max_stored: int = 20_000
    max_body: int = 4_000_000
    body_seconds: float = 15.0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_types(self)
        names = [name for name in vars(self) if name.startswith(("max_", "body_", "drain_"))]
        check_positive(self, *names)
        if not 0 <= self.port <= 65_535:
            raise SettingValueError("port", f"port must be in 0 … 65535, got {self.port}")
        if self.api_key is not None and not (self.api_key.strip() and self.api_key.isascii()):
            raise SettingValueError("api_key", "api_key must be a plain ASCII text, got another")
        if not self.is_local and self.api_key is None:
            raise SettingValueError(
                "api_key",
                f"host={self.host} lets other machines in, so an API key is needed, got none",
                "set {} or the environment variable GENPOE_API_KEY, or host=127.0.0.1",
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

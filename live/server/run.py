"""Runs the server until it is told to stop, and then lets it finish what it has begun."""

from __future__ import annotations

import socket
import threading
import time
from types import FrameType

import uvicorn

from live.server.app import make_app
from live.server.engine import Engine
from live.server.settings import ServerSettings
from live.session import KnowledgeSession
from plumbing.output import show

_BACKLOG = 2048  # connections that wait until they are accepted
_GLANCE = 0.05  # seconds between two looks whether everything is finished


class DrainingServer(uvicorn.Server):
    """A server that goes on answering for a while after it was told to stop.

    At the first signal nothing new is taken, which new requests are told by 503, and what was taken
    is finished. At the second one, or after a time, it ends.

    Args:
        config: What uvicorn needs.
        engine: Does the work.
        drain_seconds: How long running answers may take to end.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._drain_seconds = engine, drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, once everything is finished; at the second signal at once."""
        if self._engine.is_draining:
            super().handle_exit(sig, frame)
            return
        self._engine.drain()

        def end() -> None:
            deadline = time.monotonic() + self._drain_seconds
            while not self._engine.is_idle and time.monotonic() < deadline:
                time.sleep(_GLANCE)
            self.should_exit = True

        threading.Thread(target=end, daemon=True).start()


def serve(session: KnowledgeSession, settings: ServerSettings) -> None:
    """Serve a session until the process is told to stop (SIGINT or SIGTERM).

    Args:
        session: The session, which is closed in the end.
        settings: How the server listens, and what it takes.

    Raises:
        OSError: If the address is taken.
    """
    app = make_app(session, settings)
    with _bound(settings) as listening:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        show(f"listening on http://{host}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
        )
        DrainingServer(config, app.state.engine, settings.drain_seconds).run([listening])


def _bound(settings: ServerSettings) -> socket.socket:
    """The socket, which listens: whoever connects now waits until the server has started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); choose another "
            "port (port=…)"
        ) from error
    return bound

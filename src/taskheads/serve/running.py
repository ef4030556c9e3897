"""The process: a socket, signals, clients that stop half-way, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from taskheads.errors import ConfigError
from taskheads.serve.app import application
from taskheads.serve.service import Service
from taskheads.serve.settings import Settings

if TYPE_CHECKING:
    Protocol = Any
else:
    Protocol = AutoHTTPProtocol


# The head of a request at most; longer ones are no request of this API.
_MOST_HEAD = 1 << 16


class Patient(Protocol):
    """HTTP on one connection, which is cut when its client neither finishes a request's head nor takes what
    is written for it, for a while; and when the head has no end."""

    patience: float

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head = 0
        self._seen: tuple | None = None
        self._watch = self.loop.call_later(self.patience, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        self._head = self._head + len(data) if self._asking and self.cycle is before else 0
        if self._head > _MOST_HEAD:
            self.transport.abort()

    @property
    def _asking(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Cut the connection if it is as it was when last looked at, and waiting for the client."""
        unread = self.transport.get_write_buffer_size()
        now = (self.cycle, self._asking, unread)
        if now == self._seen and (self._asking or unread):
            self.transport.abort()
        else:
            self._seen = now
            self._watch = self.loop.call_later(self.patience, self._look)


class Server(uvicorn.Server):
    """A listening socket with the models loaded behind it; `run` answers until SIGINT or SIGTERM.

    When the end begins it tells the service, so that what was taken is finished. SIGHUP has the models read
    again.

    Parameters
    ----------
    folders, settings: as of `Service`.
    ready: called once requests are answered.

    Raises ConfigError where the address cannot be had, and what reading the folders raises.
    """

    def __init__(
        self, folders: Sequence[Path], settings: Settings, ready: Callable[[], None] = lambda: None
    ) -> None:
        app = application(folders, settings)
        self.service: Service = app.state.service
        self.ready = ready
        self.listening = _bound(settings.host, settings.port)
        try:
            self.service.load()
        except BaseException:
            self.listening.close()
            raise
        super().__init__(
            uvicorn.Config(
                app,
                http=type("_Patient", (Patient,), {"patience": settings.patience}),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                limit_concurrency=settings.most_connections,
                timeout_graceful_shutdown=math.ceil(settings.grace),
            )
        )

    @property
    def address(self) -> str:
        host, port = self.listening.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with self.listening:
            super().run(sockets or [self.listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        gc.freeze()  # modules and models are not looked through again and again
        gc.enable()
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.closing.set()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it in order, a second Ctrl-C at once."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _reload(self) -> None:
        self._reloading = asyncio.ensure_future(self.service.reload())


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from None
    return made

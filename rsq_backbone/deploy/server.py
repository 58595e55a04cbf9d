"""uvicorn, made fit for a small machine that anyone may connect to: idle connections and the end of the server."""
import asyncio
import socket
from types import FrameType
from typing import Optional

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ['serve']

_IDLE_SECONDS = 5.0  # until the head of a request is there; uvicorn itself waits for it for ever
_MOST_CONNECTIONS = 256  # files that a process may open are few, and one that has none left answers nobody
_ENDING_SECONDS = 60  # more than the slowest picture takes


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM; pictures that are worked on by then are finished, those that wait refused (503).

    Args:
        app: Of `create_app`; its `state.ending` is set once the end has come.
        listening: A bound socket.

    Raises:
        KeyboardInterrupt: if it was ended by Ctrl-C.
    """
    config = uvicorn.Config(
        app, http=_Protocol, ws='none', log_level='warning', timeout_keep_alive=5,
        timeout_graceful_shutdown=_ENDING_SECONDS)
    _Server(config, app).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        self._app.state.ending.set()
        super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    _idle: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        else:
            self._idle = self.loop.call_later(_IDLE_SECONDS, self._close_if_idle)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to keep the connection: a client that has sent all it will may still wait for the answer."""
        return self.cycle is not None and not self.cycle.response_complete

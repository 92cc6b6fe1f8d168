"""The door: takes connections, counts them, puts TLS around them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from functools import partial

import uvicorn

from twofold.server.connection import Connection, raw_answer
from twofold.server.problems import Problem
from twofold.server.settings import ServerSettings

log = logging.getLogger("twofold.server")
RETRY_S = 1.0
"""How long to wait when the system has no more files to give for connections."""


class Door:
    """Takes connections of one listening socket until it is closed."""

    def __init__(self, server: uvicorn.Server, settings: ServerSettings, listening: socket.socket) -> None:
        self.server = server
        self.settings = settings
        self.context = settings.tls.context if settings.tls else None
        self.open = 0
        self._shaking: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._task = asyncio.create_task(self._take(listening))

    async def _take(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("no connection can be taken: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if self.open >= self.settings.max_connections:
                self._turn_away(taken)
                continue
            self.open += 1
            task = asyncio.create_task(self._greet(taken))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _greet(self, taken: socket.socket) -> None:
        """Shake hands; a connection counts from its first packet to its last."""
        lost = False

        def on_lost() -> None:
            nonlocal lost
            if not lost:
                lost = True
                self.open -= 1

        make = partial(
            Connection, self.settings, on_lost,
            config=self.server.config, server_state=self.server.server_state, app_state={},
        )  # fmt: skip
        timeout = self.settings.header_timeout_s if self.context else None
        try:
            taken.setblocking(False)
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                make, taken, ssl=self.context, ssl_handshake_timeout=timeout
            )
        except (OSError, ssl.SSLError) as error:
            log.info("a connection was not made: %s", error)
            taken.close()
            on_lost()
        except BaseException:
            taken.close()
            on_lost()
            raise

    def _turn_away(self, taken: socket.socket) -> None:
        """Say why, where that needs no handshake; never wait for it."""
        most = self.settings.max_connections
        problem = Problem(
            503, f"{most} connections are open, the most allowed. Try again later.",
            code="too_many_connections", retry_after_s=1,
        )  # fmt: skip
        with taken, contextlib.suppress(OSError):
            taken.setblocking(False)
            if self.context is None:
                taken.send(raw_answer(problem))
                taken.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more."""
        for task in (self._task, *self._shaking):
            task.cancel()

    async def wait_closed(self) -> None:
        """Until it is closed."""
        await asyncio.gather(self._task, *self._shaking, return_exceptions=True)


class Listener(uvicorn.Server):
    """uvicorn with a door of ours, and without its signal handlers: it would refuse connections where we answer 503."""

    def __init__(self, config: uvicorn.Config, settings: ServerSettings) -> None:
        super().__init__(config)
        self.settings = settings

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the door."""
        self.servers = [Door(self, self.settings, item) for item in sockets or []]  # type: ignore[misc]
        self.started = True

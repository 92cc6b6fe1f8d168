"""From a socket to the last goodbye: binding, signals, draining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from twofold.engine.runner import Runner
from twofold.errors import SettingsError
from twofold.server.listening import Listener
from twofold.server.settings import ServerSettings

log = logging.getLogger("twofold.server")
FLUSH_S = 5
OTHER_FILES = 256
"""Files beside the connections: weights, kept sessions, those turned away."""


def bind(settings: ServerSettings) -> socket.socket:
    """A listening socket. Raises SettingsError when the address, or room for its connections, cannot be had."""
    make_room(settings.max_connections)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"{settings.host} port {settings.port} cannot be bound: {error.strerror or error}. Choose another --port."
        ) from error


def make_room(connections: int) -> None:
    """Let the process open so many connections beside its files. Raises SettingsError where the system forbids it."""
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise SettingsError(
                f"max_connections is {connections}, and this process may open {hard} files. Lower --max-connections to "
                f"{max(1, hard - OTHER_FILES)}, or raise the limit (ulimit -Hn)."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def url_of(listening: socket.socket, settings: ServerSettings) -> str:
    """Where the server can be reached."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if settings.tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def serve(
    app: Starlette, runner: Runner, settings: ServerSettings, listening: socket.socket, ready: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; then 503 for new requests, and running ones finish within grace_s.

    A second signal ends them at once. Calls `ready` with the URL once connections are taken.
    """
    with asyncio.Runner(loop_factory=uvicorn.Config(app, log_config=None).get_loop_factory()) as loop, settled():
        loop.run(live(app, runner, settings, listening, ready))


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Keep what lives as long as the server (model, tokenizer, modules) out of the collector's sight meanwhile.

    A full collection walked all of it while every stream waited: 47 ms each of two in a thousand short requests.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def live(
    app: Starlette, runner: Runner, settings: ServerSettings, listening: socket.socket, ready: Callable[[str], None]
) -> None:
    """See `serve`."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=FLUSH_S, ws="none",
    )  # fmt: skip
    server = Listener(config, settings)
    leave, at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (at_once if leave.is_set() else leave).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    ready(url_of(listening, settings))
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
    log.info("shutting down: %d requests are running", runner.live)
    runner.stop_admission()
    end = time.monotonic() + settings.grace_s
    while runner.live and time.monotonic() < end and not at_once.is_set():
        await asyncio.sleep(0.02)
    await asyncio.to_thread(runner.close)
    server.should_exit = True
    leaving.cancel()
    await serving

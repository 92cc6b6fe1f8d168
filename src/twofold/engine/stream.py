"""Answers on their way from the engine's thread to an event loop: what was made and not yet read."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from twofold.engine.request import Event, Request


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What one step gave to the requests of one stream. at_s: time.perf_counter() at its end."""

    events: tuple[Event, ...]
    at_s: float


class Stream:
    """The answers to a group of requests as they grow. Iterate it once, in the event loop that opened it.

    Yields deliveries until every request has finished; raises what ended one of them early. By request id, started_s:
    when its first token was run; spent_s: its share of the engine's seconds, each step's split evenly over its rows.
    """

    def __init__(self, cancel: Callable[[Iterable[int]], None], requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self.started_s: dict[int, float] = {}
        self.spent_s: dict[int, float] = {}
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._deliveries: deque[Delivery] = deque()
        self._put = self._taken = 0  # each is written by one thread only
        self._unfinished = {request.id for request in requests}
        self._error: Exception | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delivery:
        while not self._deliveries:
            if self._error is not None:
                raise self._error
            if not self._unfinished:
                raise StopAsyncIteration
            await self._ready.wait()
            self._ready.clear()
        delivery = self._deliveries.popleft()
        self._taken += len(delivery.events)
        self._unfinished -= {event.request_id for event in delivery.events if event.finish}
        return delivery

    def cancel(self, request_id: int | None = None) -> None:
        """End one request, or all of them; nothing more comes of it. Finished ones are left alone."""
        chosen = self._unfinished & ({request.id for request in self.requests} if request_id is None else {request_id})
        self._unfinished -= chosen
        self._cancel(chosen)

    @property
    def buffered_tokens(self) -> int:
        """Tokens that wait for the reader."""
        return self._put - self._taken

    def put(self, delivery: Delivery) -> None:
        """Called by the runner's thread."""
        self._put += len(delivery.events)
        self._deliveries.append(delivery)

    def fail(self, error: Exception) -> None:
        """Called by the runner's thread: what was delivered can still be read, then `error` is raised."""
        self._error = error

    def wake(self) -> None:
        """Called by the runner's thread: let the reader look. A loop that has gone has no reader."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)

"""One thread that owns the engine: requests in from any thread, answers out to asyncio streams.

Commands go into an inbox that is emptied before every step, so a cancelled request is gone within one step. A step that
fails is run again sequence by sequence: rows never depend on each other, so only those at fault end.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from twofold.engine.engine import Engine
from twofold.engine.plan import Plan, Slice
from twofold.engine.request import Event, Request
from twofold.engine.sessions import Recalled, Sessions
from twofold.engine.stream import Delivery, Stream
from twofold.errors import Overloaded, ShuttingDown, SlowReader, TwofoldError

log = logging.getLogger("twofold.engine")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RunnerLimits:
    """max_waiting: most requests that wait beyond those the engine serves at once; buffered_tokens: most tokens that a
    stream holds for a reader who does not take them.
    """

    max_waiting: int = 256
    buffered_tokens: int = 4096


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step: tokens run through the network, those of them that belong to prompts, tokens drawn, seconds it took."""

    rows: int
    prompt_rows: int
    drawn: int
    seconds: float


class Runner:
    """Drives an engine in a thread of its own, from construction to `close`.

    `observe` is called in that thread after each step. `sessions` of the engine are saved when it ends.
    """

    def __init__(
        self,
        engine: Engine,
        limits: RunnerLimits | None = None,
        observe: Callable[[StepReport], None] | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self.engine = engine
        self.limits = limits or RunnerLimits()
        self.observe = observe
        self.sessions = sessions
        self.is_alive = True
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._live: set[int] = set()
        self._is_closing = False
        self._stops = False
        self._reader = ThreadPoolExecutor(1, "twofold-recall")
        self._thread = threading.Thread(target=self._run, name="twofold-engine", daemon=True)
        self._thread.start()

    @property
    def live(self) -> int:
        """Requests taken and not yet finished."""
        return len(self._live)

    @property
    def is_closing(self) -> bool:
        """Whether new requests are refused."""
        return self._is_closing

    def submit(self, requests: Sequence[Request]) -> Stream:
        """Take requests that `engine.prepare` made, all or none. Call it in the event loop that reads the stream.

        Raises Overloaded when too many requests wait, ShuttingDown when the runner is closing.
        """
        stream = Stream(self.cancel, requests)
        most = self.engine.limits.max_sequences + self.limits.max_waiting
        with self._lock:
            if self._is_closing or not self.is_alive:
                raise ShuttingDown("the server is shutting down and takes no new requests. Try again in a moment.")
            if len(self._live) + len(requests) > most:
                raise Overloaded(
                    f"{len(self._live)} requests are being served or wait, at most {most} may. Try again later."
                )
            self._live |= {request.id for request in requests}
            if self.sessions and self.sessions.may_hold(requests[0]):
                self._reader.submit(self._recall, self.sessions, stream)
            else:
                self._inbox.put(lambda: self._take(stream))
        return stream

    def ask(self, work: Callable[[], T]) -> Future[T]:
        """Do something with the engine between two steps, from any thread. Raises ShuttingDown when it has ended."""
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        with self._lock:
            if not self.is_alive:
                raise ShuttingDown("the server is shutting down. Try again in a moment.")
            self._inbox.put(answer)
        return future

    def cancel(self, request_ids: Iterable[int]) -> None:
        """End requests before the next step, from any thread; unknown ids are already finished."""
        chosen = tuple(request_ids)
        if chosen:
            self._inbox.put(lambda: self._drop(chosen))

    def stop_admission(self) -> None:
        """Refuse new requests from now on."""
        with self._lock:
            self._is_closing = True

    def close(self, grace_s: float = 0.0) -> None:
        """Refuse new requests, let running ones finish for `grace_s` seconds, end the rest and the thread. Blocks."""
        self.stop_admission()
        end = time.monotonic() + grace_s
        while self.live and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        self._reader.shutdown()
        self._inbox.put(self._stop)
        self._thread.join()

    def _recall(self, sessions: Sessions, stream: Stream) -> None:
        """Read what files hold of a prompt, in the reading thread; then its requests go on as any others."""
        recalled = None
        try:
            recalled = sessions.recall(stream.requests[0])
        except Exception:
            log.exception("a session could not be recalled; its prompt is read again")
        self._inbox.put(lambda: self._take(stream, recalled))

    # From here on everything runs in the runner's thread.

    def _run(self) -> None:
        try:
            while not self._stops:
                self._read_inbox()
                if not self.engine.is_idle:
                    self._step()
        except Exception:
            log.exception("the engine's thread ended")
        with self._lock:
            self.is_alive, self._is_closing = False, True
        self._reader.shutdown()
        self._empty_inbox()
        self._fail(list(self._streams), ShuttingDown("the server is shutting down; the answer ends here."))
        if self.sessions:
            self.sessions.save()

    def _stop(self) -> None:
        self._stops = True

    def _empty_inbox(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()()

    def _read_inbox(self) -> None:
        """Carry out what has come in; wait for something when there is nothing else to do."""
        if self.engine.is_idle and not self._stops:
            self._inbox.get()()
        self._empty_inbox()

    def _take(self, stream: Stream, recalled: Recalled | None = None) -> None:
        if self.sessions and recalled:
            self.sessions.install(recalled)
        for request in stream.requests:
            if request.id in self._live:  # else it was cancelled while its session was read
                self._streams[request.id] = stream
                self.engine.enqueue(request)

    def _drop(self, request_ids: Iterable[int]) -> None:
        for request_id in request_ids:
            self.engine.cancel(request_id)
            self._forget(request_id)

    def _forget(self, request_id: int) -> None:
        self._streams.pop(request_id, None)
        with self._lock:
            self._live.discard(request_id)

    def _step(self) -> None:
        start = time.perf_counter()
        try:
            events = self.engine.step()
        except Exception as error:
            events = self._rescue(error)
        end = time.perf_counter()
        slices = self.engine.latest.slices if self.engine.latest else ()
        rows = sum(item.rows for item in slices)
        self._account(slices, start, (end - start) / max(1, rows))
        if self.observe:  # before anybody hears of the step, so that whoever asks for figures then finds it counted
            prompt_rows = sum(item.prompt_rows for item in slices)
            self.observe(StepReport(rows=rows, prompt_rows=prompt_rows, drawn=len(events), seconds=end - start))
        self._deliver(events, end)

    def _account(self, slices: Iterable[Slice], start: float, row_s: float) -> None:
        """Note when each request began and what the step's rows cost it."""
        for item in slices:
            request_id = item.sequence.request.id
            owner = self._streams.get(request_id)
            if owner is not None:
                owner.started_s.setdefault(request_id, start)
                owner.spent_s[request_id] = owner.spent_s.get(request_id, 0.0) + item.rows * row_s

    def _rescue(self, error: Exception) -> list[Event]:
        """Run each sequence of a failed step by itself; those that fail again end with their error."""
        plan = self.engine.in_flight
        if plan is None:
            raise error  # the bookkeeping failed: no request is at fault
        events: list[Event] = []
        for item in plan.slices:
            try:
                events += self.engine.advance(Plan(slices=(item,)))
            except Exception as cause:
                if not isinstance(cause, TwofoldError):
                    log.exception("request %d failed", item.sequence.request.id)
                self._fail([item.sequence.request.id], cause)
        self.engine.in_flight = None
        return events

    def _deliver(self, events: Iterable[Event], end: float) -> None:
        """Hand events to their streams; cut a stream whose reader has let the buffer fill up."""
        shares: dict[Stream, list[Event]] = {}
        for event in events:
            shares.setdefault(self._streams[event.request_id], []).append(event)
        for stream, share in shares.items():
            stream.put(Delivery(events=tuple(share), at_s=end))
            for event in share:
                if event.finish:
                    self._forget(event.request_id)
            if stream.buffered_tokens > self.limits.buffered_tokens:
                ids = [request.id for request in stream.requests if request.id in self._streams]
                self._fail(ids, SlowReader(f"{stream.buffered_tokens} tokens were made and not read; the answer ends."))
            stream.wake()

    def _fail(self, request_ids: Iterable[int], error: Exception) -> None:
        """End requests with an error, and the others of their streams with them."""
        for stream in {self._streams[request_id] for request_id in request_ids if request_id in self._streams}:
            self._drop([request.id for request in stream.requests])
            stream.fail(error)
            stream.wake()

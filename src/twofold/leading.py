"""The first rank of several: it starts the others, tells them of every batch, and notices when one of them ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from twofold.config import Resolved
from twofold.errors import RankLost, SettingsError
from twofold.models.network import Forward
from twofold.ops.interface import Ops
from twofold.ops.types import Array, Batch, CacheShape, LayerCache
from twofold.rank_frames import encode_batch, read_frame, write_frame

if TYPE_CHECKING:
    from twofold.backends.gpu.group import Group

log = logging.getLogger("twofold.ranks")
PACKAGE = Path(__file__).parent
LEAVE_S = 10.0
"""How long the others may take to end when they are told to."""
NOTICE_S = 2.0
"""How long after a step failed to look for a rank that ended, whose fault it then is."""


class Ranks:
    """The other ranks of a model, as processes. lost: why the model cannot be used any more, None while it can."""

    def __init__(self, model: str, settings: Resolved) -> None:
        """Start them. Raises SettingsError when this process has a model on several ranks already."""
        from twofold.backends.gpu.group import check_free

        check_free()
        self.lost: str | None = None
        self.on_loss: Callable[[str], None] | None = None
        self.group: Group | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="twofold-ranks-")
        self._is_closing = False
        self._is_lost = threading.Event()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._finalizer = weakref.finalize(self, end, self._processes)
        given = {"model": model, "settings": asdict(settings), "meeting": str(self.meeting)}
        for rank in range(1, settings.ranks):
            process = start()
            self._processes.append(process)
            write_frame(pipe(process.stdin), "load", json.dumps(given | {"rank": rank}).encode())

    @property
    def meeting(self) -> Path:
        """The file over which the ranks meet."""
        return Path(self._folder.name) / "meeting"

    def join(self, group: Group) -> None:
        """Wait until all have loaded their share, then meet. Raises SettingsError when one cannot."""
        for rank, process in enumerate(self._processes, 1):
            kind, content = read_frame(pipe(process.stdout)) or ("ended", b"")
            if kind != "ready":
                reason = content.decode() or f"it ended with code {process.wait()}; its last words are above"
                raise SettingsError(f"rank {rank} could not load its share of the model: {reason}")
        self.group = group
        for rank, process in enumerate(self._processes, 1):
            threading.Thread(target=watch, args=(weakref.ref(self), rank, process), daemon=True).start()
        self.tell("join")
        group.join(self.meeting)

    @property
    def count(self) -> int:
        """All ranks, this one too."""
        return 1 + len(self._processes)

    def tell(self, kind: str, content: bytes = b"") -> None:
        """A frame to every other rank. Raises RankLost."""
        self.hand_out(kind, [content] * len(self._processes))

    def hand_out(self, kind: str, contents: Sequence[bytes]) -> None:
        """To every other rank a frame of its own. Raises RankLost."""
        self.check()
        try:
            for process, content in zip(self._processes, contents, strict=True):
                write_frame(pipe(process.stdin), kind, content)
        except OSError as error:
            raise self.failed(error) from error

    def ask(self, kind: str, content: bytes) -> list[bytes]:
        """The same, and their answers. Raises RankLost."""
        self.tell(kind, content)
        answers = [read_frame(pipe(process.stdout)) for process in self._processes]
        if None in answers:
            raise self.failed(None)
        return [answer[1] for answer in answers if answer is not None]

    def check(self) -> None:
        """Raise RankLost when the model cannot be used any more."""
        if self.lost is not None:
            raise RankLost(self.lost)

    def failed(self, error: BaseException | None) -> RankLost:
        """What to raise after a step that failed: the ranks no longer agree on where they are, so it was the last."""
        if not self._is_lost.wait(NOTICE_S):
            log.error("a step failed on the first of several ranks", exc_info=error)
            self.lose("a step that several ranks run together failed on the first of them")
        return RankLost(str(self.lost))

    def lose(self, reason: str) -> None:
        """Take note that the model cannot be used any more; only the first reason counts."""
        with self._lock:
            if self.lost is not None or self._is_closing:
                return
            self.lost = f"{reason}. Start again; all ranks of a model are needed."
        self._is_lost.set()
        if self.group is not None:
            self.group.abort()
        if self.on_loss is not None:
            self.on_loss(self.lost)

    def close(self) -> None:
        """End the other ranks and wait for them."""
        with self._lock:
            self._is_closing = True
        self._finalizer()
        if self.group is not None:
            self.group.leave()
        self._folder.cleanup()


def start() -> subprocess.Popen[bytes]:
    """A process that waits to be told what to load; it imports this very package."""
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "twofold.following"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """One end of a process; it was started with both."""
    assert stream is not None, "followers are started with pipes"
    return stream


def watch(ranks: weakref.ref[Ranks], rank: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a rank to end, which it should not."""
    code = process.wait()
    found = ranks()
    if found is not None:
        found.lose(f"rank {rank} of the model ended ({f'signal {-code}' if code < 0 else f'code {code}'})")


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell processes to end; those that do not are killed."""
    for process in processes:
        with suppress(OSError):  # it may be gone already
            write_frame(pipe(process.stdin), "end")
        with suppress(OSError):  # closing writes what could not be written above
            pipe(process.stdin).close()
    for process in processes:
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        pipe(process.stdout).close()


class LeadingOps:
    """The ops of the first rank: what touches the cache as a whole reaches the other ranks too."""

    def __init__(self, inner: Ops, ranks: Ranks) -> None:
        self.inner = inner
        self.ranks = ranks
        self._cache: list[LayerCache] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if callable(value):
            setattr(self, name, value)
        return value

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[LayerCache]:
        """One cache per layer, on every rank with its own heads."""
        self.ranks.tell("cache", json.dumps({"blocks": blocks, "block_size": block_size}).encode())
        self._cache = self.inner.new_cache(shape, blocks, block_size)
        return self._cache

    def block_bytes(self, layers: Sequence[LayerCache]) -> int:
        """Bytes of a block on all ranks together, which hold equal parts."""
        return self.inner.block_bytes(layers) * self.ranks.count

    def read_block(self, layers: Sequence[LayerCache], block: int) -> bytes:
        """What the ranks hold of a block, one after the other."""
        others = self.ranks.ask("read", json.dumps([self.numbers(layers), block]).encode())
        return b"".join([self.inner.read_block(layers, block), *others])

    def write_block(self, layers: Sequence[LayerCache], block: int, content: bytes) -> None:
        """Put back what `read_block` gave: to every rank its part."""
        size = self.inner.block_bytes(layers)
        if len(content) != size * self.ranks.count:
            raise ValueError(f"the content has {len(content)} bytes; a block has {size * self.ranks.count}")
        head = json.dumps([self.numbers(layers), block]).encode()
        parts = [content[start : start + size] for start in range(0, len(content), size)]
        self.ranks.hand_out("write", [head + b"\n" + part for part in parts[1:]])
        self.inner.write_block(layers, block, parts[0])

    def numbers(self, layers: Sequence[LayerCache]) -> list[int]:
        """Which layers of the network these are."""
        places = {id(layer): number for number, layer in enumerate(self._cache)}
        return [places[id(layer)] for layer in layers]


def led(forward: Forward, ranks: Ranks) -> Forward:
    """A network that tells the other ranks of its batch before it runs it."""

    def run(ops: Ops, batch: Any, cache: list[LayerCache]) -> Array:
        host: Batch = batch.host
        with uninterrupted():
            ranks.tell("step", encode_batch(host))
            try:
                return forward(ops, batch, cache)
            except Exception as error:
                raise ranks.failed(error) from error

    return run


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the block is through: a step that breaks off on one rank leaves the others waiting."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)

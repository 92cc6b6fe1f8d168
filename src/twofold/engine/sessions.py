"""Conversations kept by a name: what was computed for them outlives its place in the cache, and the process.

While a block of a kept conversation is in the cache nothing happens: the next request finds it by its content like any
other. Before such a block is reused for something else, and when the server ends, it is written to a file; a request
whose beginning lies in files gets those blocks back into the cache before it is queued. Blocks are known by a hash
of all tokens up to their end, so a conversation can only come back as the beginning of the very same tokens.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from twofold.engine.block_files import KINDS, BlockFiles, Name, write_whole
from twofold.engine.blocks import Kind
from twofold.engine.engine import Engine
from twofold.engine.pool import Pool, first_key, prefix_keys
from twofold.engine.request import Request, SessionName
from twofold.engine.request import Sequence as Served
from twofold.engine.session_book import Session, SessionBook
from twofold.errors import SettingsError

log = logging.getLogger("twofold.engine")


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """most_bytes: what all files may take; most_sessions: how many are kept. The least recently used go first."""

    most_bytes: int = 8 * 2**30
    most_sessions: int = 4096


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """Blocks read from files for a request whose beginning has these keys; local layers need those from first_local."""

    keys: Sequence[bytes]
    first_local: int
    contents: Mapping[Name, bytes]


class Sessions:
    """Kept conversations of one engine, in a folder that no other process may use meanwhile.

    identity: everything that the bits of keys and values depend on; other identities have other folders.
    recall may be called from any one thread, everything else from the engine's.
    recalled_tokens, dropped_blocks: tokens that came back from files; blocks that were lost because writing them
    would have held the engine up or gone over the limit.
    Raises SettingsError when the folder cannot be used.
    """

    def __init__(
        self, engine: Engine, folder: Path, identity: Mapping[str, str], limits: SessionLimits | None = None
    ) -> None:
        self.engine = engine
        self.limits = limits or SessionLimits()
        self.recalled_tokens = self.dropped_blocks = 0
        text = json.dumps(dict(identity), sort_keys=True, indent=2)
        self.folder = folder / sha256(text.encode()).hexdigest()[:16]
        self._lock = lock(self.folder)
        write_whole(self.folder / "identity.json", text.encode())
        sizes: dict[Kind, int] = {kind: engine.ops.block_bytes(engine.layers(kind)) for kind in KINDS}
        self.files = BlockFiles(self.folder / "blocks", sizes, self.limits.most_bytes)
        self.book = SessionBook(self.folder / "sessions", self.files.run)
        for name in self.files.names:
            if not self.book.wanted[name]:
                self.files.drop(name)  # written for a session that was forgotten, or whose file was not
        engine.blocks.keeper = self

    def pool(self, kind: Kind) -> Pool:
        """Where the blocks of these layers live."""
        blocks = self.engine.blocks
        return blocks.global_pool if kind == "global" else blocks.local_pool

    def left(self, sequence: Served) -> None:
        """A request has come to its end, and its blocks are about to be given back: keep what it computed."""
        if sequence.request.session is None:
            return
        layout = self.engine.blocks.layout
        keys = tuple(self.engine.blocks.prefix_keys(sequence, sequence.computed))
        first_local = len(keys)
        if layout.chunk is not None:
            first_local = min(first_local, sequence.computed // layout.chunk * layout.chunk // layout.block_size)
        self._drop(self.book.put(
            Session(name=sequence.request.session, keys=keys, first_local=first_local, used_s=time.time())
        ))  # fmt: skip
        while len(self.book.sessions) > self.limits.most_sessions:
            self.forget(next(iter(self.book.sessions)))

    def evicted(self, kind: Kind, block: int, key: bytes) -> None:
        """A block that nobody holds is about to be reused: write it down if a session needs it."""
        if self.book.wanted[kind, key]:
            self._keep(kind, block, key)

    def save(self) -> None:
        """Write down what is still in the cache only, sessions that were used last first; then close the files."""
        for session in reversed(list(self.book.sessions.values())):
            for kind, key in session.needs():
                block = self.pool(kind).block_of.get(key)
                if block is not None:
                    self._keep(kind, block, key, patient=True)
        self.close()

    def close(self) -> None:
        """Finish writing what was begun, and let others use the folder."""
        self.files.close()
        self._lock.close()

    def forget(self, name: SessionName) -> bool:
        """Drop a session and the files that only it needs; whether there was one."""
        was_known = name in self.book.sessions
        self._drop(self.book.remove(name))
        return was_known

    def may_hold(self, request: Request) -> bool:
        """Whether files hold the beginning of this request, at a glance; from any thread."""
        size = self.engine.blocks.layout.block_size
        first = prefix_keys(first_key(request.salt), request.prompt[:size], size)
        return bool(first) and self.files.holds(("global", first[0]))

    def recall(self, request: Request) -> Recalled | None:
        """Read what the cache lacks of this request's beginning, as far as files have it; None when they do not."""
        layout, contents = self.engine.blocks.layout, {}
        keys = prefix_keys(first_key(request.salt), request.prompt[:-1], layout.block_size)[: layout.global_blocks]
        keys = keys[: self._known("global", keys)]
        first_local = len(keys)
        if layout.chunk is not None:
            first_local = len(keys) * layout.block_size // layout.chunk * layout.chunk // layout.block_size
            keys = keys[: first_local + self._known("local", keys[first_local:])]
        for name in Session(name=SessionName(), keys=tuple(keys), first_local=first_local, used_s=0).needs():
            if name[1] not in self.pool(name[0]).block_of:
                content = self.files.get(name)
                if content is None:
                    break  # damaged, or dropped just now: what comes after it is of no use
                contents[name] = content
        return Recalled(keys=keys, first_local=first_local, contents=contents) if contents else None

    def install(self, recalled: Recalled) -> None:
        """Put recalled blocks into the cache, where the request will find them, as far as there are free ones."""
        for kind in KINDS:
            pool, held = self.pool(kind), []
            for key in recalled.keys[recalled.first_local if kind == "local" else 0 :]:
                content = recalled.contents.get((kind, key))
                if key in pool.block_of:
                    held += pool.share([key])  # so that it is not reused for those that follow
                elif content is not None and pool.free:
                    [block] = pool.take(1)
                    self.engine.ops.write_block(self.engine.layers(kind), block, content)
                    pool.remember(block, key)
                    held.append(block)
                    self.recalled_tokens += self.engine.blocks.layout.block_size if kind == "global" else 0
                else:
                    break
            pool.give_back(held)

    def _known(self, kind: Kind, keys: Sequence[bytes]) -> int:
        """How many of the first keys are in the cache or in files."""
        known = self.pool(kind).block_of
        return next(
            (i for i, key in enumerate(keys) if key not in known and not self.files.holds((kind, key))), len(keys)
        )

    def _keep(self, kind: Kind, block: int, key: bytes, patient: bool = False) -> None:
        """Write a block down unless it is; older sessions give way when the files take too much."""
        name: Name = (kind, key)
        while not self.files.holds(name) and not self.files.has_room(name) and len(self.book.sessions) > 1:
            self.forget(next(iter(self.book.sessions)))
        if self.files.holds(name) or not self.book.wanted[name]:
            return
        content = self.engine.ops.read_block(self.engine.layers(kind), block)
        if not self.files.has_room(name) or not self.files.put(name, content, patient):
            self.dropped_blocks += 1

    def _drop(self, names: Sequence[Name]) -> None:
        for name in names:
            if self.files.holds(name):
                self.files.drop(name)


def lock(folder: Path) -> IO[str]:
    """An open file that this process alone may hold. Raises SettingsError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise SettingsError(f"sessions cannot be kept in {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SettingsError(
            f"the sessions in {folder} are in use by another server with this model. Choose another folder."
        ) from error
    return file

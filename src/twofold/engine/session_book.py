"""Which conversations are kept by name, and which blocks each of them needs; one small file per conversation.

Conversations that begin alike (a hundred characters with one persona) need the same blocks, and these are counted, so
that a block is kept once and for as long as somebody needs it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from twofold.engine.block_files import Name, write_whole
from twofold.engine.pool import KEY_BYTES
from twofold.engine.request import SessionName

log = logging.getLogger("twofold.engine")
VERSION = 1
MOST_FILE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Session:
    """keys: of its full blocks, in order; local layers need those from `first_local` on. used_s: Unix time."""

    name: SessionName
    keys: tuple[bytes, ...]
    first_local: int
    used_s: float

    def needs(self) -> Iterator[Name]:
        """Its blocks, from the beginning on."""
        for index, key in enumerate(self.keys):
            yield "global", key
            if index >= self.first_local:
                yield "local", key


class SessionBook:
    """Sessions by name, the least recently used first.

    run: does file work in the background, in order. wanted: how many sessions need each block.
    """

    def __init__(self, folder: Path, run: Callable[[Callable[[], None]], object]) -> None:
        self.folder = folder
        self.wanted: Counter[Name] = Counter()
        self.sessions: OrderedDict[SessionName, Session] = OrderedDict()
        self._run = run
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [session for path in folder.iterdir() if (session := self._read(path))]
        for session in sorted(found, key=lambda item: item.used_s):
            self.sessions[session.name] = session
            self.wanted.update(session.needs())

    def put(self, session: Session) -> list[Name]:
        """Keep a session in place of an older one of its name; blocks that nobody needs any more.

        One that is only the beginning of what is known already (its request was cancelled early) renews that.
        """
        known = self.sessions.get(session.name)
        if known and known.keys[: len(session.keys)] == session.keys:
            session = replace(known, used_s=session.used_s)
        freed = self.remove(session.name, and_file=False)
        self.sessions[session.name] = session
        self.wanted.update(session.needs())
        path, text = self._path(session.name), to_json(session)
        self._run(lambda: self._write(path, text))
        return [name for name in freed if not self.wanted[name]]

    def remove(self, name: SessionName, and_file: bool = True) -> list[Name]:
        """Forget a session, if there is one; blocks that nobody needs any more."""
        session = self.sessions.pop(name, None)
        if session is None:
            return []
        if and_file:
            self._run(lambda: self._path(name).unlink(missing_ok=True))
        self.wanted.subtract(session.needs())
        freed = [needed for needed in session.needs() if not self.wanted[needed]]
        for needed in freed:
            del self.wanted[needed]
        return freed

    def _path(self, name: SessionName) -> Path:
        digest = blake2b(f"{name.owner}\0{name.name}".encode(), digest_size=KEY_BYTES)
        return self.folder / f"{digest.hexdigest()}.json"

    def _write(self, path: Path, text: str) -> None:
        try:
            write_whole(path, text.encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error.strerror or error)

    def _read(self, path: Path) -> Session | None:
        """The session in a file; a file that is none, or that is damaged, is removed."""
        session = None
        if path.suffix == ".json" and path.stat().st_size <= MOST_FILE_BYTES:
            session = from_json(path.read_bytes())
        if session is None or path != self._path(session.name):
            log.warning("%s is not a whole session and is removed", path)
            path.unlink()
            return None
        return session


def to_json(session: Session) -> str:
    """What is written of a session."""
    return json.dumps({
        "version": VERSION,
        "owner": session.name.owner,
        "name": session.name.name,
        "used": session.used_s,
        "first_local": session.first_local,
        "keys": [key.hex() for key in session.keys],
    })  # fmt: skip


def from_json(text: bytes) -> Session | None:
    """The session in a text of `to_json`, None for anything else."""
    try:
        raw = json.loads(text)
        if raw.pop("version") != VERSION:
            return None
        keys = tuple(bytes.fromhex(key) for key in raw.pop("keys"))
        name = SessionName(owner=raw.pop("owner"), name=raw.pop("name"))
        session = Session(name=name, keys=keys, first_local=raw.pop("first_local"), used_s=raw.pop("used"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    typed = isinstance(name.owner, str) and isinstance(name.name, str) and type(session.first_local) is int
    whole = typed and isinstance(session.used_s, int | float) and all(len(key) == KEY_BYTES for key in keys)
    return session if whole and not raw and 0 <= session.first_local <= len(keys) else None

"""Blocks of a cache as files, each known by the key of what it contains.

A file is whole or not there, and nothing of it is believed that its checksum does not cover: magic, key, length and
content. So neither a kill nor a lost page of a disk gives a wrong block, and files need not be forced to the disk.
Files are written by a thread of their own, in order; what still waits for it can be read already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

from twofold.engine.blocks import Kind
from twofold.engine.pool import KEY_BYTES

log = logging.getLogger("twofold.engine")

Name = tuple[Kind, bytes]
KINDS: tuple[Kind, ...] = ("global", "local")
MAGIC = b"2FOLDKV1"
CHECK_BYTES = 32
HEAD_BYTES = len(MAGIC) + KEY_BYTES + 8 + CHECK_BYTES
MOST_WAITING_BYTES = 256 * 2**20
"""What may wait to be written; a disk that is slower than this must not fill the memory."""


def sealed(key: bytes, content: bytes) -> bytes:
    """A file's bytes: magic, key, length, checksum over all of it, content."""
    head = MAGIC + key + len(content).to_bytes(8, "little")
    return b"".join((head, checksum(head, content), content))


def checksum(head: bytes, content: bytes | memoryview) -> bytes:
    """Over both, without putting them together: a block may have megabytes."""
    digest = blake2b(head, digest_size=CHECK_BYTES)
    digest.update(content)
    return digest.digest()


def opened(key: bytes, size: int, data: bytes) -> bytes | None:
    """The content of a file's bytes, None unless they are exactly what `sealed` made for this key and size."""
    head = MAGIC + key + size.to_bytes(8, "little")
    if len(data) != HEAD_BYTES + size or not data.startswith(head):
        return None
    is_whole = data[len(head) : HEAD_BYTES] == checksum(head, memoryview(data)[HEAD_BYTES:])
    return data[HEAD_BYTES:] if is_whole else None


class BlockFiles:
    """A folder of block files. sizes: bytes of a block of each kind; most_bytes: what all files may take.

    failures: files that could not be written, or turned out damaged when read. Safe to use from any thread.
    """

    def __init__(self, folder: Path, sizes: Mapping[Kind, int], most_bytes: int) -> None:
        self.folder = folder
        self.sizes = dict(sizes)
        self.most_bytes = most_bytes
        self.failures = 0
        self._held: set[Name] = set()
        self._held_bytes = self._waiting_bytes = 0
        self._waiting: dict[Name, bytes] = {}
        self._lock = threading.Lock()  # around the three above
        self._writer = ThreadPoolExecutor(1, "twofold-block-files")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            name = name_of(path)
            if name is None:
                path.unlink()  # half written when its writer died
            else:
                self._add(name)

    @property
    def names(self) -> list[Name]:
        """The blocks that are there or wait to be written."""
        return list(self._held)

    @property
    def size_bytes(self) -> int:
        """What the blocks take when all are written."""
        return self._held_bytes

    def holds(self, name: Name) -> bool:
        """Whether there is such a block; reading it may still find it damaged."""
        return name in self._held

    def has_room(self, name: Name) -> bool:
        """Whether one more block would stay within the limit."""
        return self.size_bytes + self.sizes[name[0]] <= self.most_bytes

    def put(self, name: Name, content: bytes, patient: bool = False) -> bool:
        """Keep a block; False when too much waits to be written, unless `patient`: then wait."""
        if self._waiting_bytes + len(content) > MOST_WAITING_BYTES:
            if not patient:
                return False
            self.flush()
        self._add(name, content)
        self.run(lambda: self._write(name))
        return True

    def get(self, name: Name) -> bytes | None:
        """The content of a block; None when it is not there, cannot be read, or is damaged, and then it is dropped."""
        waiting = self._waiting.get(name)
        if waiting is not None or name not in self._held:
            return waiting
        kind, key = name
        data = b""
        with contextlib.suppress(OSError), self._path(name).open("rb") as file:
            data = file.read(HEAD_BYTES + self.sizes[kind] + 1)
        content = opened(key, self.sizes[kind], data)
        if content is None:
            log.warning("the kept block %s is damaged and is dropped", self._path(name))
            self.failures += 1
            self.drop(name)
        return content

    def drop(self, name: Name) -> None:
        """Forget a block."""
        self._forget(name)
        self.run(lambda: self._remove(name))

    def run(self, task: Callable[[], None]) -> Future[None]:
        """Do something in the writing thread, after everything that was asked for before."""
        return self._writer.submit(task)

    def flush(self) -> None:
        """Wait until everything asked for is done."""
        self.run(lambda: None).result()

    def close(self) -> None:
        """Finish writing and end the thread."""
        self._writer.shutdown()

    def _path(self, name: Name) -> Path:
        return self.folder / f"{name[1].hex()}.{name[0]}"

    def _add(self, name: Name, waiting: bytes | None = None) -> None:
        self._forget(name)
        with self._lock:
            self._held.add(name)
            self._held_bytes += self.sizes[name[0]]
            if waiting is not None:
                self._waiting[name] = waiting
                self._waiting_bytes += len(waiting)

    def _forget(self, name: Name) -> None:
        self._written(name)
        with self._lock:
            if name in self._held:
                self._held.remove(name)
                self._held_bytes -= self.sizes[name[0]]

    def _written(self, name: Name) -> None:
        with self._lock:
            self._waiting_bytes -= len(self._waiting.pop(name, b""))

    def _write(self, name: Name) -> None:
        content = self._waiting.get(name)
        if content is None:
            return  # dropped in the meantime
        try:
            write_whole(self._path(name), sealed(name[1], content))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path(name), error.strerror or error)
            self.failures += 1
            self._forget(name)
        self._written(name)

    def _remove(self, name: Name) -> None:
        if name not in self._held:  # else it was put again in the meantime
            self._path(name).unlink(missing_ok=True)


def name_of(path: Path) -> Name | None:
    """The block in a file of this name, None for any other file."""
    with contextlib.suppress(ValueError):
        key = bytes.fromhex(path.stem)
        for kind in KINDS:
            if path.name == f"{key.hex()}.{kind}" and len(key) == KEY_BYTES:
                return kind, key
    return None


def write_whole(path: Path, data: bytes) -> None:
    """A file that is whole or not there, readable by its owner only. Raises OSError."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise

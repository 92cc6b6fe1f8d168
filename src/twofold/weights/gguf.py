"""One GGUF file, checked before anything in it is believed, then mapped into memory.

    "GGUF", u32 version (2 or 3), u64 tensors, u64 keys
    keys      string name, u32 type, value              string: u64 length, UTF-8; array: u32 type, u64 count, values
    tensors   string name, u32 dimensions, u64 each (columns first), u32 type, u64 offset
    data      from the next multiple of general.alignment (32); offsets count from here

All numbers are little-endian. Source: the format's description in the ggml repository, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.packed import AnyArray
from twofold.weights.gguf_blocks import BLOCKS
from twofold.weights.gguf_types import TYPE_NAMES
from twofold.weights.safetensors import DTYPES, LFS_POINTER, RELEASE_MARGIN, damaged

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES, MAX_NAME_BYTES = 65_535, 1024
MAX_STRING_BYTES = 64 * 2**20
MAX_DIMENSIONS = 4
MAX_BYTES = 2**62
MAX_NESTING = 4
DEFAULT_ALIGNMENT, MAX_ALIGNMENT = 32, 2**20
LEAST_KEY_BYTES, LEAST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8

STRING, ARRAY, BOOL, FLOAT32 = 8, 9, 7, 6
NUMBERS: dict[int, np.dtype[Any]] = {
    kind: np.dtype(code)
    for kind, code in enumerate(["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "u1", "", "", "<u8", "<i8", "<f8"])
    if code
}
"""Value types that are numbers; 7 is a truth value in a byte."""
PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class GgufEntry:
    """A tensor: its type, its shape with rows first, and its bytes begin..end counted from the start of the file."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """Rows of all its matrices together."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return bytes_of_columns(self.kind, self.shape[-1])


class GgufFile:
    """A GGUF file, memory-mapped.

    `metadata` has the value of every key (numbers, text, truth values, lists), `entries` one GgufEntry per tensor.
    Raises CheckpointError when any part of it is not as the format demands, UnsupportedModel for big-endian files,
    versions and tensor types that cannot be read. A file that is cut short while mapped ends the process (SIGBUS).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size_bytes = file.seek(0, 2)
                file.seek(0)
                check_beginning(file.read(len(LFS_POINTER)), self.size_bytes, path)
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
        cursor = Cursor(self.map, path)
        tensors, keys = cursor.counts()
        self.metadata = cursor.keys(keys)
        found = [cursor.tensor() for _ in range(tensors)]
        step = alignment(self.metadata, path)
        start = -(-cursor.position // step) * step
        self.entries: dict[str, GgufEntry] = {}
        for name, entry in found:
            if name in self.entries:
                raise damaged(path, f"tensor {name!r} is listed twice")
            self.entries[name] = place(entry, start, step, path, name)
        check_layout(self.entries, self.size_bytes, path)

    def raw(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A tensor's rows as bytes, a read-only view [rows, bytes of a row]. KeyError for an unknown name."""
        entry = self.entries[name]
        return np.frombuffer(self.map, np.uint8, entry.end - entry.begin, entry.begin).reshape(entry.rows, -1)

    def plain(self, name: str) -> AnyArray:
        """Rows of a tensor that is not quantised, a read-only view [rows, columns]."""
        entry = self.entries[name]
        dtype = DTYPES[entry.kind]
        count = (entry.end - entry.begin) // dtype.itemsize
        return np.frombuffer(self.map, dtype, count, entry.begin).reshape(entry.rows, -1)

    def advise(self, advice: int, begin: int, end: int, margin: int = RELEASE_MARGIN) -> None:
        """madvise for bytes begin..end of the file, rounded outwards to pages, `margin` bytes more on each side."""
        first = max(0, begin - margin) // mmap.PAGESIZE * mmap.PAGESIZE
        length = min(end + margin, self.size_bytes) - first
        if length > 0:
            self.map.madvise(advice, first, length)


def check_beginning(first: bytes, size: int, path: Path) -> None:
    """Magic, version and byte order."""
    if first == LFS_POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its repository.")
    if first[:4] != MAGIC:
        raise damaged(path, f"it begins with {first[:4]!r}; a GGUF file begins with {MAGIC!r}")
    if size < 24:
        raise damaged(path, f"truncated inside the header: {size} bytes found, {24 - size} bytes missing at least")
    version = int.from_bytes(first[4:8], "little")
    if version and not version & 0xFFFF:
        raise UnsupportedModel(
            f"{path} is a big-endian GGUF file; little-endian ones can be read. Convert the model again on a usual "
            "machine, or download the little-endian file."
        )
    if version not in VERSIONS:
        raise UnsupportedModel(
            f"{path} is GGUF version {version}; 2 and 3 can be read. Convert the model again with a current llama.cpp."
        )


class Cursor:
    """Reads a header from its beginning; every length is checked against what is left of the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.size = len(data)
        self.position = len(MAGIC) + 4

    def take(self, count: int, what: str) -> int:
        """Where the next `count` bytes begin; moves on."""
        begin, end = self.position, self.position + count
        if end > self.size:
            raise damaged(self.path, f"truncated inside {what}: {self.size} bytes found, {end - self.size} bytes "
                                     "missing at least")  # fmt: skip
        self.position = end
        return begin

    def u32(self, what: str) -> int:
        """A number of four bytes."""
        return int(struct.unpack_from("<I", self.data, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        """A number of eight bytes."""
        return int(struct.unpack_from("<Q", self.data, self.take(8, what))[0])

    def counts(self) -> tuple[int, int]:
        """Numbers of tensors and keys."""
        tensors, keys = self.u64("the header"), self.u64("the header")
        left = self.size - self.position
        for count, least, most, what in (
            (tensors, LEAST_TENSOR_BYTES, MAX_TENSORS, "tensors"), (keys, LEAST_KEY_BYTES, MAX_KEYS, "keys")
        ):  # fmt: skip
            if count > min(left // least, most):
                raise damaged(self.path, f"it would have {count} {what}, more than {left} bytes (and a limit of {most}"
                                         ") allow")  # fmt: skip
        return tensors, keys

    def text(self, what: str, most: int) -> str:
        """A string."""
        length = self.u64(what)
        if length > most:
            raise damaged(self.path, f"{what} would be {length} bytes long; the limit is {most}")
        begin = self.take(length, what)
        try:
            return self.data[begin : begin + length].decode()
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"{what} is not UTF-8 text (byte {error.start})") from error

    def keys(self, count: int) -> dict[str, Any]:
        """Every key with its value."""
        found: dict[str, Any] = {}
        for index in range(count):
            name = self.text(f"the name of key {index}", MAX_KEY_BYTES)
            if name in found:
                raise damaged(self.path, f"key {name!r} is there twice")
            what = f"key {name!r}"
            found[name] = self.value(self.u32(what), what, 0)
        return found

    def value(self, kind: int, what: str, depth: int) -> Any:
        """A value of a type: numbers in Python's own types, arrays as lists."""
        if kind == STRING:
            return self.text(what, MAX_STRING_BYTES)
        if kind in NUMBERS:
            return self.numbers(kind, 1, what)[0]
        if kind != ARRAY:
            raise damaged(self.path, f"{what} has the unknown value type {kind}")
        if depth == MAX_NESTING:
            raise damaged(self.path, f"{what} nests arrays more than {MAX_NESTING} deep")
        item, count = self.u32(what), self.u64(what)
        if item in NUMBERS:
            return self.numbers(item, count, what)
        least = 8 if item == STRING else 12
        if count > (self.size - self.position) // least:
            raise damaged(self.path, f"{what} would have {count} items, more than the file can hold")
        if item == STRING:
            return self.texts(count, what)
        return [self.value(item, what, depth + 1) for _ in range(count)]

    def numbers(self, kind: int, count: int, what: str) -> list[Any]:
        """`count` numbers; a float32 becomes the shortest decimal that rounds to it, as people write it elsewhere."""
        dtype = NUMBERS[kind]
        begin = self.take(count * dtype.itemsize, what)
        if not count:
            return []
        found = np.frombuffer(self.data, dtype, count, begin)
        if kind == BOOL:
            if found.max() > 1:
                raise damaged(self.path, f"{what} holds a truth value of {found.max()}; 0 and 1 were expected")
            return [bool(item) for item in found]
        if kind == FLOAT32:
            return [float(str(item)) for item in found]
        values: list[Any] = found.tolist()
        return values

    def texts(self, count: int, what: str) -> list[str]:
        """`count` strings; vocabularies have hundreds of thousands, hence the loop without calls of our own."""
        data, position, size, found = self.data, self.position, self.size, []
        read_length = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                begin = position + 8
                position = begin + read_length(data, position)[0] if begin <= size else size + 1
                if position > size:
                    raise damaged(self.path, f"truncated inside {what}: {size} bytes found, more were expected")
                found.append(data[begin:position].decode())
        except UnicodeDecodeError as error:
            raise damaged(self.path, f"{what}: item {len(found)} is not UTF-8 text (byte {error.start})") from error
        self.position = position
        return found

    def tensor(self) -> tuple[str, GgufEntry]:
        """Name of the next tensor and its entry, with begin and end counted from the start of the data."""
        name = self.text("the name of a tensor", MAX_NAME_BYTES)
        what = f"tensor {name!r}"
        dimensions = self.u32(what)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise damaged(self.path, f"{what} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} were expected")
        shape = tuple(reversed([self.u64(what) for _ in range(dimensions)]))
        kind = self.kind(self.u32(what), what)
        begin = self.u64(what)
        if 0 in shape or math.prod(shape) > MAX_BYTES or begin > MAX_BYTES:
            raise damaged(self.path, f"{what} has shape {list(shape)} at offset {begin}, which no file can hold")
        if kind in BLOCKS and shape[-1] % BLOCKS[kind].columns:
            raise damaged(self.path, f"{what} has {shape[-1]} columns; {kind} has blocks of {BLOCKS[kind].columns}")
        return name, GgufEntry(kind, shape, begin, begin + math.prod(shape[:-1]) * bytes_of_columns(kind, shape[-1]))

    def kind(self, number: int, what: str) -> str:
        """Name of a tensor type that can be read."""
        kind = TYPE_NAMES.get(number, f"number {number}")
        if kind not in BLOCKS and kind not in PLAIN:
            raise UnsupportedModel(
                f"{self.path}: {what} has type {kind}; {', '.join([*PLAIN, *BLOCKS])} can be read. Use another file of "
                "this model, such as Q4_K_M, Q8_0 or BF16."
            )
        return kind


def bytes_of_columns(kind: str, columns: int) -> int:
    """Bytes of a row."""
    if kind in BLOCKS:
        return columns // BLOCKS[kind].columns * BLOCKS[kind].size_bytes
    return columns * DTYPES[kind].itemsize


def alignment(metadata: dict[str, Any], path: Path) -> int:
    """Where data may begin."""
    step = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(step) is not int or not 8 <= step <= MAX_ALIGNMENT or step & (step - 1):
        raise damaged(path, f"general.alignment is {step!r}; a power of two from 8 to {MAX_ALIGNMENT} was expected")
    return step


def place(entry: GgufEntry, start: int, step: int, path: Path, name: str) -> GgufEntry:
    """The entry with begin and end counted from the start of the file."""
    if entry.begin % step:
        raise damaged(path, f"tensor {name!r} begins at {entry.begin}; a multiple of {step} was expected")
    return GgufEntry(entry.kind, entry.shape, start + entry.begin, start + entry.end)


def check_layout(entries: dict[str, GgufEntry], size: int, path: Path) -> None:
    """No tensor may overlap another or reach beyond the file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < end:
            raise damaged(path, f"tensor {name!r} overlaps the one before it by {end - entry.begin} bytes")
        end = entry.end
    if end > size:
        raise damaged(path, f"truncated: {size} bytes found, {end} expected, {end - size} bytes missing")

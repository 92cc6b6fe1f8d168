"""One safetensors file, checked before anything in it is believed, then mapped into memory.

    u64 little-endian   length of the header
    header              JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}
    data                the tensors, row-major little-endian, without holes; offsets count from here

Source: the format's description in the safetensors repository, README.md.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from twofold.errors import CheckpointError
from twofold.ops.packed import BF16, AnyArray
from twofold.weights.strict_json import DOWNLOAD_AGAIN, parse_object

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_DIMENSIONS = 32
MAX_BYTES = 2**62
RELEASE_MARGIN = 64 * 1024  # Linux maps up to 64 KiB around a fault (fault_around_bytes): those pages go too
LFS_POINTER = b"version https://git-lfs"

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BF16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes begin..end, counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A safetensors file, memory-mapped. Raises CheckpointError when any part of it is not as the format demands.

    `entries` has one Entry per tensor, in the order of the header; `metadata` is its __metadata__.
    A file that is cut short while it is mapped ends the process (SIGBUS), as with every memory map.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.size_bytes = file.seek(0, 2)
                header, start = read_header(file, self.size_bytes, path)
                self.metadata = check_metadata(header.pop("__metadata__", {}), path)
                self.entries = {name: check_entry(name, raw, start, path) for name, raw in header.items()}
                check_layout(self.entries, start, self.size_bytes, path)
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}. Check the path.") from error

    def tensor(self, name: str) -> AnyArray:
        """A read-only view of the file's bytes as an array; nothing is copied. KeyError for an unknown name."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        count = (entry.end - entry.begin) // dtype.itemsize
        if not count:
            empty = np.empty(entry.shape, dtype)
            empty.flags.writeable = False
            return empty
        return np.frombuffer(self.map, dtype, count, entry.begin).reshape(entry.shape)

    def prefetch(self, name: str, begin: int, end: int) -> None:
        """Ask for bytes begin..end of a tensor to be read from disk in the background."""
        self.advise(mmap.MADV_WILLNEED, name, begin, end, 0)

    def release(self, name: str, begin: int, end: int) -> None:
        """Unmap the pages around bytes begin..end of a tensor; a later access brings them back."""
        self.advise(mmap.MADV_DONTNEED, name, begin, end, RELEASE_MARGIN)

    def advise(self, advice: int, name: str, begin: int, end: int, margin: int) -> None:
        """madvise for bytes begin..end of a tensor, rounded outwards to pages, `margin` bytes more on each side."""
        offset = self.entries[name].begin
        first = max(0, offset + begin - margin) // mmap.PAGESIZE * mmap.PAGESIZE
        length = min(offset + end + margin, self.size_bytes) - first
        if length > 0:
            self.map.madvise(advice, first, length)


def damaged(path: Path, problem: str) -> CheckpointError:
    """The error for a file that breaks the format."""
    return CheckpointError(f"{path}: {problem}. {DOWNLOAD_AGAIN}")


def read_header(file: BinaryIO, size: int, path: Path) -> tuple[dict[str, Any], int]:
    """The header as an object, and where the data begins."""
    file.seek(0)
    first = file.read(len(LFS_POINTER))
    if first == LFS_POINTER:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` in its repository.")
    if size < LENGTH_BYTES:
        raise damaged(path, f"the file has {size} bytes; a safetensors file begins with {LENGTH_BYTES} bytes of length")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise damaged(path, f"its header would be {length} bytes long, the limit is {MAX_HEADER_BYTES}; "
                            "this is no safetensors file")  # fmt: skip
    start = LENGTH_BYTES + length
    if start > size:
        raise damaged(path, f"truncated inside the header: {size} bytes found, {start - size} bytes missing at least")
    file.seek(LENGTH_BYTES)
    return parse_object(file.read(length), f"{path}: the header"), start


def check_metadata(metadata: Any, path: Path) -> dict[str, str]:
    """__metadata__ as the format wants it: text to text."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "__metadata__ must map text to text")
    return metadata


def check_entry(name: str, raw: Any, start: int, path: Path) -> Entry:
    """One tensor of the header, its byte count checked against dtype and shape."""
    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r} has unknown dtype {dtype!r}; known are {', '.join(DTYPES)}. "
                              "Convert the checkpoint to one of them.")  # fmt: skip
    if not are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise damaged(path, f"tensor {name!r} has shape {shape!r}; up to {MAX_DIMENSIONS} whole numbers were expected")
    if not are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise damaged(path, f"tensor {name!r} has data_offsets {offsets!r}; [begin, end] was expected")
    item_bytes = DTYPES[dtype].itemsize
    if math.prod(max(size, 1) for size in shape) * item_bytes > MAX_BYTES:
        raise damaged(path, f"tensor {name!r} has shape {shape!r}, larger than any memory")
    found, expected = offsets[1] - offsets[0], math.prod(shape) * item_bytes
    if found != expected:
        raise damaged(path, f"tensor {name!r} takes {found} bytes; {dtype} {shape!r} needs {expected}")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def are_sizes(values: Any) -> bool:
    """Whether this is a list of whole numbers from 0 on."""
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def check_layout(entries: dict[str, Entry], start: int, size: int, path: Path) -> None:
    """Tensors must follow one another from the header to the end of the file: no overlap, no hole, no rest."""
    end = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < end:
            raise damaged(path, f"tensor {name!r} overlaps the one before it by {end - entry.begin} bytes")
        if entry.begin > end:
            raise damaged(path, f"there is a hole of {entry.begin - end} bytes before tensor {name!r}")
        end = entry.end
    if end > size:
        raise damaged(path, f"truncated: {size} bytes found, {end} expected, {end - size} bytes missing")
    if end < size:
        raise damaged(path, f"{size - end} bytes follow the last tensor; the file must end there")

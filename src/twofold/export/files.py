"""Weights of a graph in a file of their own (ONNX external data), written as they come.

Only what is being written is in memory. Every tensor begins at a multiple of a page, so that runtimes can map it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from twofold.ops.packed import AnyArray

ALIGNMENT = 4096


@dataclass(frozen=True)
class Span:
    """Where a tensor's bytes are."""

    offset: int
    length: int


class WeightsFile:
    """A file that grows by whole tensors; use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def __enter__(self) -> WeightsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def begin(self) -> int:
        """Pad to where the next tensor begins; returns its offset."""
        self.append(np.zeros(-self.size_bytes % ALIGNMENT, np.uint8))
        return self.size_bytes

    def append(self, array: AnyArray) -> None:
        """Write the bytes of an array behind what is there."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)

    @property
    def sha256(self) -> str:
        """Digest of everything written."""
        return self._digest.hexdigest()

"""Packed weights where they lie in a file: at hand at once, and moved into the process's own memory meanwhile."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twofold.errors import OutOfMemory

if TYPE_CHECKING:
    from twofold.backends.cpu import _native

_files: weakref.WeakSet[_native.MappedFile] = weakref.WeakSet()
"""Of the whole process, as the threads are: several instances of the ops may share weights."""


def map_file(module: Any, descriptor: int, begin: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
    """See ops.packed.MappingPacker.map_file."""
    mapped = module.MappedFile(descriptor, begin, size_bytes)
    memory: npt.NDArray[np.uint8] | None = mapped.memory()
    if memory is not None:
        _files.add(mapped)
    return memory


def settle() -> None:
    """See ops.packed.MappingPacker.settle."""
    for mapped in list(_files):
        if not mapped.settle():
            raise OutOfMemory(
                "the packed weights could not be copied out of their file; they are used where it has them, which is "
                "slower. Free memory and start again."
            )

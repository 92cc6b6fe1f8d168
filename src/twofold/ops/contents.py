"""One block of a cache as bytes, for backends whose caches are NumPy arrays with the block as their first axis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Iterable[npt.NDArray[Any]]


def block_bytes(arrays: Arrays) -> int:
    """Bytes of one block of all these arrays."""
    return sum(array.nbytes // len(array) for array in arrays if len(array))


def read_block(arrays: Arrays, block: int) -> bytes:
    """What these arrays hold of a block, one after the other."""
    return b"".join(array[block].tobytes() for array in arrays)


def write_block(arrays: Arrays, block: int, content: bytes) -> None:
    """Put back what `read_block` gave. Raises ValueError when it is of another size."""
    every = list(arrays)
    if len(content) != block_bytes(every):
        raise ValueError(f"the content has {len(content)} bytes; a block of this cache has {block_bytes(every)}")
    start = 0
    for array in every:
        place = array[block]
        place[...] = np.frombuffer(content, array.dtype, place.size, start).reshape(place.shape)
        start += place.nbytes

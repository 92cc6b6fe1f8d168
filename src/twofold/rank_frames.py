"""What the first rank tells the others over a pipe, and what they answer: frames of a word and some bytes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from twofold.ops.types import Batch, Pages

MOST_BYTES = 2**40
KIND_BYTES, SIZE_BYTES = 8, 8


def write_frame(stream: IO[bytes], kind: str, payload: bytes = b"") -> None:
    """One frame: a word of at most 8 letters, the size of what follows, what follows."""
    stream.write(kind.encode("ascii").ljust(KIND_BYTES) + len(payload).to_bytes(SIZE_BYTES, "little") + payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[str, bytes] | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    head = stream.read(KIND_BYTES + SIZE_BYTES)
    if len(head) < KIND_BYTES + SIZE_BYTES:
        return None
    size = int.from_bytes(head[KIND_BYTES:], "little")
    assert size < MOST_BYTES, "frames come from our own process"
    payload = stream.read(size)
    return (head[:KIND_BYTES].decode("ascii").strip(), payload) if len(payload) == size else None


def encode_batch(batch: Batch) -> bytes:
    """A batch of NumPy arrays as bytes: a line of JSON that tells dtypes and shapes, then the arrays."""
    arrays = batch_arrays(batch)
    head = json.dumps({name: [array.dtype.str, array.shape] for name, array in arrays.items()})
    return b"\n".join([head.encode(), b"".join(array.tobytes() for array in arrays.values())])


def batch_arrays(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a batch by name, those of pages as global.slots_T and so on."""
    arrays = {name: getattr(batch, name) for name in ("tokens_T", "positions_T", "starts_S", "rows_R")}
    for kind, pages in (("global", batch.global_pages), ("local", batch.local_pages)):
        if pages is not None:
            arrays |= {f"{kind}.{field.name}": getattr(pages, field.name) for field in fields(pages)}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def decode_batch(content: bytes) -> Batch:
    """The batch that `encode_batch` made bytes of."""
    head, data = content.split(b"\n", 1)
    arrays, start = {}, 0
    for name, (dtype, shape) in json.loads(head).items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape).copy()
        start += arrays[name].nbytes

    def pages(kind: str) -> Pages | None:
        names = {field.name: f"{kind}.{field.name}" for field in fields(Pages)}
        return (
            Pages(**{ours: arrays.pop(theirs) for ours, theirs in names.items()})
            if names["slots_T"] in arrays
            else None
        )

    global_pages, local_pages = pages("global"), pages("local")
    assert global_pages is not None, "every batch has global pages"
    return Batch(**arrays, global_pages=global_pages, local_pages=local_pages)

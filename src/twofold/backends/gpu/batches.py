"""The batch of a step on the device: all of its arrays in one piece of memory, brought there by one transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twofold.backends.gpu import devices
from twofold.ops.layout import padded
from twofold.ops.steps import wants_all_rows, width_of
from twofold.ops.types import Array, Batch, Pages

Ints = npt.NDArray[np.int32]
SMALL_BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32)
LARGE_STEP = 32
TILE_ROWS = 16
"""Rows of one sequence from which attention works in tiles of queries."""
NOWHERE = -1
"""The slot of a row that is not written to the cache."""
ALIGNMENT = 4
"""Words that every array begins at a multiple of: kernels are compiled for what their pointers are aligned to."""


@dataclass(frozen=True, kw_only=True)
class DeviceBatch(Batch):
    """A batch whose arrays are tensors.

    host: the arrays it was made from; sequence_T int32: the sequence of every row; longest: rows of the longest
    sequence; slot: the memory it lies in, where that is used step after step (graphs.py). Padding rows, which come
    last, have slot -1 in their pages: they are not written to the cache, and nobody looks at what they give.
    """

    host: Batch
    sequence_T: Array
    longest: int
    slot: Any = None

    @cached_property
    def longest_short(self) -> int:
        """Rows of the longest sequence that has fewer than TILE_ROWS; 0 without one."""
        counts_S = np.diff(self.host.starts_S)
        return int(counts_S[counts_S < TILE_ROWS].max(initial=0))

    @property
    def rows(self) -> int:
        """Rows that are no padding."""
        return len(self.host.tokens_T)


def is_decode(batch: Batch) -> bool:
    """Whether every sequence has one row and its logits are wanted: what a captured graph can be replayed for."""
    return len(batch.starts_S) == len(batch.tokens_T) + 1 and wants_all_rows(batch)


def bucket_of(rows: int) -> int:
    """The number of rows a decoding batch is padded to."""
    return next((size for size in SMALL_BUCKETS if rows <= size), padded(rows, LARGE_STEP))


def blank(rows: int, widths: Sequence[int]) -> Batch:
    """A decoding batch of nothing but padding, with tables of so many columns for each kind of layer."""
    kinds = [
        Pages(
            slots_T=np.full(rows, NOWHERE, np.int64),
            blocks_SB=np.zeros((rows, width), np.int32),
            bases_S=np.zeros(rows, np.int32),
        )
        for width in widths
    ]
    return Batch(
        tokens_T=np.zeros(rows, np.int32),
        positions_T=np.zeros(rows, np.int32),
        starts_S=np.arange(rows + 1, dtype=np.int32),
        rows_R=np.arange(rows, dtype=np.int32),
        global_pages=kinds[0],
        local_pages=kinds[1] if len(kinds) > 1 else None,
    )


def write(own: Batch, given: Batch) -> None:
    """Put a decoding batch where a `blank` one was, or another one; what it does not fill is padding again."""
    rows = len(given.tokens_T)
    for (mine, padding), (theirs, _) in zip(changing(own), changing(given), strict=True):
        mine[rows:] = padding
        if mine.ndim == 1:
            mine[:rows] = theirs
        else:
            mine[:rows, : theirs.shape[1]] = theirs
            mine[:rows, theirs.shape[1] :] = padding


def changing(batch: Batch) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """What differs between decoding batches of the same sizes, and what padding has there."""
    yield batch.tokens_T, 0
    yield batch.positions_T, 0
    for pages in batch.kinds:
        yield pages.slots_T, NOWHERE
        yield pages.blocks_SB, 0
        yield pages.bases_S, 0


def arrays_of(batch: Batch) -> list[npt.NDArray[Any]]:
    """The arrays of a batch, block tables in padded widths, and the sequence of every row; the 64-bit ones first."""
    counts_S = np.diff(batch.starts_S)
    sequence_T = np.repeat(np.arange(len(counts_S), dtype=np.int32), counts_S)
    tables = [array for pages in batch.kinds for array in (widened(pages.blocks_SB), pages.bases_S)]
    slots = [np.asarray(pages.slots_T, np.int64) for pages in batch.kinds]
    own = [batch.tokens_T, batch.positions_T, batch.starts_S, batch.rows_R, sequence_T]
    return slots + [np.ascontiguousarray(array, np.int32) for array in own + tables]


def widened(blocks_SB: Ints) -> Ints:
    """A block table with as many columns as `width_of` says."""
    rows, columns = blocks_SB.shape
    wide_SB = np.zeros((rows, width_of(columns)), np.int32)
    wide_SB[:, :columns] = blocks_SB
    return wide_SB


def flatten(arrays: list[npt.NDArray[Any]]) -> Ints:
    """All arrays one after the other, as 32-bit words, each at a multiple of ALIGNMENT."""
    words = np.zeros(sum(padded(array.nbytes // 4, ALIGNMENT) for array in arrays), np.int32)
    start = 0
    for array in arrays:
        count = array.nbytes // 4
        words[start : start + count] = array.reshape(-1).view(np.int32)
        start += padded(count, ALIGNMENT)
    return words


def view(words: Tensor, arrays: list[npt.NDArray[Any]], host: Batch, is_local: bool) -> DeviceBatch:
    """The batch whose arrays lie in `words`, which is int32 and as long as what `flatten` gives."""
    tensors, start = [], 0
    for array in arrays:
        count = array.nbytes // 4
        piece = words[start : start + count]
        tensors.append((piece.view(torch.int64) if array.dtype == np.int64 else piece).reshape(array.shape))
        start += padded(count, ALIGNMENT)
    kinds = 2 if is_local else 1
    slots, (tokens_T, positions_T, starts_S, rows_R, sequence_T) = tensors[:kinds], tensors[kinds : kinds + 5]
    tables = tensors[kinds + 5 :]
    pages = [Pages(slots_T=slots[i], blocks_SB=tables[2 * i], bases_S=tables[2 * i + 1]) for i in range(kinds)]
    return DeviceBatch(
        tokens_T=tokens_T,
        positions_T=positions_T,
        starts_S=starts_S,
        rows_R=rows_R,
        global_pages=pages[0],
        local_pages=pages[1] if is_local else None,
        host=host,
        sequence_T=sequence_T,
        longest=int(np.diff(host.starts_S).max(initial=0)),
    )


def on_host(batch: DeviceBatch) -> Batch:
    """The arrays of a batch that lies in the host's memory, which they share."""

    def pages(given: Pages) -> Pages:
        return Pages(slots_T=given.slots_T.numpy(), blocks_SB=given.blocks_SB.numpy(), bases_S=given.bases_S.numpy())

    return Batch(
        tokens_T=batch.tokens_T.numpy(),
        positions_T=batch.positions_T.numpy(),
        starts_S=batch.starts_S.numpy(),
        rows_R=batch.rows_R.numpy(),
        global_pages=pages(batch.global_pages),
        local_pages=None if batch.local_pages is None else pages(batch.local_pages),
    )


def upload(batch: Batch, device: torch.device) -> DeviceBatch:
    """The batch on the device, for a step that this thread launches."""
    devices.use(device)
    arrays = arrays_of(batch)
    words = devices.send(flatten(arrays), device)
    return view(words, arrays, batch, batch.local_pages is not None)

"""Turns a plan into the arrays of one Batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt

from twofold.engine.blocks import CacheLayout
from twofold.engine.plan import Slice
from twofold.ops.types import Batch, Pages

Ints = npt.NDArray[np.int32]


def build_batch(slices: Many[Slice], layout: CacheLayout, all_rows: bool = False) -> Batch:
    """The batch of these slices, end to end.

    Logits are asked for where a slice judges its prompt and where it samples (its last known token and its guesses), or
    for `all_rows`.
    """
    tokens: list[int] = []
    wanted: list[int] = []
    for item in slices:
        row, start = len(tokens), item.start
        tokens += item.tokens
        tokens += item.guesses
        if item.judging:
            wanted += [row + position - start for position in item.judging]
        if item.samples:
            wanted += range(row + item.count - 1, len(tokens))
    rows = np.arange(len(tokens), dtype=np.int32)
    firsts_S = np.array([item.start for item in slices], np.int32)
    if len(tokens) == len(slices):  # decoding: nearly all steps are like this
        starts_S, sequence_T, positions_T = np.arange(len(slices) + 1, dtype=np.int32), rows, firsts_S
    else:
        counts_S = np.array([item.rows for item in slices])
        starts_S = np.concatenate([[0], np.cumsum(counts_S)]).astype(np.int32)
        sequence_T = np.repeat(np.arange(len(slices), dtype=np.int32), counts_S)
        positions_T = rows + (firsts_S - starts_S[:-1])[sequence_T]

    global_tables = [item.sequence.global_blocks for item in slices]
    bases_S = np.zeros(len(slices), np.int32)
    global_pages = build_pages(global_tables, bases_S, sequence_T, positions_T, layout.block_size)
    local_pages = None
    if layout.chunk is not None:
        local_tables = [item.sequence.local_blocks for item in slices]
        bases_S = np.array([item.sequence.local_base for item in slices], np.int32)
        local_pages = build_pages(local_tables, bases_S, sequence_T, positions_T, layout.block_size)
    return Batch(
        tokens_T=np.array(tokens, np.int32),
        positions_T=positions_T,
        starts_S=starts_S,
        rows_R=rows if all_rows else np.array(wanted, np.int32),
        global_pages=global_pages,
        local_pages=local_pages,
    )


def build_pages(tables: list[array[int]], bases_S: Ints, sequence_T: Ints, positions_T: Ints, block_size: int) -> Pages:
    """Padded block tables and the slot of every token."""
    widths = [len(table) for table in tables]
    widest = max(widths)
    blocks = np.frombuffer(b"".join(tables), np.int32)
    blocks_SB = np.full((len(tables), widest), -1, np.int32)
    if len(blocks) == blocks_SB.size:
        blocks_SB[:] = blocks.reshape(blocks_SB.shape)
    else:
        blocks_SB[np.arange(widest) < np.array(widths)[:, None]] = blocks
    relative_T = positions_T - bases_S[sequence_T]
    places_T, offsets_T = np.divmod(relative_T, block_size)
    blocks_T = blocks_SB[sequence_T, places_T].astype(np.int64)
    return Pages(slots_T=blocks_T * block_size + offsets_T, blocks_SB=blocks_SB, bases_S=bases_S)

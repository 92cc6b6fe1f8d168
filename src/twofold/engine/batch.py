"""Turns a plan into the arrays of one Batch."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt

from twofold.engine.blocks import CacheLayout
from twofold.engine.scheduler import Slice
from twofold.ops.types import Batch, Pages

Ints = npt.NDArray[np.int32]


def build_batch(slices: Many[Slice], layout: CacheLayout, all_rows: bool = False) -> Batch:
    """The batch of these slices, end to end.

    Logits are asked for where a slice judges its prompt and where it samples (its last known token and its guesses), or
    for `all_rows`.
    """
    tokens: list[int] = []
    for item in slices:
        start = item.sequence.computed
        tokens += [*item.sequence.tokens[start : start + item.count], *item.guesses]
    counts_S = np.array([item.rows for item in slices])
    starts_S = np.concatenate([[0], np.cumsum(counts_S)]).astype(np.int32)
    sequence_T = np.repeat(np.arange(len(slices)), counts_S)
    firsts_S = np.array([item.sequence.computed for item in slices])
    positions_T = (np.arange(len(tokens)) - starts_S[sequence_T] + firsts_S[sequence_T]).astype(np.int32)
    wanted = [row for item, start in zip(slices, starts_S.tolist(), strict=False) for row in wanted_rows(item, start)]
    rows = range(len(tokens)) if all_rows else wanted

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
        rows_R=np.array(rows, np.int32),
        global_pages=global_pages,
        local_pages=local_pages,
    )


def wanted_rows(item: Slice, start: int) -> list[int]:
    """Rows of a slice whose logits are wanted, where its first row is `start`."""
    judging = [start + position - item.sequence.computed for position in item.judging]
    stop = start + item.rows
    return judging + (list(range(stop - 1 - len(item.guesses), stop)) if item.samples else [])


def build_pages(
    tables: list[list[int]], bases_S: Ints, sequence_T: npt.NDArray[np.int64], positions_T: Ints, block_size: int
) -> Pages:
    """Padded block tables and the slot of every token."""
    widest = max(len(table) for table in tables)
    blocks_SB = np.full((len(tables), widest), -1, np.int32)
    for row, table in enumerate(tables):
        blocks_SB[row, : len(table)] = table
    relative_T = positions_T - bases_S[sequence_T]
    blocks_T = blocks_SB[sequence_T, relative_T // block_size].astype(np.int64)
    return Pages(slots_T=blocks_T * block_size + relative_T % block_size, blocks_SB=blocks_SB, bases_S=bases_S)

"""Steps of every size, run once before requests come.

Triton compiles a kernel when it is first launched with arguments of a new kind, which takes a second or so, and keeps
it on the disk. Which kernels a step takes depends on how many rows it has and of how many sequences, so without this a
server would stop for seconds whenever its load is one that it has not seen. Graphs of decoding steps with short
contexts are recorded on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from triton import knobs

from twofold.backends.gpu.batches import TILE_ROWS, bucket_of
from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.fused import KernelOps
from twofold.backends.gpu.graphs import MOST_ROWS
from twofold.backends.gpu.ops import Forward
from twofold.ops.types import Batch, Pages, RowSampling

FEW_ROWS = (2, 3, 5, 9)
"""Rows of a sequence that confirms guesses or ends its prompt: below those that attention takes in tiles."""
SETTINGS = (
    RowSampling(temperature=0.0),
    RowSampling(),
    RowSampling(top_k=40, top_p=0.9, min_p=0.1),
    RowSampling(logprobs=2, repetition_penalty=1.1, generated=(0,)),
)
"""Ways of drawing a token that take kernels of their own."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What steps can be: most sequences and rows, most tokens of a sequence; how the cache is cut, and whether some
    layers see their chunk only.
    """

    sequences: int
    rows: int
    context: int
    block_size: int
    has_local: bool


def rehearse(ops: KernelOps, forward: Forward, cache: list[GpuCache], sizes: Sizes) -> None:
    """Run steps of all sizes; nothing is written to the cache. Raises what a step of these sizes would raise."""
    for counts in steps(sizes):
        batch = batch_of(counts, sizes)
        logits_RV = forward(ops, ops.upload(batch), cache)
        for setting in SETTINGS if len(counts) <= 2 else ():  # with more rows they take the same kernels
            ops.sample(logits_RV, [setting] * len(counts))
    if ops.device.type == "cuda":
        torch.cuda.synchronize(ops.device)


def steps(sizes: Sizes) -> Iterator[tuple[int, ...]]:
    """Rows of each sequence, step by step: decoding, pieces of prompts, and both."""
    most = min(sizes.sequences, sizes.rows)
    for rows in sorted({min(bucket_of(rows), most) for rows in range(1, min(most, MOST_ROWS) + 1)} | {most}):
        yield (1,) * rows
    for rows in powers(min(sizes.rows, sizes.sequences * sizes.context)):
        whole, rest = divmod(rows, sizes.context)
        yield (sizes.context,) * whole + (rest,) * (rest > 0)
    for rows in FEW_ROWS:
        if rows <= min(sizes.rows, sizes.context):
            most = min(sizes.sequences, sizes.rows // rows)
            yield from ((rows,) * count for count in sorted({min(3, most), most}))  # three logits: no bucket has these
    if sizes.rows > TILE_ROWS and sizes.context >= TILE_ROWS and sizes.sequences > 1:
        yield (TILE_ROWS, 1)
        yield (TILE_ROWS, *(1,) * min(sizes.sequences - 1, sizes.rows - TILE_ROWS))


def powers(most: int) -> list[int]:
    """Powers of two, what lies right above and halfway between them, up to `most`, and `most`."""
    found = {number for power in range(most.bit_length()) for number in (1 << power, 1 + (1 << power), 3 << power)}
    return sorted({number for number in found if number < most} | {most})


def batch_of(counts: tuple[int, ...], sizes: Sizes) -> Batch:
    """Sequences with so many rows each from position 0 on, whose keys and values are not kept."""
    starts_S = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    positions_T = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    pages = Pages(
        slots_T=np.full(len(positions_T), -1, np.int64),
        blocks_SB=np.zeros((len(counts), -(-max(counts) // sizes.block_size)), np.int32),
        bases_S=np.zeros(len(counts), np.int32),
    )
    return Batch(
        tokens_T=np.zeros(len(positions_T), np.int32),
        positions_T=positions_T,
        starts_S=starts_S,
        rows_R=starts_S[1:] - 1,
        global_pages=pages,
        local_pages=pages if sizes.has_local else None,
    )


def on_compilation(tell: Callable[[str], None]) -> None:
    """From now on `tell` is called with the name of every kernel that was compiled, not of those found on the disk."""

    def listen(*, src: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            tell(src.name)

    knobs.compilation.listener = listen

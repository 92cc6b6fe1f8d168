"""Cases that judge attend: sequences fed to a paged cache in steps of any size.

However the tokens are cut into steps, every row must come out with the same bits: prefill, chunked prefill and decode
are the same computation. Blocks are handed out in a shuffled order, and local layers drop the blocks before the
chunk of a step's first token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twofold.ops.cases import Tensor, as_bf16, generator, normal, same
from twofold.ops.interface import Ops
from twofold.ops.packed import AnyArray, Floats
from twofold.ops.types import Array, Batch, CacheShape, LayerCache, Pages

SPARE_BLOCKS = 3


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Sequences of these lengths through one layer."""

    lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    size: int
    chunk: int | None = None
    block_size: int = 4

    @property
    def blocks(self) -> int:
        """Blocks of the cache: what all sequences need, and a few that stay unused."""
        return SPARE_BLOCKS + sum(-(-length // self.block_size) for length in self.lengths)

    def tables(self) -> list[AnyArray]:
        """The blocks of each sequence, in a shuffled order."""
        order = generator(self.blocks).permutation(self.blocks).astype(np.int32)
        counts = [-(-length // self.block_size) for length in self.lengths]
        return np.split(order, np.cumsum(counts))[:-1]

    def inputs(self) -> tuple[Floats, Floats, Floats]:
        """q_THK, k_TGK and v_TGK of all sequences, one after the other."""
        rng = generator(sum(self.lengths), self.heads, self.size)
        total = sum(self.lengths)
        q_THK = normal(rng, total, self.heads, self.size) * 2
        k_TGK, v_TGK = (as_bf16(normal(rng, total, self.kv_heads, self.size)) for _ in range(2))
        return q_THK, k_TGK, v_TGK


ATTENTION_CASES = [
    AttentionCase(lengths=(1,), heads=1, kv_heads=1, size=4),
    AttentionCase(lengths=(37, 1, 40), heads=4, kv_heads=2, size=16),
    AttentionCase(lengths=(37, 9), heads=4, kv_heads=2, size=16, chunk=8),
    AttentionCase(lengths=(70, 33), heads=6, kv_heads=2, size=20, chunk=32, block_size=16),
    AttentionCase(lengths=(65,), heads=5, kv_heads=1, size=128, block_size=16),
    AttentionCase(lengths=(45, 3), heads=40, kv_heads=1, size=12, chunk=20),
    AttentionCase(lengths=(40,), heads=3, kv_heads=3, size=256, block_size=7),
    AttentionCase(lengths=(1100,), heads=2, kv_heads=1, size=8, block_size=64),
    AttentionCase(lengths=(2500, 3, 1100), heads=4, kv_heads=2, size=16, block_size=32),
    AttentionCase(lengths=(30, 9), heads=14, kv_heads=2, size=16, block_size=16),
    AttentionCase(lengths=(1060, 1060), heads=15, kv_heads=3, size=16, block_size=32),
]


def new_cache(case: AttentionCase, ops: Ops) -> LayerCache:
    """An empty cache for the case's one layer."""
    shape = CacheShape(kv_heads=case.kv_heads, head_size=case.size, chunks=(case.chunk,))
    return ops.new_cache(shape, (case.blocks, case.blocks), case.block_size)[0]


def attend(
    case: AttentionCase, ops: Ops, step: int, tensor: Tensor = same, cache: LayerCache | None = None, factor: float = 1
) -> Floats:
    """All outputs o_TD, every sequence advanced by `step` tokens at a time; inputs are multiplied by `factor`."""
    q_THK, k_TGK, v_TGK = (x * np.float32(factor) for x in case.inputs())
    cache = new_cache(case, ops) if cache is None else cache
    starts = np.concatenate([[0], np.cumsum(case.lengths)])
    output = np.zeros((len(q_THK), case.heads * case.size), np.float32)
    for begin in range(0, max(case.lengths), step):
        parts = [(s, begin, min(begin + step, n)) for s, n in enumerate(case.lengths) if n > begin]
        rows = np.concatenate([np.arange(starts[s] + first, starts[s] + last) for s, first, last in parts])
        batch = step_batch(case, parts)
        pages = batch.pages(case.chunk)
        q, k, v = (tensor(x[rows]) for x in (q_THK, k_TGK, v_TGK))
        output[rows] = ops.download(
            ops.attend(q, k, v, cache, ops.upload(batch), upload_pages(ops, batch, pages), case.chunk)
        )
    return output


def upload_pages(ops: Ops, batch: Batch, pages: Pages) -> Array:
    """The pages as the backend's tensors."""
    uploaded = ops.upload(batch)
    return uploaded.global_pages if pages is batch.global_pages else uploaded.local_pages


def step_batch(case: AttentionCase, parts: list[tuple[int, int, int]]) -> Batch:
    """The batch of one step: tokens first..last of some sequences."""
    tables = case.tables()
    positions = [np.arange(first, last, dtype=np.int32) for _, first, last in parts]
    slots = [tables[s][p // case.block_size].astype(np.int64) * case.block_size + p % case.block_size
             for (s, _, _), p in zip(parts, positions, strict=True)]  # fmt: skip
    bases, rows = [], []
    for s, first, last in parts:
        visible = 0 if case.chunk is None else first // case.chunk * case.chunk
        skipped = visible // case.block_size
        bases.append(skipped * case.block_size)
        rows.append(tables[s][skipped : -(-last // case.block_size)])
    blocks_SB = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for row, blocks in zip(blocks_SB, rows, strict=True):
        row[: len(blocks)] = blocks
    pages = Pages(slots_T=np.concatenate(slots), blocks_SB=blocks_SB, bases_S=np.array(bases, np.int32))
    positions_T = np.concatenate(positions)
    return Batch(
        tokens_T=np.zeros_like(positions_T),
        positions_T=positions_T,
        starts_S=np.concatenate([[0], np.cumsum([len(p) for p in positions])]).astype(np.int32),
        rows_R=np.zeros(1, np.int32),
        global_pages=pages,
        local_pages=pages if case.chunk is not None else None,
    )

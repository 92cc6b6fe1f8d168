"""Keys and values of one layer, in blocks, on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twofold.ops.types import KvDtype

COUNTERS = 8192
"""Pairs of a row and a KV head that one launch of attend_few may split without making counters of its own."""

KV_ITEMS: dict[KvDtype, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True, eq=False)
class GpuCache:
    """keys, values [blocks, G, block size, K] in the cache's dtype; their scales float32 [blocks, G, block size].

    The scales are there for int8 only, else their last axis is empty. counters int32 [COUNTERS], zero between launches:
    how many programs of a row are done (kernels/attend_few.py); no part of any block.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor
    value_scales: Tensor
    counters: Tensor

    @property
    def block_size(self) -> int:
        """Positions of a block."""
        return self.keys.shape[2]

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """What blocks consist of, the block as their first axis."""
        return self.keys, self.values, self.key_scales, self.value_scales


def new_layer(kv_dtype: KvDtype, dims: tuple[int, int, int, int], device: torch.device) -> GpuCache:
    """A zeroed cache; dims: blocks, heads, slots of a block, size of a head."""
    blocks, heads, slots, _ = dims
    items = [torch.zeros(dims, dtype=KV_ITEMS[kv_dtype], device=device) for _ in range(2)]
    scale_dims = (blocks, heads, slots if kv_dtype == "int8" else 0)
    key_scales, value_scales = (torch.zeros(scale_dims, dtype=torch.float32, device=device) for _ in range(2))
    counters = torch.zeros(COUNTERS, dtype=torch.int32, device=device)
    return GpuCache(items[0], items[1], key_scales, value_scales, counters)


def blocks_of(layers: Sequence[GpuCache], block: int) -> Iterator[Tensor]:
    """What the layers hold of one block, as views."""
    for layer in layers:
        yield from (array[block] for array in layer.arrays)


def block_bytes(layers: Sequence[GpuCache]) -> int:
    """Bytes of one block of all these layers."""
    arrays = [array for layer in layers for array in layer.arrays if len(array)]
    return sum(array[0].nbytes for array in arrays)


def read_block(layers: Sequence[GpuCache], block: int) -> bytes:
    """What these layers hold of a block, brought to the host at once."""
    parts = [part.reshape(-1).view(torch.uint8) for part in blocks_of(layers, block) if part.numel()]
    return torch.cat(parts).cpu().numpy().tobytes()


def write_block(layers: Sequence[GpuCache], block: int, content: bytes) -> None:
    """Put back what `read_block` gave. Raises ValueError when it is of another size."""
    if len(content) != block_bytes(layers):
        raise ValueError(f"the content has {len(content)} bytes; a block of this cache has {block_bytes(layers)}")
    host = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    start = 0
    for part in blocks_of(layers, block):
        found = host[start : start + part.nbytes].view(part.dtype) if part.numel() else host[:0].view(part.dtype)
        part.copy_(found.reshape(part.shape))
        start += part.nbytes

"""The kernels of attention behind the one op that ops.attention_cases calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu.cache import GpuCache, new_layer
from twofold.backends.gpu.kernels.heads import prepare
from twofold.ops.attention_cases import AttentionCase
from twofold.ops.packed import AnyArray, Floats
from twofold.ops.types import Batch, CacheShape, KvDtype, Pages

Launch = Callable[[Tensor, GpuCache, Batch, Pages, int | None], Tensor]

SMALL_CASES = [
    AttentionCase(lengths=(1,), heads=1, kv_heads=1, size=4),
    AttentionCase(lengths=(9, 1, 12), heads=4, kv_heads=2, size=16),
    AttentionCase(lengths=(19, 3), heads=2, kv_heads=1, size=16, chunk=8),
    AttentionCase(lengths=(19, 5), heads=3, kv_heads=1, size=20, chunk=16, block_size=16),
    AttentionCase(lengths=(18,), heads=5, kv_heads=1, size=128, block_size=16),
    AttentionCase(lengths=(14, 2), heads=20, kv_heads=1, size=12, chunk=12, block_size=7),
]
"""As ops.attention_cases has them, but short: the interpreter takes tens of milliseconds for each program."""


def tensor(array: AnyArray) -> Tensor:
    """The array as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array))


@dataclass
class AttentionOps:
    """new_cache and attend, with `launch` as the kernel; what else Ops has is not needed."""

    launch: Launch
    kv_dtype: KvDtype = "f32"
    caches: list[GpuCache] = field(default_factory=list)

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[GpuCache]:
        """Blocks that hold NaN: what is in a block before it is written must not matter."""
        dims = (blocks[0], shape.kv_heads, block_size, shape.head_size)
        self.caches = [new_layer(self.kv_dtype, dims, torch.device("cpu")) for _ in shape.chunks]
        for cache in self.caches:
            for array in cache.arrays:
                array.fill_(torch.nan if array.is_floating_point() else 77)
        return self.caches

    def upload(self, batch: Batch) -> Batch:
        """Nothing to move."""
        return batch

    def download(self, x: Tensor) -> Floats:
        """To NumPy."""
        found: Floats = x.numpy()
        return found

    def attend(
        self, q: AnyArray, k: AnyArray, v: AnyArray, cache: GpuCache, batch: Batch, pages: Pages, chunk: int | None
    ) -> Any:
        """Keys and values go into the cache by the kernel that does so."""
        heads, kv_heads, size = q.shape[1], k.shape[1], q.shape[2]
        qkv_TN = tensor(np.concatenate([x.reshape(len(q), -1) for x in (q, k, v)], axis=1))
        q_THK = prepare(qkv_TN, heads, kv_heads, size, tensor(pages.slots_T), cache)
        assert torch.equal(q_THK, tensor(q))
        return self.launch(q_THK, cache, batch, pages, chunk)

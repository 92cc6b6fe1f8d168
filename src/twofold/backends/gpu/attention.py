"""Attention over a paged cache in plain torch, one sequence after the other."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from twofold.backends.gpu.batches import DeviceBatch
from twofold.backends.gpu.cache import GpuCache
from twofold.ops.types import Pages


def kept(x: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 codes of the last axis and one scale for each, as packed.quantize_int8 makes them."""
    scales = x.abs().amax(dim=-1) / 127.0
    inverse = torch.where(scales > 0, 1.0 / scales, torch.zeros_like(scales))
    return (x * inverse.unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scales


def store(cache: GpuCache, k_TGK: Tensor, v_TGK: Tensor, slots_T: Tensor) -> None:
    """Write keys and values into their slots, in the cache's own dtype."""
    block_size = cache.keys.shape[2]
    blocks_T, offsets_T = slots_T // block_size, slots_T % block_size
    for x_TGK, items, scales in ((k_TGK, cache.keys, cache.key_scales), (v_TGK, cache.values, cache.value_scales)):
        if items.dtype == torch.int8:
            codes_TGK, scales_TG = kept(x_TGK.float())
            items[blocks_T, :, offsets_T], scales[blocks_T, :, offsets_T] = codes_TGK, scales_TG
        else:
            items[blocks_T, :, offsets_T] = x_TGK.to(items.dtype)


def attend(q_THK: Tensor, cache: GpuCache, batch: DeviceBatch, pages: Pages, chunk: int | None) -> Tensor:
    """o_TD of queries whose keys and values are stored already."""
    q_THK = q_THK.float() * q_THK.shape[-1] ** -0.5
    if cache.keys.dtype == torch.int8:
        codes_THK, scales_TH = kept(q_THK)
        q_THK = codes_THK.float() * scales_TH.unsqueeze(-1)
    output_THK = torch.empty_like(q_THK)
    starts = batch.host.starts_S.tolist()
    for sequence, (start, stop) in enumerate(pairwise(starts)):
        positions_Q = batch.positions_T[start:stop].long()
        first, last = (int(batch.host.positions_T[row]) for row in (start, stop - 1))
        visible = 0 if chunk is None else first // chunk * chunk
        positions_L = torch.arange(visible, last + 1, device=q_THK.device)
        keys_LGK, values_LGK = read(cache, pages.blocks_SB[sequence], positions_L - pages.bases_S[sequence])
        sees_QL = positions_L[None] <= positions_Q[:, None]
        if chunk is not None:
            sees_QL &= positions_L[None] // chunk == positions_Q[:, None] // chunk
        output_THK[start:stop] = attend_sequence(q_THK[start:stop], keys_LGK, values_LGK, sees_QL)
    return output_THK.flatten(1)


def read(cache: GpuCache, blocks_B: Tensor, slots_L: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of these slots of a block table, float32 [L, G, K] each."""
    block_size = cache.keys.shape[2]
    blocks_L, offsets_L = blocks_B[slots_L // block_size].long(), slots_L % block_size
    found = []
    for items, scales in ((cache.keys, cache.key_scales), (cache.values, cache.value_scales)):
        x_LGK = items[blocks_L, :, offsets_L].float()
        found.append(x_LGK * scales[blocks_L, :, offsets_L].unsqueeze(-1) if items.dtype == torch.int8 else x_LGK)
    return found[0], found[1]


def attend_sequence(q_QHK: Tensor, keys_LGK: Tensor, values_LGK: Tensor, sees_QL: Tensor) -> Tensor:
    """Softmax attention of some queries over L keys; query head j reads KV head j // (H / G).

    One product for each KV head: a head's bits then do not depend on how many others there are.
    """
    queries, heads, size = q_QHK.shape
    kv_heads = keys_LGK.shape[1]
    q_GXK = q_QHK.reshape(queries, kv_heads, -1, size).permute(1, 2, 0, 3).reshape(kv_heads, -1, size)
    scores_GXL = torch.bmm(q_GXK, keys_LGK.permute(1, 2, 0))
    masked_GJQL = scores_GXL.reshape(kv_heads, -1, *sees_QL.shape).masked_fill(~sees_QL, -torch.inf)
    weights_GXL = masked_GJQL.softmax(dim=-1).reshape(scores_GXL.shape)
    o_GJQK = torch.bmm(weights_GXL, values_LGK.transpose(0, 1)).reshape(kv_heads, -1, queries, size)
    return o_GJQK.permute(2, 0, 1, 3).reshape(queries, heads, size)

"""Every op in plain torch: what runs on any device that torch knows, and what the kernels are compared with."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twofold.backends.gpu import attention, batches, products
from twofold.backends.gpu.batches import DeviceBatch
from twofold.backends.gpu.cache import GpuCache, block_bytes, new_layer, read_block, write_block
from twofold.backends.gpu.devices import send
from twofold.backends.gpu.sampling import Draws, sample
from twofold.backends.gpu.weights import DenseWeight, GpuWeight, RefinedWeight, decode, rows_of, to_device
from twofold.ops.layout import AnyArray, Dense, Floats, Fp8, Group4, Int4, Int8, Packed, Packer, Refined
from twofold.ops.rope import frequencies
from twofold.ops.types import Array, Batch, CacheShape, Drawn, KvDtype, Pages, Rope, RowSampling, Target, Temperature

PACKED = (Dense, Int8, Int4, Refined, Group4, Fp8)
Angles = tuple[Tensor, Tensor]
Forward = Callable[[Any, Batch, list[Any]], Any]
"""forward(ops, batch, cache) -> logits_RV."""


class GpuPacker:
    """Packs weights in the host's memory with another packer, then moves them to the device one by one."""

    moves_weights = True

    def __init__(self, host: Packer, device: torch.device) -> None:
        self._device = device
        self.arena = host.arena
        self.encode = host.encode

    def finish(self, weight: Packed, target: Target) -> GpuWeight:
        """The weight on the device; its memory on the host is free."""
        return to_device(weight, self._device)


class TorchOps:
    """All ops in plain torch on `device`; see ops.interface.Ops for shapes and meaning.

    `packer` packs weights in the host's memory. Keys and values are kept as `kv_dtype`. Weights may be given as the
    packer's arena holds them: they are then brought to the device at their first use.
    """

    runs_ahead = False

    def __init__(self, device: str | torch.device, packer: Packer, kv_dtype: KvDtype = "bf16") -> None:
        self.device = torch.device(device)
        self.packer = GpuPacker(packer, self.device)
        self._kv_dtype = kv_dtype
        self._weights: dict[int, tuple[weakref.ref[Packed], GpuWeight]] = {}
        self._frequencies: dict[Rope, Tensor] = {}

    def captured(self, forward: Forward) -> Forward:
        """The network's forward function as this backend runs it best."""
        return forward

    def numbers(self, x: Array) -> Tensor:
        """A result of these ops as a tensor, whatever else they make of results."""
        found: Tensor = x
        return found

    def weight(self, given: Packed | GpuWeight) -> GpuWeight:
        """The weight on the device."""
        if not isinstance(given, PACKED):
            return given
        key = id(given)
        known = self._weights.get(key)
        if known is None:
            known = (weakref.ref(given, lambda _: self._weights.pop(key, None)), to_device(given, self.device))
            self._weights[key] = known
        return known[1]

    def upload(self, batch: Batch) -> DeviceBatch:
        """All arrays in one transfer."""
        return batches.upload(batch, self.device)

    def upload_after(self, batch: Batch, before: Draws, rows: Sequence[int]) -> DeviceBatch:
        """The tokens go from where they were drawn to where they are wanted, and the host knows none of them."""
        uploaded = self.upload(batch)
        tokens_R = before.tokens_R
        if any(row != place for place, row in enumerate(rows)):
            tokens_R = tokens_R[send(np.array(rows), self.device)]
        uploaded.tokens_T[: len(rows)].copy_(tokens_R[: len(rows)])
        return uploaded

    def download(self, x: Tensor) -> Floats:
        """To the host; integers stay integers."""
        found: Floats = (x.float() if x.is_floating_point() else x).cpu().numpy()
        return found

    def tensor(self, array: AnyArray) -> Tensor:
        """A NumPy array on the device."""
        return torch.from_numpy(array).to(self.device)

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[GpuCache]:
        """Zeroed blocks for each layer."""

        def layer(chunk: int | None) -> GpuCache:
            dims = (blocks[0] if chunk is None else blocks[1], shape.kv_heads, block_size, shape.head_size)
            return new_layer(self._kv_dtype, dims, self.device)

        return [layer(chunk) for chunk in shape.chunks]

    def block_bytes(self, layers: Sequence[GpuCache]) -> int:
        """Bytes of a block."""
        return block_bytes(layers)

    def read_block(self, layers: Sequence[GpuCache], block: int) -> bytes:
        """Bytes out."""
        return read_block(layers, block)

    def write_block(self, layers: Sequence[GpuCache], block: int, content: bytes) -> None:
        """Bytes in."""
        write_block(layers, block, content)

    def embed(self, table_VD: Packed | GpuWeight, tokens_T: Tensor) -> Array:
        """Rows of the table, decoded."""
        table = self.weight(table_VD)
        if isinstance(table, RefinedWeight):
            return self.embed(table.coarse, tokens_T) + self.embed(table.residual, tokens_T)
        return decode(rows_of(table, tokens_T.long()))

    def angles(self, positions_T: Tensor, setting: Rope) -> Angles:
        """Cosines and sines [T, K/2]."""
        angles_TK2 = positions_T.float()[:, None] * self.frequencies(setting)[None]
        return angles_TK2.cos(), angles_TK2.sin()

    def frequencies(self, setting: Rope) -> Tensor:
        """Of each pair, float32 [K/2], on the device: brought there once."""
        if setting not in self._frequencies:
            self._frequencies[setting] = torch.tensor(frequencies(setting), device=self.device)
        return self._frequencies[setting]

    def norm(self, x_TD: Tensor, weight_D: Packed | GpuWeight, epsilon: float) -> Array:
        """RMS norm with a weight."""
        weight = self.weight(weight_D)
        assert isinstance(weight, DenseWeight), "norms are Dense"
        return self.unit_norm(x_TD, epsilon) * weight.values.float()

    def linear(self, x_TD: Tensor, weight_ND: Packed | GpuWeight) -> Array:
        """Product with a weight of any format."""
        return products.linear(x_TD, self.weight(weight_ND))

    def logits(self, x_RD: Tensor, head_VD: Packed | GpuWeight) -> Array:
        """linear; of a Refined head the residual counts in each row's best panels only."""
        return products.logits(x_RD, self.weight(head_VD))

    def split_heads(self, qkv_TN: Tensor, heads: int, kv_heads: int) -> tuple[Array, Array, Array]:
        """Cut the columns into q, k and v heads: views."""
        all_heads = qkv_TN.reshape(len(qkv_TN), heads + 2 * kv_heads, -1)
        return all_heads[:, :heads], all_heads[:, heads : heads + kv_heads], all_heads[:, heads + kv_heads :]

    def rotate(self, x_THK: Tensor, angles: Angles, setting: Rope) -> Array:
        """Turn each pair (a, b) into (a cos - b sin, a sin + b cos)."""
        cosine, sine = (angle.unsqueeze(1) for angle in angles)
        half = x_THK.shape[-1] // 2
        a, b = (x_THK[..., 0::2], x_THK[..., 1::2]) if setting.interleaved else (x_THK[..., :half], x_THK[..., half:])
        turned = (a * cosine - b * sine, a * sine + b * cosine)
        return torch.stack(turned, dim=-1).flatten(-2) if setting.interleaved else torch.cat(turned, dim=-1)

    def unit_norm(self, x_THK: Tensor, epsilon: float) -> Array:
        """x / sqrt(mean(x^2) + epsilon) over the last axis."""
        x_THK = x_THK.float()
        return x_THK / (x_THK.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()

    def temperature(self, q_THK: Tensor, positions_T: Tensor, setting: Temperature) -> Array:
        """Scale queries by 1 + scale * ln(1 + floor((p + 1) / floor))."""
        return q_THK * factors(positions_T, setting)[:, None, None]

    def attend(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        cache: GpuCache,
        batch: Batch,
        pages: Pages,
        chunk: int | None,
    ) -> Array:
        """Store keys and values, then attend."""
        assert isinstance(batch, DeviceBatch), "batches are uploaded first"
        attention.store(cache, k_TGK, v_TGK, pages.slots_T)
        return attention.attend(q_THK, cache, batch, pages, chunk)

    def add(self, x_TD: Tensor, y_TD: Tensor) -> Array:
        """x + y."""
        return x_TD + y_TD

    def swiglu(self, gate_up_TN: Tensor) -> Array:
        """silu(first half) * second half."""
        return products.swiglu(gate_up_TN)

    def route(self, x_TD: Tensor, router_ED: Packed | GpuWeight, active: int) -> tuple[Array, Array]:
        """Best logits first; a stable sort keeps the lower index on ties."""
        logits_TE = self.linear(x_TD, router_ED)
        best, experts_TE = logits_TE.sort(dim=-1, descending=True, stable=True)
        return experts_TE[:, :active].to(torch.int32), best[:, :active].sigmoid()

    def experts(
        self,
        x_TD: Tensor,
        experts_TA: Tensor,
        gates_TA: Tensor,
        gate_up_END: Packed | GpuWeight,
        down_EDF: Packed | GpuWeight,
    ) -> Array:
        """Every token through each of its experts."""
        return products.experts(x_TD, experts_TA, gates_TA, self.weight(gate_up_END), self.weight(down_EDF))

    def take(self, x_TD: Tensor, rows_R: Tensor) -> Array:
        """The named rows."""
        return x_TD[rows_R.long()]

    def sample(self, logits_RV: Tensor, rows: Sequence[RowSampling]) -> list[Drawn]:
        """See ops.sampling."""
        return sample(logits_RV, rows)

    def begin_sample(self, logits_RV: Tensor, rows: Sequence[RowSampling]) -> Draws:
        """See ops.interface.AheadOps."""
        return Draws(logits_RV, rows, keeps_logits=True)


def factors(positions_T: Tensor, setting: Temperature) -> Tensor:
    """What queries at these positions are multiplied by, float32 [T]."""
    steps_T = ((positions_T.float() + 1) / float(setting.floor)).floor()
    return 1 + setting.scale * steps_T.log1p()

"""The ops by kernels, several of them in one launch where the network's order allows it (lazy.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from twofold.backends.gpu import dense, routed
from twofold.backends.gpu.batches import TILE_ROWS, DeviceBatch, is_decode
from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.graphs import MOST_ROWS, Captured, Slots
from twofold.backends.gpu.kernels import heads as heads_kernel
from twofold.backends.gpu.kernels.angles import angles, factors
from twofold.backends.gpu.kernels.attend_few import attend_rows
from twofold.backends.gpu.kernels.attend_many import attend_tiles
from twofold.backends.gpu.kernels.embed import embed
from twofold.backends.gpu.kernels.route import route
from twofold.backends.gpu.lazy import Chosen, Gated, Heads, Normed, Product, Routed, Rows, Sum, Turn, rows
from twofold.backends.gpu.ops import Angles, Forward, TorchOps
from twofold.backends.gpu.routed import Choice
from twofold.backends.gpu.weights import DenseWeight, GpuWeight, Int4Weight, RefinedWeight
from twofold.ops.layout import Floats, Packed, Packer
from twofold.ops.types import Array, Batch, KvDtype, Pages, Rope, Temperature

Given = Rows | Tensor


class KernelOps(TorchOps):
    """All ops by kernels where there is one, else in plain torch; see ops.interface.Ops for shapes and meaning.

    Nothing inside a step waits for the device. Products with bfloat16 and float8 weights round x to these where there
    are more than a few rows, as their matrix units want it; those with integer weights are exact.
    """

    def __init__(self, device: str | torch.device, packer: Packer, kv_dtype: KvDtype = "bf16") -> None:
        super().__init__(device, packer, kv_dtype)
        self._slots = Slots(self.device)
        self._captures = False
        self._all_rows: Tensor | None = None
        self._factors: dict[Temperature, Tensor] = {}

    def upload(self, batch: Batch) -> DeviceBatch:
        """All arrays in one transfer; a decoding batch goes where its graph looks for it."""
        is_whole = is_decode(batch)
        captures = self._captures and is_whole and len(batch.tokens_T) <= MOST_ROWS
        uploaded = self._slots.place(batch) if captures else super().upload(batch)
        self._all_rows = uploaded.rows_R if is_whole else None
        return uploaded

    def captured(self, forward: Forward) -> Forward:
        """A network's forward function, replayed as a graph where that can be done; batches are then made for it."""
        self._captures = self.runs_ahead = self.device.type == "cuda"
        return Captured(forward) if self._captures else forward

    def numbers(self, x: Given | Chosen) -> Tensor:
        """See TorchOps."""
        if isinstance(x, Chosen):
            return x.choice.tensors[x.part]
        return x.values() if isinstance(x, Rows) else x

    def download(self, x: Given | Chosen) -> Floats:
        """To the host, once it is computed."""
        return super().download(self.numbers(x))

    def embed(self, table_VD: Packed | GpuWeight, tokens_T: Tensor) -> Tensor:
        """Rows of the table, decoded, one behind the other; of four bits in one launch."""
        table = self.weight(table_VD)
        if isinstance(table, Int4Weight | RefinedWeight):
            return embed(table, tokens_T)
        found: Tensor = super().embed(table, tokens_T)
        return found.contiguous()

    def angles(self, positions_T: Tensor, setting: Rope) -> Angles:
        """Cosines and sines [T, K/2]; every forward pass begins with them, and forgets what it knew of positions."""
        self._factors.clear()
        return angles(positions_T, self.frequencies(setting))

    def norm(self, x_TD: Given, weight_D: Packed | GpuWeight, epsilon: float) -> Rows:
        """RMS norm with a weight, once it is known in which form."""
        weight = self.weight(weight_D)
        assert isinstance(weight, DenseWeight), "norms are Dense"
        return Normed(rows(x_TD), weight.values, epsilon)

    def linear(self, x_TD: Given, weight_ND: Packed | GpuWeight) -> Rows:
        """The product, once it is known what it is added to."""
        return Product(rows(x_TD), self.weight(weight_ND))

    def logits(self, x_RD: Given, head_VD: Packed | GpuWeight) -> Tensor:
        """The product now; of a Refined head the residual counts in each row's best panels only."""
        return dense.logits(rows(x_RD), self.weight(head_VD))

    def split_heads(self, qkv_TN: Given, heads: int, kv_heads: int) -> tuple[Heads, Heads, Heads]:
        """Heads that are turned, normed and stored by one kernel, in attend."""
        qkv, counts = rows(qkv_TN), (heads, kv_heads)
        return Heads(qkv, "q", counts), Heads(qkv, "k", counts), Heads(qkv, "v", counts)

    def rotate(self, x_THK: Heads | Tensor, angles: Angles, setting: Rope) -> Array:
        """To be done in attend."""
        if isinstance(x_THK, Tensor):
            return super().rotate(x_THK, angles, setting)
        return x_THK.rotated(Turn(*angles, setting.interleaved))

    def unit_norm(self, x_THK: Heads | Tensor, epsilon: float) -> Array:
        """To be done in attend."""
        return super().unit_norm(x_THK, epsilon) if isinstance(x_THK, Tensor) else x_THK.normed(epsilon)

    def temperature(self, q_THK: Heads | Tensor, positions_T: Tensor, setting: Temperature) -> Array:
        """To be done in attend."""
        if isinstance(q_THK, Tensor):
            return super().temperature(q_THK, positions_T, setting)
        if setting not in self._factors:
            self._factors[setting] = factors(positions_T, setting)
        return q_THK.tempered(self._factors[setting])

    def attend(
        self,
        q_THK: Heads | Tensor,
        k_TGK: Heads | Tensor,
        v_TGK: Heads | Tensor,
        cache: GpuCache,
        batch: Batch,
        pages: Pages,
        chunk: int | None,
    ) -> Tensor:
        """Prepare heads and store keys and values in one launch, then attend row by row or in tiles."""
        assert isinstance(batch, DeviceBatch), "batches are uploaded first"
        q, k, v = joined(q_THK, k_TGK, v_TGK)
        assert (q.turn, q.epsilon) == (k.turn, k.epsilon), "queries and keys are turned and normed alike"
        assert (v.turn, v.epsilon) == (None, None), "values stay as they are"
        turn = q.turn
        prepared_THK = heads_kernel.prepare(
            q.qkv.loose(),
            *q.counts,
            q.size,
            pages.slots_T,
            cache,
            turn.cosine_TK2 if turn else None,
            turn.sine_TK2 if turn else None,
            turn.interleaved if turn else False,
            q.epsilon,
            q.factors_T,
            torch.bfloat16 if cache.keys.dtype == torch.bfloat16 and is_tiled(batch) else torch.float32,
        )
        return attend_each(prepared_THK, cache, batch, pages, chunk)

    def add(self, x_TD: Given, y_TD: Given) -> Rows:
        """The sum, by the kernels that compute its parts."""
        return Sum(rows(x_TD), rows(y_TD))

    def swiglu(self, gate_up_TN: Given) -> Rows:
        """silu(first half) * second half, once it is known in which form."""
        return Gated(rows(gate_up_TN))

    def route(self, x_TD: Given, router_ED: Packed | GpuWeight, active: int) -> tuple[Chosen, Chosen]:
        """The best experts and their gates, once they are needed."""
        router, x = self.weight(router_ED), rows(x_TD)
        assert isinstance(router, DenseWeight), "routers are Dense"
        choice = Choice(lambda: route(x.values(), router.values, active))
        return Chosen(choice, 0, active), Chosen(choice, 1, active)

    def experts(
        self,
        x_TD: Given,
        experts_TA: Chosen | Tensor,
        gates_TA: Chosen | Tensor,
        gate_up_END: Packed | GpuWeight,
        down_EDF: Packed | GpuWeight,
    ) -> Rows:
        """Every token through each of its experts, once it is known what is added."""
        weights = self.weight(gate_up_END), self.weight(down_EDF)
        if isinstance(experts_TA, Chosen):
            return Routed(routed.Call(rows(x_TD), experts_TA.choice, experts_TA.active, *weights))
        assert not isinstance(gates_TA, Chosen), "experts and gates come from one place"
        given = experts_TA, gates_TA
        return Routed(routed.Call(rows(x_TD), Choice(lambda: given), experts_TA.shape[1], *weights))

    def take(self, x_TD: Given, rows_R: Tensor) -> Given:
        """The named rows; all of them, where they are all there are, as they are."""
        if rows_R is self._all_rows:
            return x_TD
        return (x_TD.values() if isinstance(x_TD, Rows) else x_TD)[rows_R.long()]


def joined(q: Array, k: Array, v: Array) -> tuple[Heads, Heads, Heads]:
    """Heads of one joint projection; tensors are put side by side as one."""
    if isinstance(q, Heads) and isinstance(k, Heads) and isinstance(v, Heads):
        return q, k, v
    assert not any(isinstance(x, Heads) for x in (q, k, v)), "all heads, or all tensors"
    qkv, counts = rows(torch.cat([q, k, v], dim=1).flatten(1)), (q.shape[1], k.shape[1])
    return Heads(qkv, "q", counts), Heads(qkv, "k", counts), Heads(qkv, "v", counts)


def is_tiled(batch: DeviceBatch) -> bool:
    """Whether every sequence has so many rows that they are attended to in tiles."""
    return batch.longest >= TILE_ROWS and batch.longest_short == 0


def attend_each(q_THK: Tensor, cache: GpuCache, batch: DeviceBatch, pages: Pages, chunk: int | None) -> Tensor:
    """o_TD: each sequence in tiles or row by row, by the number of its own rows alone: its bits depend on no other."""
    tables = (pages.blocks_SB, pages.bases_S, chunk)
    if batch.longest < TILE_ROWS:
        return attend_rows(q_THK, cache, batch.positions_T, batch.starts_S, *tables, batch.longest)
    o_TD = attend_tiles(q_THK, cache, batch.positions_T, batch.starts_S, *tables, batch.longest, TILE_ROWS)
    if batch.longest_short:
        attend_rows(q_THK, cache, batch.positions_T, batch.starts_S, *tables, batch.longest_short, o_TD=o_TD)
    return o_TD

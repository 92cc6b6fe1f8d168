"""The ops of one rank of several: what a weight is cut into says what has to be exchanged.

Between two exchanges every rank computes with its own heads, its own part of the width, or its own experts; the
residual stream is whole on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twofold.backends.gpu import batches
from twofold.backends.gpu.batches import DeviceBatch
from twofold.backends.gpu.cache import GpuCache
from twofold.backends.gpu.group import Group
from twofold.backends.gpu.ops import TorchOps
from twofold.backends.gpu.partial import partial_experts, partial_linear
from twofold.backends.gpu.shards import Gathered, Own, Partial, Shard, ShardPacker, stretch_of
from twofold.backends.gpu.weights import DenseWeight, Fp8Weight, GpuWeight, RefinedWeight
from twofold.ops.layout import PANEL_ROWS, padded, refined_panels
from twofold.ops.types import Array, Batch, CacheShape

FLOATS = (DenseWeight, Fp8Weight)


class RankedOps:
    """`inner` with weights that may be shards; ops that know nothing of ranks go straight to it."""

    runs_ahead = False  # the other ranks are told the tokens

    def __init__(self, inner: TorchOps, group: Group, packer: ShardPacker) -> None:
        self.inner = inner
        self.group = group
        self.packer = packer

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if callable(value):
            setattr(self, name, value)
        return value

    def upload(self, batch: Batch) -> DeviceBatch:
        """All arrays in one transfer; not for a graph, which sums over ranks cannot be part of everywhere."""
        return batches.upload(batch, self.inner.device)

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[GpuCache]:
        """Zeroed blocks for each layer, with this rank's heads."""
        own = replace(shape, kv_heads=shape.kv_heads // self.group.ranks)
        return self.inner.new_cache(own, blocks, block_size)

    def embed(self, table_VD: Shard, tokens_T: Tensor) -> Array:
        """Rows of the table: each rank gives those it holds and zeros for the others, so that sums are exact."""
        assert isinstance(table_VD, Gathered), "the embedding is shared by rows"
        local_T = tokens_T - table_VD.first
        is_mine_T = (local_T >= 0) & (local_T < table_VD.weight.shape[0])
        x_TD = self.inner.numbers(self.inner.embed(table_VD.weight, torch.where(is_mine_T, local_T, 0)))
        return self.group.sum(torch.where(is_mine_T[:, None], x_TD.float(), 0.0))

    def linear(self, x_TD: Array, weight_ND: Shard) -> Array:
        """Product; of partial sums the sum over the ranks."""
        if not isinstance(weight_ND, Partial):
            assert not isinstance(weight_ND, Gathered | Own), "heads go through logits, experts through experts"
            return self.inner.linear(x_TD, weight_ND)
        if isinstance(weight_ND.weight, FLOATS):
            return self.group.sum(self.product(x_TD, weight_ND.weight))
        return partial_linear(self.inner.numbers(x_TD), weight_ND, self.group)

    def product(self, x_TD: Array, weight_ND: GpuWeight) -> Tensor:
        """Product with this rank's part, as numbers."""
        return self.inner.numbers(self.inner.linear(x_TD, weight_ND)).float()

    def logits(self, x_RD: Array, head_VD: Shard) -> Tensor:
        """Logits of every rank's rows, side by side."""
        assert isinstance(head_VD, Gathered), "the head is shared by rows"
        ranks = range(self.group.ranks)
        counts = [len(stretch_of(head_VD.rows, PANEL_ROWS, rank, len(ranks))) for rank in ranks]
        if isinstance(head_VD.weight, RefinedWeight):
            y_RV = self.refined(x_RD, head_VD, counts)
        else:
            y_RV = self.product(x_RD, head_VD.weight)
        return self.group.side_by_side(y_RV, counts)

    def refined(self, x_RD: Array, head_VD: Gathered, counts: Sequence[int]) -> Tensor:
        """This rank's rows of a Refined head: the residual counts in the best panels of all ranks."""
        head = head_VD.weight
        assert isinstance(head, RefinedWeight)
        y_RV = self.product(x_RD, head.coarse)
        rows, tokens = y_RV.shape
        panels = [padded(count, PANEL_ROWS) // PANEL_ROWS for count in counts]
        mine = panels[self.group.rank]
        padded_RV = torch.nn.functional.pad(y_RV, (0, mine * PANEL_ROWS - tokens), value=-torch.inf)
        best_RP = self.group.side_by_side(padded_RV.reshape(rows, mine, PANEL_ROWS).amax(dim=-1), panels)
        chosen = refined_panels(head_VD.rows)
        order_RP = torch.sort(best_RP, dim=-1, descending=True, stable=True).indices[:, :chosen]
        chosen_RP = torch.zeros(best_RP.shape, dtype=torch.bool, device=y_RV.device).scatter_(1, order_RP, True)
        own_RP = chosen_RP[:, sum(panels[: self.group.rank]) :][:, :mine]
        counts_RV = own_RP.repeat_interleave(PANEL_ROWS, dim=-1)[:, :tokens]
        return torch.where(counts_RV, y_RV + self.product(x_RD, head.residual), y_RV)

    def experts(self, x_TD: Array, experts_TA: Tensor, gates_TA: Tensor, gate_up: Shard, down: Shard) -> Tensor:
        """Every token through each of its experts, which the ranks share by width or one by one.

        Of experts that another rank has, this one computes expert 0 with a gate of 0, which gives zeros: shapes then
        do not depend on what was chosen, and the sum is exact.
        """
        experts_TA, gates_TA = self.inner.numbers(experts_TA), self.inner.numbers(gates_TA)
        if isinstance(down, Partial):
            assert not isinstance(gate_up, Partial | Gathered | Own), "gate and up are cut by rows"
            if isinstance(down.weight, FLOATS):
                return self.group.sum(self.through(x_TD, experts_TA, gates_TA, gate_up, down.weight))
            return partial_experts(self.inner.numbers(x_TD), experts_TA, gates_TA, gate_up, down, self.group)
        assert isinstance(gate_up, Own)
        assert isinstance(down, Own)
        local_TA = experts_TA - gate_up.first
        is_mine_TA = (local_TA >= 0) & (local_TA < gate_up.weight.shape[0])
        chosen_TA, own_TA = torch.where(is_mine_TA, local_TA, 0), torch.where(is_mine_TA, gates_TA, 0.0)
        return self.group.sum(self.through(x_TD, chosen_TA, own_TA, gate_up.weight, down.weight))

    def through(self, x_TD: Array, experts_TA: Tensor, gates_TA: Tensor, gate_up: GpuWeight, down: GpuWeight) -> Tensor:
        """What this rank's experts, or its part of them, give, as numbers."""
        return self.inner.numbers(self.inner.experts(x_TD, experts_TA, gates_TA, gate_up, down)).float()

"""Products with the columns of a weight that one rank holds, added up over the ranks.

With integer weights the sum has the bits of one rank's: a token's scale and whether it is wide are decided over all of
its columns, and what is added up is integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.group import Group
from twofold.backends.gpu.products import (
    ROWS_AT_ONCE,
    exact_sums,
    gated_linear,
    in_stretches,
    swiglu,
    values_of,
)
from twofold.backends.gpu.shards import Partial
from twofold.backends.gpu.weights import (
    GpuWeight,
    Group4Weight,
    Int4Weight,
    Int8Weight,
    IntegerWeight,
    integer_rows,
    padded_rows,
    part,
    rows_of,
)
from twofold.ops.activations import BLOCK_COLUMNS, REST_STEPS, WIDE_RATIO
from twofold.ops.layout import COLUMN_STEP, PANEL_ROWS, padded


@dataclass(frozen=True, eq=False)
class PartCodes:
    """Codes of some columns of every token, with the scales of all of them.

    is_small_T: somewhere a stretch of columns reaches less than an eighth as far as the token. surplus_T int32: columns
    here that are not zero, less twice those whose code is not: above 0 over all ranks, the token is wide too.
    """

    codes_TCW: Tensor
    scales_T: Tensor
    is_small_T: Tensor
    surplus_T: Tensor

    def whole(self, surplus_T: Tensor) -> Codes:
        """The codes, where `surplus_T` is that of all ranks together."""
        return Codes(self.codes_TCW, self.scales_T, (self.is_small_T | (surplus_T > 0)).to(torch.int32))


def quantize_part(x_TD: Tensor, shard: Partial, group: Group) -> PartCodes:
    """Codes of this rank's columns, bit for bit those that codes.quantize gives for all columns at once."""
    x_TD = x_TD.float()
    tokens, columns = x_TD.shape
    most_TB = block_maxima(x_TD, shard, group)
    most_T = most_TB.amax(dim=-1)
    scales_T = most_T / 127.0
    inverse_T = torch.where(scales_T > 0, 1.0 / scales_T, torch.zeros_like(scales_T))
    units_TD = x_TD * inverse_T[:, None]
    first_TD = units_TD.round().clamp(-127, 127)
    rest_TD = ((units_TD - first_TD) * float(REST_STEPS)).round().clamp(-128, 127)
    codes_TCW = torch.zeros(tokens, 2, padded(columns, COLUMN_STEP), dtype=torch.int8, device=x_TD.device)
    codes_TCW[:, 0, :columns] = first_TD.to(torch.int8)
    codes_TCW[:, 1, :columns] = rest_TD.to(torch.int8)
    is_small_T = ((most_TB * float(WIDE_RATIO) < most_T[:, None]) & (most_TB > 0)).any(dim=-1)
    surplus_T = (x_TD != 0).sum(dim=1) - 2 * (first_TD != 0).sum(dim=1)
    return PartCodes(codes_TCW, scales_T, is_small_T, surplus_T.to(torch.int32))


def block_maxima(x_TD: Tensor, shard: Partial, group: Group) -> Tensor:
    """max|x| of every stretch of columns of the whole row, float32 [T, B], the same on all ranks.

    A stretch may lie on two ranks. What is not a number counts as infinite, so that no rank overlooks it.
    """
    before = shard.first % BLOCK_COLUMNS
    columns = before + x_TD.shape[1]
    padding = (before, padded(columns, BLOCK_COLUMNS) - columns)
    padded_TD = torch.nn.functional.pad(x_TD.abs(), padding)
    mine_TB = padded_TD.reshape(len(x_TD), -1, BLOCK_COLUMNS).amax(dim=-1)
    start, blocks = shard.first // BLOCK_COLUMNS, -(-shard.columns // BLOCK_COLUMNS)
    most_TB = torch.zeros(len(x_TD), blocks, device=x_TD.device)
    most_TB[:, start : start + mine_TB.shape[1]] = mine_TB.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return group.largest(most_TB)


def partial_linear(x_TD: Tensor, shard: Partial, group: Group) -> Tensor:
    """Product of whole rows with the whole weight, float32 [T, N], from this rank's columns of both."""
    weight = shard.weight
    if isinstance(weight, Int8Weight | Int4Weight):
        codes = quantize_part(x_TD, shard, group)
        return added_up(codes, integer_sums(codes.codes_TCW, weight), weight.scales[None, : weight.shape[0]], group)
    if isinstance(weight, Group4Weight):
        codes = quantize_part(x_TD, shard, group)
        whole = codes.whole(group.sum(codes.surplus_T))
        return group.sum(in_stretches(values_of(whole, weight.shape[-1]), weight))
    return group.sum(in_stretches(x_TD, weight))


def integer_sums(codes_TCW: Tensor, weight: IntegerWeight) -> Tensor:
    """Sums of code times integer for both rows of codes of every token: int32 [T, 2, N]."""
    rows, codes_RW = weight.shape[0], codes_TCW.flatten(0, 1)
    parts = []
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        some = rows_of(weight, slice(start, min(padded(stop, PANEL_ROWS), padded_rows(weight))))
        assert isinstance(some, Int8Weight | Int4Weight)
        parts.append(exact_sums(codes_RW, integer_rows(some)[: stop - start]))
    return torch.cat(parts, dim=-1).reshape(len(codes_TCW), 2, rows)


def added_up(codes: PartCodes, sums_TCN: Tensor, scales_TN: Tensor, group: Group) -> Tensor:
    """Results of the ranks' integer sums, in the order of products.integer_product: float32 [T, N]."""
    whole_TX = group.sum(torch.cat([sums_TCN.flatten(1), codes.surplus_T[:, None]], dim=1))
    settled = codes.whole(whole_TX[:, -1])
    first_TN, rest_TN = whole_TX[:, :-1].reshape(sums_TCN.shape).float().unbind(dim=1)
    first_TN = first_TN * (settled.scales_T[:, None] * scales_TN)
    rest_TN = rest_TN * (settled.rest_scales_T[:, None] * scales_TN)
    return torch.where(settled.wide_T[:, None] > 0, first_TN + rest_TN, first_TN)


def partial_experts(
    x_TD: Tensor, experts_TA: Tensor, gates_TA: Tensor, gate_up: GpuWeight, down: Partial, group: Group
) -> Tensor:
    """Every token through each of its experts, of whose width this rank has a part: float32 [T, D]."""
    tokens, active = experts_TA.shape
    experts_R, gates_R = experts_TA.flatten(), gates_TA.flatten()
    shares = list(rows_by_expert(experts_R))
    hidden_RF = torch.empty(len(experts_R), down.weight.shape[-1], device=x_TD.device)
    for expert, rows in shares:
        hidden_RF[rows] = swiglu(gated_linear(x_TD[rows // active], gates_R[rows], part(gate_up, expert)))
    y_RD = partial_down(hidden_RF, experts_R, shares, down, group).reshape(tokens, active, -1)
    output_TD = torch.zeros(tokens, y_RD.shape[-1], device=x_TD.device)
    for slot in range(active):
        output_TD += y_RD[:, slot]
    return output_TD


def rows_by_expert(experts_R: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The experts that somebody chose, each with the rows that did."""
    for expert in torch.unique(experts_R).tolist():
        yield expert, torch.nonzero(experts_R == expert).flatten()


def partial_down(
    hidden_RF: Tensor, experts_R: Tensor, shares: list[tuple[int, Tensor]], down: Partial, group: Group
) -> Tensor:
    """Product of every row with its own expert's matrix, of whose columns this rank has a part: float32 [R, D]."""
    rows, outputs = len(hidden_RF), down.weight.shape[1]
    if isinstance(down.weight, Int8Weight | Int4Weight):
        codes = quantize_part(hidden_RF, down, group)
        sums_RCD = torch.empty(rows, 2, outputs, dtype=torch.int32, device=hidden_RF.device)
        for expert, chosen in shares:
            weight = part(down.weight, expert)
            assert isinstance(weight, Int8Weight | Int4Weight)
            sums_RCD[chosen] = integer_sums(codes.codes_TCW[chosen], weight)
        return added_up(codes, sums_RCD, down.weight.scales[experts_R.long(), :outputs], group)
    if isinstance(down.weight, Group4Weight):
        codes = quantize_part(hidden_RF, down, group)
        hidden_RF = values_of(codes.whole(group.sum(codes.surplus_T)), hidden_RF.shape[1])
    y_RD = torch.empty(rows, outputs, device=hidden_RF.device)
    for expert, chosen in shares:
        y_RD[chosen] = in_stretches(hidden_RF[chosen], part(down.weight, expert))
    return group.sum(y_RD)

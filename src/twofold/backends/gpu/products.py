"""Products with weights of every format in plain torch: what the kernels are compared with, and what runs elsewhere.

Integer products are exact on every device: float32 holds sums of up to 1,024 products of a code and an integer, so the
columns are taken in stretches of that many.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import silu

from twofold.backends.gpu.codes import Codes, quantize
from twofold.backends.gpu.weights import (
    DenseWeight,
    Fp8Weight,
    GpuWeight,
    Group4Weight,
    Int4Weight,
    Int8Weight,
    IntegerWeight,
    RefinedWeight,
    decode,
    integer_rows,
    padded_rows,
    part,
    rows_of,
)
from twofold.ops.layout import PANEL_ROWS, padded, refined_panels

EXACT_COLUMNS = 1024
"""127 * 127 * 1024 < 2^24. So many products of an activation code and an integer add up exactly in float32."""
ROWS_AT_ONCE = 16384
"""Rows of a weight that are decoded at a time: bounds the memory a head needs."""
FloatWeight: TypeAlias = DenseWeight | Fp8Weight


def linear(x_TD: Tensor, weight: GpuWeight) -> Tensor:
    """x @ weight^T, float32 [T, N]; integer weights see x as codes."""
    if isinstance(weight, RefinedWeight):
        codes = quantize(x_TD)
        return integer_product(codes, weight.coarse) + integer_product(codes, weight.residual)
    if isinstance(weight, Int8Weight | Int4Weight):
        return integer_product(quantize(x_TD), weight)
    if isinstance(weight, Group4Weight):
        return in_stretches(values_of(quantize(x_TD), weight.shape[-1]), weight)
    return in_stretches(x_TD, weight)


def in_stretches(x_TD: Tensor, weight: GpuWeight) -> Tensor:
    """Float product, some rows of the weight at a time."""
    rows = weight.shape[0]
    if rows <= ROWS_AT_ONCE:
        return x_TD.float() @ decode(weight).T
    starts = range(0, rows, ROWS_AT_ONCE)
    parts = [rows_of(weight, slice(start, min(start + ROWS_AT_ONCE, rows))) for start in starts]
    return torch.cat([x_TD.float() @ decode(item).T for item in parts], dim=-1)


def values_of(codes: Codes, columns: int) -> Tensor:
    """What codes stand for, float32 [T, D]."""
    first_TD, rest_TD = codes.codes_TCW[:, 0, :columns].float(), codes.codes_TCW[:, 1, :columns].float()
    values_TD = first_TD * codes.scales_T[:, None]
    return torch.where(codes.wide_T[:, None] > 0, values_TD + rest_TD * codes.rest_scales_T[:, None], values_TD)


def integer_product(codes: Codes, weight: IntegerWeight, gates_T: Tensor | None = None) -> Tensor:
    """sum(code * integer) * (activation scale * weight scale), float32 [T, N]; gates multiply the activation scale."""
    rows = weight.shape[0]
    scales_T, rest_scales_T = (codes.scales_T, codes.rest_scales_T) if gates_T is None else codes.scaled(gates_T)
    parts = []
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        padded_stop = min(padded(stop, PANEL_ROWS), padded_rows(weight))
        some = rows_of(weight, slice(start, padded_stop))
        assert isinstance(some, Int8Weight | Int4Weight)
        integers_ND = integer_rows(some)[: stop - start]
        scales_N = some.scales[None, : stop - start]
        first_TN = exact_sums(codes.codes_TCW[:, 0], integers_ND).float() * (scales_T[:, None] * scales_N)
        rest_TN = exact_sums(codes.codes_TCW[:, 1], integers_ND).float() * (rest_scales_T[:, None] * scales_N)
        parts.append(torch.where(codes.wide_T[:, None] > 0, first_TN + rest_TN, first_TN))
    return torch.cat(parts, dim=-1)


def exact_sums(codes_TW: Tensor, integers_NW: Tensor) -> Tensor:
    """Integer sums of products, int32 [T, N]."""
    sums_TN = torch.zeros(len(codes_TW), len(integers_NW), dtype=torch.int32, device=codes_TW.device)
    for start in range(0, codes_TW.shape[-1], EXACT_COLUMNS):
        columns = slice(start, start + EXACT_COLUMNS)
        sums_TN += (codes_TW[:, columns].float() @ integers_NW[:, columns].float().T).to(torch.int32)
    return sums_TN


def logits(x_RD: Tensor, head: GpuWeight) -> Tensor:
    """linear; of a Refined head the residual counts in each row's best panels only."""
    if not isinstance(head, RefinedWeight):
        return linear(x_RD, head)
    codes = quantize(x_RD)
    y_RV = integer_product(codes, head.coarse)
    tokens = y_RV.shape[1]
    panels = padded(tokens, PANEL_ROWS) // PANEL_ROWS
    padded_RV = torch.nn.functional.pad(y_RV, (0, panels * PANEL_ROWS - tokens), value=-torch.inf)
    best_RP = padded_RV.reshape(len(y_RV), panels, PANEL_ROWS).amax(dim=-1)
    order_RP = torch.sort(best_RP, dim=-1, descending=True, stable=True).indices[:, : refined_panels(tokens)]
    chosen_RP = torch.zeros(best_RP.shape, dtype=torch.bool, device=y_RV.device).scatter_(1, order_RP, True)
    counts_RV = chosen_RP.repeat_interleave(PANEL_ROWS, dim=-1)[:, :tokens]
    return torch.where(counts_RV, y_RV + integer_product(codes, head.residual), y_RV)


def experts(x_TD: Tensor, experts_TA: Tensor, gates_TA: Tensor, gate_up: GpuWeight, down: GpuWeight) -> Tensor:
    """Every token through each of its experts, slot after slot: float32 [T, D]."""
    output_TD = torch.zeros(len(x_TD), down.shape[1], device=x_TD.device)
    for slot in range(experts_TA.shape[1]):
        for expert in torch.unique(experts_TA[:, slot]).tolist():
            rows = torch.nonzero(experts_TA[:, slot] == expert).flatten()
            hidden = gated_linear(x_TD[rows], gates_TA[rows, slot], part(gate_up, expert))
            output_TD[rows] += linear(swiglu(hidden), part(down, expert))
    return output_TD


def gated_linear(x_TD: Tensor, gates_T: Tensor, weight: GpuWeight) -> Tensor:
    """linear(gate * x); integer weights fold the gate into the activation scale."""
    if isinstance(weight, Int8Weight | Int4Weight):
        return integer_product(quantize(x_TD), weight, gates_T)
    if isinstance(weight, Group4Weight):
        codes = quantize(x_TD)
        return in_stretches(
            values_of(Codes(codes.codes_TCW, codes.scales_T * gates_T, codes.wide_T), weight.shape[-1]), weight
        )
    return linear(x_TD * gates_T[:, None], weight)


def swiglu(gate_up_TN: Tensor) -> Tensor:
    """silu(first half) * second half, float32 [T, F]."""
    gate_TF, up_TF = gate_up_TN.float().chunk(2, dim=-1)
    return silu(gate_TF) * up_TF

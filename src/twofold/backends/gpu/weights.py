"""Packed weights on a device: the bits of ops.layout in an order that suits a GPU.

A row's codes lie one after the other, so that a program reads whole rows by wide loads, and a tile is taken out of them
without a detour. Only the order changes: values, and for integer formats the exact sums, are those of ops.packed. N16
are rows padded to 16, D64 columns padded to 64, G = D64 / 32; stacks of experts have one more axis in front.

    DenseWeight   values [.., N, D]             float32 or bfloat16
    Int8Weight    codes int8 [.., N16, D64]     scales float32 [.., N16]
    Int4Weight    codes uint8 [.., N16, G, 16]  byte b of a group: low nibble column b, high nibble column 16 + b
                  multipliers uint8 [.., N16, G / 2]  low nibble: group 2j, high nibble: group 2j + 1; as in ops.layout
                  scales float32 [.., N16]
    Group4Weight  codes as Int4Weight           scales, zeros float16 [.., N16, G]
    Fp8Weight     values float8 e4m3 [.., N, D] scales float32 [.., N]
    RefinedWeight two Int4Weights
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from twofold.ops.layout import BF16, GROUP_COLUMNS, PANEL_ROWS, Dense, Fp8, Group4, Int4, Int8, Packed, Refined
from twofold.ops.levels import LEVELS

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DenseWeight:
    """Values as they are."""

    values: Tensor

    @property
    def shape(self) -> Shape:
        """Logical shape [.., N, D], [D] of a norm."""
        return tuple(self.values.shape)


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """Eight-bit codes with one scale per output row."""

    codes: Tensor
    scales: Tensor
    shape: Shape


@dataclass(frozen=True, eq=False)
class Int4Weight:
    """Four-bit codes of levels, four-bit group multipliers and one scale per output row."""

    codes: Tensor
    multipliers: Tensor
    scales: Tensor
    shape: Shape


@dataclass(frozen=True, eq=False)
class Group4Weight:
    """Four-bit codes with a scale and a zero point per group."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    shape: Shape


@dataclass(frozen=True, eq=False)
class Fp8Weight:
    """float8 values with one scale per output row."""

    values: Tensor
    scales: Tensor
    shape: Shape


@dataclass(frozen=True, eq=False)
class RefinedWeight:
    """An Int4Weight and a second one with what the first lost to rounding."""

    coarse: Int4Weight
    residual: Int4Weight

    @property
    def shape(self) -> Shape:
        """Logical shape [N, D]."""
        return self.coarse.shape


IntegerWeight: TypeAlias = Int8Weight | Int4Weight
GpuWeight: TypeAlias = DenseWeight | Int8Weight | Int4Weight | Group4Weight | Fp8Weight | RefinedWeight


def tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A NumPy array on the device; bfloat16 arrays become bfloat16 tensors."""
    if not array.flags.writeable:  # a view of a mapped file: torch warns of those
        array = array.copy()
    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def to_device(weight: Packed, device: str | torch.device) -> GpuWeight:
    """A packed weight on the device. The host's memory may be used for something else afterwards."""
    device = torch.device(device)
    if isinstance(weight, Refined):
        return RefinedWeight(int4(weight.coarse, device), int4(weight.residual, device))
    if isinstance(weight, Int4):
        return int4(weight, device)
    if isinstance(weight, Group4):
        halves = tensor(weight.halves, device)  # [.., P, G, 2, row]
        scales, zeros = (rows_first(halves[..., part, :].transpose(-1, -2)) for part in (0, 1))
        return Group4Weight(four_bits(weight.codes, device), scales, zeros, weight.shape)
    if isinstance(weight, Int8):
        codes = tensor(weight.codes, device).transpose(-2, -3)  # [.., P, row, quad, 4]
        return Int8Weight(rows_first(codes.flatten(-2)), own(weight.scales, device), weight.shape)
    if isinstance(weight, Fp8):
        values = own(weight.values, device).view(torch.float8_e4m3fn)
        return Fp8Weight(values, own(weight.scales, device), weight.shape)
    assert isinstance(weight, Dense)
    return DenseWeight(own(weight.values, device))


def own(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The array in memory of the device's own, also where the device is the host."""
    found = tensor(array, device)
    return found.clone() if device.type == "cpu" else found


def rows_first(panels: Tensor) -> Tensor:
    """[.., P, 16, X] as [.., N16, X], in memory of its own."""
    return panels.reshape(*panels.shape[:-3], -1, panels.shape[-1]).clone(memory_format=torch.contiguous_format)


def four_bits(codes: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """[.., P, G, 4, row, 4] as [.., N16, G, 16]."""
    panels = tensor(codes, device)
    stack, (count, groups) = panels.shape[:-5], panels.shape[-5:-3]
    by_row = panels.movedim(-2, -4).contiguous()  # [.., P, row, G, 4, 4]
    return by_row.reshape(*stack, count * PANEL_ROWS, groups, GROUP_COLUMNS // 2).clone()


def int4(weight: Int4, device: torch.device) -> Int4Weight:
    """Codes and multipliers row by row."""
    stored = tensor(weight.multipliers, device)  # [.., P, G, 8]
    by_row = torch.cat([stored & 15, stored >> 4], dim=-1).transpose(-1, -2)  # [.., P, row, G]
    multipliers = rows_first(by_row[..., 0::2] | (by_row[..., 1::2] << 4))
    return Int4Weight(four_bits(weight.codes, device), multipliers, own(weight.scales, device), weight.shape)


def part(weight: GpuWeight, index: int) -> GpuWeight:
    """Matrix `index` of a stack, as a view."""
    return chosen(weight, index, weight.shape[1:])


def rows_of(weight: GpuWeight, rows: slice | Tensor) -> GpuWeight:
    """Rows of a matrix: of a slice a view, else the named ones in memory of their own. Padding rows count too."""
    count = len(range(*rows.indices(padded_rows(weight)))) if isinstance(rows, slice) else len(rows)
    return chosen(weight, rows, (count, weight.shape[-1]))


def chosen(weight: GpuWeight, index: int | slice | Tensor, shape: Shape) -> GpuWeight:
    """What `index` takes along the first axis, a weight of this logical shape."""
    if isinstance(weight, DenseWeight):
        return DenseWeight(weight.values[index])
    if isinstance(weight, Int8Weight):
        return Int8Weight(weight.codes[index], weight.scales[index], shape)
    if isinstance(weight, Int4Weight):
        return Int4Weight(weight.codes[index], weight.multipliers[index], weight.scales[index], shape)
    if isinstance(weight, Group4Weight):
        return Group4Weight(weight.codes[index], weight.scales[index], weight.zeros[index], shape)
    assert isinstance(weight, Fp8Weight), "the halves of a Refined weight are taken one by one"
    values = weight.values.view(torch.uint8)[index].view(torch.float8_e4m3fn)  # torch does not index float8 everywhere
    return Fp8Weight(values, weight.scales[index], shape)


def padded_rows(weight: GpuWeight) -> int:
    """Rows that a matrix has in memory."""
    if isinstance(weight, Int8Weight | Int4Weight | Group4Weight):
        return weight.scales.shape[-2] if isinstance(weight, Group4Weight) else weight.scales.shape[-1]
    return weight.shape[-2]


def nibbles(codes: Tensor) -> Tensor:
    """Codes of Int4Weight or Group4Weight one by one, uint8 [.., N16, G, 32]."""
    return torch.cat([codes & 15, codes >> 4], dim=-1)


def group_multipliers(weight: Int4Weight) -> Tensor:
    """m of every group, int8 [.., N16, G]."""
    stored = torch.stack([weight.multipliers & 15, weight.multipliers >> 4], dim=-1).flatten(-2).to(torch.int8)
    return torch.where(stored < 8, stored - 8, stored - 7)


@cache
def level_table(device: torch.device) -> Tensor:
    """The level of every code, int8 [16]."""
    return torch.from_numpy(LEVELS).to(device)


def integer_rows(weight: IntegerWeight) -> Tensor:
    """The integers of the inner product, int8 [.., N16, D64]: q of Int8Weight, m * level of Int4Weight."""
    if isinstance(weight, Int8Weight):
        return weight.codes
    levels = level_table(weight.codes.device)[nibbles(weight.codes).long()]
    return (levels * group_multipliers(weight).unsqueeze(-1)).flatten(-2)


def decode(weight: GpuWeight) -> Tensor:
    """The values a weight stands for, float32 [.., N, D]."""
    rows, columns = weight.shape[-2:] if len(weight.shape) > 1 else (1, weight.shape[-1])
    if isinstance(weight, DenseWeight):
        return weight.values.float()
    if isinstance(weight, RefinedWeight):
        return decode(weight.coarse) + decode(weight.residual)
    if isinstance(weight, Fp8Weight):
        return weight.values.float() * weight.scales.unsqueeze(-1)
    if isinstance(weight, Group4Weight):
        units = nibbles(weight.codes).float() - weight.zeros.float().unsqueeze(-1)
        values = (units * weight.scales.float().unsqueeze(-1)).flatten(-2)
    else:
        values = integer_rows(weight).float() * weight.scales.unsqueeze(-1)
    return values[..., :rows, :columns]

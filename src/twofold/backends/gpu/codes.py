"""Activations as int8 codes on a device; ops.activations says what they mean.

Every token has room for two rows of codes, so that shapes do not depend on which tokens are wide. The second row, in
steps of the scale / 254, only means something for those that are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twofold.ops.activations import BLOCK_COLUMNS, REST_STEPS, WIDE_RATIO
from twofold.ops.layout import COLUMN_STEP, padded

ROUNDER = 12582912.0
"""1.5 * 2^23: adding and taking it away again rounds a float32 below 2^22 to the nearest integer, half to even."""


@dataclass(frozen=True, eq=False)
class Codes:
    """codes_TCW int8 [T, 2, W] with zeros behind the columns, scales_T float32, wide_T int32 (0 or 1).

    The second row of a token that is not wide may be anything: whoever reads it chooses by wide_T and never multiplies.
    """

    codes_TCW: Tensor
    scales_T: Tensor
    wide_T: Tensor

    def __len__(self) -> int:
        return len(self.scales_T)

    def rows(self, rows: Tensor) -> Codes:
        """The codes of these tokens."""
        return Codes(self.codes_TCW[rows], self.scales_T[rows], self.wide_T[rows])

    def scaled(self, gates_T: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of both rows times a gate: [T] each."""
        return self.scales_T * gates_T, self.rest_scales_T * gates_T

    @property
    def rest_scales_T(self) -> Tensor:
        """Scales of the second rows."""
        return self.scales_T * (1 / REST_STEPS)  # torch rounds the number to float32 before it multiplies


def quantize(x_TD: Tensor) -> Codes:
    """Codes of every token in plain torch, bit for bit those of ops.activations.quantize_activations."""
    x_TD = x_TD.float()
    tokens, columns = x_TD.shape
    width = padded(columns, COLUMN_STEP)
    scales_T = x_TD.abs().amax(dim=-1) / 127.0
    inverse_T = torch.where(scales_T > 0, 1.0 / scales_T, torch.zeros_like(scales_T))
    units_TD = x_TD * inverse_T[:, None]
    first_TD = units_TD.round().clamp(-127, 127)
    rest_TD = ((units_TD - first_TD) * float(REST_STEPS)).round().clamp(-128, 127)
    wide_T = are_wide(x_TD, first_TD).to(torch.int32)
    codes_TCW = torch.zeros(tokens, 2, width, dtype=torch.int8, device=x_TD.device)
    codes_TCW[:, 0, :columns] = first_TD.to(torch.int8)
    codes_TCW[:, 1, :columns] = rest_TD.to(torch.int8)
    return Codes(codes_TCW, scales_T, wide_T)


def are_wide(x_TD: Tensor, codes_TD: Tensor) -> Tensor:
    """Which tokens need a second row; see ops.activations.are_wide."""
    tokens, columns = x_TD.shape
    blocks = -(-columns // BLOCK_COLUMNS)
    padded_TD = torch.zeros(tokens, blocks * BLOCK_COLUMNS, device=x_TD.device)
    padded_TD[:, :columns] = x_TD.abs()
    most_TB = padded_TD.reshape(tokens, blocks, BLOCK_COLUMNS).amax(dim=-1)
    small_TB = most_TB * float(WIDE_RATIO) < most_TB.amax(dim=-1, keepdim=True)
    is_flat_T = 2 * (codes_TD != 0).sum(dim=1) < (x_TD != 0).sum(dim=1)
    return (small_TB & (most_TB > 0)).any(dim=-1) | is_flat_T

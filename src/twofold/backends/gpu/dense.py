"""Which kernel, or which product of the library, multiplies rows with a weight that is not routed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from twofold.backends.gpu.kernels import float_few, float_many, integer_few, integer_many, integer_several, refine
from twofold.backends.gpu.kernels.fp8 import dense_many, fits_library, has_fp8
from twofold.backends.gpu.kernels.unpack import widened
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
)

if TYPE_CHECKING:
    from twofold.backends.gpu.lazy import Rows

FEW_CODES, FEW_FLOATS = 8, 4
"""Rows up to which a weight is read by dot products of its own, not by tiles."""
SEVERAL_FROM, MOST_SEVERAL = 3, {True: integer_several.MOST_TOKENS, False: 16}
"""Rows from which and, by whether weights have four bits, up to which matrix units take weights out of registers, where
there is a kernel for it (integer_several)."""
WIDENED_FROM = 128
"""Rows from which four-bit weights are widened to eight bits first, once for all tiles."""


def product(x: Rows, weight: GpuWeight, add_TN: Tensor | None = None) -> Tensor:
    """x @ weight^T, plus `add_TN` where there is one: float32 then, else float32 or bfloat16."""
    if not len(x):
        return torch.empty(0, weight.shape[-2], device=x.device)
    if isinstance(weight, RefinedWeight):
        return product(x, weight.residual, product(x, weight.coarse, add_TN))
    if isinstance(weight, Int8Weight | Int4Weight):
        return integer_product(x, weight, add_TN)
    if len(x) <= FEW_FLOATS:
        return float_few.few(x.values(), weight, add_TN)
    y_TN = float_product(x, weight)
    return y_TN if add_TN is None else add_TN + y_TN


def kind_of(rows: int, is_four: bool, has_several: bool) -> Literal["few", "several", "many"]:
    """Which kernel multiplies so many rows with an integer weight."""
    if has_several and SEVERAL_FROM <= rows <= MOST_SEVERAL[is_four]:
        return "several"
    return "few" if rows <= FEW_CODES else "many"


def integer_product(x: Rows, weight: IntegerWeight, add_TN: Tensor | None) -> Tensor:
    """Exact integer sums times both scales, float32."""
    kind = kind_of(len(x), isinstance(weight, Int4Weight), integer_several.has_kernel(x.device))
    if kind == "several":
        return integer_several.several(x.codes(), weight, add_TN)
    if kind == "few":
        return integer_few.few(x.codes(), weight, add_TN)
    if isinstance(weight, Int4Weight) and len(x) >= WIDENED_FROM:
        weight = widened(weight)
    y_TN = integer_many.many(x.codes(), weight)
    return y_TN if add_TN is None else add_TN + y_TN


def float_product(x: Rows, weight: DenseWeight | Fp8Weight | Group4Weight) -> Tensor:
    """Tiles of bfloat16 or float8, float32 for float32 weights."""
    if isinstance(weight, Group4Weight):
        return float_many.many(x.values(torch.bfloat16), weight)
    if isinstance(weight, DenseWeight):
        return x.values(weight.values.dtype) @ weight.values.T
    x_TD = x.values(torch.bfloat16)
    if has_fp8(x_TD.device) and fits_library(weight):
        return dense_many(x_TD, weight)
    return x_TD @ decode(weight).to(torch.bfloat16).T


def logits(x: Rows, head: GpuWeight) -> Tensor:
    """product in float32; of a Refined head the residual counts in each row's best panels only."""
    if not len(x):
        return product(x, head)
    if isinstance(head, DenseWeight) and len(x) > FEW_FLOATS and head.values.is_cuda:
        return torch.mm(x.values(head.values.dtype), head.values.T, out_dtype=torch.float32)
    if not isinstance(head, RefinedWeight):
        return product(x, head).float()
    y_RV = product(x, head.coarse)
    refine.refine(x.codes(), head, y_RV)
    return y_RV

"""What the experts of a token gave, and what lies beside it: out = y_0 + y_1 + .. + add1 + add2, in this order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import cdiv, launch
from twofold.backends.gpu.kernels.signature import Signature

BLOCK = 1024
"""Columns of one program."""


@triton.jit
def combine_kernel(
    y, first, second, out, y_stride, first_stride, second_stride, N,
    ACTIVE: tl.constexpr, ADDS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """y_RN, first_TN, second_TN f32 | bf16 with strided rows; ADDS of the last two count; out_TN f32."""
    token = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < N
    rows = y + token * ACTIVE * y_stride + column
    release(EARLY)
    wait(EARLY)
    sum_N = tl.load(rows, mask=inside, other=0.0).to(tl.float32)
    for slot in tl.static_range(1, ACTIVE):
        sum_N += tl.load(rows + slot * y_stride, mask=inside, other=0.0).to(tl.float32)
    if ADDS > 0:
        sum_N += tl.load(first + token * first_stride + column, mask=inside, other=0.0).to(tl.float32)
    if ADDS > 1:
        sum_N += tl.load(second + token * second_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * N + column, sum_N, mask=inside)


def combine(y_RN: Tensor, active: int, add1: Tensor | None = None, add2: Tensor | None = None) -> Tensor:
    """Sum of the `active` rows of every token and of the tensors [T, N] beside them: out_TN float32.

    All are float32 or bfloat16; rows may be strided, columns not.
    """
    tokens, columns = y_RN.shape[0] // active, y_RN.shape[1]
    out_TN = torch.empty(tokens, columns, dtype=torch.float32, device=y_RN.device)
    adds = [item for item in (add1, add2) if item is not None]
    first, second = [*adds, y_RN, y_RN][:2]
    if tokens:
        grid = (cdiv(columns, BLOCK), tokens)
        launch(
            combine_kernel,
            grid,
            y_RN,
            first,
            second,
            out_TN,
            y_RN.stride(0),
            first.stride(0),
            second.stride(0),
            columns,
            ACTIVE=active,
            ADDS=len(adds),
            BLOCK=BLOCK,
            **options(y_RN.device),
            num_warps=4,
        )
    return out_TN


SIGNATURES = {
    "one expert": Signature(
        kernel=combine_kernel,
        arguments="y:*fp32 first:*fp32 second:*fp32 out:*fp32 y_stride:i32:16 first_stride:i32:16 second_stride:i32:16"
        " N:i32:16",
        constants={"ACTIVE": 1, "ADDS": 2, "BLOCK": BLOCK},
    )
}
"""What test_compiles watches."""

"""silu(gate) * up: a_F = g / (1 + exp(-g)) * u, where g is the first half of a row and u the second. All in float32."""

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
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow for large negative x; x is float32."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def swiglu_kernel(gate_up, a, stride, F, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """gate_up_RN f32 | bf16 with strided rows; a_RF."""
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    first = gate_up + row * stride + column
    release(EARLY)
    wait(EARLY)
    gate_F = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    up_F = tl.load(first + F, mask=inside, other=0.0).to(tl.float32)
    a_F = gate_F * sigmoid(gate_F) * up_F
    tl.store(a + row * F + column, a_F.to(a.dtype.element_ty), mask=inside)


def swiglu(gate_up_RN: Tensor, out_dtype: torch.dtype = torch.float32) -> Tensor:
    """a_RF in `out_dtype`. gate_up is float32 or bfloat16; its rows may be strided, its columns not."""
    rows, width = gate_up_RN.shape[0], gate_up_RN.shape[1] // 2
    a_RF = torch.empty(rows, width, dtype=out_dtype, device=gate_up_RN.device)
    if rows:
        grid = (cdiv(width, BLOCK), rows)
        early = options(gate_up_RN.device)
        launch(swiglu_kernel, grid, gate_up_RN, a_RF, gate_up_RN.stride(0), width, BLOCK=BLOCK, **early, num_warps=4)
    return a_RF


SIGNATURES = {
    "bfloat16": Signature(
        kernel=swiglu_kernel,
        arguments="gate_up:*fp32 a:*bf16 stride:i32:16 F:i32:16",
        constants={"BLOCK": BLOCK},
    )
}
"""What test_compiles watches."""

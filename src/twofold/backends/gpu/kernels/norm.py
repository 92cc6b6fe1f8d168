"""RMS norm of rows, with the addition before it: s = x + add; y = s / sqrt(mean(s^2) + epsilon) * weight.

One program takes a whole row, which stays in registers. Statistics are float32; y is rounded once, when it is stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.signature import Signature

LARGE_ROW = 4096
"""Columns from which a row is given eight warps instead of four."""


@triton.jit
def norm_kernel(
    x, add, weight, total, y, x_stride, add_stride, epsilon,
    D: tl.constexpr, BLOCK: tl.constexpr, HAS_ADD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """x_TD, add_TD f32 | bf16 with strided rows; weight_D f32 | bf16; total_TD f32 (where HAS_ADD); y_TD."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    release(EARLY)
    weight_D = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    wait(EARLY)
    s_D = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        s_D += tl.load(add + row * add_stride + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + row * D + column, s_D, mask=inside)
    mean = tl.sum(s_D * s_D, axis=0) / D
    y_D = s_D * (1.0 / tl.sqrt_rn(mean + epsilon)) * weight_D
    tl.store(y + row * D + column, y_D.to(y.dtype.element_ty), mask=inside)


def norm(
    x_TD: Tensor,
    weight_D: Tensor,
    epsilon: float,
    add_TD: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
    warps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x + add as float32 (x itself where nothing is added), and its norm in `out_dtype`: two tensors [T, D].

    x and add are float32 or bfloat16; their rows may be strided, their columns not. warps: None for what is best.
    """
    tokens, columns = x_TD.shape
    y_TD = torch.empty(tokens, columns, dtype=out_dtype, device=x_TD.device)
    total_TD = x_TD if add_TD is None else torch.empty(tokens, columns, dtype=torch.float32, device=x_TD.device)
    added_TD = x_TD if add_TD is None else add_TD
    if tokens:
        launch(
            norm_kernel,
            (tokens,),
            x_TD,
            added_TD,
            weight_D,
            total_TD,
            y_TD,
            x_TD.stride(0),
            added_TD.stride(0),
            epsilon,
            D=columns,
            BLOCK=power_from(columns),
            HAS_ADD=add_TD is not None,
            **options(x_TD.device),
            num_warps=warps or (8 if columns >= LARGE_ROW else 4),
        )
    return total_TD, y_TD


SIGNATURES = {
    "5120 columns": Signature(
        kernel=norm_kernel,
        arguments="x:*fp32 add:*fp32 weight:*fp32 total:*fp32 y:*bf16 x_stride:i32:16 add_stride:i32:16 epsilon:fp32",
        constants={"D": 5120, "BLOCK": 8192, "HAS_ADD": True},
        warps=8,
    )
}
"""What test_compiles watches."""

"""The router: logits = R x, the best experts of a token (lower index on ties), and the sigmoids of their logits.

A program takes an expert's row of the router and a token, both whole: all it reads is under way at once, and the router
before the token is known. The choice is a kernel of its own: one program for each token that did everything took 9 us
for one token of Scout on an H100, most of it waiting for 320 KB on one processor. float32 throughout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.swiglu import sigmoid

MOST_TOKENS = 128
"""Tokens from which the library's product is faster than reading the router for each of them."""


@triton.jit
def logits_kernel(
    x, router, logits, x_stride, D: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """x_TD f32 | bf16 with strided rows; router_ED f32 | bf16; logits_TE f32."""
    expert = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    release(EARLY)
    router_D = tl.load(router + expert * D + column, mask=inside, other=0.0).to(tl.float32)
    wait(EARLY)
    x_D = tl.load(x + token * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(logits + token * E + expert, tl.sum(router_D * x_D, axis=0))


@triton.jit
def choose_kernel(
    logits, experts, gates, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr, EARLY: tl.constexpr
):
    """logits_TE f32; experts_TA int32; gates_TA f32. SLOTS is the power of two that holds E."""
    token = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, SLOTS)
    release(EARLY)
    wait(EARLY)
    left_E = tl.load(logits + token * E + index, mask=index < E, other=float("-inf"))
    for slot in tl.static_range(ACTIVE):
        best = tl.max(left_E, axis=0)
        expert = tl.min(tl.where((left_E == best) & (index < E), index, SLOTS - 1), axis=0)
        tl.store(experts + token * ACTIVE + slot, expert)
        tl.store(gates + token * ACTIVE + slot, sigmoid(best))
        left_E = tl.where(index == expert, float("-inf"), left_E)


def route(x_TD: Tensor, router_ED: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """experts_TA int32, best logit first, and gates_TA float32. x and router are float32 or bfloat16.

    x may have strided rows. More than MOST_TOKENS tokens take the library's float32 product.
    """
    tokens, (count, columns) = len(x_TD), router_ED.shape
    experts_TA = torch.empty(tokens, active, dtype=torch.int32, device=x_TD.device)
    gates_TA = torch.empty(tokens, active, dtype=torch.float32, device=x_TD.device)
    if not tokens:
        return experts_TA, gates_TA
    early = options(x_TD.device)
    if tokens <= MOST_TOKENS:
        logits_TE = torch.empty(tokens, count, dtype=torch.float32, device=x_TD.device)
        logits_kernel[(count, tokens)](
            x_TD,
            router_ED,
            logits_TE,
            x_TD.stride(0),
            D=columns,
            E=count,
            BLOCK=triton.next_power_of_2(columns),
            **early,
            num_warps=8,
        )
    else:
        logits_TE = x_TD.float() @ router_ED.float().t()
    slots = triton.next_power_of_2(count)
    choose_kernel[(tokens,)](
        logits_TE, experts_TA, gates_TA, E=count, SLOTS=slots, ACTIVE=active, **early, num_warps=4 if slots > 32 else 1
    )
    return experts_TA, gates_TA


SIGNATURES = {
    "logits of 5120 columns": Signature(
        kernel=logits_kernel,
        arguments="x:*fp32 router:*bf16 logits:*fp32 x_stride:i32:16",
        constants={"D": 5120, "E": 16, "BLOCK": 8192},
        warps=8,
    ),
    "one of 128": Signature(
        kernel=choose_kernel,
        arguments="logits:*fp32 experts:*i32 gates:*fp32",
        constants={"E": 128, "SLOTS": 128, "ACTIVE": 1},
    ),
}
"""What test_compiles watches."""

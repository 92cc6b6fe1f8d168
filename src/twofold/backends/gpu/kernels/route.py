"""The router: logits = R x, the best experts of a token (lower index on ties), and the sigmoids of their logits.

A program takes an expert's row of the router and a token, both whole: all it reads is under way at once, and the
router before the token is known. Whichever of a token's programs is the last one chooses. For one token of Scout on an
H100 a single program took 9 us, most of it waiting for 320 KB on one processor, and a kernel of its own for the choice
had the experts 15 us after the norm, with a large product beside it. float32 throughout.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.parts import is_last
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.swiglu import sigmoid

MOST_TOKENS = 128
"""Tokens from which the library's product is faster than reading the router for each of them."""


@triton.jit
def route_kernel(
    x, router, logits, counters, experts, gates, x_stride,
    D: tl.constexpr, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr, BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """x_TD f32 | bf16 with strided rows; router_ED f32 | bf16; logits_TE f32; counters_T int32, zero; then as `choose`.

    A program takes expert (axis 0) and token (axis 1).
    """
    expert = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    release(EARLY)
    router_D = tl.load(router + expert * D + column, mask=inside, other=0.0).to(tl.float32)
    wait(EARLY)
    x_D = tl.load(x + token * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(logits + token * E + expert, tl.sum(router_D * x_D, axis=0))
    if is_last(counters + token, 2, E):  # 2: there is something to wait for, with one expert too
        choose(logits, experts, gates, token, E, SLOTS, ACTIVE)


@triton.jit
def choose_kernel(
    logits, experts, gates, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr, EARLY: tl.constexpr
):
    """`choose` by itself, of logits that the library computed."""
    release(EARLY)
    wait(EARLY)
    choose(logits, experts, gates, tl.program_id(0).to(tl.int64), E, SLOTS, ACTIVE)


@triton.jit
def choose(logits, experts, gates, token, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr):
    """Of a token. logits_TE f32; experts_TA int32; gates_TA f32. SLOTS is the power of two that holds E."""
    index = tl.arange(0, SLOTS)
    left_E = tl.load(logits + token * E + index, mask=index < E, other=float("-inf"), cache_modifier=".cg")
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
    early, slots = options(x_TD.device), power_from(count)
    if tokens <= MOST_TOKENS:
        logits_TE = torch.empty(tokens, count, dtype=torch.float32, device=x_TD.device)
        launch(
            route_kernel, (count, tokens),
            x_TD, router_ED, logits_TE, counters(x_TD.device), experts_TA, gates_TA, x_TD.stride(0),
            D=columns, E=count, SLOTS=slots, ACTIVE=active, BLOCK=power_from(columns), **early, num_warps=8,
        )  # fmt: skip
    else:
        logits_TE = x_TD.float() @ router_ED.float().t()
        warps = 4 if slots > 32 else 1
        launch(
            choose_kernel,
            (tokens,),
            logits_TE,
            experts_TA,
            gates_TA,
            E=count,
            SLOTS=slots,
            ACTIVE=active,
            **early,
            num_warps=warps,
        )
    return experts_TA, gates_TA


@cache
def counters(device: torch.device) -> Tensor:
    """A counter for each token, zero between launches; launches on a device follow one another."""
    return torch.zeros(MOST_TOKENS, dtype=torch.int32, device=device)


SIGNATURES = {
    "5120 columns": Signature(
        kernel=route_kernel,
        arguments="x:*fp32 router:*bf16 logits:*fp32 counters:*i32 experts:*i32 gates:*fp32 x_stride:i32:16",
        constants={"D": 5120, "E": 16, "SLOTS": 16, "ACTIVE": 1, "BLOCK": 8192},
        warps=8,
    ),
    "one of 128": Signature(
        kernel=choose_kernel,
        arguments="logits:*fp32 experts:*i32 gates:*fp32",
        constants={"E": 128, "SLOTS": 128, "ACTIVE": 1},
    ),
}
"""What test_compiles watches."""

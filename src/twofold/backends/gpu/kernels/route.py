"""The router: logits = R x, the best experts of a token (lower index on ties), and the sigmoids of their logits.

One program takes a token from its product to its gates where the router is small: that is one launch. A large router
would keep one program waiting for its weights, so there the logits come from the product of few rows, and only the
choice is made here. float32 throughout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.float_few import LOAD_BYTES, MOST_TOKENS, few
from twofold.backends.gpu.kernels.swiglu import sigmoid
from twofold.backends.gpu.kernels.tiles import read_tile
from twofold.backends.gpu.weights import DenseWeight

SMALL_ROUTER = 32
"""Experts up to which one program does everything."""
COLUMNS = 1024
"""Columns that the product takes at once."""
STRIP = 5
"""Tiles that are all asked for before the first is waited for: a lone program has nobody to wait with it."""


@triton.jit
def choose_experts(logits_E, token, experts, gates, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr):
    """Store the best ACTIVE of E logits (SLOTS of them, a power of two; -inf beyond E) and their gates."""
    index = tl.arange(0, SLOTS)
    left_E = tl.where(index < E, logits_E, float("-inf"))
    for slot in tl.static_range(ACTIVE):
        best = tl.max(left_E, axis=0)
        expert = tl.min(tl.where((left_E == best) & (index < E), index, SLOTS - 1), axis=0)
        tl.store(experts + token * ACTIVE + slot, expert)
        tl.store(gates + token * ACTIVE + slot, sigmoid(best))
        left_E = tl.where(index == expert, float("-inf"), left_E)


@triton.jit
def route_kernel(
    x, router, experts, gates, x_stride,
    D: tl.constexpr, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr, STRIP: tl.constexpr,
    COLUMNS: tl.constexpr, PER_LOAD: tl.constexpr,
):  # fmt: skip
    """x_TD f32 | bf16 with strided rows; router_ED f32 | bf16; experts_TA int32; gates_TA f32."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.minimum(tl.arange(0, SLOTS), E - 1)
    weight = router + expert[:, None] * D
    lane = tl.arange(0, COLUMNS)
    sums = tl.zeros([SLOTS, COLUMNS // PER_LOAD], tl.float32)
    for strip in tl.static_range(0, D, STRIP * COLUMNS):
        tiles = ()
        for start in tl.static_range(strip, min(D, strip + STRIP * COLUMNS), COLUMNS):
            column = start + lane
            tiles = tiles + (  # noqa: RUF005
                read_tile(weight + column[None, :], (column < D)[None, :], start + COLUMNS > D).to(tl.float32),
            )
        for index in tl.static_range(len(tiles)):
            column = strip + index * COLUMNS + lane
            x_D = read_tile(x + token * x_stride + column, column < D, strip + (index + 1) * COLUMNS > D)
            products = tl.reshape(tiles[index] * x_D.to(tl.float32)[None, :], [SLOTS, COLUMNS // PER_LOAD, PER_LOAD])
            sums += tl.sum(products, axis=2)
    choose_experts(tl.sum(sums, axis=1), token, experts, gates, E, SLOTS, ACTIVE)


@triton.jit
def choose_kernel(logits, experts, gates, E: tl.constexpr, SLOTS: tl.constexpr, ACTIVE: tl.constexpr):
    """logits_TE f32; experts_TA int32; gates_TA f32."""
    token = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, SLOTS)
    logits_E = tl.load(logits + token * E + index, mask=index < E, other=0.0)
    choose_experts(logits_E, token, experts, gates, E, SLOTS, ACTIVE)


def route(x_TD: Tensor, router_ED: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """experts_TA int32, best logit first, and gates_TA float32. x and router are float32 or bfloat16.

    x may have strided rows. More than MOST_TOKENS tokens of a large router take the library's float32 product.
    """
    tokens, (count, columns) = len(x_TD), router_ED.shape
    experts_TA = torch.empty(tokens, active, dtype=torch.int32, device=x_TD.device)
    gates_TA = torch.empty(tokens, active, dtype=torch.float32, device=x_TD.device)
    if not tokens:
        return experts_TA, gates_TA
    slots = triton.next_power_of_2(count)
    if count <= SMALL_ROUTER:
        route_kernel[(tokens,)](
            x_TD,
            router_ED,
            experts_TA,
            gates_TA,
            x_TD.stride(0),
            D=columns,
            E=count,
            SLOTS=slots,
            ACTIVE=active,
            STRIP=STRIP,
            COLUMNS=COLUMNS,
            PER_LOAD=LOAD_BYTES // router_ED.element_size(),
            num_warps=16,
        )
        return experts_TA, gates_TA
    few_tokens = tokens <= MOST_TOKENS
    logits_TE = few(x_TD, DenseWeight(router_ED)) if few_tokens else x_TD.float() @ router_ED.float().t()
    choose_kernel[(tokens,)](
        logits_TE, experts_TA, gates_TA, E=count, SLOTS=slots, ACTIVE=active, num_warps=4 if slots > 32 else 1
    )
    return experts_TA, gates_TA

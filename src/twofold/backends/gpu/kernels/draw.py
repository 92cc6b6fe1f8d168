"""Drawing from softmax(logits / scale): weights exp(logit / scale - best / scale), and the first id at which their
running sum exceeds uniform * sum.

The sums of stretches of 1024 ids come first, by programs side by side; then one program for each row finds the stretch
and the place in it. Sums are float64. ops.sampling.invert defines the results.
"""  # fmt: skip

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.signature import Signature
from twofold.ops.sampling import STRETCH

AT_ONCE = 8
"""Stretches of one program."""
FIELDS = 6
"""Numbers of a row's settings: scale, uniform, top_k, top_p, min_p, whether all ids may be drawn."""


@triton.jit
def weigh(logits, best, scale):
    """float32 weights, relative to that of the best logit."""
    return tl.exp(tl.div_rn(logits, scale) - tl.div_rn(best, scale))


@triton.jit
def sums_kernel(
    logits, best, settings, sums, V, stretches,
    FIELDS: tl.constexpr, STRETCH: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """logits_RV, best_R f32; settings_RF f64; sums_RS f64."""
    row = tl.program_id(1).to(tl.int64)
    stretch = tl.program_id(0) * AT_ONCE + tl.arange(0, AT_ONCE)
    ids = stretch[:, None] * STRETCH + tl.arange(0, STRETCH)[None, :]
    some = tl.load(logits + row * V + ids, mask=ids < V, other=float("-inf"))
    weights = weigh(some, tl.load(best + row), tl.load(settings + row * FIELDS).to(tl.float32))
    tl.store(sums + row * stretches + stretch, tl.sum(weights.to(tl.float64), axis=1), mask=stretch < stretches)


@triton.jit
def invert_kernel(
    logits, best, settings, sums, tokens, V, stretches,
    FIELDS: tl.constexpr, STRETCH: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """tokens_R int64: what is drawn replaces the best id in rows of which all ids may be drawn."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    inside = slot < stretches
    sums_S = tl.load(sums + row * stretches + slot, mask=inside, other=0.0)
    ends_S = tl.cumsum(sums_S, axis=0)
    target = tl.load(settings + row * FIELDS + 1) * tl.sum(tl.where(slot == stretches - 1, ends_S, 0.0), axis=0)
    stretch = tl.minimum(tl.sum(((ends_S <= target) & inside).to(tl.int32), axis=0), stretches - 1)
    before = tl.sum(tl.where(slot == stretch, ends_S - sums_S, 0.0), axis=0)
    lane = tl.arange(0, STRETCH)
    ids = stretch * STRETCH + lane
    some = tl.load(logits + row * V + ids, mask=ids < V, other=float("-inf"))
    weights = weigh(some, tl.load(best + row), tl.load(settings + row * FIELDS).to(tl.float32))
    running = tl.cumsum(weights.to(tl.float64), axis=0) + before
    passed = tl.sum(((running <= target) & (ids < V)).to(tl.int32), axis=0)
    drawn = stretch * STRETCH + tl.minimum(passed, tl.minimum(STRETCH, V - stretch * STRETCH) - 1)
    is_plain = tl.load(settings + row * FIELDS + 5) > 0
    tl.store(tokens + row, drawn.to(tl.int64), mask=is_plain)


def draw(logits_RV: Tensor, best_R: Tensor, settings_RF: Tensor, tokens_R: Tensor) -> Tensor:
    """Draw into tokens_R where the settings say so; the sums of all stretches, float64 [R, stretches].

    logits_RV is float32 and contiguous.
    """
    rows, vocabulary = logits_RV.shape
    stretches = cdiv(vocabulary, STRETCH)
    sums_RS = torch.empty(rows, stretches, dtype=torch.float64, device=logits_RV.device)
    shared = {"FIELDS": FIELDS, "STRETCH": STRETCH}
    grid = (cdiv(stretches, AT_ONCE), rows)
    launch(
        sums_kernel,
        grid,
        logits_RV,
        best_R,
        settings_RF,
        sums_RS,
        vocabulary,
        stretches,
        **shared,
        AT_ONCE=AT_ONCE,
        num_warps=8,
    )
    launch(
        invert_kernel,
        (rows,),
        logits_RV,
        best_R,
        settings_RF,
        sums_RS,
        tokens_R,
        vocabulary,
        stretches,
        **shared,
        SLOTS=power_from(stretches),
        num_warps=4,
    )
    return sums_RS


SIGNATURES = {
    "sums": Signature(
        kernel=sums_kernel,
        arguments="logits:*fp32 best:*fp32 settings:*fp64 sums:*fp64 V:i32:16 stretches:i32",
        constants={"FIELDS": FIELDS, "STRETCH": STRETCH, "AT_ONCE": AT_ONCE},
        warps=8,
    ),
    "invert": Signature(
        kernel=invert_kernel,
        arguments="logits:*fp32 best:*fp32 settings:*fp64 sums:*fp64 tokens:*i64 V:i32:16 stretches:i32",
        constants={"FIELDS": FIELDS, "STRETCH": STRETCH, "SLOTS": 256},
    ),
}
"""What test_compiles watches."""

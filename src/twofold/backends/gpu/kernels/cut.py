"""Drawing from the candidates of a row that top_k, top_p or min_p cut, in one launch.

One program for each row has all of its candidates, best first: how many stay, the sum of their weights, and the first
at which the running sum exceeds uniform * sum. Sums are float64. drawing.draw_cut defines the results.
"""  # fmt: skip

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.kernels.candidates import ROOM
from twofold.backends.gpu.kernels.draw import FIELDS, weigh
from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.signature import Signature


@triton.jit
def cut_kernel(
    logits, best, settings, sums, keys, found, totals, tokens, known, V, stretches,
    FIELDS: tl.constexpr, SLOTS: tl.constexpr, ROOM: tl.constexpr,
):  # fmt: skip
    """logits_RV, best_R f32; settings_RF, sums_RS f64; keys [R, ROOM], found_R, totals_R int64 of candidates.best_keys.

    tokens_R int64; known_R bool: whether the candidates were enough to know the token.
    """
    row = tl.program_id(0).to(tl.int64)
    own = settings + row * FIELDS
    top_k, top_p, min_p = tl.load(own + 2).to(tl.int64), tl.load(own + 3), tl.load(own + 4)
    count, total = tl.load(found + row), tl.load(totals + row)
    is_few = top_k > 0
    place = tl.arange(0, ROOM)
    is_candidate = (place < count) & ((place < top_k) | (top_k <= 0))
    ids = 4294967295 - (tl.load(keys + row * ROOM + place) & 4294967295)
    some = tl.load(logits + row * V + ids, mask=is_candidate, other=float("-inf"))
    weights = weigh(some, tl.load(best + row), tl.load(own).to(tl.float32))
    weights = tl.where(is_candidate, weights, 0.0).to(tl.float64)
    slot = tl.arange(0, SLOTS)
    whole = tl.sum(tl.load(sums + row * stretches + slot, mask=slot < stretches, other=0.0), axis=0)
    whole = tl.where(is_few, tl.sum(weights, axis=0), whole)
    before = tl.cumsum(weights, axis=0) - weights
    filled = tl.where(top_p < 1.0, top_p * whole, float("inf"))
    stays = is_candidate & (weights >= min_p.to(tl.float32).to(tl.float64)) & (before < filled)
    kept = tl.sum(stays.to(tl.int32), axis=0)
    running = tl.cumsum(tl.where(stays, weights, 0.0), axis=0)
    target = tl.load(own + 1) * tl.max(running, axis=0)
    passed = tl.sum(((running <= target) & stays).to(tl.int32), axis=0)
    chosen = tl.maximum(tl.minimum(passed, kept - 1), 0)
    has_all = count >= tl.where(is_few, tl.minimum(top_k, total), total)
    tl.store(tokens + row, tl.sum(tl.where(place == chosen, ids, 0), axis=0))
    tl.store(known + row, (has_all | ((kept < count) & (top_k <= 0))) & (count > 0))


def draw(
    logits_RV: Tensor, best_R: Tensor, settings_RF: Tensor, sums_RS: Tensor, found: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [R], and whether they are known, bool [R]; `found` is what candidates.best_keys gives."""
    rows, vocabulary = logits_RV.shape
    tokens_R = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    known_R = torch.empty(rows, dtype=torch.bool, device=logits_RV.device)
    stretches = sums_RS.shape[1]
    given = (logits_RV, best_R, settings_RF, sums_RS, *found, tokens_R, known_R, vocabulary, stretches)
    launch(cut_kernel, (rows,), *given, FIELDS=FIELDS, SLOTS=power_from(stretches), ROOM=ROOM, num_warps=8)
    return tokens_R, known_R


SIGNATURES = {
    "cut": Signature(
        kernel=cut_kernel,
        arguments="logits:*fp32 best:*fp32 settings:*fp64 sums:*fp64 keys:*i64 found:*i64 totals:*i64 tokens:*i64 "
        "known:*i1 V:i32:16 stretches:i32",
        constants={"FIELDS": FIELDS, "SLOTS": 256, "ROOM": ROOM},
        warps=8,
    )
}
"""What test_compiles watches."""

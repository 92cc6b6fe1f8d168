"""The second half of a Refined head: counted in each row's best panels of sixteen tokens only.

Three launches: the best coarse score of every panel, as a key that orders like it; the panels to refine (lower index on
ties); and their products with the residual.

A row's panels are chosen by one program, so what counts is how often it looks at all of them. It searches the best of
every group first: what `chosen` of these reach, at least so many panels reach, and hardly more do where the best ones
are spread evenly. Those candidates are moved together, and the exact search is among them: 8 or 9 steps in all, of
which none looks at all panels. Only where there are too many candidates all panels are searched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.early import options, release, wait
from twofold.backends.gpu.kernels.integer_few import held_steps, integer_products, read_each, steps_of, word_view
from twofold.backends.gpu.kernels.integer_sums import hold
from twofold.backends.gpu.kernels.launching import launch, power_from
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import RefinedWeight
from twofold.ops.layout import PANEL_ROWS, padded, refined_panels

_PANEL = tl.constexpr(PANEL_ROWS)
PANELS_OF_PROGRAM = 128
FEW_TOKENS = 2
"""Tokens up to which two rows make a program: 198 panels of four rows each would give an H100 six warps a processor."""
GROUP = 16
"""Panels of a group: four neighbours in each fourth of the row, which one thread reads. As many candidates have room as
there are groups."""
LEAST_PANELS, MOST_PANELS = 2048, 1 << 15
"""Rows padded to fewer are searched as they are; of more (524,288 tokens) counts are larger than 16 bits."""


def refine(codes: Codes, weight: RefinedWeight, y_RV: Tensor) -> None:
    """Add the residual's products to the coarse ones (float32, contiguous) where they count."""
    count, vocabulary = y_RV.shape
    if not count:
        return
    chosen = refined_panels(vocabulary)
    chosen_RC = best_panels(y_RV, chosen)
    residual, width, rows = weight.residual, codes.codes_TCW.shape[-1], 2 if count <= FEW_TOKENS else 4
    steps = held_steps(steps_of(width, True, 1), rows)
    launch(
        refine_kernel, (chosen * PANEL_ROWS // rows, count),
        codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, chosen_RC, residual.codes.view(torch.int32),
        word_view(residual.multipliers), residual.scales, y_RV, vocabulary, chosen,
        WIDTH=width, ROWS=rows, STEPS=steps, TARGET=target(), **options(y_RV.device),
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip


def best_panels(y_RV: Tensor, chosen: int) -> Tensor:
    """The `chosen` panels of every row with the best scores, lower index on ties: int32 [R, chosen], ascending."""
    count, vocabulary = y_RV.shape
    panels, early = padded(vocabulary, PANEL_ROWS) // PANEL_ROWS, options(y_RV.device)
    size = max(32, power_from(panels))
    assert size <= MOST_PANELS, "two counts would not fit one sum"
    slots = size // GROUP if size >= LEAST_PANELS and chosen <= size // GROUP else 0
    keys_RP = torch.empty(count, size, dtype=torch.int32, device=y_RV.device)
    kept_RS = torch.empty(count, slots, dtype=torch.int32, device=y_RV.device)
    chosen_RC = torch.empty(count, chosen, dtype=torch.int32, device=y_RV.device)
    of_program = min(size, PANELS_OF_PROGRAM)
    launch(
        best_kernel,
        (size // of_program, count),
        y_RV,
        keys_RP,
        vocabulary,
        SIZE=size,
        PANELS=of_program,
        **early,
        num_warps=4,
    )
    warps = min(16, max(1, size // 1024))
    launch(
        choose_kernel, (count,), keys_RP, kept_RS, chosen_RC, chosen, SIZE=size, SLOTS=slots, **early, num_warps=warps
    )
    return chosen_RC


@triton.jit
def best_kernel(y_RV, keys_RP, vocabulary, SIZE: tl.constexpr, PANELS: tl.constexpr, EARLY: tl.constexpr):
    """Keys of the best scores of PANELS panels of one row: unsigned integers in the scores' order, 0 where is none."""
    release(EARLY)
    row = tl.program_id(1).to(tl.int64)
    panels_P = tl.program_id(0) * PANELS + tl.arange(0, PANELS)
    tokens_PN = panels_P[:, None] * _PANEL + tl.arange(0, _PANEL)[None, :]
    wait(EARLY)
    y_PN = tl.load(y_RV + row * vocabulary + tokens_PN, mask=tokens_PN < vocabulary, other=-float("inf"))
    bits_P = (tl.max(y_PN, axis=1) + 0.0).to(tl.int32, bitcast=True)  # -0.0 becomes 0.0
    keys_P = bits_P ^ ((bits_P >> 31) & 0x7FFFFFFF) ^ -2147483648
    tl.store(keys_RP + row * SIZE + panels_P, tl.where(panels_P * _PANEL < vocabulary, keys_P, 0))


@triton.jit
def choose_kernel(keys_RP, kept_RS, chosen_RC, chosen, SIZE: tl.constexpr, SLOTS: tl.constexpr, EARLY: tl.constexpr):
    """The `chosen` best panels of a row, in the order of their index. kept_RS has room for SLOTS candidates.

    keys_RP uint32; SLOTS is 0 where all are searched at once.
    """
    release(EARLY)
    wait(EARLY)
    row = tl.program_id(0).to(tl.int64)
    panels_P = tl.arange(0, SIZE)
    keys_RP += row * SIZE
    keys_P = tl.load(keys_RP + panels_P).to(tl.uint32, bitcast=True)
    count = tl.full((), SIZE, tl.int32)
    if SLOTS > 0:
        keys_S = tl.max(tl.max(tl.reshape(keys_P, (4, SLOTS, 4)), axis=2), axis=0)  # the best of a group
        highest = tl.max(keys_S, axis=0)
        least, _ = search(keys_S, tl.min(keys_S, axis=0), highest, count, chosen, chosen + chosen // 2)
        count = tl.sum((keys_P >= least).to(tl.int32), axis=0)
        if count > SLOTS:
            least, count = search(keys_P, least, highest, count, chosen, chosen)
            keys_P = without_ties(keys_P, panels_P, least, chosen)
            count = tl.minimum(count, chosen)
        panels_P = move_together(keys_P, least, kept_RS + row * SLOTS, count, SLOTS)
        keys_P = tl.load(keys_RP + panels_P, mask=panels_P >= 0, other=0).to(tl.uint32, bitcast=True)
    else:
        highest = tl.max(keys_P, axis=0)
        least = tl.zeros_like(highest)
    least, count = search(keys_P, least, highest, count, chosen, chosen)
    is_above_P, is_equal_P = keys_P > least, keys_P == least
    both_P, totals_P = before(is_above_P.to(tl.uint32) + (is_equal_P.to(tl.uint32) << 16))
    above_P, equal_P = (both_P & 0xFFFF).to(tl.int32), (both_P >> 16).to(tl.int32)
    missing_P = chosen - (totals_P & 0xFFFF).to(tl.int32)
    places_P = above_P + tl.minimum(equal_P, missing_P)
    is_chosen_P = is_above_P | (is_equal_P & (equal_P < missing_P))
    tl.store(chosen_RC + row * chosen + places_P, panels_P, mask=is_chosen_P)


@triton.jit
def search(keys_N, lowest, highest, count, wanted, most):
    """A key that `wanted` of the keys reach, and how many do: no more than `most`, or it is the largest such key.

    It is from `lowest`, which `count` keys reach, at least as many as are wanted, to `highest`. Two counts in one sum.
    """
    while (lowest < highest) & (count > most):
        span = highest - lowest
        third = tl.maximum(span // 3, 1)
        first, second = lowest + third, lowest + tl.minimum(2 * third, span)
        reach_N = (keys_N >= first).to(tl.uint32) + ((keys_N >= second).to(tl.uint32) << 16)
        reach = tl.sum(reach_N, axis=0)
        reach_first, reach_second = (reach & 0xFFFF).to(tl.int32), (reach >> 16).to(tl.int32)
        is_first, is_second = reach_first >= wanted, reach_second >= wanted
        highest = tl.where(is_second, highest, tl.where(is_first, second, first) - 1)
        lowest = tl.where(is_second, second, tl.where(is_first, first, lowest))
        count = tl.where(is_second, reach_second, tl.where(is_first, reach_first, count))
    return lowest, count


@triton.jit
def without_ties(keys_P, panels_P, least, chosen):
    """The keys, but 0 for those that equal `least` where `chosen` ones are above it or equal it in front of them."""
    is_equal_P = keys_P == least
    missing = chosen - tl.sum((keys_P > least).to(tl.int32), axis=0)
    ranks_P = tl.where(is_equal_P, panels_P.shape[0] - panels_P, 0).to(tl.uint32)
    highest, count = tl.max(ranks_P, axis=0), tl.full((), panels_P.shape[0], tl.int32)
    last, _ = search(ranks_P, tl.zeros_like(highest), highest, count, missing, missing)
    return tl.where(is_equal_P & (ranks_P < last), 0, keys_P)


@triton.jit
def move_together(keys_P, least, room, count, SLOTS: tl.constexpr):
    """The panels of the keys that reach `least`, `count` of SLOTS, then -1. A thread stores what it has, one by one."""
    slots_S = tl.arange(0, SLOTS)
    ahead_S = tl.zeros((SLOTS,), tl.uint32)
    fourths = halves(halves((tl.reshape(tl.trans(tl.reshape(keys_P, (4, SLOTS, 4)), 1, 2, 0), (SLOTS, 4, 2, 2)),)))
    for index in tl.static_range(2):  # two fourths' counts in one sum
        first, second = neighbours(fourths[index], SLOTS), neighbours(fourths[index + 2], SLOTS)
        reach_S = tl.zeros((SLOTS,), tl.uint32)
        for key in tl.static_range(4):
            reach_S += (first[key] >= least).to(tl.uint32) + ((second[key] >= least).to(tl.uint32) << 16)
        places_S, totals_S = before(reach_S)
        store_each(first, least, room, ahead_S + (places_S & 0xFFFF), slots_S * 4 + index * (8 * SLOTS))
        ahead_S += totals_S & 0xFFFF
        store_each(second, least, room, ahead_S + (places_S >> 16), slots_S * 4 + index * (8 * SLOTS) + 4 * SLOTS)
        ahead_S += totals_S >> 16
    tl.debug_barrier()
    return tl.load(room + slots_S, mask=slots_S < count, other=-1)


@triton.jit
def store_each(keys, least, room, places_S, panels_S):
    """Store the first panel, and its neighbours' behind it, where the key reaches `least`."""
    for index in tl.static_range(4):
        is_kept_S = keys[index] >= least
        tl.store(room + places_S, panels_S + index, mask=is_kept_S)
        places_S += is_kept_S.to(tl.uint32)


@triton.jit
def neighbours(keys_S4, SLOTS: tl.constexpr):
    """The four columns."""
    found = halves(halves((tl.reshape(keys_S4, (SLOTS, 2, 2)),)))
    return found[0], found[2], found[1], found[3]


@triton.jit
def halves(tensors):
    """Both halves of each tensor along its last axis, which is two long."""
    found = ()
    for index in tl.static_range(len(tensors)):
        found = found + tl.split(tensors[index])
    return found


@triton.jit
def before(numbers_S):
    """The sum of the numbers in front of each, and of all of them.

    In two steps: in tl.cumsum every thread adds up all warps, one after the other, which took three times as long.
    """
    WARPS: tl.constexpr = numbers_S.shape[0] // 32
    numbers_WL = tl.reshape(numbers_S, (WARPS, 32))
    sums_W = tl.sum(numbers_WL, axis=1)
    warps_W = tl.arange(0, WARPS)
    sums_WW = tl.where(warps_W[None, :] < warps_W[:, None], sums_W[None, :], 0)
    before_WL = tl.cumsum(numbers_WL, axis=1) - numbers_WL + tl.sum(sums_WW, axis=1)[:, None]
    total_W = tl.sum(tl.broadcast_to(sums_W[None, :], (WARPS, WARPS)), axis=1)
    total_WL = tl.broadcast_to(total_W[:, None], (WARPS, 32))
    return tl.reshape(before_WL, (WARPS * 32,)), tl.reshape(total_WL, (WARPS * 32,))


@triton.jit
def refine_kernel(
    x, scales_T, wide_T, chosen_RC, codes, multipliers, scales_N, y_RV, vocabulary, chosen,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, TARGET: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of a chosen panel of one row. Which weights that are is known only after the wait."""
    release(EARLY)
    row = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    wait(EARLY)
    panel = tl.load(chosen_RC + row * chosen + part // (_PANEL // ROWS))
    first = panel * _PANEL + part % (_PANEL // ROWS) * ROWS
    start = first.to(tl.int64)
    codes += start * (WIDTH // 8)
    multipliers += start * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
    held = hold(codes, multipliers, 0, WIDTH, True, ROWS, 32, STEPS, TARGET)
    scales, coarse = read_each(scales_N + start, ROWS, ROWS), ()
    y_RV += row * vocabulary + first
    for index in tl.static_range(ROWS):
        coarse = coarse + (tl.load(y_RV + index, mask=first + index < vocabulary, other=0.0),)  # noqa: RUF005
    tl.debug_barrier()  # or the compiler reads weights one by one, when they are needed, to save registers
    products = integer_products(
        held, scales, x + row * (WIDTH // 2), scales_T + row, wide_T + row, 1,
        1.0, codes, multipliers, WIDTH, True, 1, ROWS, 32, STEPS, TARGET,
    )  # fmt: skip
    for index in tl.static_range(ROWS):
        tl.store(y_RV + index, coarse[index] + products[index], mask=first + index < vocabulary)


SIGNATURES = {
    "best": Signature(
        kernel=best_kernel, arguments="y_RV:*fp32 keys_RP:*i32 vocabulary:i32:16",
        constants={"SIZE": 16384, "PANELS": 128},
    ),
    "choose": Signature(
        kernel=choose_kernel, arguments="keys_RP:*i32 kept_RS:*i32 chosen_RC:*i32 chosen:i32",
        constants={"SIZE": 16384, "SLOTS": 1024}, warps=16,
    ),
} | {
    name: Signature(
        kernel=refine_kernel,
        arguments="x:*i32 scales_T:*fp32 wide_T:*i32 chosen_RC:*i32 codes:*i32 multipliers:*i32 scales_N:*fp32"
        " y_RV:*fp32 vocabulary:i32:16 chosen:i32",
        constants={"WIDTH": 5120, "ROWS": rows, "STEPS": 5}, warps=1, fusion=False,
    )
    for name, rows in (("refine", 2), ("refine, some tokens", 4))
}  # fmt: skip
"""What test_compiles watches."""

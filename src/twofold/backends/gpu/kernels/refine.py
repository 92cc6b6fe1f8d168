"""The second half of a Refined head: counted in each row's best panels of sixteen tokens only.

Three launches: the best coarse score of every panel; the panels to refine, by a search for the score that just so many
reach, two bits at a time (lower index on ties); and their products with the residual.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.integer_few import integer_products, read_each, word_view
from twofold.backends.gpu.kernels.integer_sums import hold
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import RefinedWeight
from twofold.ops.layout import PANEL_ROWS, padded, refined_panels

_PANEL = tl.constexpr(PANEL_ROWS)
PANELS_OF_PROGRAM = 128
ROWS_OF_PROGRAM = 4


def refine(codes: Codes, weight: RefinedWeight, y_RV: Tensor) -> None:
    """Add the residual's products to the coarse ones (float32, contiguous) where they count."""
    count, vocabulary = y_RV.shape
    panels, chosen = padded(vocabulary, PANEL_ROWS) // PANEL_ROWS, refined_panels(vocabulary)
    if not count:
        return
    best_RP = torch.empty(count, panels, device=y_RV.device)
    chosen_RC = torch.empty(count, chosen, dtype=torch.int32, device=y_RV.device)
    best_kernel[(triton.cdiv(panels, PANELS_OF_PROGRAM), count)](
        y_RV, best_RP, vocabulary, panels, PANELS=PANELS_OF_PROGRAM, num_warps=4
    )
    size = triton.next_power_of_2(panels)
    choose_kernel[(count,)](best_RP, chosen_RC, panels, chosen, SIZE=size, num_warps=min(32, max(1, size // 512)))
    residual = weight.residual
    refine_kernel[(chosen * PANEL_ROWS // ROWS_OF_PROGRAM, count)](
        codes.codes_TCW.view(torch.int32), codes.scales_T, codes.wide_T, chosen_RC, residual.codes.view(torch.int32),
        word_view(residual.multipliers), residual.scales, y_RV, vocabulary, chosen,
        WIDTH=codes.codes_TCW.shape[-1], ROWS=ROWS_OF_PROGRAM, STEPS=5, TARGET=target(),
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def best_kernel(y_RV, best_RP, vocabulary, panels, PANELS: tl.constexpr):
    """The best score of each of PANELS panels of one row; -inf beyond the vocabulary."""
    row = tl.program_id(1).to(tl.int64)
    panels_P = tl.program_id(0) * PANELS + tl.arange(0, PANELS)
    tokens_PN = panels_P[:, None] * _PANEL + tl.arange(0, _PANEL)[None, :]
    y_PN = tl.load(y_RV + row * vocabulary + tokens_PN, mask=tokens_PN < vocabulary, other=-float("inf"))
    tl.store(best_RP + row * panels + panels_P, tl.max(y_PN, axis=1), mask=panels_P < panels)


@triton.jit
def choose_kernel(best_RP, chosen_RC, panels, chosen, SIZE: tl.constexpr):
    """The `chosen` best panels of a row, in the order of their index."""
    row = tl.program_id(0).to(tl.int64)
    panels_P = tl.arange(0, SIZE)
    is_there_P = panels_P < panels
    best_P = tl.load(best_RP + row * panels + panels_P, mask=is_there_P, other=0.0) + 0.0  # -0.0 becomes 0.0
    bits_P = best_P.to(tl.int32, bitcast=True)
    keys_P = (bits_P ^ ((bits_P >> 31) & 0x7FFFFFFF) ^ -2147483648).to(tl.uint32, bitcast=True)  # in their order
    keys_P = tl.where(is_there_P, keys_P, 0)
    least = tl.full((), 0, tl.uint32)
    for step in range(16):  # two bits at a time: three counts in one sum
        unit = tl.full((), 1, tl.uint32) << (30 - 2 * step)
        reach_P = (keys_P >= least + unit).to(tl.int64) + ((keys_P >= least + 2 * unit).to(tl.int64) << 20)
        reach = tl.sum(reach_P + ((keys_P >= least + 3 * unit).to(tl.int64) << 40), axis=0)
        reached = ((reach & 0xFFFFF) >= chosen).to(tl.uint32) + ((reach >> 20 & 0xFFFFF) >= chosen).to(tl.uint32)
        least += unit * (reached + ((reach >> 40) >= chosen).to(tl.uint32))
    is_above_P = (keys_P > least) & is_there_P
    is_equal_P = (keys_P == least) & is_there_P
    missing = chosen - tl.sum(is_above_P.to(tl.int32), axis=0)
    both_P = tl.cumsum((is_above_P.to(tl.int32) << 16) | is_equal_P.to(tl.int32), axis=0)  # two counts in one pass
    equal_P = both_P & 0xFFFF
    places_P = (both_P >> 16) + tl.minimum(equal_P, missing) - 1
    tl.store(chosen_RC + row * chosen + places_P, panels_P, mask=is_above_P | (is_equal_P & (equal_P <= missing)))


@triton.jit
def refine_kernel(
    x, scales_T, wide_T, chosen_RC, codes, multipliers, scales_N, y_RV, vocabulary, chosen,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """ROWS tokens of a chosen panel of one row."""
    row = tl.program_id(1).to(tl.int64)
    part = tl.program_id(0)
    panel = tl.load(chosen_RC + row * chosen + part // (_PANEL // ROWS))
    first = panel * _PANEL + part % (_PANEL // ROWS) * ROWS
    start = first.to(tl.int64)
    codes += start * (WIDTH // 8)
    multipliers += start * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
    held = hold(codes, multipliers, 0, WIDTH, True, ROWS, 32, STEPS, TARGET)
    products = integer_products(
        held, read_each(scales_N + start, ROWS, ROWS), x + row * (WIDTH // 2), scales_T + row, wide_T + row, 1,
        1.0, codes, multipliers, WIDTH, True, 1, ROWS, 32, STEPS, TARGET,
    )  # fmt: skip
    for index in tl.static_range(ROWS):
        place = y_RV + row * vocabulary + first + index
        is_there = first + index < vocabulary
        tl.store(place, tl.load(place, mask=is_there, other=0.0) + products[index], mask=is_there)


SIGNATURES = {
    "best": Signature(
        kernel=best_kernel, arguments="y_RV:*fp32 best_RP:*fp32 vocabulary:i32:16 panels:i32", constants={"PANELS": 128}
    ),
    "choose": Signature(
        kernel=choose_kernel, arguments="best_RP:*fp32 chosen_RC:*i32 panels:i32 chosen:i32",
        constants={"SIZE": 16384}, warps=32,
    ),
    "refine": Signature(
        kernel=refine_kernel,
        arguments="x:*i32 scales_T:*fp32 wide_T:*i32 chosen_RC:*i32 codes:*i32 multipliers:*i32 scales_N:*fp32"
        " y_RV:*fp32 vocabulary:i32:16 chosen:i32",
        constants={"WIDTH": 5120, "ROWS": 4, "STEPS": 5}, warps=1, fusion=False,
    ),
}  # fmt: skip
"""What test_compiles watches."""

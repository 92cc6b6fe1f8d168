"""Products of many tokens with integer weights, by the matrix units: tiles of weights' rows and of tokens.

Four-bit codes become int8 in registers: a group's multiplier chooses one of sixteen rows of sixteen products m * level,
and byte permutations take them out of it by the codes. The low and the high nibbles of a tile are two products, with
columns [0, 16) and [16, 32) of every group. Sums are int32 and exact; second rows of codes are multiplied only
where a token is wide.
"""

from __future__ import annotations  # noqa: I001

from dataclasses import dataclass
from typing import Any
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from twofold.backends.gpu.codes import Codes
from twofold.backends.gpu.kernels.integer_few import word_view
from twofold.backends.gpu.kernels.integer_tiles import tile_sums
from twofold.backends.gpu.kernels.launching import cdiv, launch, power_from
from twofold.backends.gpu.kernels.level_rows import level_rows
from twofold.backends.gpu.kernels.order import Order
from twofold.backends.gpu.kernels.order import order as put_in_order
from twofold.backends.gpu.kernels.signature import Signature
from twofold.backends.gpu.kernels.target import target
from twofold.backends.gpu.weights import Int4Weight, IntegerWeight
from twofold.ops.activations import REST_STEPS

_REST = tl.constexpr(1 / REST_STEPS)
BAND = tl.constexpr(8)
"""Tiles of rows that neighbouring programs share the same tokens with, for the sake of the second-level cache."""


@dataclass(frozen=True)
class Tile:
    """How a product is cut: weights' rows, tokens and columns of a tile, warps, and steps under way at once."""

    rows: int
    tokens: int
    columns: int
    warps: int
    stages: int


CONFIGS = {
    16: (Tile(64, 16, 128, 4, 4), Tile(64, 16, 256, 4, 4), Tile(64, 16, 256, 4, 3), Tile(128, 16, 256, 4, 3)),
    32: (Tile(64, 32, 256, 4, 3), Tile(64, 32, 128, 4, 4)),
    64: (Tile(128, 64, 128, 4, 3), Tile(64, 64, 256, 4, 3), Tile(64, 64, 128, 4, 4)),
    128: (Tile(128, 128, 128, 8, 3), Tile(128, 256, 128, 8, 3)),
}
"""What a sweep tries by tokens of a tile; the first is what is used."""
TALL_ROWS = 12288
"""With fewer rows than this, tiles of 64 rows and more are too few programs for a device."""
LOW_CONFIGS = {
    16: (Tile(32, 16, 128, 4, 4), Tile(64, 16, 128, 4, 4), Tile(32, 16, 256, 4, 4)),
    32: (Tile(64, 32, 256, 4, 3), Tile(64, 32, 128, 4, 4), Tile(32, 32, 128, 4, 4)),
    64: (Tile(64, 64, 256, 4, 3), Tile(64, 64, 128, 4, 4), Tile(32, 64, 128, 4, 4)),
}
"""The same for fewer rows than TALL_ROWS: 16 tokens took an H100 13 % less time so than by tiles of 64 rows.

Up to 32 tokens it takes integer_several now; devices that have none of it take these.
"""
CONFIGS_INT8 = (
    Tile(128, 128, 128, 4, 3), Tile(256, 128, 128, 8, 4), Tile(128, 128, 128, 8, 3), Tile(256, 128, 64, 8, 4)
)  # fmt: skip
"""The same for eight-bit weights and 128 tokens and more."""
REST_TILES = {True: Tile(64, 32, 128, 4, 4), False: Tile(64, 32, 128, 4, 4)}
"""For the wide rows of many tokens, by whether weights have four bits."""
SHARED_RESERVE_BYTES = 24 << 10
"""Shared memory left for what is unpacked and for results on their way out."""
SPARSE_TOKENS = 128
"""From this many tokens of a tile on, second rows of codes are multiplied by a launch of their own."""


def choose(tokens: int, rows: int, is_four: bool = True) -> Tile:
    """The tile for so many tokens and rows, measured on an H100 (benchmarks/results, 2026-11-26-1107).

    The smallest one is what is best where half of its tokens are missing, as in most blocks of routed rows.
    """
    if tokens > 64:
        return CONFIGS[128][0] if is_four else CONFIGS_INT8[0]
    return configs(tokens, rows)[0]


def configs(tokens: int, rows: int) -> tuple[Tile, ...]:
    """What a sweep tries for so many tokens, at most 64, and rows."""
    return (CONFIGS if rows >= TALL_ROWS else LOW_CONFIGS)[max(16, power_from(tokens))]


def block_of(rows: int, experts: int) -> int:
    """Rows of a block of an `Order` for so many routed rows: about what an expert gets, from 16 to 128."""
    share = max(16, rows // max(experts, 1))
    return min(128, power_from(share))


def many(codes: Codes, weight: IntegerWeight, tile: Tile | None = None) -> Tensor:
    """The product of any number of tokens with a matrix, float32 [T, N]."""
    tokens, rows = len(codes), weight.shape[-2]
    y_TN = torch.empty(tokens, rows, device=codes.scales_T.device)
    tile = tile or choose(tokens, rows, isinstance(weight, Int4Weight))
    if not tokens:
        return y_TN
    blocks = cdiv(tokens, tile.tokens)
    if tile.tokens < SPARSE_TOKENS:
        start(codes, weight, y_TN, blocks, tile, passes="both")
        return y_TN
    start(codes, weight, y_TN, blocks, tile, passes="first")
    experts_R = torch.zeros(tokens, dtype=torch.int32, device=y_TN.device)
    launch_rest(codes, weight, y_TN, experts_R, 1, None)
    return y_TN


def many_routed(
    codes: Codes,
    active: int,
    order: Order,
    gates_R: Tensor | None,
    weight: IntegerWeight,
    tile: Tile | None = None,
) -> Tensor:
    """Row r: the codes of token r // active, their scale times gates_R[r], with the matrix of its expert: [R, N].

    `order` is of kernels.order, its block the tile's tokens.
    """
    count = len(codes) * active
    y_RN = torch.empty(count, weight.shape[-2], device=codes.scales_T.device)
    rows = weight.shape[-2] if order.block > 16 else TALL_ROWS  # small blocks of many experts are programs enough
    tile = tile or choose(order.block, rows, isinstance(weight, Int4Weight))
    if not count:
        return y_RN
    blocks = len(order.expert_of_block)
    passes = "both" if tile.tokens < SPARSE_TOKENS else "first"
    start(codes, weight, y_RN, blocks, tile, passes=passes, active=active, order=order, gates=gates_R)
    if passes == "first":
        experts_R = torch.empty(count + 1, dtype=torch.int32, device=y_RN.device)
        places = torch.where(order.rows < 0, count, order.rows).long()
        experts_R[places] = order.expert_of_block.repeat_interleave(order.block)
        launch_rest(codes, weight, y_RN, experts_R[:count], active, gates_R)
    return y_RN


def launch_rest(
    codes: Codes, weight: IntegerWeight, y: Tensor, experts_R: Tensor, active: int, gates: Tensor | None
) -> None:
    """Add the second rows' products: wide rows alone, put in order by expert, so that a few cost what a few cost.

    Of rows of swiglu one in fifty is wide; hardly a block of 128 tokens would be without.
    """
    experts = weight.shape[0] if len(weight.shape) > 2 else 1
    wide_R = codes.wide_T if active == 1 else codes.wide_T.repeat_interleave(active)
    tile = REST_TILES[isinstance(weight, Int4Weight)]
    ordered = put_in_order(torch.where(wide_R != 0, experts_R, experts), experts + 1, tile.tokens)
    blocks = len(ordered.expert_of_block)
    start(codes, weight, y, blocks, tile, passes="rest", active=active, order=ordered, gates=gates)


def start(
    codes: Codes,
    weight: IntegerWeight,
    y: Tensor,
    blocks: int,
    tile: Tile,
    *,
    passes: str,
    active: int = 0,
    order: Order | None = None,
    gates: Tensor | None = None,
) -> None:
    """Start the kernel; what is not there is stood in for by y, which is then not read."""
    is_four = isinstance(weight, Int4Weight)
    row_tiles = cdiv(weight.shape[-2], tile.rows)
    launch(
        many_kernel, (row_tiles * blocks,),
        codes.codes_TCW, codes.scales_T, codes.wide_T, len(codes),
        y if order is None else order.rows, y if order is None else order.expert_of_block,
        y if gates is None else gates, weight.codes,
        word_view(weight.multipliers) if isinstance(weight, Int4Weight) else y, weight.scales,
        level_rows(y.device), y, weight.shape[-2], weight.scales.shape[-1], row_tiles, blocks,
        weight.shape[0] if len(weight.shape) > 2 else 1,
        WIDTH=codes.codes_TCW.shape[-1], FOUR=is_four, ROWS=tile.rows, TOKENS=tile.tokens, COLUMNS=tile.columns,
        STAGES=stages_of(tile, is_four, y.device), PASSES=passes, ACTIVE=active, HAS_GATES=gates is not None,
        TARGET=target(), num_warps=tile.warps, enable_fp_fusion=False,
    )  # fmt: skip


def stages_of(tile: Tile, is_four: bool, device: torch.device) -> int:
    """The tile's stages, or as many as the shared memory of the device holds."""
    if device.type != "cuda":
        return tile.stages
    step_bytes = tile.columns * (tile.tokens + (tile.rows // 2 if is_four else tile.rows))
    most = 2 if torch.version.hip else max(1, (shared_bytes(device) - SHARED_RESERVE_BYTES) // step_bytes)
    return min(tile.stages, most)


@cache
def shared_bytes(device: torch.device) -> int:
    """Shared memory that one program can have."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


@triton.jit
def place_program(row_tiles, blocks):
    """(row tile, block) of this program: bands of BAND row tiles take all blocks of tokens, one after the other."""
    program = tl.program_id(0)
    band = program // (BAND * blocks)
    height = tl.minimum(row_tiles - band * BAND, BAND)
    inside = program % (BAND * blocks)
    return band * BAND + inside % height, inside // height


@triton.jit(do_not_specialize=["tokens", "blocks"])
def many_kernel(
    x, scales_T, wide_T, tokens, rows_P, experts_B, gates_R, codes, multipliers, scales_N, tables, y,
    rows, stack_rows, row_tiles, blocks, experts,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr, PASSES: tl.constexpr, ACTIVE: tl.constexpr, HAS_GATES: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS x TOKENS.

    PASSES: "first" and "rest" are the products of either row of codes, the second added to what is there; "both".
    """
    tile, block = place_program(row_tiles, blocks)
    first = tile * ROWS
    places_T = block * TOKENS + tl.arange(0, TOKENS)
    row = tl.full((), 0, tl.int64)
    results_T = places_T
    tokens_T = places_T % tokens  # places without a row read one token each: one for all of them is asked by everybody
    is_there_T = places_T < tokens
    if ACTIVE > 0:
        expert = tl.load(experts_B + block)
        row += tl.maximum(expert, 0).to(tl.int64) * stack_rows
        results_T = tl.load(rows_P + places_T)
        is_there_T = (results_T >= 0) & (expert >= 0) & (expert < experts)
        tokens_T = tl.where(is_there_T, results_T // ACTIVE, tokens_T)
    if tl.max(is_there_T.to(tl.int32), axis=0) != 0:
        results_N = first + tl.arange(0, ROWS)
        is_row_N = results_N < rows
        rows_N = tl.where(is_row_N, results_N, 0)
        codes += row * (WIDTH // 2 if FOUR else WIDTH)
        multipliers += row * (WIDTH // 256 if WIDTH % 256 == 0 else WIDTH // 64)
        x_T = x + tokens_T.to(tl.int64) * (2 * WIDTH)
        s_T = tl.load(scales_T + tokens_T)
        gates_T = tl.load(gates_R + results_T, mask=is_there_T, other=0.0) if HAS_GATES else 1.0
        w_N = tl.load(scales_N + row + results_N, mask=is_row_N, other=0.0)
        y_TN = y + results_T.to(tl.int64)[:, None] * rows + results_N[None, :]
        is_there_TN = is_there_T[:, None] & is_row_N[None, :]
        if PASSES != "rest":
            sums_TN = tile_sums(
                x_T, codes, multipliers, tables, rows_N, WIDTH, FOUR, ROWS, TOKENS, COLUMNS, STAGES, TARGET
            )
            tl.store(y_TN, sums_TN.to(tl.float32) * ((s_T * gates_T)[:, None] * w_N[None, :]), mask=is_there_TN)
        if PASSES != "first":
            is_wide_T = (tl.load(wide_T + tokens_T) != 0) & is_there_T
            if tl.max(is_wide_T.to(tl.int32), axis=0) != 0:
                tl.debug_barrier()  # what was stored is read again rather than kept: registers are what tiles lack
                sums_TN = tile_sums(
                    x_T + WIDTH, codes, multipliers, tables, rows_N, WIDTH, FOUR, ROWS, TOKENS, COLUMNS, STAGES, TARGET
                )
                rests_TN = sums_TN.to(tl.float32) * (((s_T * _REST) * gates_T)[:, None] * w_N[None, :])
                is_wide_TN = is_wide_T[:, None] & is_row_N[None, :]
                tl.store(y_TN, tl.load(y_TN, mask=is_wide_TN, other=0.0) + rests_TN, mask=is_wide_TN)


_ARGUMENTS = (
    "x:*i8 scales_T:*fp32 wide_T:*i32 tokens:i32 rows_P:*i32 experts_B:*i32 gates_R:*fp32 codes:*{} multipliers:*i32"
    " scales_N:*fp32 tables:*i32 y:*fp32 rows:i32:16 stack_rows:i32:16 row_tiles:i32 blocks:i32 experts:i32"
)
_CONSTANTS: dict[str, Any] = {
    "WIDTH": 5120, "FOUR": True, "ROWS": 64, "TOKENS": 16, "COLUMNS": 256, "STAGES": 2, "PASSES": "both", "ACTIVE": 0,
    "HAS_GATES": False,
}  # fmt: skip
SIGNATURES = {
    name: Signature(
        kernel=many_kernel,
        arguments=_ARGUMENTS.format("u8" if changes.get("FOUR", True) else "i8"),
        constants=_CONSTANTS | changes,
        warps=warps,
        fusion=False,
    )  # fmt: skip  # noqa: RUF028
    for name, warps, changes in (
        ("16 tokens", 4, {}),
        ("routed", 4, {"ACTIVE": 1, "HAS_GATES": True, "TOKENS": 64, "COLUMNS": 128}),
        ("prefill", 8, {"ROWS": 128, "TOKENS": 128, "COLUMNS": 128, "PASSES": "first"}),
        ("int8 prefill", 8, {"FOUR": False, "ROWS": 256, "TOKENS": 128, "COLUMNS": 128, "PASSES": "first"}),
    )
}
"""What test_compiles watches."""

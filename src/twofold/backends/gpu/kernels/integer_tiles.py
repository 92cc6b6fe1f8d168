"""Integer sums of a tile of tokens with a tile of a weight's rows, along all columns, by the matrix units."""

from __future__ import annotations

import triton
import triton.language as tl

from twofold.backends.gpu.kernels.integer_sums import read
from twofold.backends.gpu.kernels.target import cached_words, level_of


@triton.jit
def tile_sums(
    x_T, codes, multipliers, tables, rows_N,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    STAGES: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Sums of the tile's tokens with its rows, int32 [T, N]. x_T points at rows of codes."""
    if FOUR:
        sums_TN = four_bit_sums(x_T, codes, multipliers, tables, rows_N, WIDTH, ROWS, TOKENS, COLUMNS, STAGES, TARGET)
    else:
        sums_TN = eight_bit_sums(x_T, codes, rows_N, WIDTH, ROWS, TOKENS, COLUMNS, STAGES)
    return sums_TN


@triton.jit
def eight_bit_sums(
    x_T, codes, rows_N,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The sums of eight-bit weights."""
    columns_C = tl.arange(0, COLUMNS)
    weights_CN = codes + rows_N[None, :].to(tl.int64) * WIDTH + columns_C[:, None]
    x_TC = x_T[:, None] + columns_C[None, :]
    sums_TN = tl.zeros((TOKENS, ROWS), tl.int32)
    for step in tl.range((WIDTH + COLUMNS - 1) // COLUMNS, num_stages=STAGES):
        is_there_C = step * COLUMNS + columns_C < WIDTH
        weight_CN = read(weights_CN + step * COLUMNS, is_there_C[:, None], WIDTH % COLUMNS == 0)
        x_TC_here = read(x_TC + step * COLUMNS, is_there_C[None, :], WIDTH % COLUMNS == 0)
        sums_TN = tl.dot(x_TC_here, weight_CN, sums_TN, out_dtype=tl.int32)
    return sums_TN


@triton.jit
def four_bit_sums(
    x_T, codes, multipliers, tables, rows_N,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """The same of four-bit weights. They are the left side: what was unpacked in registers can stay there."""
    BYTES: tl.constexpr = COLUMNS // 2
    bytes_B = tl.arange(0, BYTES)
    columns_B = bytes_B // 16 * 32 + bytes_B % 16
    weights_NB = codes + rows_N[:, None].to(tl.int64) * (WIDTH // 2) + bytes_B[None, :]
    x_TB = x_T[:, None] + columns_B[None, :]
    sums_NT = tl.zeros((ROWS, TOKENS), tl.int32)
    for step in tl.range((WIDTH + COLUMNS - 1) // COLUMNS, num_stages=STAGES):
        is_there_1B = (step * BYTES + bytes_B < WIDTH // 2)[None, :]
        weight_NB = read(weights_NB + step * BYTES, is_there_1B, WIDTH % COLUMNS == 0)
        low_TB = read(x_TB + step * COLUMNS, is_there_1B, WIDTH % COLUMNS == 0)
        high_TB = read(x_TB + (step * COLUMNS + 16), is_there_1B, WIDTH % COLUMNS == 0)
        stored_NG = stored_multipliers(multipliers, rows_N, step, WIDTH, COLUMNS)
        low_NB, high_NB = product_levels(weight_NB, stored_NG, tables, TARGET)
        sums_NT = tl.dot(low_NB, tl.trans(low_TB), sums_NT, out_dtype=tl.int32)
        sums_NT = tl.dot(high_NB, tl.trans(high_TB), sums_NT, out_dtype=tl.int32)
    return tl.trans(sums_NT)


@triton.jit
def stored_multipliers(multipliers, rows_N, step, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    """What is stored of the multipliers of a step's groups, int32 [N, G]; by words of eight where rows are words."""
    groups_G = tl.arange(0, COLUMNS // 32)
    if WIDTH % 256 == 0:
        # group by group, so that lanes side by side read the same word, and more values than threads: of fewer Triton
        # makes a copy for every use
        words_G = (groups_G + step * (COLUMNS // 32)) // 8
        words_GN = tl.load(multipliers + rows_N.to(tl.int64)[None, :] * (WIDTH // 256) + words_G[:, None])
        stored_NG = tl.trans(words_GN) >> (4 * ((groups_G + step * (COLUMNS // 32)) % 8))[None, :]
    else:
        groups_G += step * (COLUMNS // 32)
        places_NG = rows_N[:, None].to(tl.int64) * (WIDTH // 64) + (groups_G // 2)[None, :]
        stored_NG = read(multipliers + places_NG, (groups_G * 32 < WIDTH)[None, :], WIDTH % COLUMNS == 0)
        stored_NG = stored_NG.to(tl.int32) >> (groups_G % 2 * 4)[None, :]
    return stored_NG & 15


_PRODUCT_INPUTS = ",r" * 17
_CUDA_PRODUCTS = tl.constexpr(
    "{ .reg .b32 s, h, p, q, a, b;"
    " and.b32 s, $2, 0x77777777; shr.u32 h, $2, 1; and.b32 h, h, 0x44444444; or.b32 h, h, 0x32103210;"
    " prmt.b32 p, $3, $7, s; prmt.b32 q, $11, $15, s; prmt.b32 a, p, q, h; shr.u32 s, s, 16; shr.u32 h, h, 16;"
    " prmt.b32 p, $3, $7, s; prmt.b32 q, $11, $15, s; prmt.b32 b, p, q, h;"
    " prmt.b32 $0, a, b, 0x6420; prmt.b32 $1, a, b, 0x7531; }"
)
_PRODUCT_CONSTRAINTS = tl.constexpr("=&r,=&r" + _PRODUCT_INPUTS)


@triton.jit
def product_levels(codes_NB, stored_NG, tables, TARGET: tl.constexpr):
    """m * level of the low and of the high nibbles of codes, int8 [N, B] each; B = 16 G bytes, a group's in a row.

    stored_NG is what stands for m, 0..15; `tables` points at int32 [16, 4], sixteen products for each.
    """
    ROWS: tl.constexpr = codes_NB.shape[0]
    BYTES: tl.constexpr = codes_NB.shape[1]
    codes_NGB = tl.reshape(codes_NB, (ROWS, BYTES // 16, 16))
    if TARGET == "cuda":
        first, second, third, fourth = cached_words(tables + stored_NG * 4)
        low_NGB, high_NGB = tl.inline_asm_elementwise(
            _CUDA_PRODUCTS, _PRODUCT_CONSTRAINTS,
            [codes_NGB, first[:, :, None], second[:, :, None], third[:, :, None], fourth[:, :, None]],
            dtype=(tl.int8, tl.int8), is_pure=True, pack=4,
        )  # fmt: skip
    else:
        codes_NGB = codes_NGB.to(tl.int32)
        m_NGB = (stored_NG - 8 + (stored_NG >> 3))[:, :, None]
        low_NGB = (level_of(codes_NGB & 15) * m_NGB).to(tl.int8)
        high_NGB = (level_of(codes_NGB >> 4) * m_NGB).to(tl.int8)
    return tl.reshape(low_NGB, (ROWS, BYTES)), tl.reshape(high_NGB, (ROWS, BYTES))

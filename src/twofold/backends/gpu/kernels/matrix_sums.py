"""Integer sums of several tokens with sixteen rows of a weight by the matrix units: the loop of integer_several.

A lane l of a warp holds rows l // 4 and l // 4 + 8 of the weight, and for each eight tokens number l // 4 of them. The
four lanes of a row take 16 bytes each of a step's columns; the products of one instruction are over whatever columns
these lanes name at once, so that nothing has to change lanes on its way from the memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from twofold.backends.gpu.kernels.integer_sums import (
    four_of,
    multiplier_places,
    nibble_of,
    read,
    read_words,
    read_x4,
)
from twofold.backends.gpu.kernels.target import (
    cached_words,
    level_tables,
    levels32,
    paired32,
    products32,
    words16,
)


@triton.jit
def token_of(rows_P, places, tokens, ACTIVE: tl.constexpr):
    """Of places in a block: their tokens, their rows of y, which there are.

    Places without a row take any token: all the same one, which is read through the first-level cache (cached_words).
    """
    if ACTIVE > 0:
        results = tl.load(rows_P + places)
        return tl.maximum(results, 0) // ACTIVE, results, results >= 0
    return tl.minimum(places, tokens - 1), places, places < tokens


@triton.jit
def places_of(step, WARPS: tl.constexpr):
    """Which 16 bytes of its rows each lane takes in a step: four lanes share a row, warps follow one another."""
    lanes_L = tl.arange(0, 32 * WARPS)
    return (step * WARPS + lanes_L // 32) * 4 + lanes_L % 4


@triton.jit
def hold_tile(
    codes, multipliers, begin,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """A lane's two rows, eight apart, STEPS steps from `begin` on: four words each, and what multipliers are in."""
    PLACES: tl.constexpr = WIDTH // 32 if FOUR else WIDTH // 16
    IS_FULL: tl.constexpr = PLACES % (4 * WARPS * STEPS) == 0
    own_L = tl.arange(0, 32 * WARPS) // 4 % 8
    words, stored = (), ()
    for step in tl.static_range(STEPS):
        places_L = places_of(begin + step, WARPS)
        is_there_L = places_L < PLACES
        for half in tl.static_range(2):
            row_L = own_L + 8 * half
            words = words + read_words(codes, (row_L * PLACES + places_L) * 4, is_there_L, FOUR, IS_FULL, TARGET)
            if FOUR:
                at_L = multiplier_places(multipliers, row_L, places_L, WIDTH)
                stored = stored + (read(at_L, is_there_L, IS_FULL),)  # noqa: RUF005
    return words, stored


@triton.jit
def tile_sums(
    held, x, rows_P, tokens, codes, multipliers, tables,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, PARTS: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr,
    ACTIVE: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Sums of every part, int32 [128]: element 4 l + 2 i + h is of row l // 4 + 8 h and token 2 (l % 4) + i."""
    COUNT: tl.constexpr = (WIDTH // (32 if FOUR else 16) + 4 * WARPS - 1) // (4 * WARPS)
    constants = level_tables(tokens, TARGET)
    starts, sums = (), ()
    for part in tl.static_range(PARTS):
        places_L = tl.program_id(1) * (8 * PARTS) + part * 8 + tl.arange(0, 32 * WARPS) // 4 % 8
        token_L = token_of(rows_P, places_L, tokens, ACTIVE)[0]
        starts = starts + (token_L * (WIDTH // 2),)  # noqa: RUF005
        for _ in tl.static_range(4):
            sums = sums + (tl.zeros((32 * WARPS,), tl.int32),)  # noqa: RUF005
    if COUNT <= STEPS:
        sums = with_held(sums, held, x, starts, tables, constants, 0, WIDTH, FOUR, PARTS, WARPS, STEPS, TARGET)
    else:
        for begin in tl.range(0, COUNT, STEPS):
            after = tl.where(begin + STEPS < COUNT, begin + STEPS, 0)  # behind the last step may be nobody's memory
            following = hold_tile(codes, multipliers, after, WIDTH, FOUR, WARPS, STEPS, TARGET)
            sums = with_held(sums, held, x, starts, tables, constants, begin, WIDTH, FOUR, PARTS, WARPS, STEPS, TARGET)
            held = following
    totals = ()
    for part in tl.static_range(PARTS):
        even = tl.join(sums[4 * part], sums[4 * part + 2])
        odd = tl.join(sums[4 * part + 1], sums[4 * part + 3])
        both = tl.reshape(tl.permute(tl.join(even, odd), (0, 2, 1)), (WARPS, 128))
        totals = totals + (tl.sum(both, axis=0),)  # noqa: RUF005
    return totals


@triton.jit
def with_held(
    sums, held, x, starts, tables, constants, begin,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, PARTS: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """The sums with the products of what is held, which begins at step `begin`, on top: four for each part."""
    PLACES: tl.constexpr = WIDTH // 32 if FOUR else WIDTH // 16
    IS_FULL: tl.constexpr = PLACES % (4 * WARPS * STEPS) == 0
    words, stored = held
    for step in tl.static_range(STEPS):
        places_L = places_of(begin + step, WARPS)
        is_there_L = places_L < PLACES
        rows = ()
        for half in tl.static_range(2):
            four = four_of(words, 2 * step + half)
            if FOUR:
                n_L = nibble_of(stored[2 * step + half], places_L, WIDTH)
                rows = rows + (integers_of(four, n_L, is_there_L, tables, constants, IS_FULL, TARGET),)  # noqa: RUF005
            else:
                rows = rows + (words16(four, TARGET),)  # noqa: RUF005
        new = ()
        for part in tl.static_range(PARTS):
            if FOUR:
                low = read_x4(x, starts[part] + places_L * 8, is_there_L, IS_FULL, TARGET)
                high = read_x4(x, starts[part] + places_L * 8 + 4, is_there_L, IS_FULL, TARGET)
                x_words = paired32(low, high, TARGET)
            else:
                x_words = words16(read_x4(x, starts[part] + places_L * 4, is_there_L, IS_FULL, TARGET), TARGET)
            own = sums[4 * part], sums[4 * part + 1], sums[4 * part + 2], sums[4 * part + 3]
            new = new + matrix_sums(rows, x_words, own, 4 if FOUR else 2, WARPS, TARGET)
        sums = new
    return sums


@triton.jit
def integers_of(four, n_L, is_there_L, tables, constants, IS_FULL: tl.constexpr, TARGET: tl.constexpr):
    """m * level of a group, in the order of `paired32`; zeros where there is none."""
    if TARGET == "plain":
        m_L = tl.where(is_there_L, n_L - 8 + (n_L >> 3), 0)
        return (levels32(four, constants, TARGET)[0] * m_L[:, None],)
    first_L, second_L, third_L, fourth_L = cached_words(tables + n_L * 4)
    if not IS_FULL:
        first_L, second_L = tl.where(is_there_L, first_L, 0), tl.where(is_there_L, second_L, 0)
        third_L, fourth_L = tl.where(is_there_L, third_L, 0), tl.where(is_there_L, fourth_L, 0)
    return products32(four, (first_L, second_L, third_L, fourth_L), constants)


# Operands and sums are where this instruction looks for them because element l of these tensors is in lane l of its
# warp: Triton lays one-dimensional tensors of as many elements as threads out so. Tests in the interpreter cannot see
# if it ever does not; benchmarks/gpu/check_integer.py on a device does.
_MATRIX = tl.constexpr(
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
)


@triton.jit
def matrix_sums(rows, x, sums, COUNT: tl.constexpr, WARPS: tl.constexpr, TARGET: tl.constexpr):
    """Four sums of each lane l of a warp: of rows l // 4 and l // 4 + 8 times tokens 2 (l % 4) and one more.

    `rows`: words of rows l // 4 and l // 4 + 8, x: of token l // 4, of the same columns: those that the four lanes of
    a row have, together.
    """
    first, second = rows
    if TARGET == "plain":
        low = all_pairs(first[0], x[0], WARPS)
        high = all_pairs(second[0], x[0], WARPS)
        return sums[0] + low[0], sums[1] + low[1], sums[2] + high[0], sums[3] + high[1]
    for index in tl.static_range(COUNT):
        sums = tl.inline_asm_elementwise(
            _MATRIX, "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r",
            [first[2 * index], second[2 * index], first[2 * index + 1], second[2 * index + 1], x[2 * index],
             x[2 * index + 1], sums[0], sums[1], sums[2], sums[3]],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=False, pack=1,
        )  # fmt: skip
    return sums


@triton.jit
def all_pairs(rows_LC, x_LC, WARPS: tl.constexpr):
    """What the matrix units give, in ordinary Triton: sums of each lane's row with both of its tokens."""
    COLUMNS: tl.constexpr = 4 * rows_LC.shape[1]
    rows = tl.reshape(rows_LC, (WARPS, 8, 1, COLUMNS))
    sums = tl.sum(rows * tl.reshape(x_LC, (WARPS, 1, 8, COLUMNS)), axis=3)
    even, odd = tl.split(tl.reshape(sums, (WARPS, 8, 4, 2)))
    return tl.reshape(even, (32 * WARPS,)), tl.reshape(odd, (32 * WARPS,))

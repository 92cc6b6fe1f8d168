"""Integer sums of few tokens with some rows of a weight: the loop along the columns of integer_few and refine."""

from __future__ import annotations

import triton
import triton.language as tl

from twofold.backends.gpu.kernels.target import (
    cached_words,
    dots,
    level_tables,
    levels32,
    paired32,
    summands32,
    words16,
)


@triton.jit
def integer_sums(
    x, tokens, codes, multipliers,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STAGES: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Sums of ROWS rows with TOKENS tokens, row after row, a tuple of int32. Pointers are to words of int32."""
    SLOTS: tl.constexpr = WIDTH // 32 if FOUR else WIDTH // 16  # of 16 bytes in a row
    IS_FULL: tl.constexpr = SLOTS % LANES == 0
    tables = level_tables(tokens, TARGET)
    sums = ()
    for _ in tl.static_range(TOKENS * ROWS):
        sums = sums + (tl.zeros((LANES,), tl.int32),)  # noqa: RUF005
    for step in tl.range((SLOTS + LANES - 1) // LANES, num_stages=STAGES):
        slots_L = step * LANES + tl.arange(0, LANES)
        is_there_L = slots_L < SLOTS
        x_words = activations(x, tokens, slots_L, is_there_L, WIDTH, FOUR, IS_FULL, TOKENS, TARGET)
        new = ()
        for row in tl.static_range(ROWS):
            words = read4(codes + row * (SLOTS * 4), slots_L * 4, is_there_L, IS_FULL)
            if FOUR:
                m_L = group_multipliers(multipliers, row, slots_L, is_there_L, WIDTH, IS_FULL)
                if TOKENS <= 2 and TARGET == "cuda":
                    levels = summands32(words, tables)
                else:
                    levels = (levels32(words, tables, TARGET),)
            else:
                levels = words16(words, TARGET)
            for slot in tl.static_range(TOKENS):
                if FOUR:
                    part_L = dots(levels[0], x_words[slot], tl.zeros((LANES,), tl.int32), 8, TARGET)
                    for index in tl.static_range(1, len(levels)):
                        part_L = dots(levels[index], x_words[slot], part_L, 8, TARGET)
                    new = new + (sums[row * TOKENS + slot] + part_L * m_L,)  # noqa: RUF005
                else:
                    new = new + (dots(levels, x_words[slot], sums[row * TOKENS + slot], 4, TARGET),)  # noqa: RUF005
        sums = new
    totals = ()
    for index in tl.static_range(TOKENS * ROWS):
        totals = totals + (tl.sum(sums[index], axis=0),)  # noqa: RUF005
    return totals


@triton.jit
def activations(
    x, tokens, slots_L, is_there_L,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, IS_FULL: tl.constexpr, TOKENS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """For every token its codes of a step as `dots` wants them; tokens beyond the last are the last once more."""
    found = ()
    for slot in tl.static_range(TOKENS):
        at = x + tl.minimum(slot, tokens - 1) * (WIDTH // 2)
        if FOUR:
            low = read_x4(at, slots_L * 8, is_there_L, IS_FULL, TARGET)
            high = read_x4(at + 4, slots_L * 8, is_there_L, IS_FULL, TARGET)
            found = found + (paired32(low, high, TARGET),)  # noqa: RUF005
        else:
            found = found + (words16(read_x4(at, slots_L * 4, is_there_L, IS_FULL, TARGET), TARGET),)  # noqa: RUF005
    return found


@triton.jit
def read(pointers, mask, IS_FULL: tl.constexpr):
    """Zeros where the mask is off; no mask when everything is there."""
    if IS_FULL:
        return tl.load(pointers)
    return tl.load(pointers, mask=mask, other=0)


@triton.jit
def read4(pointer, offsets_L, is_there_L, IS_FULL: tl.constexpr):
    """Four neighbouring words at each offset, by one load: four of int32 [L]."""
    words_L4 = read(pointer + offsets_L[:, None] + tl.arange(0, 4)[None, :], is_there_L[:, None], IS_FULL)
    even_L2, odd_L2 = tl.split(tl.reshape(words_L4, (offsets_L.shape[0], 2, 2)))
    first_L, third_L = tl.split(even_L2)
    second_L, fourth_L = tl.split(odd_L2)
    return first_L, second_L, third_L, fourth_L


@triton.jit
def read_x4(pointer, offsets_L, is_there_L, IS_FULL: tl.constexpr, TARGET: tl.constexpr):
    """`read4` of what every program reads. Beyond the columns there may be anything: the weight is zero there."""
    if TARGET != "cuda":
        return read4(pointer, offsets_L, is_there_L, IS_FULL)
    if not IS_FULL:
        offsets_L = tl.where(is_there_L, offsets_L, 0)
    return cached_words(pointer + offsets_L)


@triton.jit
def group_multipliers(multipliers, row, groups_L, is_there_L, WIDTH: tl.constexpr, IS_FULL: tl.constexpr):
    """m of these groups of a row, int32 [L], 0 beyond the last; from words where rows are whole words of eight groups,
    as no asynchronous copy takes single bytes.
    """  # fmt: skip
    if WIDTH % 256 == 0:
        stored_L = read(multipliers + row * (WIDTH // 256) + groups_L // 8, is_there_L, IS_FULL)
        n_L = (stored_L >> (groups_L % 8 * 4)) & 15
    else:
        stored_L = read(multipliers + row * (WIDTH // 64) + groups_L // 2, is_there_L, IS_FULL)
        n_L = (stored_L.to(tl.int32) >> (groups_L % 2 * 4)) & 15
    m_L = n_L - 8 + (n_L >> 3)
    if IS_FULL:
        return m_L
    return tl.where(is_there_L, m_L, 0)

"""Integer sums of few tokens with some rows of a weight: the loop along the columns of integer_few and refine.

A lane holds 16 bytes of every row and step in registers. Weights are asked for by `hold`, long before they are used:
a kernel that starts early has them under way, or here, when the activations are known.
"""

from __future__ import annotations

import triton
import triton.language as tl

from twofold.backends.gpu.kernels.target import (
    cached_words,
    dots,
    level_tables,
    levels32,
    paired32,
    streamed_words,
    summands32,
    words16,
)


@triton.jit
def hold(
    codes, multipliers, begin,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a weight, STEPS steps from `begin` on, as they lie: step after step, row after row.

    Two tuples: four words of each, and what its multipliers are in (nothing of int8). Pointers are to words of int32.
    """
    SLOTS: tl.constexpr = WIDTH // 32 if FOUR else WIDTH // 16  # of 16 bytes in a row
    IS_FULL: tl.constexpr = SLOTS % (LANES * STEPS) == 0
    words, stored = (), ()
    for step in tl.static_range(STEPS):
        slots_L = (begin + step) * LANES + tl.arange(0, LANES)
        is_there_L = slots_L < SLOTS
        for row in tl.static_range(ROWS):
            words = words + read_words(codes + row * (SLOTS * 4), slots_L * 4, is_there_L, FOUR, IS_FULL, TARGET)
            if FOUR:
                place_L = multiplier_places(multipliers, row, slots_L, WIDTH)
                stored = stored + (read(place_L, is_there_L, IS_FULL),)  # noqa: RUF005
    return words, stored


@triton.jit
def integer_sums(
    held, x, tokens, codes, multipliers,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STEPS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Sums of ROWS rows with TOKENS tokens, row after row, a tuple of int32. `held`: of step 0, by `hold`."""
    COUNT: tl.constexpr = (WIDTH // (32 if FOUR else 16) + LANES - 1) // LANES
    tables = level_tables(tokens, TARGET)
    sums = ()
    for _ in tl.static_range(TOKENS * ROWS):
        sums = sums + (tl.zeros((LANES,), tl.int32),)  # noqa: RUF005
    if COUNT <= STEPS:
        sums = add_held(sums, held, x, tokens, 0, tables, WIDTH, FOUR, TOKENS, ROWS, LANES, STEPS, TARGET)
    else:
        for begin in tl.range(0, COUNT, STEPS):
            after = tl.where(begin + STEPS < COUNT, begin + STEPS, 0)  # behind the last step may be nobody's memory
            following = hold(codes, multipliers, after, WIDTH, FOUR, ROWS, LANES, STEPS, TARGET)
            sums = add_held(sums, held, x, tokens, begin, tables, WIDTH, FOUR, TOKENS, ROWS, LANES, STEPS, TARGET)
            held = following
    totals = ()
    for index in tl.static_range(TOKENS * ROWS):
        totals = totals + (tl.sum(sums[index], axis=0),)  # noqa: RUF005
    return totals


@triton.jit
def add_held(
    sums, held, x, tokens, begin, tables,
    WIDTH: tl.constexpr, FOUR: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STEPS: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """sums of each row and token [L], and the products of what is held, which begins at step `begin`, on top."""
    SLOTS: tl.constexpr = WIDTH // 32 if FOUR else WIDTH // 16
    IS_FULL: tl.constexpr = SLOTS % (LANES * STEPS) == 0
    words, stored = held
    for step in tl.static_range(STEPS):
        slots_L = (begin + step) * LANES + tl.arange(0, LANES)
        is_there_L = slots_L < SLOTS
        x_words = activations(x, tokens, slots_L, is_there_L, WIDTH, FOUR, IS_FULL, TOKENS, TARGET)
        new = ()
        for row in tl.static_range(ROWS):
            four = four_of(words, step * ROWS + row)
            if FOUR:
                m_L = group_multipliers(stored[step * ROWS + row], slots_L, is_there_L, WIDTH, IS_FULL)
                if TOKENS <= 2 and TARGET == "cuda":
                    levels = summands32(four, tables)
                else:
                    levels = (levels32(four, tables, TARGET),)
            else:
                levels = words16(four, TARGET)
            for slot in tl.static_range(TOKENS):
                if FOUR:
                    part_L = dots(levels[0], x_words[slot], tl.zeros((LANES,), tl.int32), 8, TARGET)
                    for index in tl.static_range(1, len(levels)):
                        part_L = dots(levels[index], x_words[slot], part_L, 8, TARGET)
                    new = new + (sums[row * TOKENS + slot] + part_L * m_L,)  # noqa: RUF005
                else:
                    new = new + (dots(levels, x_words[slot], sums[row * TOKENS + slot], 4, TARGET),)  # noqa: RUF005
        sums = new
    return sums


@triton.jit
def four_of(words, place: tl.constexpr):
    """The four words of a place."""
    return words[4 * place], words[4 * place + 1], words[4 * place + 2], words[4 * place + 3]


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
def read_words(pointer, offsets_L, is_there_L, FOUR: tl.constexpr, IS_FULL: tl.constexpr, TARGET: tl.constexpr):
    """`read4` of a weight. Beyond the columns words of int8 are zero; of four bits the multiplier will be."""
    if TARGET != "cuda":
        return read4(pointer, offsets_L, is_there_L, IS_FULL)
    if IS_FULL:
        return streamed_words(pointer + offsets_L)
    first_L, second_L, third_L, fourth_L = streamed_words(pointer + tl.where(is_there_L, offsets_L, 0))
    if FOUR:
        return first_L, second_L, third_L, fourth_L
    return (
        tl.where(is_there_L, first_L, 0), tl.where(is_there_L, second_L, 0),
        tl.where(is_there_L, third_L, 0), tl.where(is_there_L, fourth_L, 0),
    )  # fmt: skip


@triton.jit
def read_x4(pointer, offsets_L, is_there_L, IS_FULL: tl.constexpr, TARGET: tl.constexpr):
    """`read4` of what every program reads. Beyond the columns there may be anything: the weight is zero there."""
    if TARGET != "cuda":
        return read4(pointer, offsets_L, is_there_L, IS_FULL)
    if not IS_FULL:
        offsets_L = tl.where(is_there_L, offsets_L, 0)
    return cached_words(pointer + offsets_L)


@triton.jit
def multiplier_places(multipliers, row, groups_L, WIDTH: tl.constexpr):
    """Where the multipliers of a row's groups are: words of eight where rows are whole words, else bytes of two."""
    if WIDTH % 256 == 0:
        return multipliers + row * (WIDTH // 256) + groups_L // 8
    return multipliers + row * (WIDTH // 64) + groups_L // 2


@triton.jit
def nibble_of(stored_L, groups_L, WIDTH: tl.constexpr):
    """What is stored of these groups' multipliers, 0 to 15, out of what `multiplier_places` points at."""
    if WIDTH % 256 == 0:
        return (stored_L >> (groups_L % 8 * 4)) & 15
    return (stored_L.to(tl.int32) >> (groups_L % 2 * 4)) & 15


@triton.jit
def group_multipliers(stored_L, groups_L, is_there_L, WIDTH: tl.constexpr, IS_FULL: tl.constexpr):
    """m of these groups, int32 [L], 0 beyond the last."""
    n_L = nibble_of(stored_L, groups_L, WIDTH)
    m_L = n_L - 8 + (n_L >> 3)
    if IS_FULL:
        return m_L
    return tl.where(is_there_L, m_L, 0)

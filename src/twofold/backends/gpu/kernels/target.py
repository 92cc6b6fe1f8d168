"""What the kernels are compiled for, and the few instructions that Triton has no name for.

Four-bit codes become levels by a look-up of bytes in pairs of registers (prmt, v_perm), int8 are multiplied four at a
time (dp4a, v_dot4). Every helper has a plain branch in ordinary Triton: it runs in the interpreter and on targets that
are neither CUDA nor ROCm.

A word of four-bit codes holds columns j of a group in its low and 16 + j in its high nibbles. `levels32` brings them
into some order and `paired32` the activations of the same columns into the same: which one that is depends on the
target and matters to nobody else.
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl

from twofold.ops.levels import LEVELS


@cache
def target() -> str:
    """ "cuda", "hip" or "plain": what this process's kernels run on; asked for every launch, so it is remembered."""
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        return "plain"
    return "hip" if torch.version.hip else "cuda"


_WORDS = [int(word) for word in LEVELS.view(np.uint32)]
_FIRST, _SECOND, _THIRD, _FOURTH = (tl.constexpr(int(word)) for word in LEVELS.view(np.int32))
_LOW_HALF, _HIGH_HALF = (tl.constexpr(int(half)) for half in LEVELS.view(np.int64))

# s picks among eight levels by the low three bits of each nibble, h between both halves by the fourth. Of every pair of
# words one is an operand: prmt takes one constant, and ptxas would move the other into a register anew for each.
_CUDA_LEVELS = tl.constexpr(
    "{ .reg .b32 s, h, p, q;"
    " and.b32 s, $2, 0x77777777; shr.u32 h, $2, 1; lop3.b32 h, h, 0x44444444, $5, 0xEA;"
    f" prmt.b32 p, $3, {_WORDS[1]:#x}, s; prmt.b32 q, $4, {_WORDS[3]:#x}, s;"
    " prmt.b32 $0, p, q, h; shr.u32 s, s, 16; shr.u32 h, h, 16;"
    f" prmt.b32 p, $3, {_WORDS[1]:#x}, s; prmt.b32 q, $4, {_WORDS[3]:#x}, s;"
    " prmt.b32 $1, p, q, h; }"
)
# For one or two tokens it is cheaper to multiply twice than to pick. A nibble whose fourth bit is set repeats the sign
# of a byte: -1 among the lower levels, which are all negative, 0 among the upper ones, of which none is. So the upper
# ones are stored one higher, and what both look-ups give adds up to the level.
_UPPER = [int(word) for word in (LEVELS[8:] + 1).astype(np.int8).view(np.uint32)]
_CUDA_SUMMANDS = tl.constexpr(
    "{ .reg .b32 s, h;"
    f" xor.b32 h, $4, 0x88888888; prmt.b32 $0, $5, {_WORDS[1]:#x}, $4; prmt.b32 $2, $6, {_UPPER[1]:#x}, h;"
    f" shr.u32 s, $4, 16; shr.u32 h, h, 16; prmt.b32 $1, $5, {_WORDS[1]:#x}, s; prmt.b32 $3, $6, {_UPPER[1]:#x}, h; }}"
)
_CUDA_PAIRS = tl.constexpr("prmt.b32 $0, $2, $3, 0x5140; prmt.b32 $1, $2, $3, 0x7362;")
_CUDA_TABLES = tl.constexpr(
    "{ .reg .b32 below, above, none;"
    " mov.u32 below, %lanemask_lt; mov.u32 above, %lanemask_ge; and.b32 none, below, above;"
    f" or.b32 $0, none, {_WORDS[0]:#x}; or.b32 $1, none, {_WORDS[2]:#x}; or.b32 $2, none, 0x32103210;"
    f" or.b32 $3, none, {_UPPER[0]:#x}; }}"
)


@triton.jit
def level_tables(anything, TARGET: tl.constexpr):
    """Four constants of `levels32`, `summands32` and `products32`, kept in registers.

    ptxas does not know that `none` is always zero.
    """
    if TARGET == "cuda":
        return tl.inline_asm_elementwise(
            _CUDA_TABLES, "=&r,=&r,=&r,=&r,r", [anything],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
    return anything, anything, anything, anything


@triton.jit
def levels32(words, tables, TARGET: tl.constexpr):
    """The levels of a group, four words of eight codes: eight words of four int8 in the order of `paired32`.

    The plain branch gives one tensor [L, 32] instead, and so do the others below: `dots` knows.
    """
    if TARGET == "plain":
        codes_LB = bytes_of(words) & 255
        return (join_halves(level_of(codes_LB & 15), level_of(codes_LB >> 4)),)
    found = ()
    for quarter in tl.static_range(4):
        if TARGET == "cuda":
            found = found + tl.inline_asm_elementwise(
                _CUDA_LEVELS, "=&r,=&r,r,r,r,r", [words[quarter], tables[0], tables[1], tables[2]],
                dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        else:
            found = found + (hip_levels(words[quarter]), hip_levels(words[quarter] >> 4))  # noqa: RUF005
    return found


_CUDA_PRODUCTS32 = tl.constexpr(
    "{ .reg .b32 s, h, p, q;"
    " and.b32 s, $2, 0x77777777; shr.u32 h, $2, 1; lop3.b32 h, h, 0x44444444, $7, 0xEA;"
    " prmt.b32 p, $3, $4, s; prmt.b32 q, $5, $6, s; prmt.b32 $0, p, q, h; shr.u32 s, s, 16; shr.u32 h, h, 16;"
    " prmt.b32 p, $3, $4, s; prmt.b32 q, $5, $6, s; prmt.b32 $1, p, q, h; }"
)


@triton.jit
def products32(words, products, tables):
    """`levels32` with sixteen products in four words instead of the levels. CUDA only."""
    found = ()
    for quarter in tl.static_range(4):
        found = found + tl.inline_asm_elementwise(
            _CUDA_PRODUCTS32, "=&r,=&r,r,r,r,r,r,r",
            [words[quarter], products[0], products[1], products[2], products[3], tables[2]],
            dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
    return found


@triton.jit
def summands32(words, tables):
    """The levels of a group as sums: twice words like those of `levels32`, to be multiplied and added up. CUDA only."""
    lower, upper = (), ()
    for quarter in tl.static_range(4):
        found = tl.inline_asm_elementwise(
            _CUDA_SUMMANDS, "=&r,=&r,=&r,=&r,r,r,r", [words[quarter], tables[0], tables[3]],
            dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
        lower, upper = lower + (found[0], found[1]), upper + (found[2], found[3])  # noqa: RUF005
    return lower, upper


@triton.jit
def hip_levels(word):
    """The levels of the codes in the low nibbles of a word's bytes."""
    among_eight = word & 0x07070707
    low = permuted(_SECOND, _FIRST, among_eight)
    high = permuted(_FOURTH, _THIRD, among_eight)
    return permuted(high, low, ((word >> 1) & 0x04040404) | 0x03020100)


@triton.jit
def permuted(high, low, chosen):
    """Of eight bytes those that the bytes of `chosen` name: 0 to 3 are of `low`."""
    return tl.inline_asm_elementwise(
        "v_perm_b32 $0, $1, $2, $3", "=v,v,v,v", [high, low, chosen], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def paired32(low, high, TARGET: tl.constexpr):
    """The 32 activations of a group in the order of `levels32`, from words of columns [0, 16) and [16, 32)."""
    if TARGET == "plain":
        return (join_halves(bytes_of(low), bytes_of(high)),)
    found = ()
    for quarter in tl.static_range(4):
        if TARGET == "cuda":
            found = found + tl.inline_asm_elementwise(
                _CUDA_PAIRS, "=&r,=&r,r,r", [low[quarter], high[quarter]],
                dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
            )  # fmt: skip
        else:
            found = found + (low[quarter], high[quarter])  # noqa: RUF005
    return found


@triton.jit
def words16(words, TARGET: tl.constexpr):
    """Sixteen int8 in four words, as `dots` wants them."""
    if TARGET == "plain":
        return (bytes_of(words),)
    return words


@triton.jit
def dots(a, b, sums_L, COUNT: tl.constexpr, TARGET: tl.constexpr):
    """sums + the products of the int8 in so many words, int32 [L]."""
    if TARGET == "plain":
        return sums_L + tl.sum(a[0] * b[0], axis=1)
    for index in tl.static_range(COUNT):
        if TARGET == "cuda":
            sums_L = tl.inline_asm_elementwise(
                "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a[index], b[index], sums_L],
                dtype=tl.int32, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            sums_L = tl.inline_asm_elementwise(
                "v_dot4_i32_i8 $0, $1, $2, $3", "=v,v,v,v", [a[index], b[index], sums_L],
                dtype=tl.int32, is_pure=True, pack=1,
            )  # fmt: skip
    return sums_L


@triton.jit
def bytes_of(words):
    """The bytes of four words [L], signed: int32 [L, 16]."""
    words_L22 = tl.join(tl.join(words[0], words[2]), tl.join(words[1], words[3]))
    bytes_L44 = tl.reshape(words_L22, (words[0].shape[0], 4, 1)) << (24 - 8 * tl.arange(0, 4))[None, None, :]
    return tl.reshape(bytes_L44 >> 24, (words[0].shape[0], 16))


@triton.jit
def join_halves(low_LB, high_LB):
    """[L, 16] and [L, 16] as [L, 32], in one order or another."""
    return tl.reshape(tl.join(low_LB, high_LB), (low_LB.shape[0], 32))


@triton.jit
def cached_words(pointers):
    """Four words at each pointer (a multiple of 16 bytes) through the first-level cache; CUDA only.

    What every program reads must not be fetched by the asynchronous copies that Triton makes of a loop's loads: they
    go past that cache, and all programs ask the same few slices of the second one. (Measured on an H100 for one token:
    14 times slower for the table of products, 4 times for the activations.)
    """
    return tl.inline_asm_elementwise(
        "ld.global.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,l", [pointers.to(tl.int64)],
        dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def streamed_words(pointers):
    """Four words at each pointer (a multiple of 16 bytes) of what is read once, where the order says; CUDA only."""
    return tl.inline_asm_elementwise(
        "ld.global.L1::no_allocate.v4.b32 {$0, $1, $2, $3}, [$4];", "=r,=r,=r,=r,l", [pointers.to(tl.int64)],
        dtype=(tl.int32, tl.int32, tl.int32, tl.int32), is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def level_of(codes):
    """Levels of codes 0..15, int32."""
    halves = tl.where(codes < 8, _LOW_HALF, _HIGH_HALF)
    return ((halves >> (8 * (codes & 7)).to(tl.int64)).to(tl.int32) << 24) >> 24


# What ptxas makes of div.rn, without its question for each quotient whether the operands are out of the ordinary, and
# the branch behind it.
_CUDA_QUOTIENT = tl.constexpr(
    "{ .reg .f32 r, n, e, q; rcp.approx.ftz.f32 r, $2; neg.f32 n, $2; fma.rn.f32 e, r, n, 0f3F800000;"
    " fma.rn.f32 r, r, e, r; mul.rn.f32 q, $1, r; fma.rn.f32 e, q, n, $1; fma.rn.f32 $0, e, r, q; }"
)


@triton.jit
def quotient(part, whole, TARGET: tl.constexpr):
    """part / whole, rounded to nearest, of float32 with part from 2^-100 to 1 and whole from 1 to 2.

    A smaller part is divided exactly where the whole is 1.
    """
    if TARGET == "cuda":
        return tl.inline_asm_elementwise(
            _CUDA_QUOTIENT, "=f,f,f", [part, whole], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.div_rn(part, whole)


_CUDA_LOWEST = tl.constexpr(
    "{ .reg .b32 p, q; prmt.b32 p, $1, $2, 0x40; prmt.b32 q, $3, $4, 0x40; prmt.b32 $0, p, q, 0x5410; }"
)


@triton.jit
def lowest_bytes(first, second, third, fourth, TARGET: tl.constexpr):
    """A word of the lowest bytes of four."""
    if TARGET == "cuda":
        return tl.inline_asm_elementwise(
            _CUDA_LOWEST, "=r,r,r,r,r", [first, second, third, fourth], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return (first & 255) | (second & 255) << 8 | (third & 255) << 16 | fourth << 24


@triton.jit
def nonzero_bytes(words, TARGET: tl.constexpr):
    """How many of a word's bytes are not zero."""
    tops = (((words & 0x7F7F7F7F) + 0x7F7F7F7F) | words) & -2139062144  # 0x80 in each of them
    if TARGET == "cuda":
        return tl.inline_asm_elementwise("popc.b32 $0, $1;", "=r,r", [tops], dtype=tl.int32, is_pure=True, pack=1)
    return ((tops >> 7 & 0x01010101) * 0x01010101) >> 24

"""The block types of GGUF: how each keeps its weights, and what they stand for.

A row of a tensor is a sequence of blocks; f16 is a little-endian float16. In all of them a weight is
code * scale + offset, with one scale (and offset) per group of 32 columns, 16 in Q6_K:

    Q8_0  f16 d, 32 int8                                    q * d
    Q4_0  f16 d, 16 bytes: column i low, 16 + i high        (q - 8) * d
    Q4_1  f16 d, f16 m, 16 bytes like Q4_0                  q * d + m
    Q5_0  f16 d, 32 fifth bits, 16 bytes like Q4_0          (q - 16) * d
    Q5_1  f16 d, f16 m, 32 fifth bits, 16 bytes             q * d + m
    Q4_K  256 columns: f16 d, f16 e, 12 bytes with eight 6-bit s and t, 128 bytes:
          columns 64 j + i low, 64 j + 32 + i high          q * (d * s) - e * t
    Q5_K  like Q4_K, 32 bytes of fifth bits (bit g of byte i: column 32 g + i) before the 128
    Q6_K  256 columns: 128 bytes of low halves, 64 bytes of high pairs, 16 int8 s, f16 d: (q - 32) * (d * s)

Code times scale is exact in float32 everywhere, so that values are bit-equal to those of the gguf package.
Sources: the gguf package, quants.py; ggml, ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.ops.packed import Floats

Raw = npt.NDArray[np.uint8]
GROUP, SUPER = 32, 256
PIECE_VALUES = 128 * 1024
"""Values decoded at a time: their temporaries stay in the second-level cache."""


@dataclass(frozen=True)
class Grouped:
    """Rows as integers: codes_ND int8, scales_NG float32, offsets_NG float32 or None for none.

    Column c belongs to group c // (D / G). A weight is codes * scales + offsets.
    """

    codes_ND: npt.NDArray[np.int8]
    scales_NG: Floats
    offsets_NG: Floats | None = None

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        rows, groups = self.scales_NG.shape
        with np.errstate(all="ignore"):  # a damaged scale may be infinite; the weights then are not finite either
            result = np.multiply(
                self.codes_ND.reshape(rows, groups, -1), self.scales_NG[..., None], dtype=np.float32, casting="unsafe"
            )
            if self.offsets_NG is not None:
                result += self.offsets_NG[..., None]
        return result.reshape(self.codes_ND.shape)


@dataclass(frozen=True, kw_only=True)
class BlockType:
    """How many columns share a block, how many bytes it takes, and how blocks [B, bytes] become codes."""

    columns: int
    size_bytes: int
    unpack: Callable[[Raw], Grouped]


def halves(raw_B2: Raw) -> Floats:
    """Two bytes of each block as float16, float32 [B, 1]."""
    return np.ascontiguousarray(raw_B2).view("<f2").astype(np.float32)


def nibbles(raw: Raw) -> Raw:
    """[..., n] bytes to [..., 2, n]: low halves, then high halves."""
    return np.stack([raw & 15, raw >> 4], axis=-2)


def q8_0(blocks: Raw) -> Grouped:
    """See the top of this file, as for the functions below."""
    return Grouped(blocks[:, 2:].view(np.int8), halves(blocks[:, :2]))


def q4_0(blocks: Raw) -> Grouped:
    """Symmetric four bits."""
    codes = nibbles(blocks[:, 2:]).reshape(-1, GROUP).view(np.int8)
    return Grouped(codes - np.int8(8), halves(blocks[:, :2]))


def q4_1(blocks: Raw) -> Grouped:
    """Four bits with an offset."""
    codes = nibbles(blocks[:, 4:]).reshape(-1, GROUP).view(np.int8)
    return Grouped(codes, halves(blocks[:, :2]), halves(blocks[:, 2:4]))


def five_bits(low: Raw, fifth: Raw) -> npt.NDArray[np.int8]:
    """Codes of 0..31 from 16 bytes of halves and 4 of fifth bits."""
    bits = np.unpackbits(fifth, axis=1, bitorder="little")
    codes: npt.NDArray[np.int8] = (nibbles(low).reshape(-1, GROUP) | bits << 4).view(np.int8)
    return codes


def q5_0(blocks: Raw) -> Grouped:
    """Symmetric five bits."""
    return Grouped(five_bits(blocks[:, 6:], blocks[:, 2:6]) - np.int8(16), halves(blocks[:, :2]))


def q5_1(blocks: Raw) -> Grouped:
    """Five bits with an offset."""
    return Grouped(five_bits(blocks[:, 8:], blocks[:, 4:8]), halves(blocks[:, :2]), halves(blocks[:, 2:4]))


def six_bit_scales(packed_B12: Raw) -> tuple[Raw, Raw]:
    """Eight scales and eight minima of six bits each: the first four of both lie whole in bytes 0..3 and 4..7; the
    others have their low halves in bytes 8..11 and their top pairs above the first four.
    """  # fmt: skip
    first, second, rest = packed_B12[:, :4], packed_B12[:, 4:8], packed_B12[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 2 & 48], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 2 & 48], axis=1)
    return scales, minima


def with_minima(blocks: Raw, codes: Raw) -> Grouped:
    """Codes of a K type, and their scales from its first 16 bytes."""
    scales, minima = six_bit_scales(blocks[:, 4:16])
    with np.errstate(all="ignore"):
        return Grouped(
            codes.view(np.int8), halves(blocks[:, :2]) * scales, halves(blocks[:, 2:4]) * -minima.astype(np.float32)
        )


def q4_k(blocks: Raw) -> Grouped:
    """Four bits, two levels of scales and minima."""
    return with_minima(blocks, nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, SUPER))


def q5_k(blocks: Raw) -> Grouped:
    """Five bits, two levels of scales and minima."""
    low = nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    fifth: Raw = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes: Raw = low | fifth << np.uint8(4)
    return with_minima(blocks, codes.reshape(-1, SUPER))


def q6_k(blocks: Raw) -> Grouped:
    """Six bits, two levels of scales."""
    low = nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    pairs = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    codes = (low | pairs << 4).reshape(-1, SUPER).view(np.int8) - np.int8(32)
    with np.errstate(all="ignore"):
        return Grouped(codes, halves(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8))


BLOCKS: dict[str, BlockType] = {
    "Q4_0": BlockType(columns=32, size_bytes=18, unpack=q4_0),
    "Q4_1": BlockType(columns=32, size_bytes=20, unpack=q4_1),
    "Q5_0": BlockType(columns=32, size_bytes=22, unpack=q5_0),
    "Q5_1": BlockType(columns=32, size_bytes=24, unpack=q5_1),
    "Q8_0": BlockType(columns=32, size_bytes=34, unpack=q8_0),
    "Q4_K": BlockType(columns=256, size_bytes=144, unpack=q4_k),
    "Q5_K": BlockType(columns=256, size_bytes=176, unpack=q5_k),
    "Q6_K": BlockType(columns=256, size_bytes=210, unpack=q6_k),
}


def unpack(kind: str, raw_NB: Raw) -> Grouped:
    """Rows of a tensor, uint8 [N, bytes of a row], as codes with scales; KeyError for a type without codes."""
    block = BLOCKS[kind]
    rows = len(raw_NB)
    found = block.unpack(np.ascontiguousarray(raw_NB).reshape(-1, block.size_bytes))
    offsets = found.offsets_NG
    return Grouped(
        found.codes_ND.reshape(rows, -1),
        found.scales_NG.reshape(rows, -1),
        None if offsets is None else offsets.reshape(rows, -1),
    )


def decode(kind: str, raw_NB: Raw) -> Floats:
    """Rows of a tensor as float32 [N, D]; KeyError for a type without codes."""
    block = BLOCKS[kind]
    rows = len(raw_NB)
    blocks = np.ascontiguousarray(raw_NB).reshape(-1, block.size_bytes)
    result = np.empty((len(blocks), block.columns), np.float32)
    step = PIECE_VALUES // block.columns
    for start in range(0, len(blocks), step):
        result[start : start + step] = block.unpack(blocks[start : start + step]).values()
    return result.reshape(rows, -1)

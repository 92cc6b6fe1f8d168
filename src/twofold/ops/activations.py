"""Activations as int8 codes: what an integer weight is multiplied by.

A token has one scale, s = max|x| / 127, and codes q = rint(x * (1 / s)). An outlier takes the bits of everything else:
where a stretch of 128 columns alone would have a scale more than 8 times finer, or more than half of what is not zero
would get code 0, the token is *wide*. It then has a second row of codes for what the first one left,
r = rint((x * (1 / s) - q) * 254), in steps of s / 254, and its product is the sum of both rows' products. So an
outlier costs a token time, never precision, and no other token anything.

All in float32, rounding half to even, exactly as written: backends must agree bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twofold.ops.packed import Floats, quantize_int8

BLOCK_COLUMNS = 128
WIDE_RATIO = 8
"""Of 400 normal rows none is wide; of 400 rows of 8,192 products of two normals (what swiglu gives) one in fifty."""
REST_STEPS = 254


@dataclass(frozen=True)
class ActivationCodes:
    """codes_RD int8 with scales_R float32: a row for each token, the second row of a wide one right behind its first.

    firsts_T is where each token's first row is; is_wide_T whether it has a second.
    """

    codes_RD: npt.NDArray[np.int8]
    scales_R: Floats
    firsts_T: npt.NDArray[np.int64]
    is_wide_T: npt.NDArray[np.bool_]

    def fold(self, products_RN: Floats) -> Floats:
        """Products of the tokens from those of the rows, float32 [T, N]."""
        result: Floats = products_RN[self.firsts_T]
        result[self.is_wide_T] += products_RN[self.firsts_T[self.is_wide_T] + 1]
        return result

    def scaled(self, gates_T: Floats) -> ActivationCodes:
        """The codes of gate * x."""
        gates_R = np.repeat(gates_T, 1 + self.is_wide_T.astype(np.int64))
        return ActivationCodes(self.codes_RD, self.scales_R * gates_R, self.firsts_T, self.is_wide_T)

    def values(self) -> Floats:
        """What the codes stand for, float32 [T, D]."""
        return self.fold(self.codes_RD.astype(np.float32) * self.scales_R[:, None])


def quantize_activations(x_TD: Floats) -> ActivationCodes:
    """Codes of every token; a token of zeros has scale 0."""
    codes_TD, scales_T = quantize_int8(x_TD)
    wide = are_wide(x_TD, codes_TD)
    inverse_T = np.divide(np.float32(1.0), scales_T, out=np.zeros_like(scales_T), where=scales_T > 0)
    left_WD = x_TD[wide] * inverse_T[wide, None] - codes_TD[wide].astype(np.float32)
    rests_WD = np.rint(left_WD * np.float32(REST_STEPS)).astype(np.int8)
    firsts_T = np.arange(len(x_TD)) + np.cumsum(wide) - wide
    codes_RD = np.empty((len(x_TD) + len(rests_WD), x_TD.shape[1]), np.int8)
    scales_R = np.empty(len(codes_RD), np.float32)
    codes_RD[firsts_T], scales_R[firsts_T] = codes_TD, scales_T
    codes_RD[firsts_T[wide] + 1] = rests_WD
    scales_R[firsts_T[wide] + 1] = scales_T[wide] * np.float32(1 / REST_STEPS)
    return ActivationCodes(codes_RD, scales_R, firsts_T, wide)


def are_wide(x_TD: Floats, codes_TD: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Whether a stretch of columns that is not all zeros reaches less than an eighth as far as the token, or code 0 is
    that of more than half of what is not zero.
    """  # fmt: skip
    tokens, columns = x_TD.shape
    blocks = -(-columns // BLOCK_COLUMNS)
    padded_TD = np.zeros((tokens, blocks * BLOCK_COLUMNS), np.float32)
    padded_TD[:, :columns] = np.abs(x_TD)
    most_TB = padded_TD.reshape(tokens, blocks, BLOCK_COLUMNS).max(axis=-1)
    small_TB = most_TB * np.float32(WIDE_RATIO) < most_TB.max(axis=-1, keepdims=True)
    used_T, kept_T = (x_TD != 0).sum(axis=1), (codes_TD != 0).sum(axis=1)
    is_flat_T = 2 * kept_T < used_T
    result: npt.NDArray[np.bool_] = (small_TB & (most_TB > 0)).any(axis=-1) | is_flat_T
    return result

"""The reference backend: every op in plain NumPy, float32. This file is the specification.

It is written to be read, not to be fast; the fast backends are judged against it case by case (ops.cases).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twofold.ops import contents, packed, rope, sampling
from twofold.ops.activations import ActivationCodes, quantize_activations
from twofold.ops.packed import PANEL_ROWS, Dense, Floats, Fp8, Group4, Packed, Refined
from twofold.ops.types import Batch, CacheShape, Drawn, KvDtype, Pages, Rope, RowSampling, Target, Temperature

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ReferenceCache:
    """Keys and values of one layer: float32 [blocks, kv heads, block size, head size]."""

    keys: Floats
    values: Floats


class ReferencePacker:
    """Packed weights by the functions of ops.packed."""

    moves_weights = False

    def finish(self, weight: Packed, target: Target) -> Packed:
        """As it is."""
        return weight

    def arena(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory for weights, aligned to 64 bytes."""
        raw = np.empty(size_bytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + size_bytes]

    def encode(self, rows_ND: npt.NDArray[Any], into: Packed, first_row: int) -> None:
        """See ops.packed.encode."""
        packed.encode(rows_ND, into, first_row)


class ReferenceOps:
    """All ops in NumPy; see ops.interface.Ops for shapes and meaning.

    `kv_dtype` says what cached keys and values are rounded to; they are held as float32. `rounds_to_bf16`: activations
    are rounded to bf16 where they meet bf16 or fp8 weights, as some backends do (cases.ROUNDS_TO_BF16).
    """

    runs_ahead = False

    def __init__(self, kv_dtype: KvDtype = "f32", *, rounds_to_bf16: bool = False) -> None:
        self.packer = ReferencePacker()
        self._kv_dtype = kv_dtype
        self._rounds_to_bf16 = rounds_to_bf16

    def upload(self, batch: Batch) -> Batch:
        """Nothing to move."""
        return batch

    def download(self, x: Floats) -> Floats:
        """Nothing to move."""
        return x

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[ReferenceCache]:
        """Zeroed blocks for each layer."""

        def layer(chunk: int | None) -> ReferenceCache:
            dims = (blocks[0] if chunk is None else blocks[1], shape.kv_heads, block_size, shape.head_size)
            return ReferenceCache(np.zeros(dims, np.float32), np.zeros(dims, np.float32))

        return [layer(chunk) for chunk in shape.chunks]

    def block_bytes(self, layers: Sequence[ReferenceCache]) -> int:
        """Bytes of a block."""
        return contents.block_bytes(array for layer in layers for array in (layer.keys, layer.values))

    def read_block(self, layers: Sequence[ReferenceCache], block: int) -> bytes:
        """Bytes out."""
        return contents.read_block((array for layer in layers for array in (layer.keys, layer.values)), block)

    def write_block(self, layers: Sequence[ReferenceCache], block: int, content: bytes) -> None:
        """Bytes in."""
        contents.write_block((array for layer in layers for array in (layer.keys, layer.values)), block, content)

    def embed(self, table_VD: Packed, tokens_T: Ints) -> Floats:
        """Rows of the table, decoded."""
        if isinstance(table_VD, Dense):
            return table_VD.values[tokens_T].astype(np.float32)
        return packed.decode(table_VD)[tokens_T]

    def angles(self, positions_T: Ints, setting: Rope) -> tuple[Floats, Floats]:
        """Cosines and sines [T, K/2]."""
        return rope.cosine_sine(positions_T, setting)

    def norm(self, x_TD: Floats, weight_D: Dense, epsilon: float) -> Floats:
        """RMS norm with a weight."""
        return self.unit_norm(x_TD, epsilon) * weight_D.values.astype(np.float32)

    def linear(self, x_TD: Floats, weight_ND: Packed) -> Floats:
        """Dense: float32 product. Integer: int8 activations, exact int32 sums, two scales at the end."""
        if isinstance(weight_ND, Refined):
            return self.linear(x_TD, weight_ND.coarse) + self.linear(x_TD, weight_ND.residual)
        if isinstance(weight_ND, Dense):
            if self._rounds_to_bf16 and weight_ND.values.dtype == packed.BF16:
                x_TD = kept(x_TD, "bf16")
            result: Floats = x_TD @ weight_ND.values.astype(np.float32).T
            return result
        if isinstance(weight_ND, Fp8):
            if self._rounds_to_bf16:
                x_TD = kept(x_TD, "bf16")
            return self.linear(x_TD, Dense(packed.decode(weight_ND)))
        return self.integer_product(quantize_activations(x_TD), weight_ND)

    def integer_product(self, x: ActivationCodes, weight_ND: packed.Int8 | packed.Int4 | Group4) -> Floats:
        """sum(code * integer) * (activation scale * weight scale), the scales multiplied first.

        Group4 has a scale and an offset in every group: there it is the product of what both sides stand for.
        """
        if isinstance(weight_ND, Group4):
            return self.linear(x.values(), Dense(packed.decode(weight_ND)))
        rows, columns = weight_ND.shape
        integers_ND = packed.integer_rows(weight_ND)[:rows, :columns]
        # float64 holds every int32 sum exactly, and its product runs through BLAS
        sums_RN = x.codes_RD.astype(np.float64) @ integers_ND.astype(np.float64).T
        return x.fold(sums_RN.astype(np.float32) * (x.scales_R[:, None] * weight_ND.scales[None, :rows]))

    def logits(self, x_RD: Floats, head_VD: Packed) -> Floats:
        """linear; of a Refined head the residual counts in each row's best panels only."""
        if not isinstance(head_VD, Refined):
            return self.linear(x_RD, head_VD)
        y_RV = self.linear(x_RD, head_VD.coarse)
        tokens = y_RV.shape[1]
        missing = packed.padded(tokens, PANEL_ROWS) - tokens
        padded_RV = np.pad(y_RV, ((0, 0), (0, missing)), constant_values=-np.inf)
        best_RP = np.maximum.reduceat(padded_RV, np.arange(0, tokens, PANEL_ROWS), axis=-1)
        chosen_RP = np.zeros(best_RP.shape, bool)
        order_RP = np.argsort(-best_RP, axis=-1, kind="stable")[:, : packed.refined_panels(tokens)]
        np.put_along_axis(chosen_RP, order_RP, True, axis=-1)
        counts_RV = np.repeat(chosen_RP, PANEL_ROWS, axis=-1)[:, :tokens]
        return np.where(counts_RV, y_RV + self.linear(x_RD, head_VD.residual), y_RV)

    def split_heads(self, qkv_TN: Floats, heads: int, kv_heads: int) -> tuple[Floats, Floats, Floats]:
        """Cut the columns into q, k and v heads."""
        rows = len(qkv_TN)
        all_heads = qkv_TN.reshape(rows, heads + 2 * kv_heads, -1)
        return all_heads[:, :heads], all_heads[:, heads : heads + kv_heads], all_heads[:, heads + kv_heads :]

    def rotate(self, x_THK: Floats, angles: tuple[Floats, Floats], setting: Rope) -> Floats:
        """Turn each pair (a, b) into (a cos - b sin, a sin + b cos)."""
        cosine: Floats = angles[0][:, None, :]
        sine: Floats = angles[1][:, None, :]
        half = x_THK.shape[-1] // 2
        result = np.empty(x_THK.shape, np.float32)
        first, second = (
            (np.s_[..., 0::2], np.s_[..., 1::2]) if setting.interleaved else (np.s_[..., :half], np.s_[..., half:])
        )
        result[first] = x_THK[first] * cosine - x_THK[second] * sine
        result[second] = x_THK[first] * sine + x_THK[second] * cosine
        return result

    def unit_norm(self, x: Floats, epsilon: float) -> Floats:
        """x / sqrt(mean(x^2) + epsilon) over the last axis."""
        mean: Floats = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        result: Floats = x / np.sqrt(mean + np.float32(epsilon))
        return result

    def temperature(self, q_THK: Floats, positions_T: Ints, setting: Temperature) -> Floats:
        """Scale queries by 1 + scale * ln(1 + floor((p + 1) / floor))."""
        steps_T = np.floor((positions_T.astype(np.float32) + 1) / np.float32(setting.floor))
        factors_T = np.float32(1) + np.float32(setting.scale) * np.log1p(steps_T)
        result: Floats = q_THK * factors_T.astype(np.float32)[:, None, None]
        return result

    def attend(
        self,
        q_THK: Floats,
        k_TGK: Floats,
        v_TGK: Floats,
        cache: ReferenceCache,
        batch: Batch,
        pages: Pages,
        chunk: int | None,
    ) -> Floats:
        """Store keys and values, then one sequence after the other, one query after the other."""
        block_size = cache.keys.shape[2]
        blocks_T, offsets_T = pages.slots_T // block_size, pages.slots_T % block_size
        cache.keys[blocks_T, :, offsets_T] = kept(k_TGK, self._kv_dtype)
        cache.values[blocks_T, :, offsets_T] = kept(v_TGK, self._kv_dtype)
        q_THK = q_THK * np.float32(1 / np.sqrt(np.float32(q_THK.shape[-1])))
        if self._kv_dtype == "int8":
            q_THK = kept(q_THK, "int8")
        output_THK = np.empty(q_THK.shape, np.float32)
        for sequence, (start, stop) in enumerate(zip(batch.starts_S[:-1], batch.starts_S[1:], strict=True)):
            for row in range(start, stop):
                position = int(batch.positions_T[row])
                first = 0 if chunk is None else position // chunk * chunk
                slots = np.arange(first, position + 1) - int(pages.bases_S[sequence])
                blocks = pages.blocks_SB[sequence, slots // block_size]
                keys_LGK = cache.keys[blocks, :, slots % block_size]
                values_LGK = cache.values[blocks, :, slots % block_size]
                output_THK[row] = attend_one(q_THK[row], keys_LGK, values_LGK)
        return output_THK.reshape(len(q_THK), -1)

    def add(self, x_TD: Floats, y_TD: Floats) -> Floats:
        """x + y."""
        return x_TD + y_TD

    def swiglu(self, gate_up_TN: Floats) -> Floats:
        """silu(first half) * second half."""
        width = gate_up_TN.shape[-1] // 2
        gate_TF, up_TF = gate_up_TN[:, :width], gate_up_TN[:, width:]
        return gate_TF * sigmoid(gate_TF) * up_TF

    def route(self, x_TD: Floats, router_ED: Dense, active: int) -> tuple[Ints, Floats]:
        """Best logits first; a stable sort keeps the lower index on ties."""
        logits_TE = self.linear(x_TD, router_ED)
        experts_TA = np.argsort(-logits_TE, axis=-1, kind="stable")[:, :active]
        gates_TA = sigmoid(np.take_along_axis(logits_TE, experts_TA, axis=-1))
        return experts_TA.astype(np.int32), gates_TA

    def experts(
        self, x_TD: Floats, experts_TA: Ints, gates_TA: Floats, gate_up_END: Packed, down_EDF: Packed
    ) -> Floats:
        """Every token through each of its experts, slot after slot."""
        output_TD = np.zeros((len(x_TD), down_EDF.shape[1]), np.float32)
        for slot in range(experts_TA.shape[1]):
            for expert in np.unique(experts_TA[:, slot]):
                rows = np.flatnonzero(experts_TA[:, slot] == expert)
                gate_up_ND = packed.matrix(gate_up_END, int(expert))
                down_DF = packed.matrix(down_EDF, int(expert))
                hidden = self.gated_linear(x_TD[rows], gates_TA[rows, slot], gate_up_ND)
                output_TD[rows] += self.linear(self.swiglu(hidden), down_DF)
        return output_TD

    def gated_linear(self, x_TD: Floats, gates_T: Floats, weight_ND: Packed) -> Floats:
        """linear(gate * x); integer weights fold the gate into the activation scale."""
        if isinstance(weight_ND, Dense | Fp8):
            return self.linear(x_TD * gates_T[:, None], weight_ND)
        assert not isinstance(weight_ND, Refined), "experts are never Refined"
        return self.integer_product(quantize_activations(x_TD).scaled(gates_T), weight_ND)

    def take(self, x_TD: Floats, rows_R: Ints) -> Floats:
        """The named rows."""
        return x_TD[rows_R]

    def sample(self, logits_RV: Floats, rows: Sequence[RowSampling]) -> list[Drawn]:
        """See ops.sampling."""
        return sampling.sample(logits_RV, rows)


def kept(x_THK: Floats, kv_dtype: KvDtype) -> Floats:
    """What a cache of this kind keeps of keys and values; int8 has one scale per head and token."""
    if kv_dtype == "f32":
        return x_THK
    if kv_dtype == "bf16":
        return x_THK.astype(packed.BF16).astype(np.float32)
    codes, scales = packed.quantize_int8(x_THK.reshape(-1, x_THK.shape[-1]))
    result: Floats = (codes.astype(np.float32) * scales[:, None]).reshape(x_THK.shape)
    return result


def attend_one(q_HK: Floats, keys_LGK: Floats, values_LGK: Floats) -> Floats:
    """Softmax attention of one query, already scaled, over L keys; query head j reads KV head j // (H / G)."""
    heads, size = q_HK.shape
    q_GJK = q_HK.reshape(keys_LGK.shape[1], -1, size)
    scores_GJL = np.einsum("gjk,lgk->gjl", q_GJK, keys_LGK)
    weights_GJL = np.exp(scores_GJL - scores_GJL.max(axis=-1, keepdims=True))  # exp overflows above 88
    weights_GJL /= weights_GJL.sum(axis=-1, keepdims=True)
    result: Floats = np.einsum("gjl,lgk->gjk", weights_GJL, values_LGK).reshape(heads, size)
    return result


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow for large negative x."""
    small: Floats = np.exp(-np.abs(x))
    result: Floats = np.where(x >= 0, np.float32(1), small) / (np.float32(1) + small)
    return result

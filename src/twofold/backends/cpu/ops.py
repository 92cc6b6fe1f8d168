"""The ops on native kernels: allocate the output, name the kernel. The extension checks every argument (native/)."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twofold.backends.cpu import mapped
from twofold.backends.cpu.cache import CpuCache, new_layers
from twofold.backends.cpu.drawing import Sampler
from twofold.errors import NativeUnavailable
from twofold.ops import contents, packed, rope
from twofold.ops.packed import (
    BF16,
    AnyArray,
    Dense,
    Floats,
    Fp8,
    Group4,
    Int4,
    Int8,
    Packed,
    Refined,
    refined_panels,
)
from twofold.ops.types import Batch, CacheShape, Drawn, KvDtype, Pages, Rope, RowSampling, Target, Temperature

if TYPE_CHECKING:
    from twofold.backends.cpu import _native

Ints = npt.NDArray[np.int32]


def load_native() -> Any:
    """The extension module twofold.backends.cpu._native.

    Raises NativeUnavailable when it was not built or does not load here.
    """
    try:
        return importlib.import_module("twofold.backends.cpu._native")
    except ImportError as error:
        raise NativeUnavailable(
            f"the native kernels do not load ({error}); expected twofold/backends/cpu/_native. Build them with "
            "`pip install .` (a C++20 compiler and CMake are needed), or use the reference backend."
        ) from error


class CpuPacker:
    """Packs weights natively, in parallel, with the bits of ops.packed.encode."""

    moves_weights = False

    def __init__(self, module: Any, native: _native.Native) -> None:
        self._module = module
        self._native = native

    def finish(self, weight: Packed, target: Target) -> Packed:
        """As it is."""
        return weight

    def arena(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory for weights on pages of its own, huge ones where the system gives them."""
        result: npt.NDArray[np.uint8] = self._module.arena(size_bytes)
        return result

    def map_file(self, descriptor: int, begin: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """See ops.packed.MappingPacker.map_file."""
        return mapped.map_file(self._module, descriptor, begin, size_bytes)

    def settle(self) -> None:
        """See ops.packed.MappingPacker.settle."""
        mapped.settle()

    def encode(self, rows_ND: AnyArray, into: Packed, first_row: int) -> None:
        """See ops.packed.Packer.encode."""
        bits = rows_ND.view(np.uint16) if rows_ND.dtype == BF16 else rows_ND
        if isinstance(into, Refined):
            coarse = wrap(self._module, into.coarse)
            self._native.encode(bits, coarse, first_row)
            self._native.encode_residual(bits, coarse, wrap(self._module, into.residual), first_row)
        elif isinstance(into, Group4 | Fp8):
            packed.encode(rows_ND, into, first_row)  # only tests and conversions make these, from codes or plainly
        else:
            self._native.encode(bits, wrap(self._module, into), first_row)


def wrap(module: Any, weight: Dense | Int8 | Int4 | Group4 | Fp8) -> _native.Weight:
    """The native view of a packed weight; it keeps the arrays alive, not the dataclass."""
    result: _native.Weight
    if isinstance(weight, Int4):
        result = module.int4(weight.codes, weight.multipliers, weight.scales, weight.shape)
    elif isinstance(weight, Int8):
        result = module.int8(weight.codes, weight.scales, weight.shape)
    elif isinstance(weight, Group4):
        result = module.group4(weight.codes, weight.halves.view(np.uint16), weight.shape)
    elif isinstance(weight, Fp8):
        result = module.fp8(weight.values, weight.scales, weight.shape)
    else:
        is_bf16 = weight.values.dtype == BF16
        result = module.dense(weight.values.view(np.uint16) if is_bf16 else weight.values, weight.shape, is_bf16)
    return result


def temperature_factors(positions_T: Ints, setting: Temperature) -> Floats:
    """What Ops.temperature multiplies queries at these positions by, float32 [T]."""
    steps_T = np.floor((positions_T.astype(np.float32) + 1) / np.float32(setting.floor))
    factors_T: Floats = np.float32(1) + np.float32(setting.scale) * np.log1p(steps_T)
    return factors_T


REUSED_FROM = 64 * 1024
"""Items from which an output pays for the call: below it NumPy's own memory is warm anyway."""


class CpuOps:
    """All ops on native kernels; see ops.interface.Ops for shapes and meaning.

    `isa` names one of native.isas() (None: the best this CPU has); `threads` sets the pool that all instances share
    (None: leave it, at first one per physical core). Keys and values are kept as `kv_dtype`.
    Raises NativeUnavailable without the extension module, ValueError for an ISA this CPU lacks.
    """

    runs_ahead = False

    def __init__(self, isa: str | None = None, threads: int | None = None, kv_dtype: KvDtype = "bf16") -> None:
        self._module = load_native()
        self._native: _native.Native = self._module.Native(isa or "")
        if threads is not None:
            self._module.set_threads(threads)
        self._kv_dtype = kv_dtype
        self._weights: dict[int, tuple[weakref.ref[Packed], _native.Weight]] = {}
        self._sampler = Sampler(self._native)
        self.packer = CpuPacker(self._module, self._native)

    @property
    def isa(self) -> str:
        """Name of the kernels in use."""
        return self._native.isa

    def _view(self, weight: Packed) -> _native.Weight:
        """The native view of a weight, made at its first use and dropped with it."""
        assert not isinstance(weight, Refined), "the halves of a Refined weight are viewed by themselves"
        key = id(weight)
        known = self._weights.get(key)
        if known is None:
            known = (weakref.ref(weight, lambda _: self._weights.pop(key, None)), wrap(self._module, weight))
            self._weights[key] = known
        return known[1]

    def _output(self, *shape: int) -> Floats:
        """Memory for what an op returns. Large arrays come from memory that was used before (native/memory.h)."""
        if prod(shape) < REUSED_FROM:
            return np.empty(shape, np.float32)
        result: Floats = self._module.floats(shape)
        return result

    def upload(self, batch: Batch) -> Batch:
        """Nothing to move."""
        return batch

    def download(self, x: Floats) -> Floats:
        """Nothing to move."""
        return x

    def new_cache(self, shape: CacheShape, blocks: tuple[int, int], block_size: int) -> list[CpuCache]:
        """Zeroed blocks for each layer."""
        are_local = [chunk is not None for chunk in shape.chunks]

        def layers(count: int, of_kind: int) -> Iterator[CpuCache]:
            dims = (of_kind, shape.kv_heads, block_size, shape.head_size)
            return iter(new_layers(self._module, self._kv_dtype, count, dims))

        whole, local = layers(are_local.count(False), blocks[0]), layers(are_local.count(True), blocks[1])
        return [next(local if is_local else whole) for is_local in are_local]

    def block_bytes(self, layers: Sequence[CpuCache]) -> int:
        """Bytes of a block."""
        return contents.block_bytes(array for layer in layers for array in layer.arrays)

    def read_block(self, layers: Sequence[CpuCache], block: int) -> bytes:
        """Bytes out."""
        return contents.read_block((array for layer in layers for array in layer.arrays), block)

    def write_block(self, layers: Sequence[CpuCache], block: int, content: bytes) -> None:
        """Bytes in."""
        contents.write_block((array for layer in layers for array in layer.arrays), block, content)

    def embed(self, table_VD: Packed, tokens_T: Ints) -> Floats:
        """Rows of the table, decoded."""
        if isinstance(table_VD, Refined):
            return self.add(self.embed(table_VD.coarse, tokens_T), self.embed(table_VD.residual, tokens_T))
        x_TD = self._output(len(tokens_T), table_VD.shape[1])
        self._native.embed(self._view(table_VD), tokens_T, x_TD)
        return x_TD

    def angles(self, positions_T: Ints, setting: Rope) -> tuple[Floats, Floats]:
        """Cosines and sines [T, K/2]."""
        return rope.cosine_sine(positions_T, setting)

    def norm(self, x_TD: Floats, weight_D: Dense, epsilon: float) -> Floats:
        """RMS norm with a weight."""
        y_TD = self._output(*x_TD.shape)
        weight = np.asarray(weight_D.values, np.float32)
        self._native.norm(x_TD[:, None, :], weight, epsilon, y_TD[:, None, :])
        return y_TD

    def linear(self, x_TD: Floats, weight_ND: Packed) -> Floats:
        """Product with a weight of any format."""
        if isinstance(weight_ND, Refined):
            return self.add(self.linear(x_TD, weight_ND.coarse), self.linear(x_TD, weight_ND.residual))
        y_TN = self._output(len(x_TD), weight_ND.shape[0])
        self._native.linear(x_TD, self._view(weight_ND), y_TN)
        return y_TN

    def logits(self, x_RD: Floats, head_VD: Packed) -> Floats:
        """linear; of a Refined head the residual counts in each row's best panels only."""
        if not isinstance(head_VD, Refined):
            return self.linear(x_RD, head_VD)
        y_RV = self.linear(x_RD, head_VD.coarse)
        self._native.refine(x_RD, self._view(head_VD.residual), refined_panels(head_VD.shape[0]), y_RV)
        return y_RV

    def split_heads(self, qkv_TN: Floats, heads: int, kv_heads: int) -> tuple[Floats, Floats, Floats]:
        """Cut the columns into q, k and v heads: views."""
        all_heads = qkv_TN.reshape(len(qkv_TN), heads + 2 * kv_heads, -1)
        return all_heads[:, :heads], all_heads[:, heads : heads + kv_heads], all_heads[:, heads + kv_heads :]

    def rotate(self, x_THK: Floats, angles: tuple[Floats, Floats], setting: Rope) -> Floats:
        """Rotary position embedding."""
        y_THK = self._output(*x_THK.shape)
        self._native.rotate(x_THK, angles[0], angles[1], setting.interleaved, y_THK)
        return y_THK

    def unit_norm(self, x_THK: Floats, epsilon: float) -> Floats:
        """RMS norm of every head."""
        y_THK = self._output(*x_THK.shape)
        self._native.unit_norm(x_THK, epsilon, y_THK)
        return y_THK

    def temperature(self, q_THK: Floats, positions_T: Ints, setting: Temperature) -> Floats:
        """Scale queries by 1 + scale * ln(1 + floor((p + 1) / floor))."""
        if not len(positions_T) or positions_T.max() + 1 < setting.floor:
            return q_THK  # the factor is exactly 1
        return self._scaled(q_THK, temperature_factors(positions_T, setting))

    def _scaled(self, q_THK: Floats, factors_T: Floats) -> Floats:
        y_THK = self._output(*q_THK.shape)
        self._native.scale_heads(q_THK, factors_T, y_THK)
        return y_THK

    def attend(
        self,
        q_THK: Floats,
        k_TGK: Floats,
        v_TGK: Floats,
        cache: CpuCache,
        batch: Batch,
        pages: Pages,
        chunk: int | None,
    ) -> Floats:
        """Store keys and values, then attend."""
        o_THK = self._output(*q_THK.shape)
        self._native.attend(
            q_THK,
            k_TGK,
            v_TGK,
            cache.native,
            batch.positions_T,
            batch.starts_S,
            pages.slots_T,
            pages.blocks_SB,
            pages.bases_S,
            chunk or 0,
            o_THK,
        )
        return o_THK.reshape(len(q_THK), -1)

    def add(self, x_TD: Floats, y_TD: Floats) -> Floats:
        """x + y."""
        z_TD = self._output(*x_TD.shape)
        self._native.add(x_TD, y_TD, z_TD)
        return z_TD

    def swiglu(self, gate_up_TN: Floats) -> Floats:
        """silu(first half) * second half, in place of the first half."""
        a_TF = gate_up_TN[:, : gate_up_TN.shape[1] // 2]
        self._native.swiglu(gate_up_TN, a_TF)
        return a_TF

    def route(self, x_TD: Floats, router_ED: Packed, active: int) -> tuple[Ints, Floats]:
        """The best experts and their gates."""
        experts_TA = self._output(len(x_TD), active).view(np.int32)
        gates_TA = self._output(len(x_TD), active)
        self._native.route(x_TD, self._view(router_ED), experts_TA, gates_TA)
        return experts_TA, gates_TA

    def experts(
        self, x_TD: Floats, experts_TA: Ints, gates_TA: Floats, gate_up_END: Packed, down_EDF: Packed
    ) -> Floats:
        """Every token through each of its experts."""
        y_TD = self._output(len(x_TD), down_EDF.shape[1])
        gates = np.ascontiguousarray(gates_TA)
        self._native.experts(x_TD, experts_TA, gates, self._view(gate_up_END), self._view(down_EDF), y_TD)
        return y_TD

    def take(self, x_TD: Floats, rows_R: Ints) -> Floats:
        """The named rows."""
        return x_TD[rows_R]

    def sample(self, logits_RV: Floats, rows: Sequence[RowSampling]) -> list[Drawn]:
        """See ops.sampling."""
        return self._sampler.sample(logits_RV, rows)

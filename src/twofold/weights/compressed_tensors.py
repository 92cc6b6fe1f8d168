"""Reads compressed-tensors: what llm-compressor writes and the public FP8 Maverick checkpoints hold.

    int-quantized, float-quantized, naive-quantized    MODULE.weight I8 or F8_E4M3 [N, D]
    pack-quantized                                     MODULE.weight_packed I32 [N, D * bits / 32], weight_shape [2];
                                                       code c sits at bits c * bits of its row, as q + 2^(bits - 1)
    nvfp4-pack-quantized                               MODULE.weight_packed U8 [N, D / 2], weight_scale F8_E4M3
                                                       [N, D / 16], weight_global_scale F32 [1]: w = q * (scale / it)
    mxfp4-pack-quantized                               weight_packed as above, weight_scale U8 [N, D / 32] (fp4.py)
    MODULE.weight_scale        one number, [N, 1], [N, groups] or blocks [rows / a, D / b]: w = (q - z) * scale
    MODULE.weight_zero_point   as weight_scale; packed ones are packed along N, as z + 2^(bits - 1)
    MODULE.weight_g_idx        group of each column, where columns were reordered

Scales of activations (input_scale, input_global_scale) are not used: activations stay float32 or are quantised per
token while running. Source: the compressed-tensors package, compressors/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from twofold.errors import CheckpointError
from twofold.ops.codes import Coded, Codes, Fp8Codes
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.weights.bits import unpack_words
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.compressed_settings import CompressedSettings, read_settings
from twofold.weights.fp4 import MXFP4_GROUP, NVFP4_GROUP, powers_of_two, scale_groups, unpack_fp4
from twofold.weights.group_codes import MIDDLE, fit_halves, group_codes, has_whole_groups
from twofold.weights.scales import FLOAT_DTYPES, ONE_NUMBER, check_fp8, check_part, finite, not_negative, positive

PARTS = (
    *("weight", "weight_packed", "weight_scale", "weight_global_scale", "weight_shape", "weight_zero_point"),
    "weight_g_idx",
)
Shape = tuple[int, int]


class CompressedTensorsCodec:
    """Codec of quant_method "compressed-tensors". Which modules are quantised is told by the tensors themselves."""

    def __init__(self, settings: CompressedSettings) -> None:
        self.name = settings.name
        self.settings = settings
        self._formats: dict[str, Format] = {}

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Every module with a weight_scale, checked."""
        names = checkpoint.names
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            module = name.removesuffix(".weight_scale")
            if module == name:
                continue
            self.check(checkpoint, module)
            found[f"{module}.weight"] = tuple(f"{module}.{part}" for part in PARTS if f"{module}.{part}" in names)
        return found

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Raise CheckpointError unless dtypes and shapes of a module fit together."""
        storage = storage_of(checkpoint, module)
        weight = f"{module}.weight" if storage == "plain" else f"{module}.weight_packed"
        wanted = {"plain": ("I8", "F8_E4M3"), "words": ("I32",), "bytes": ("U8",)}[storage]
        if weight not in checkpoint.names:
            raise CheckpointError(
                f"tensor {weight!r} is missing beside {module}.weight_scale. Download the checkpoint again."
            )
        found = checkpoint.shape(weight)
        if checkpoint.dtype(weight) not in wanted or len(found) != 2 or 0 in found:
            raise CheckpointError(
                f"tensor {weight!r} is {checkpoint.dtype(weight)} {list(found)}; a matrix of {' or '.join(wanted)} was "
                "expected beside a weight_scale. Download the checkpoint again."
            )
        if storage == "bytes":
            check_fp4(checkpoint, module, (found[0], found[1] * 2))
            return
        if storage == "words":
            packed_bits(checkpoint, module)
        shape = matrix_shape(checkpoint, module)
        scale = f"{module}.weight_scale"
        check_part(checkpoint, scale, FLOAT_DTYPES, *self.scale_shapes(shape))
        self.check_zero_point(checkpoint, module, shape)
        if f"{module}.weight_g_idx" in checkpoint.names:
            check_part(checkpoint, f"{module}.weight_g_idx", ("I32", "I64"), (shape[1],))

    def scale_shapes(self, shape: Shape) -> list[tuple[int, ...]]:
        """Every shape the scales of a [rows, columns] weight may have under this config."""
        rows, columns = shape
        groups = [(rows, -(-columns // size)) for size in self.settings.groups]
        blocks = [(-(-rows // a), -(-columns // b)) for a, b in self.settings.blocks]
        return [*ONE_NUMBER, (rows,), (rows, 1), *groups, *blocks]

    def check_zero_point(self, checkpoint: Checkpoint, module: str, shape: Shape) -> None:
        """Zero points have the shape of the scales, packed ones with fewer rows."""
        name = f"{module}.weight_zero_point"
        if name not in checkpoint.names:
            return
        scales = checkpoint.shape(f"{module}.weight_scale")
        if storage_of(checkpoint, module) == "words" and checkpoint.dtype(name) == "I32":
            bits = packed_bits(checkpoint, module)
            check_part(checkpoint, name, ("I32",), (-(-shape[0] * bits // 32), *scales[1:]))
        else:
            check_part(checkpoint, name, ("I8", "F8_E4M3", *FLOAT_DTYPES), scales)

    def shape(self, checkpoint: Checkpoint, name: str) -> Shape:
        """See Codec."""
        return matrix_shape(checkpoint, name.removesuffix(".weight"))

    def format(self, checkpoint: Checkpoint, name: str) -> Format:
        """Eight bits with a scale per row (or one at all) are Int8 or Fp8 as they are, four in whole groups Group4."""
        module = name.removesuffix(".weight")
        if name not in self._formats:
            self._formats[name] = self.find_format(checkpoint, module)
        return self._formats[name]

    def find_format(self, checkpoint: Checkpoint, module: str) -> Format:
        """The packed format that holds a module as it is, or bf16."""
        storage, (rows, columns) = storage_of(checkpoint, module), matrix_shape(checkpoint, module)
        shape = checkpoint.shape(f"{module}.weight_scale")
        is_plain = shape in (*ONE_NUMBER, (rows,), (rows, 1)) and f"{module}.weight_zero_point" not in checkpoint.names
        if storage == "plain" or (storage == "words" and packed_bits(checkpoint, module) == 8):
            is_float = storage == "plain" and checkpoint.dtype(f"{module}.weight") == "F8_E4M3"
            return ("fp8" if is_float else "int8") if is_plain else "bf16"
        if storage == "bytes" or len(shape) != 2 or shape[0] != rows:
            return "bf16"
        is_whole = has_whole_groups(self.groups(checkpoint, module, columns))
        return "group4" if is_whole and fit_halves(scales_of(checkpoint, module)) else "bf16"

    def rows(
        self, checkpoint: Checkpoint, name: str, start: int, stop: int, expert: int | None = None
    ) -> Coded | Floats:
        """See Codec."""
        assert expert is None, "experts are modules of their own in this format"
        module = name.removesuffix(".weight")
        total, columns = shape = matrix_shape(checkpoint, module)
        stop = min(stop, total)
        storage = storage_of(checkpoint, module)
        if storage == "bytes":
            return fp4_rows(checkpoint, module, start, stop)
        q_ND = words_rows(checkpoint, module, start, stop) if storage == "words" else plain_rows(
            checkpoint, module, start, stop
        )  # fmt: skip
        scales = scales_of(checkpoint, module)
        zeros = zero_points(checkpoint, module, total)
        form = self.format(checkpoint, name)
        if form == "group4":
            z_NG = np.zeros_like(scales) if zeros is None else zeros
            groups_D = self.groups(checkpoint, module, columns)
            return group_codes(q_ND + MIDDLE, scales[start:stop], z_NG[start:stop] + np.float32(MIDDLE), groups_D)
        if form in ("int8", "fp8"):
            s_N = np.ascontiguousarray(np.broadcast_to(scales.reshape(-1), total)[start:stop], np.float32)
            return Codes(q_ND.astype(np.int8), None, s_N) if form == "int8" else Fp8Codes(q_ND, s_N)
        values_ND = q_ND.astype(np.float32)
        groups_D = self.groups(checkpoint, module, columns)
        if zeros is not None:
            values_ND -= self.spread(zeros, shape, groups_D)[start:stop]
        result: Floats = values_ND * self.spread(scales, shape, groups_D)[start:stop]
        return result

    def groups(self, checkpoint: Checkpoint, module: str, columns: int) -> AnyArray:
        """The column of scales that belongs to each column of the weight."""
        name = f"{module}.weight_g_idx"
        shape = checkpoint.shape(f"{module}.weight_scale")
        count = shape[1] if len(shape) == 2 else 1
        if name not in checkpoint.names:
            sizes = [*self.settings.groups, *(size for _, size in self.settings.blocks), columns]
            return np.arange(columns) // next(size for size in sizes if -(-columns // size) == count)
        found = checkpoint.tensor(name).astype(np.int64)
        if (found < 0).any() or (found >= count).any():
            raise CheckpointError(
                f"{name}: one group from 0 to {count - 1} per column was expected. Download the file again."
            )
        return found

    def spread(self, numbers: Floats, shape: Shape, groups_D: AnyArray) -> Floats:
        """Scales or zero points as a view or gather that broadcasts over [rows, columns]."""
        rows, columns = shape
        if numbers.size == 1:
            return np.broadcast_to(numbers.reshape(1, 1), (rows, 1))
        if len(numbers) == rows:
            return numbers.reshape(rows, -1)[:, groups_D % (numbers.size // rows)]
        fitting = ((a, b) for a, b in self.settings.blocks if numbers.shape == (-(-rows // a), -(-columns // b)))
        a, b = next(fitting)
        result: Floats = numbers[np.arange(rows) // a][:, np.arange(columns) // b]
        return result


def storage_of(checkpoint: Checkpoint, module: str) -> Literal["plain", "words", "bytes"]:
    """Whether codes have a byte each, share 32-bit words, or are two to a byte."""
    name = f"{module}.weight_packed"
    if name not in checkpoint.names:
        return "plain"
    return "bytes" if checkpoint.dtype(name) == "U8" else "words"


def matrix_shape(checkpoint: Checkpoint, module: str) -> Shape:
    """Logical shape of a module."""
    storage = storage_of(checkpoint, module)
    if storage == "words":
        name = f"{module}.weight_shape"
        if (
            name not in checkpoint.names
            or checkpoint.shape(name) != (2,)
            or checkpoint.dtype(name) not in ("I64", "I32")
        ):
            raise CheckpointError(f"tensor {name!r} with two whole numbers is missing. Download the checkpoint again.")
        rows, columns = (int(size) for size in checkpoint.tensor(name))
        return rows, columns
    rows, columns = checkpoint.shape(f"{module}.weight" if storage == "plain" else f"{module}.weight_packed")
    return rows, columns if storage == "plain" else columns * 2


def packed_bits(checkpoint: Checkpoint, module: str) -> int:
    """Bits of a packed code, by the width of the packed tensor."""
    rows, columns = matrix_shape(checkpoint, module)
    found = checkpoint.shape(f"{module}.weight_packed")
    for bits in (4, 8):
        if columns > 0 and found == (rows, -(-columns * bits // 32)):
            return bits
    raise CheckpointError(
        f"{module}.weight_packed has shape {list(found)}; for a weight of [{rows}, {columns}] codes of 4 or 8 bits "
        "can be read. Use a checkpoint with such codes."
    )


def check_fp4(checkpoint: Checkpoint, module: str, shape: Shape) -> None:
    """Scales of NVFP4 (with one of the whole tensor beside them) or MXFP4."""
    rows, columns = shape
    scale = f"{module}.weight_scale"
    is_mx = checkpoint.dtype(scale) == "U8"
    group = MXFP4_GROUP if is_mx else NVFP4_GROUP
    if columns % group:
        raise CheckpointError(
            f"{module}.weight_packed has {columns} columns; groups of {group} were expected. Download it again."
        )
    check_part(checkpoint, scale, ("U8",) if is_mx else ("F8_E4M3",), (rows, columns // group))
    if not is_mx:
        check_part(checkpoint, f"{module}.weight_global_scale", ("F32",), *ONE_NUMBER)


def fp4_rows(checkpoint: Checkpoint, module: str, start: int, stop: int) -> Floats:
    """Rows of an NVFP4 or MXFP4 module."""
    scale = f"{module}.weight_scale"
    stored = checkpoint.tensor(scale)[start:stop]
    if checkpoint.dtype(scale) == "U8":
        scales_NG = powers_of_two(stored, scale)
    else:
        name = f"{module}.weight_global_scale"
        scales_NG = not_negative(stored, scale) / positive(checkpoint.tensor(name), name).reshape(())
    return scale_groups(unpack_fp4(checkpoint.tensor(f"{module}.weight_packed")[start:stop]), scales_NG)


def plain_rows(checkpoint: Checkpoint, module: str, start: int, stop: int) -> AnyArray:
    """Rows of codes that have a byte each."""
    name = f"{module}.weight"
    codes_ND = checkpoint.tensor(name)[start:stop]
    if checkpoint.dtype(name) == "F8_E4M3":
        check_fp8(codes_ND, name)
    return codes_ND


def words_rows(checkpoint: Checkpoint, module: str, start: int, stop: int) -> AnyArray:
    """Rows of codes that share words, int16 around zero."""
    _, columns = matrix_shape(checkpoint, module)
    bits = packed_bits(checkpoint, module)
    words = checkpoint.tensor(f"{module}.weight_packed")[start:stop]
    result: AnyArray = unpack_words(words, bits)[:, :columns].astype(np.int16) - 2 ** (bits - 1)
    return result


def scales_of(checkpoint: Checkpoint, module: str) -> Floats:
    """All scales of a module, float32 as they are stored."""
    name = f"{module}.weight_scale"
    stored = checkpoint.tensor(name)
    if stored.shape in ONE_NUMBER and matrix_shape(checkpoint, module)[0] > 1:
        return positive(stored, name)
    is_float = storage_of(checkpoint, module) == "plain" and checkpoint.dtype(f"{module}.weight") == "F8_E4M3"
    return not_negative(stored, name) if is_float else finite(stored, name)


def zero_points(checkpoint: Checkpoint, module: str, rows: int) -> Floats | None:
    """Zero points, float32 in the shape of the scales; None for symmetric codes."""
    name = f"{module}.weight_zero_point"
    if name not in checkpoint.names:
        return None
    stored = checkpoint.tensor(name)
    if checkpoint.dtype(name) == "I32" and storage_of(checkpoint, module) == "words":
        bits = packed_bits(checkpoint, module)
        stored = unpack_words(np.ascontiguousarray(stored.T), bits).T[:rows].astype(np.float32) - 2 ** (bits - 1)
    return finite(stored, name)


def compressed_tensors_codec(found: Mapping[str, Any]) -> CompressedTensorsCodec:
    """The codec of a quantization_config; UnsupportedModel for formats that cannot be read."""
    return CompressedTensorsCodec(read_settings(found))

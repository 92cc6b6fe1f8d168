"""Reads compressed-tensors: what llm-compressor writes and the public FP8 Maverick checkpoints hold.

    int-quantized, float-quantized, naive-quantized    MODULE.weight I8 or F8_E4M3 [N, D]
    pack-quantized                                     MODULE.weight_packed I32 [N, D * bits / 32], weight_shape [2];
                                                       code c sits at bits c * bits of its row, as q + 2^(bits - 1)
    MODULE.weight_scale        one number, [N, 1], [N, groups] or blocks [rows / a, D / b]: w = (q - z) * scale
    MODULE.weight_zero_point   [N, 1] or [N, groups]; packed ones are packed along N, as z + 2^(bits - 1)
    MODULE.weight_g_idx        group of each column, where columns were reordered

Scales of activations (input_scale) are not used: activations stay float32 or are quantised per token while running.
Source: the compressed-tensors package, compressors/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.codes import Codes
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.weights.bits import unpack_words
from twofold.weights.checkpoint import Checkpoint

METHOD = "compressed-tensors"
FORMATS = ("int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision", "dense")
PARTS = ("weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
FLOAT_DTYPES = ("BF16", "F16", "F32")


class CompressedTensorsCodec:
    """Codec of quant_method "compressed-tensors". Which modules are quantised is told by the tensors themselves."""

    def __init__(self, name: str, block: tuple[int, int] | None) -> None:
        self.name = name
        self.block = block

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Every module with a weight_scale, checked."""
        names = checkpoint.names
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            module = name.removesuffix(".weight_scale")
            if module == name:
                continue
            self.check(checkpoint, module)
            found[module] = tuple(f"{module}.{part}" for part in PARTS if f"{module}.{part}" in names)
        return found

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Raise CheckpointError unless dtypes and shapes of a module fit together."""
        scale = f"{module}.weight_scale"
        dtype, shape = checkpoint.dtype(scale), checkpoint.shape(scale)
        wanted = ("I32",) if is_packed(checkpoint, module) else ("I8", "F8_E4M3")
        weight = f"{module}.weight_packed" if is_packed(checkpoint, module) else f"{module}.weight"
        if weight not in checkpoint.names:
            raise CheckpointError(f"tensor {weight!r} is missing beside {scale!r}. Download the checkpoint again.")
        if checkpoint.dtype(weight) not in wanted or len(checkpoint.shape(weight)) != 2 or dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{module}: weights are {checkpoint.dtype(weight)} {list(checkpoint.shape(weight))} with scales in "
                f"{dtype}; a matrix of {' or '.join(wanted)} with float scales was expected"
            )
        rows, columns = self.shape(checkpoint, module)
        if is_packed(checkpoint, module):
            packed_bits(checkpoint, module)
        fits = shape in ((), (1,), (1, 1), (rows, 1)) or self.block_fits(shape, rows, columns)
        if not fits and not (len(shape) == 2 and shape[0] == rows and 0 < shape[1] <= columns):
            raise CheckpointError(f"{scale}: shape {list(shape)} does not fit a weight of [{rows}, {columns}]")

    def block_fits(self, shape: tuple[int, ...], rows: int, columns: int) -> bool:
        """Whether these are scales of the config's blocks."""
        return self.block is not None and shape == (-(-rows // self.block[0]), -(-columns // self.block[1]))

    def shape(self, checkpoint: Checkpoint, module: str) -> tuple[int, ...]:
        """See Codec."""
        if not is_packed(checkpoint, module):
            return checkpoint.shape(f"{module}.weight")
        name = f"{module}.weight_shape"
        if name not in checkpoint.names or checkpoint.shape(name) != (2,):
            raise CheckpointError(f"tensor {name!r} with two numbers is missing. Download the checkpoint again.")
        rows, columns = (int(size) for size in checkpoint.tensor(name))
        return rows, columns

    def format(self, checkpoint: Checkpoint, module: str) -> Format:
        """Eight-bit codes with one scale per row (or one at all) are Int8 as they are."""
        rows, _ = self.shape(checkpoint, module)
        is_plain = checkpoint.shape(f"{module}.weight_scale") in ((), (1,), (1, 1), (rows, 1))
        is_shifted = f"{module}.weight_zero_point" in checkpoint.names
        has_int8 = (
            packed_bits(checkpoint, module) == 8
            if is_packed(checkpoint, module)
            else checkpoint.dtype(f"{module}.weight") == "I8"
        )
        return "int8" if is_plain and has_int8 and not is_shifted else "bf16"

    def rows(self, checkpoint: Checkpoint, module: str, start: int, stop: int) -> Codes | Floats:
        """See Codec."""
        total, columns = self.shape(checkpoint, module)
        stop = min(stop, total)
        if is_packed(checkpoint, module):
            bits = packed_bits(checkpoint, module)
            words = checkpoint.tensor(f"{module}.weight_packed")[start:stop]
            q_ND = unpack_words(words, bits)[:, :columns].astype(np.int16) - 2 ** (bits - 1)
        else:
            q_ND = checkpoint.tensor(f"{module}.weight")[start:stop]
        scale = checkpoint.tensor(f"{module}.weight_scale").astype(np.float32)
        if self.format(checkpoint, module) == "int8":
            s_N = np.broadcast_to(scale.reshape(-1), total)[start:stop]
            return Codes(q_ND.astype(np.int8), None, np.ascontiguousarray(s_N, np.float32))
        values_ND = q_ND.astype(np.float32)
        groups_D = self.groups(checkpoint, module, columns)
        zeros = zero_points(checkpoint, module, total)
        if zeros is not None:
            values_ND -= np.broadcast_to(zeros, (total, zeros.shape[1]))[start:stop][:, groups_D % zeros.shape[1]]
        result: Floats = values_ND * self.scales(scale, (total, columns), groups_D)[start:stop]
        return result

    def groups(self, checkpoint: Checkpoint, module: str, columns: int) -> AnyArray:
        """The column of scales that belongs to each column of the weight."""
        name = f"{module}.weight_g_idx"
        if name in checkpoint.names:
            found = checkpoint.tensor(name).astype(np.int64)
            count = (*checkpoint.shape(f"{module}.weight_scale"), 1, 1)[1]
            if found.shape != (columns,) or (found < 0).any() or (found >= count).any():
                raise CheckpointError(f"{name}: one group from 0 to {count - 1} per column was expected")
            return found
        shape = checkpoint.shape(f"{module}.weight_scale")
        count = shape[1] if len(shape) == 2 else 1
        return np.arange(columns) // -(-columns // count)

    def scales(self, scale: Floats, shape: tuple[int, int], groups_D: AnyArray) -> Floats:
        """A view or gather of scales that broadcasts over [rows, columns]."""
        rows, columns = shape
        if scale.ndim < 2 or scale.shape == (1, 1):
            return np.broadcast_to(scale.reshape(1, 1), (rows, 1))
        if scale.shape[0] == rows:
            return scale[:, groups_D]
        assert self.block is not None, "checked when the file was opened"
        result: Floats = scale[np.arange(rows) // self.block[0]][:, np.arange(columns) // self.block[1]]
        return result


def is_packed(checkpoint: Checkpoint, module: str) -> bool:
    """Whether codes share 32-bit words."""
    return f"{module}.weight_packed" in checkpoint.names


def packed_bits(checkpoint: Checkpoint, module: str) -> int:
    """Bits of a packed code, by the width of the packed tensor."""
    rows, columns = (int(size) for size in checkpoint.tensor(f"{module}.weight_shape"))
    found = checkpoint.shape(f"{module}.weight_packed")
    for bits in (4, 8):
        if found == (rows, -(-columns * bits // 32)):
            return bits
    raise CheckpointError(
        f"{module}.weight_packed has shape {list(found)}; for a weight of [{rows}, {columns}] codes of 4 or 8 bits "
        "can be read. Use a checkpoint with such codes."
    )


def zero_points(checkpoint: Checkpoint, module: str, rows: int) -> AnyArray | None:
    """Zero points, float32 [rows or 1, groups]; None for symmetric codes."""
    name = f"{module}.weight_zero_point"
    if name not in checkpoint.names:
        return None
    stored = checkpoint.tensor(name)
    if checkpoint.dtype(name) == "I32" and is_packed(checkpoint, module):
        bits = packed_bits(checkpoint, module)
        stored = unpack_words(np.ascontiguousarray(stored.T), bits).T[:rows].astype(np.float32) - 2 ** (bits - 1)
    return np.atleast_2d(stored.astype(np.float32))


def compressed_tensors_codec(found: Mapping[str, Any]) -> CompressedTensorsCodec:
    """The codec of a quantization_config; UnsupportedModel for formats that cannot be read."""
    form = found.get("format")
    if form not in FORMATS:
        raise UnsupportedModel(f"config.json: compressed-tensors format is {form!r}; {', '.join(FORMATS)} can be read")
    weights = [group.get("weights") or {} for group in (found.get("config_groups") or {}).values()]
    blocks = [args["block_structure"] for args in weights if args.get("block_structure")]
    kinds = {(args.get("type"), args.get("num_bits")) for args in weights}
    known: dict[tuple[Any, Any], str] = {("float", 8): "fp8", ("int", 8): "w8a8", ("int", 4): "w4a16"}
    name = known.get(next(iter(kinds)), METHOD) if len(kinds) == 1 else METHOD
    return CompressedTensorsCodec(name, (int(blocks[0][0]), int(blocks[0][1])) if blocks else None)

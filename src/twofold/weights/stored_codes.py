"""How quantised modules lie in a folder of `twofold quantize`, tensor by tensor.

Eight bits, one scale per row, exactly as compressed-tensors "int-quantized" (W8A8) writes it:

    MODULE.weight             I8  [N, D]
    MODULE.weight_scale       F32 [N, 1]

Four bits with multipliers (ops.packed, Int4):

    MODULE.weight_packed      U8  [N, ceil(D / 2)]       ops.levels; column 2j in the low nibble, 2j + 1 in the high
    MODULE.weight_multiplier  I8  [N, ceil(D / 32)]      m in -8..-1, 1..8
    MODULE.weight_scale       F32 [N, 1]
    MODULE.weight_shape       I64 [2]                    (N, D)

A Refined weight has the same three once more with "residual" for "weight".
"""

from __future__ import annotations

import numpy as np

from twofold.errors import CheckpointError
from twofold.ops.codes import Codes
from twofold.ops.levels import LEVELS, ZERO_CODE, codes_of
from twofold.ops.packed import GROUP_COLUMNS, AnyArray, Format
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.scales import finite

PARTS = ("weight_packed", "weight_multiplier", "weight_scale", "weight_shape")


def tensors_of(module: str, codes: Codes, prefix: str = "weight") -> dict[str, AnyArray]:
    """The tensors that hold a module's codes, by name."""
    scales = codes.s_N[:, None]
    if codes.m_NG is None:
        return {f"{module}.weight": codes.q_ND, f"{module}.weight_scale": scales}
    tensors: dict[str, AnyArray] = {
        f"{module}.{prefix}_packed": pack_pairs(codes.q_ND),
        f"{module}.{prefix}_multiplier": codes.m_NG,
        f"{module}.{prefix}_scale": scales,
    }
    if prefix == "weight":
        tensors[f"{module}.weight_shape"] = np.array(codes.q_ND.shape, np.int64)
    if codes.residual is not None:
        tensors |= tensors_of(module, codes.residual, "residual")
    return tensors


def stored_bytes(form: Format, rows: int, columns: int) -> int:
    """Bytes of the tensors of a module in an integer format."""
    if form == "int8":
        return rows * (columns + 4)
    half = rows * (-(-columns // 2) + -(-columns // GROUP_COLUMNS) + 4)
    return half * (2 if form == "refined" else 1) + 16


def pack_pairs(q_ND: AnyArray) -> AnyArray:
    """The codes of levels, two to a byte."""
    rows, columns = q_ND.shape
    stored = np.full((rows, columns + columns % 2), ZERO_CODE, np.uint8)
    stored[:, :columns] = codes_of(q_ND)
    result: AnyArray = stored[:, 0::2] | (stored[:, 1::2] << np.uint8(4))
    return result


def unpack_pairs(packed: AnyArray, columns: int) -> AnyArray:
    """The levels of pack_pairs."""
    levels = np.empty((len(packed), packed.shape[1] * 2), np.int8)
    levels[:, 0::2] = LEVELS[packed & 15]
    levels[:, 1::2] = LEVELS[packed >> 4]
    return levels[:, :columns]


def read_codes(checkpoint: Checkpoint, module: str, start: int, stop: int) -> Codes:
    """Rows start..stop of a module."""
    if f"{module}.weight_packed" not in checkpoint.names:
        scales = finite(checkpoint.tensor(f"{module}.weight_scale")[start:stop, 0], f"{module}.weight_scale")
        return Codes(checkpoint.tensor(f"{module}.weight")[start:stop], None, scales)
    codes = read_int4(checkpoint, module, "weight", start, stop)
    if f"{module}.residual_packed" not in checkpoint.names:
        return codes
    residual = read_int4(checkpoint, module, "residual", start, stop)
    return Codes(codes.q_ND, codes.m_NG, codes.s_N, residual)


def read_int4(checkpoint: Checkpoint, module: str, prefix: str, start: int, stop: int) -> Codes:
    """Rows of one half."""
    columns = module_shape(checkpoint, module)[1]
    q_ND = unpack_pairs(checkpoint.tensor(f"{module}.{prefix}_packed")[start:stop], columns)
    m_NG = checkpoint.tensor(f"{module}.{prefix}_multiplier")[start:stop]
    if ((m_NG == 0) | (np.abs(m_NG.astype(np.int16)) > 8)).any():
        raise CheckpointError(f"{module}: multipliers outside -8..-1, 1..8. The file is damaged; quantise again.")
    name = f"{module}.{prefix}_scale"
    return Codes(q_ND, m_NG, finite(checkpoint.tensor(name)[start:stop, 0], name))


def module_shape(checkpoint: Checkpoint, module: str) -> tuple[int, ...]:
    """Logical shape of a module."""
    if f"{module}.weight_packed" not in checkpoint.names:
        return checkpoint.shape(f"{module}.weight")
    rows, columns = (int(size) for size in checkpoint.tensor(f"{module}.weight_shape"))
    return rows, columns


def check_module(checkpoint: Checkpoint, module: str) -> None:
    """Raise CheckpointError unless a module's tensors are all there, with dtypes and shapes that fit each other."""
    for name, (dtype, shape) in expected(checkpoint, module).items():
        if name not in checkpoint.names:
            raise CheckpointError(f"tensor {name!r} of a quantised module is missing. Quantise or download again.")
        found = (checkpoint.dtype(name), checkpoint.shape(name))
        if found != (dtype, shape):
            raise CheckpointError(
                f"tensor {name!r} is {found[0]} {list(found[1])}; {dtype} {list(shape)} belongs to this module. "
                "The files are damaged or of different models; quantise or download again."
            )


def expected(checkpoint: Checkpoint, module: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of a module."""
    if f"{module}.weight_packed" not in checkpoint.names:
        name = f"{module}.weight"
        shape = checkpoint.shape(name) if name in checkpoint.names else ()
        if len(shape) != 2:
            raise CheckpointError(
                f"tensor {name!r} is missing or no matrix (shape {list(shape)}). Quantise or download again."
            )
        return {f"{module}.weight": ("I8", shape), f"{module}.weight_scale": ("F32", (shape[0], 1))}
    name = f"{module}.weight_shape"
    if name not in checkpoint.names or (checkpoint.dtype(name), checkpoint.shape(name)) != ("I64", (2,)):
        raise CheckpointError(f"tensor {name!r} with two whole numbers is missing. Quantise or download again.")
    rows, columns = module_shape(checkpoint, module)
    result: dict[str, tuple[str, tuple[int, ...]]] = {}
    halves = ("weight", "residual") if f"{module}.residual_packed" in checkpoint.names else ("weight",)
    for half in halves:
        result[f"{module}.{half}_packed"] = ("U8", (rows, -(-columns // 2)))
        result[f"{module}.{half}_multiplier"] = ("I8", (rows, -(-columns // GROUP_COLUMNS)))
        result[f"{module}.{half}_scale"] = ("F32", (rows, 1))
    return result

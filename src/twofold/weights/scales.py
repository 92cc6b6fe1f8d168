"""Scales of quantised weights, checked before anything is multiplied with them."""

from __future__ import annotations

import numpy as np

from twofold.errors import CheckpointError
from twofold.ops.packed import AnyArray, Floats
from twofold.weights.checkpoint import Checkpoint

FLOAT_DTYPES = ("BF16", "F16", "F32")
ONE_NUMBER = ((), (1,), (1, 1))
"""Shapes in which writers keep a single scale."""

LARGEST = 2.0**100
"""No scale of a network is near it; its products with codes are finite, and so are quotients by its inverse."""


def finite(scales: AnyArray, name: str) -> Floats:
    """Scales as float32. Zero is right for a row or group of zeros; CheckpointError for NaN and what overflows."""
    result: Floats = scales.astype(np.float32)
    if not (np.abs(result) <= LARGEST).all():
        raise CheckpointError(
            f"{name} holds NaN, infinity or numbers beyond 2^100; finite scales were expected. Download the file again."
        )
    return result


def not_negative(scales: AnyArray, name: str) -> Floats:
    """Scales of float codes, which have signs of their own; those of integer codes may well be negative."""
    result = finite(scales, name)
    if (result < 0).any():
        raise CheckpointError(f"{name} holds {result.min()}; scales from 0 on were expected. Download the file again.")
    return result


def positive(scales: AnyArray, name: str) -> Floats:
    """Scales of a whole tensor, of which none may be zero or negative."""
    result = finite(scales, name)
    if not (result >= 1 / LARGEST).all():
        raise CheckpointError(
            f"{name} is {result.min()}; the scale of a whole tensor must be above 0, and above 2^-100. "
            "Download the file again."
        )
    return result


def check_fp8(codes: AnyArray, name: str) -> None:
    """CheckpointError when float8 e4m3 codes are NaN: all seven bits beside the sign are set. There is no infinity."""
    if ((codes.view(np.uint8) & 0x7F) == 0x7F).any():
        raise CheckpointError(f"{name} holds NaN; finite weights were expected. Download the file again.")


def check_part(checkpoint: Checkpoint, name: str, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
    """CheckpointError unless a tensor is there with one of the dtypes and one of the shapes."""
    if name not in checkpoint.names:
        raise CheckpointError(f"tensor {name!r} of a quantised module is missing. Download the checkpoint again.")
    dtype, shape = checkpoint.dtype(name), checkpoint.shape(name)
    if dtype not in dtypes or shape not in shapes:
        wanted = " or ".join(dict.fromkeys(str(list(item)) for item in shapes))
        raise CheckpointError(
            f"tensor {name!r} is {dtype} {list(shape)}; {' or '.join(dtypes)} {wanted} belongs to its module. "
            "The files are damaged or of different models; download both again."
        )

"""Reads ModelOpt (FP8, NVFP4) and fbgemm_fp8: float codes with scales, Llama 4's experts in stacks.

    MODULE.weight            F8_E4M3 [N, D]          MODULE.weight_scale   one number, or [N, 1]: w = q * scale
    MODULE.weight            U8      [N, D / 2]      MODULE.weight_scale   F8_E4M3 [N, D / 16]
                                                     MODULE.weight_scale_2 F32, one number: w = q * (scale * scale_2)
    ...experts.gate_up_proj  F8_E4M3 [E, D, N]       as plain checkpoints keep it; one scale, one per expert, or one per
    ...experts.down_proj                             output: [E, 1, N] or [E, N, 1]
                             U8      [E, D / 2, N]   scales F8_E4M3 [E, D / 16, N], scale_2 one or one per expert

A stack's scales are called gate_up_proj_weight_scale (ModelOpt) or gate_up_proj_scale (fbgemm). Scales of activations
(input_scale) and of cached keys and values (k_scale, v_scale) are not used.
Sources: ModelOpt, torch/export; transformers, integrations/fbgemm_fp8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.codes import Fp8Codes
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.fp4 import NVFP4_GROUP, scale_groups, unpack_fp4
from twofold.weights.scales import FLOAT_DTYPES, ONE_NUMBER, check_fp8, check_part, not_negative, positive

STACKS = (".experts.gate_up_proj", ".experts.down_proj")
ALGORITHMS = {"FP8": "fp8", "NVFP4": "nvfp4"}
Shape = tuple[int, ...]


class ScaledFloatsCodec:
    """Codec of quant_method "modelopt" and "fbgemm_fp8"; `stack_suffix` follows the name of a stack in its scales'."""

    def __init__(self, name: str, stack_suffix: str, dtypes: tuple[str, ...]) -> None:
        self.name = name
        self.stack_suffix = stack_suffix
        self.dtypes = dtypes

    def scale(self, name: str) -> str:
        """Name of a weight's scales."""
        return f"{name}_scale" if name.endswith(".weight") else name + self.stack_suffix

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Every weight with scales, checked."""
        names = checkpoint.names
        found: dict[str, tuple[str, ...]] = {}
        for scale in names:
            is_matrix = scale.endswith(".weight_scale")
            name = scale.removesuffix("_scale" if is_matrix else self.stack_suffix)
            if is_matrix or (name != scale and name.endswith(STACKS)):
                self.check(checkpoint, name)
                found[name] = tuple(part for part in (name, scale, f"{scale}_2") if part in names)
        return found

    def check(self, checkpoint: Checkpoint, name: str) -> None:
        """Raise CheckpointError unless a weight and its scales fit together."""
        if name not in checkpoint.names:
            raise CheckpointError(
                f"tensor {name!r} is missing beside {self.scale(name)!r}. Download the checkpoint again."
            )
        dtype, shape = checkpoint.dtype(name), checkpoint.shape(name)
        if dtype not in self.dtypes or len(shape) != (3 if name.endswith(STACKS) else 2) or 0 in shape:
            raise CheckpointError(
                f"tensor {name!r} is {dtype} {list(shape)}; {' or '.join(self.dtypes)} was expected, two-dimensional "
                "or a stack of experts. Download the checkpoint again."
            )
        if dtype == "U8":
            self.check_fp4(checkpoint, name, shape)
        elif len(shape) == 2:
            check_part(checkpoint, self.scale(name), FLOAT_DTYPES, *ONE_NUMBER, shape[:1], (shape[0], 1))
        else:
            per_output = ((shape[0], 1, shape[2]), (shape[0], shape[2], 1))
            check_part(checkpoint, self.scale(name), FLOAT_DTYPES, *one_each(shape[0]), *per_output)

    def check_fp4(self, checkpoint: Checkpoint, name: str, shape: Shape) -> None:
        """Both scales of an NVFP4 weight; packed columns are the last dimension of a matrix, the middle of a stack."""
        scale, columns = self.scale(name), shape[1] * 2
        if columns % NVFP4_GROUP:
            raise CheckpointError(
                f"tensor {name!r} has {columns} inputs; groups of {NVFP4_GROUP} were expected. Download it again."
            )
        check_part(checkpoint, scale, ("F8_E4M3",), (shape[0], columns // NVFP4_GROUP, *shape[2:]))
        check_part(checkpoint, f"{scale}_2", ("F32",), *(ONE_NUMBER if len(shape) == 2 else one_each(shape[0])))

    def shape(self, checkpoint: Checkpoint, name: str) -> Shape:
        """See Codec."""
        stored = checkpoint.shape(name)
        return (stored[0], stored[1] * 2, *stored[2:]) if checkpoint.dtype(name) == "U8" else stored

    def format(self, checkpoint: Checkpoint, name: str) -> Format:
        """float8 with a scale per output (or fewer) is Fp8 as it is."""
        return "bf16" if checkpoint.dtype(name) == "U8" else "fp8"

    def rows(
        self, checkpoint: Checkpoint, name: str, start: int, stop: int, expert: int | None = None
    ) -> Fp8Codes | Floats:
        """See Codec."""
        codes_ND = matrix(checkpoint.tensor(name), expert)[start:stop]
        scale = self.scale(name)
        if checkpoint.dtype(name) == "U8":
            small_NG = not_negative(matrix(checkpoint.tensor(scale), expert)[start:stop], scale)
            whole = one_of(checkpoint.tensor(f"{scale}_2"), expert)
            scales_NG = small_NG * positive(whole, f"{scale}_2").reshape(())
            return scale_groups(unpack_fp4(np.ascontiguousarray(codes_ND)), scales_NG)
        check_fp8(codes_ND, name)
        numbers = one_of(checkpoint.tensor(scale), expert).reshape(-1)
        per_row_N = positive(numbers, scale) if numbers.size == 1 else not_negative(numbers[start:stop], scale)
        s_N = np.ascontiguousarray(np.broadcast_to(per_row_N, len(codes_ND)), np.float32)
        return Fp8Codes(np.ascontiguousarray(codes_ND), s_N)


def matrix(stored: AnyArray, expert: int | None) -> AnyArray:
    """A matrix as it is, or one of a stack turned to [out, in]."""
    return stored if expert is None else stored[expert].T


def one_of(numbers: AnyArray, expert: int | None) -> AnyArray:
    """The scales of one expert, where experts have their own."""
    return numbers if expert is None or numbers.size == 1 else numbers[expert]


def one_each(count: int) -> tuple[Shape, ...]:
    """Shapes in which one number for all experts, or one for each, is kept."""
    return (*ONE_NUMBER, (count,), (count, 1), (count, 1, 1))


def modelopt_codec(found: Mapping[str, Any]) -> ScaledFloatsCodec:
    """The codec of a ModelOpt quantization_config; UnsupportedModel for algorithms other than FP8 and NVFP4."""
    algorithm = found.get("quant_algo")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise UnsupportedModel(
            f"the ModelOpt quant_algo of this checkpoint is {algorithm!r}; {', '.join(ALGORITHMS)} can be read"
        )
    group = found.get("group_size")
    if algorithm == "NVFP4" and group not in (None, NVFP4_GROUP):
        raise UnsupportedModel(f"ModelOpt NVFP4 with group_size = {group!r}; {NVFP4_GROUP} can be read")
    return ScaledFloatsCodec(ALGORITHMS[algorithm], "_weight_scale", ("F8_E4M3", "U8"))


def fbgemm_codec(found: Mapping[str, Any]) -> ScaledFloatsCodec:
    """The codec of an fbgemm_fp8 quantization_config, of which nothing more is needed."""
    del found
    return ScaledFloatsCodec("fp8", "_scale", ("F8_E4M3",))

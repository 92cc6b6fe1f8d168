"""Reads GPTQ (v1 and v2) and AWQ (GEMM): four-bit codes packed along different axes.

GPTQ, N outputs and D inputs, groups of g inputs:

    MODULE.qweight I32 [D * bits / 32, N]    input row 8r + j at bits 4j of word r
    MODULE.qzeros  I32 [D / g, N * bits / 32]   output 8c + j at bits 4j of word c; v1 stores z - 1
    MODULE.scales  F16 [D / g, N]            w = (q - z) * scale
    MODULE.g_idx   I32 [D]                   group of each input

AWQ keeps qweight as [D, N / 8], packed along outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7; qzeros likewise.
Sources: AutoGPTQ and GPTQModel, nn_modules/qlinear; llm-awq and AutoAWQ, modules/linear/gemm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from twofold.errors import CheckpointError, UnsupportedModel
from twofold.ops.codes import GroupCodes
from twofold.ops.packed import AnyArray, Floats, Format
from twofold.weights.bits import unpack_words
from twofold.weights.checkpoint import Checkpoint
from twofold.weights.group_codes import fit_halves, group_codes, has_whole_groups
from twofold.weights.scales import FLOAT_DTYPES, check_part, finite

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PARTS = ("qweight", "qzeros", "scales", "g_idx")


class PackedInputsCodec:
    """What GPTQ and AWQ have in common; `is_awq` says which of the two layouts it is."""

    def __init__(self, name: str, bits: int, group_size: int | None, zero_offset: int, is_awq: bool) -> None:
        self.name = name
        self.bits = bits
        self.group_size = group_size
        self.zero_offset = zero_offset
        self.is_awq = is_awq
        self._formats: dict[str, Format] = {}

    def modules(self, checkpoint: Checkpoint) -> dict[str, tuple[str, ...]]:
        """Every weight of a module with a qweight, checked."""
        names = checkpoint.names
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            module = name.removesuffix(".qweight")
            if module != name:
                self.check(checkpoint, module)
                found[f"{module}.weight"] = tuple(f"{module}.{part}" for part in PARTS if f"{module}.{part}" in names)
        return found

    def check(self, checkpoint: Checkpoint, module: str) -> None:
        """Raise CheckpointError unless shapes and dtypes of a module fit together."""
        for part in ("qzeros", "scales"):
            if f"{module}.{part}" not in checkpoint.names:
                raise CheckpointError(f"tensor {module}.{part} is missing. Download the checkpoint again.")
        rows, columns = self.matrix_shape(checkpoint, module)
        groups = checkpoint.shape(f"{module}.scales")[0]
        if self.group_size is not None:
            groups = -(-columns // self.group_size) if self.group_size > 0 else 1
        check_part(checkpoint, f"{module}.qweight", ("I32",), checkpoint.shape(f"{module}.qweight"))
        check_part(checkpoint, f"{module}.scales", FLOAT_DTYPES, (groups, rows))
        check_part(checkpoint, f"{module}.qzeros", ("I32",), (groups, -(-rows * self.bits // 32)))
        if f"{module}.g_idx" in checkpoint.names:
            check_part(checkpoint, f"{module}.g_idx", ("I32", "I64"), (columns,))

    def shape(self, checkpoint: Checkpoint, name: str) -> tuple[int, ...]:
        """See Codec."""
        return self.matrix_shape(checkpoint, name.removesuffix(".weight"))

    def matrix_shape(self, checkpoint: Checkpoint, module: str) -> tuple[int, int]:
        """Logical shape of a module."""
        packed, scales = checkpoint.shape(f"{module}.qweight"), checkpoint.shape(f"{module}.scales")
        if len(packed) != 2 or len(scales) != 2 or 0 in packed or 0 in scales:
            raise CheckpointError(
                f"{module}.qweight has shape {list(packed)} and its scales {list(scales)}; two matrices were expected. "
                "Download the checkpoint again."
            )
        per_word = 32 // self.bits
        return (packed[1] * per_word, packed[0]) if self.is_awq else (packed[1], packed[0] * per_word)

    def format(self, checkpoint: Checkpoint, name: str) -> Format:
        """Four bits are Group4 as they are, unless columns were reordered so that neighbours have other groups."""
        module = name.removesuffix(".weight")
        if name not in self._formats:
            groups_D = self.groups(checkpoint, module, self.matrix_shape(checkpoint, module)[1])
            is_kept = self.bits == 4 and has_whole_groups(groups_D) and fit_halves(self.scales(checkpoint, module))
            self._formats[name] = "group4" if is_kept else "bf16"
        return self._formats[name]

    def scales(self, checkpoint: Checkpoint, module: str) -> AnyArray:
        """All scales of a module as they are stored, [groups, outputs]."""
        name = f"{module}.scales"
        finite(checkpoint.tensor(name), name)
        return checkpoint.tensor(name)

    def rows(
        self, checkpoint: Checkpoint, name: str, start: int, stop: int, expert: int | None = None
    ) -> GroupCodes | Floats:
        """See Codec."""
        assert expert is None, "experts are modules of their own in these formats"
        module = name.removesuffix(".weight")
        total, columns = self.matrix_shape(checkpoint, module)
        stop = min(stop, total)
        packed = checkpoint.tensor(f"{module}.qweight")
        if self.is_awq:
            q_DN = self.unpack_outputs(packed, start, stop)
        else:
            words_ND = np.ascontiguousarray(packed[:, start:stop].T)
            q_DN = unpack_words(words_ND, self.bits).T
        zeros_GN = self.unpack_outputs(checkpoint.tensor(f"{module}.qzeros"), start, stop).astype(np.float32)
        scales_GN = finite(checkpoint.tensor(f"{module}.scales")[:, start:stop], f"{module}.scales")
        zeros_GN += self.zero_offset
        groups_D = self.groups(checkpoint, module, columns)
        if self.format(checkpoint, name) == "group4":
            return group_codes(q_DN.T, scales_GN.T, zeros_GN.T, groups_D)
        values_DN = (q_DN.astype(np.float32) - zeros_GN[groups_D]) * scales_GN[groups_D]
        return np.ascontiguousarray(values_DN.T)

    def unpack_outputs(self, words: AnyArray, start: int, stop: int) -> AnyArray:
        """Codes start..stop of words packed along outputs, uint8 [..., stop - start]."""
        per_word = 32 // self.bits
        first = start // per_word
        codes = unpack_words(np.ascontiguousarray(words[:, first : -(-stop // per_word)]), self.bits)
        if self.is_awq:
            nibbles = codes.reshape(len(codes), -1, per_word)
            ordered = np.empty_like(nibbles)
            ordered[..., list(AWQ_ORDER)] = nibbles
            codes = ordered.reshape(len(codes), -1)
        return codes[:, start - first * per_word : stop - first * per_word]

    def groups(self, checkpoint: Checkpoint, module: str, columns: int) -> AnyArray:
        """Group of each input."""
        count = checkpoint.shape(f"{module}.scales")[0]
        if f"{module}.g_idx" not in checkpoint.names:
            return np.arange(columns) // (self.group_size if count > 1 and self.group_size else -(-columns // count))
        found = checkpoint.tensor(f"{module}.g_idx").astype(np.int64)
        if (found < 0).any() or (found >= count).any():
            raise CheckpointError(f"{module}.g_idx: groups from 0 to {count - 1} were expected. The file is damaged.")
        return found


def gptq_codec(found: Mapping[str, Any]) -> PackedInputsCodec:
    """The codec of a GPTQ quantization_config; UnsupportedModel for other widths than 2, 4 and 8 bits."""
    bits = found.get("bits")
    if type(bits) is not int or bits not in (2, 4, 8):
        raise UnsupportedModel(f"config.json: GPTQ with bits = {bits!r}; 2, 4 and 8 can be read")
    layout = found.get("checkpoint_format", "gptq")
    if layout not in ("gptq", "gptq_v2"):
        raise UnsupportedModel(f"config.json: GPTQ with checkpoint_format {layout!r}; gptq and gptq_v2 can be read")
    return PackedInputsCodec("gptq", bits, group_size_of(found), int(layout == "gptq"), is_awq=False)


def awq_codec(found: Mapping[str, Any]) -> PackedInputsCodec:
    """The codec of an AWQ quantization_config; UnsupportedModel for layouts other than GEMM with 4 bits."""
    bits, version = found.get("bits", found.get("w_bit")), str(found.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm" or found.get("zero_point") is False:
        raise UnsupportedModel(
            f"config.json: AWQ with bits = {bits!r}, version = {version!r}, zero_point = {found.get('zero_point')!r}; "
            "4 bits in the gemm layout with zero points can be read"
        )
    return PackedInputsCodec("awq", 4, group_size_of(found), 0, is_awq=True)


def group_size_of(found: Mapping[str, Any]) -> int | None:
    """Inputs that share a scale; -1 for all of them, None where the config is silent and the scales tell."""
    size = found.get("group_size", found.get("q_group_size"))
    if size is not None and (type(size) is not int or size == 0 or size < -1):
        raise CheckpointError(
            f"config.json: group_size of quantization_config is {size!r}; a whole number from 1 on, or -1, was expected"
        )
    return size

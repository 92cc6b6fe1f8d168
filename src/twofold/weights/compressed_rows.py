"""Rows as compressed-tensors keeps them, for `twofold quantize`; the counterpart of compressed_tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from twofold.ops.codes import Fp8Codes, GroupCodes
from twofold.ops.packed import BF16, AnyArray, Floats
from twofold.weights.group_codes import MIDDLE, fit_halves, group_codes, has_whole_groups


@dataclass(frozen=True)
class Fp8Rows:
    """float8 e4m3 values with one scale per row: q_ND float8_e4m3fn, s_N float32."""

    q_ND: AnyArray
    s_N: Floats

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        result: Floats = self.q_ND.astype(np.float32) * self.s_N[:, None]
        return result

    def coded(self) -> Fp8Codes:
        """In the form of a packed weight."""
        return Fp8Codes(self.q_ND, self.s_N)

    def slice(self, start: int, stop: int) -> Fp8Rows:
        """Rows start..stop."""
        return Fp8Rows(self.q_ND[start:stop], self.s_N[start:stop])

    def tensors(self, module: str) -> dict[str, AnyArray]:
        """The tensors of a module, "float-quantized"."""
        return {f"{module}.weight": self.q_ND, f"{module}.weight_scale": self.s_N[:, None]}


@dataclass(frozen=True)
class GroupRows:
    """Four-bit codes with one scale per group of columns: q_ND int8 in -8..7, s_NG float32 (bfloat16 values)."""

    q_ND: AnyArray
    s_NG: Floats

    def values(self) -> Floats:
        """What the codes stand for, float32 [N, D]."""
        group = self.q_ND.shape[1] // self.s_NG.shape[1]
        result: Floats = self.q_ND.astype(np.float32) * np.repeat(self.s_NG, group, axis=1)
        return result

    def coded(self) -> GroupCodes | None:
        """In the form of a packed weight; None where float16 does not hold the scales."""
        columns, groups = self.q_ND.shape[1], self.s_NG.shape[1]
        groups_D = np.arange(columns) // (columns // groups)
        if not has_whole_groups(groups_D) or not fit_halves(self.s_NG):
            return None
        return group_codes(self.q_ND + MIDDLE, self.s_NG, np.full_like(self.s_NG, MIDDLE), groups_D)

    def slice(self, start: int, stop: int) -> GroupRows:
        """Rows start..stop."""
        return GroupRows(self.q_ND[start:stop], self.s_NG[start:stop])

    def tensors(self, module: str) -> dict[str, AnyArray]:
        """The tensors of a module, "pack-quantized": eight codes in a word, the lowest bits first, as q + 8."""
        rows, columns = self.q_ND.shape
        nibbles = (self.q_ND + 8).astype(np.uint32).reshape(rows, columns // 8, 8)
        words = (nibbles << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)
        return {
            f"{module}.weight_packed": words.view(np.int32),
            f"{module}.weight_scale": self.s_NG.astype(BF16),
            f"{module}.weight_shape": np.array([rows, columns], np.int64),
        }


def compressed_config(scheme: str, group_size: int, ignore: list[str]) -> dict[str, Any]:
    """The quantization_config of a folder in scheme w8a8, fp8 or w4a16."""
    kind, bits, form = {
        "w8a8": ("int", 8, "int-quantized"),
        "fp8": ("float", 8, "float-quantized"),
        "w4a16": ("int", 4, "pack-quantized"),
    }[scheme]
    strategy: dict[str, Any] = {"strategy": "channel"}
    if scheme == "w4a16":
        strategy = {"strategy": "group", "group_size": group_size}
    common = {"num_bits": bits, "type": kind, "symmetric": True}
    inputs = None if scheme == "w4a16" else {**common, "strategy": "token", "dynamic": True}
    group = {"targets": ["Linear"], "weights": {**common, **strategy, "dynamic": False}, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ignore,
    }

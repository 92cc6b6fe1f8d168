"""What a kernel is compiled for when there is no device to run it on: tests watch its registers, spills and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A kernel with the types of its arguments and the values of its constants.

    `arguments` is "name:type name:type"; types as Triton writes them (*fp32, i32), i32:16 for a multiple of 16;
    pointers are multiples of 16 anyway. Constants TARGET, EARLY and NATIVE are filled in. `registers`: the most that
    a thread may have on CUDA. `targets`: those it is for.
    """

    kernel: Any
    arguments: str
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int | None = None
    fusion: bool = True
    registers: int | None = None
    targets: tuple[str, ...] = ("sm_80", "sm_90", "gfx942")

"""The ops for a device: with kernels where Triton serves it, in plain torch elsewhere."""

from __future__ import annotations

import importlib.util

import torch

from twofold.backends.gpu.ops import TorchOps
from twofold.ops.packed import Packer
from twofold.ops.types import KvDtype

WITH_KERNELS = ("cuda",)
"""Kinds of device the kernels are written for: NVIDIA, and AMD, which torch calls by the same name."""


def has_kernels(device: str) -> bool:
    """Whether kernels do the work there; elsewhere, and without Triton, it is plain torch."""
    return torch.device(device).type in WITH_KERNELS and importlib.util.find_spec("triton") is not None


def build(device: str, packer: Packer, kv_dtype: KvDtype) -> TorchOps:
    """The fastest ops there are for this device."""
    if has_kernels(device):
        from twofold.backends.gpu.fused import KernelOps

        return KernelOps(device, packer, kv_dtype)
    return TorchOps(device, packer, kv_dtype)

"""The ops for a device: with kernels where Triton serves it, in plain torch elsewhere."""

from __future__ import annotations

from twofold.backends.gpu.ops import TorchOps
from twofold.ops.packed import Packer
from twofold.ops.types import KvDtype


def build(device: str, packer: Packer, kv_dtype: KvDtype) -> TorchOps:
    """The fastest ops there are for this device."""
    return TorchOps(device, packer, kv_dtype)

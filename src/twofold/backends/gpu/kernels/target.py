"""What the kernels are compiled for."""

from __future__ import annotations

import os

import torch


def target() -> str:
    """Name of what kernels launched now run on: "cuda", "hip", or "plain" in the interpreter."""
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        return "plain"
    return "hip" if torch.version.hip else "cuda"

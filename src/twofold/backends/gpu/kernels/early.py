"""Starting before the kernel in front has ended (CUDA's programmatic dependent launch, from compute capability 9.0 on).

A step of decoding is a chain of kernels of a few microseconds, and between two of them a GPU idles for one or two while
the last programs end and the first ones start. A kernel that is launched early begins while the one in front still
runs, reads weights, which nobody writes, and waits before it touches anything else. `wait` returns when everything in
front is done and seen; `release` lets the next kernel begin. A kernel that is launched early must wait, always.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from twofold.backends.gpu.kernels.target import target

LEAST_CAPABILITY = (9, 0)


def starts_early(device: torch.device) -> bool:
    """Whether kernels on this device are launched early: where that can be, unless TWOFOLD_EARLY=0 forbids it."""
    return not _is_paused.get() and os.environ.get("TWOFOLD_EARLY") != "0" and can_start_early(device)


@cache
def can_start_early(device: torch.device) -> bool:
    """Whether a device knows early launches; asked for every launch, so it is remembered."""
    return target() == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


_is_paused: ContextVar[bool] = ContextVar("is_paused", default=False)


@contextmanager
def paused() -> Iterator[None]:
    """No early launches in here: while two streams run, whoever waits on a processor takes room from the other one."""
    token = _is_paused.set(True)
    try:
        yield
    finally:
        _is_paused.reset(token)


def options(device: torch.device) -> dict[str, Any]:
    """What a launcher adds for a kernel that waits and releases: its constant EARLY, and how it is launched."""
    return {"EARLY": True, "launch_pdl": True} if starts_early(device) else {"EARLY": False}


@triton.jit
def wait(EARLY: tl.constexpr):
    """Nothing after this happens before the kernels in front are done. 0, for what no order binds but its operands."""
    zero = tl.full([], 0, tl.int32)
    if EARLY:
        zero = tl.inline_asm_elementwise(
            "griddepcontrol.wait; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )
    return zero


@triton.jit
def release(EARLY: tl.constexpr):
    """The next kernel may begin once all programs have come here."""
    if EARLY:
        tl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )

"""What a device can do at most, measured: reading, copying, and the library's matrix products."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30


def seconds(work: Callable[[], Any], repeats: int = 10, warm: int = 3) -> float:
    """Median time of one call on the device, by events."""
    for _ in range(warm):
        work()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3


def measure_limits() -> dict[str, float]:
    """Bytes per second read and copied (read plus written), operations per second of 8192^3 products."""
    return {**measure_memory(), **products(8192)}


def measure_memory() -> dict[str, float]:
    """A copy of 4 GiB, and a sum over them; the read limit is the better of both rates."""
    source = torch.randint(0, 255, (4 * GIB,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    words = source.view(torch.float32).nan_to_num_()
    copied = 2 * source.numel() / seconds(lambda: target.copy_(source))
    read = source.numel() / seconds(words.sum)
    return {"read_bytes_per_s": max(read, copied), "sum_bytes_per_s": read, "copy_bytes_per_s": copied}


def products(size: int) -> dict[str, float]:
    """Rates of square products on random data, in operations per second."""
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    operations = 2 * size**3
    found = {"bf16_ops_per_s": operations / seconds(lambda: a @ b.T)}
    codes = [(x.float() * 30).clamp(-127, 127).to(torch.int8) for x in (a, b)]
    found["int8_ops_per_s"] = operations / seconds(lambda: torch._int_mm(codes[0], codes[1].T))
    halves = [x.to(torch.float8_e4m3fn) for x in (a, b)]
    ones = [torch.ones(size, 1, device="cuda"), torch.ones(1, size, device="cuda")]

    def scaled() -> Any:
        return torch._scaled_mm(halves[0], halves[1].T, scale_a=ones[0], scale_b=ones[1], out_dtype=torch.bfloat16)

    try:
        found["fp8_ops_per_s"] = operations / seconds(scaled)
    except RuntimeError as error:  # a device without float8
        print(f"fp8 product: {str(error)[:200]}")
    return found

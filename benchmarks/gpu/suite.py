"""The parts of the GPU benchmark, one after the other, and the file they are kept in."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import check_ahead, check_offloaded, checks, limits, speed

KERNELS = ("integer", "float", "attention")


def main() -> int:
    """Run the parts asked for; what was found so far is written after each of them. 1 where anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Checks, limits and speed of the gpu backend on the device at hand.",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["limits", "checks", "kernels", "decode", "prefill", "full"])
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(
            "torch sees no CUDA or ROCm device here, and there is nothing else to measure; run it where one is"
        )
    report = Report(given.out)
    parts: dict[str, Callable[[Report], None]] = {
        "limits": lambda report: report.content.update(limits=limits.measure_limits()),
        "checks": check_all,
        "kernels": measure_kernels,
        "decode": measure_decode,
        "prefill": measure_prefill,
        "full": measure_full,
        "profile": measure_profiles,
        "offloaded": check_offloaded_experts,
    }
    for name in given.parts:
        start = time.perf_counter()
        report.run(name, parts[name])
        print(f"-- {name}: {time.perf_counter() - start:.1f} s", flush=True)
    report.write()
    return 1 if report.content["failures"] else 0


class Report:
    """The result file in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "schema": 1,
            "benchmark": "gpu",
            "command": "python -m benchmarks.gpu",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "gpu": torch.cuda.get_device_name(0),
                "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
                "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
                "torch": torch.__version__,
                "triton": importlib.import_module("triton").__version__,
                "python": platform.python_version(),
            },
            "limits": {},
            "failures": [],
            "figures": [],
        }

    def run(self, name: str, part: Callable[[Report], None]) -> None:
        """One part; what goes wrong in it is a failure among others."""
        try:
            part(self)
        except Exception as error:
            self.fail([f"{name}: {type(error).__name__}: {str(error)[:1500]}"])
            traceback.print_exc(limit=-6)
        torch.cuda.empty_cache()
        self.write()

    def fail(self, failures: Iterable[str]) -> None:
        """Note failures."""
        for failure in failures:
            print(f"FAILED {failure}", flush=True)
            self.content["failures"].append(failure)

    def add(self, part: str, figures: Iterable[dict[str, Any]]) -> None:
        """Note and print figures."""
        for figure in figures:
            self.content["figures"].append({"part": part, **figure})
            if "failed" in figure:
                self.fail([f"{part} {figure.get('kernel', '')}: {figure['failed']}"])
            print(part, " ".join(f"{key}={shown(value)}" for key, value in figure.items()), flush=True)

    def write(self) -> None:
        """The file, whole or not at all."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content, indent=2) + "\n")
        temporary.rename(self.path)

    @property
    def limits(self) -> dict[str, float]:
        """Measured before anything is compared with them."""
        if not self.content["limits"]:
            self.content["limits"] = limits.measure_limits()
        found: dict[str, float] = self.content["limits"]
        return found


def shown(value: Any) -> str:
    """A number to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_all(report: Report) -> None:
    """Every kernel against the reference, then networks, and steps that follow at once."""
    for name in KERNELS:
        report.run(name, lambda report, name=name: report.fail(kernel_module(name).check("cuda")))
    report.fail(checks.check_networks("cuda"))
    report.fail(check_ahead.check("cuda"))


def check_offloaded_experts(report: Report) -> None:
    """Experts in the host's memory: their bits, and how fast one is copied."""
    report.fail(check_offloaded.check("cuda"))
    report.add("offloaded", check_offloaded.measure("cuda"))


def measure_kernels(report: Report) -> None:
    """Every kernel by itself, over its configurations."""
    for name in KERNELS:
        report.run(name, lambda report, name=name: report.add(name, kernel_module(name).measure("cuda")))


def kernel_module(name: str) -> Any:
    """The checks of one kind of kernel."""
    return importlib.import_module(f"benchmarks.gpu.check_{name}")


def measure_decode(report: Report) -> None:
    """Some layers of Scout in every dtype: one stream, from which all 48 follow, and eight."""
    for dtype in ("bf16", "fp8", "w8a8", "w4a8"):
        report.add("decode", speed.by_layers(dtype, 2, 8, report.limits))
        report.add("decode", speed.decode(dtype, 8, (8,), report.limits))
        torch.cuda.empty_cache()


def measure_profiles(report: Report) -> None:
    """The kernels of a decoding step and of a prompt."""
    for dtype in ("w4a8", "fp8"):
        report.add("profile", speed.profile(dtype, 1))
    for dtype in ("w4a8", "w8a8"):
        report.add("profile", speed.profile(dtype, 1, 2048))


def measure_prefill(report: Report) -> None:
    """A few layers of Scout in every dtype."""
    for dtype in ("bf16", "fp8", "w8a8", "w4a8"):
        report.add("prefill", speed.prefill(dtype, 8, (2048, 8192), report.limits))
        torch.cuda.empty_cache()


def measure_full(report: Report) -> None:
    """All of Scout at four bits on one card."""
    report.add("decode", speed.decode("w4a8", None, (1, 8, 64, 256), report.limits, context=128))

"""Fixtures shared by all rooms."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toys import TOYS, write_toy
from twofold.ops.cases import Tensor, same
from twofold.ops.interface import Ops
from twofold.ops.types import KvDtype

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on torch's CPU tensors; read when triton is imported


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOBODY = 65534


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a screen. It runs an event loop, so it is closed before another module's asyncio.run."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("no chromium found (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder of a user whom permissions hold up: root becomes nobody for the length of the test."""
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, 0)
            stack.callback(os.setresuid, 0, 0, 0)
        yield Path(stack.enter_context(tempfile.TemporaryDirectory()))


def backends() -> list[str]:
    """The reference, every instruction set this CPU can run or imitate, and torch's own CPU device."""
    from twofold.backends.cpu.machine import testable_isas

    torch = ["torch"] if importlib.util.find_spec("torch") else []
    return ["reference", *(f"cpu-{isa}" for isa in testable_isas()), *torch]


def build_ops(name: str, kv_dtype: KvDtype = "f32") -> Ops:
    """A backend by name."""
    if name == "reference":
        from twofold.ops.reference import ReferenceOps

        return ReferenceOps(kv_dtype)
    from twofold.backends.cpu.ops import CpuOps

    if name == "torch":
        from twofold.backends.gpu.ops import TorchOps

        return TorchOps("cpu", CpuOps().packer, kv_dtype)
    return CpuOps(isa=name.removeprefix("cpu-"), kv_dtype=kv_dtype)


def tensor_of(ops: Ops) -> Tensor:
    """What turns a NumPy array into a tensor of the backend."""
    return getattr(ops, "tensor", same)


@pytest.fixture(params=backends())
def ops(request: pytest.FixtureRequest) -> Ops:
    """Every backend in turn, with a float32 cache."""
    return build_ops(request.param)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """A toy's folder and transformers' own model of it; written once per session."""
    made: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = (folder, write_toy(TOYS[name], folder))
        return made[name]

    return get

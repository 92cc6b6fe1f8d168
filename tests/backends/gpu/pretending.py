"""A device that is not there: kernels are compiled for it and launched into the void.

python -m tests.backends.gpu.pretending w4a8       kernels that a rehearsal compiles, and those that a load still needs

Tensors stay in the host's memory and say that they are on the device; big ones are zeros that nobody touches, and
big products of the library are not computed. So what is compiled is what a device would be given, and numbers mean
nothing. Run it without TRITON_INTERPRET, in a process of its own: torch and Triton are not mended again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import LazyDict
from triton.runtime import driver

from benchmarks.gpu import networks
from twofold.backends.gpu.kernels import launching
from twofold.config import Settings, resolve
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.placing import rehearse

DEVICE = torch.device("cuda", 0)
CAPABILITY = (9, 0)
LAYERS = 4
"""Every fourth layer of Scout sees the whole context."""
BIG = 1_000_000
"""Elements from which nothing is computed."""
VOCABULARY = 32_768
"""Fewer than Scout has: the host draws tokens."""
SEQUENCES, CONTEXT, STEP_TOKENS = 64, 512, 1024
SETTINGS = resolve(Settings(context=CONTEXT), ("gpu", "cuda"), "bf16", "bf16", 2048, 1000)
"""Of them only where the network runs is looked at."""


class Nothing:
    """Streams, events and graphs; every method does nothing."""

    device = DEVICE

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, _: str) -> Callable[..., Any]:
        return lambda *_, **__: None


class Launcher:
    """Takes what a kernel is launched with; `taken` is what it was the last time."""

    taken: tuple[Any, ...] = ()

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        Launcher.taken = arguments


class Utilities:
    """What Triton asks of a driver's library."""

    def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
        """A module, a function, registers, spills, most threads."""
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        """Of an H100."""
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "max_num_regs": 65536, "warpSize": 32}


class Driver:
    """Triton's driver of the device."""

    utils, launcher_cls = Utilities(), Launcher

    def get_current_device(self) -> int:
        """There is one."""
        return 0

    def get_current_stream(self, _: int) -> int:
        """There is one."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)


def zeros(shape: Any, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor whose pages are not there until somebody writes to them."""
    kind = dtype or torch.float32
    size = torch.Size(shape).numel() * kind.itemsize
    if not size:
        return torch.tensor([], dtype=kind).reshape(shape)
    return torch.from_numpy(np.zeros(size, np.uint8)).view(kind).reshape(shape)


class Pretending(TorchFunctionMode):
    """Every tensor says that it is on the device; what big ones would become is not computed."""

    MADE = (torch.empty, torch.rand, torch.randn)
    DRAWN = (torch.Tensor.normal_, torch.Tensor.random_)
    KEPT = (torch.Tensor.mul_, torch.Tensor.clamp_, torch.Tensor.copy_, torch.Tensor.cpu)
    PRODUCTS = (torch.mm, torch.matmul, torch.Tensor.mm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch._scaled_mm)

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {name: value for name, value in (kwargs or {}).items() if name != "device"}
        if func == torch.Tensor.device.__get__:
            return DEVICE
        if func == torch.Tensor.is_cuda.__get__:
            return True
        if func in self.MADE:
            return zeros(args if args and isinstance(args[0], int) else args[0], given.get("dtype"))
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.to:
            rest = [value for value in args[1:] if not isinstance(value, torch.device | str)]
            return func(args[0], *rest, **given) if rest or given else args[0]
        if func in self.DRAWN or (func in self.KEPT and args[0].numel() > BIG):
            return args[0]
        if func in self.PRODUCTS:
            return zeros((*args[0].shape[:-1], args[1].shape[-1]), given.get("out_dtype", args[0].dtype))
        return func(*args, **given)


def pretend() -> None:
    """From now on torch and Triton see an H100."""
    driver.set_active(Driver())
    found = torch.cuda
    for name in ("Stream", "Event", "CUDAGraph", "current_stream"):
        setattr(found, name, Nothing)
    for name in ("stream", "graph"):
        setattr(found, name, lambda *_, **__: nullcontext())
    for name in ("synchronize", "set_device", "empty_cache"):
        setattr(found, name, lambda *_: None)
    found.is_available = lambda: True
    found.get_device_capability = lambda *_: CAPABILITY
    found.current_device = lambda: 0


def build_engine(dtype: str) -> Engine:
    """Some layers of Scout's shape."""
    architecture = networks.network({**networks.SCOUT, "vocab_size": VOCABULARY}, LAYERS)
    weights = networks.random_weights(architecture, dtype, "cuda")
    return networks.build_engine(
        networks.build_ops("cuda"), architecture, weights, SEQUENCES, CONTEXT, step_tokens=STEP_TOKENS
    )


def serve(engine: Engine, seed: int) -> None:
    """Chats of many lengths, drawn in many ways, that come while others are answered."""
    rng = random.Random(seed)
    ways: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 40},
        {"logprobs": 3},
        {"frequency_penalty": 0.5},
    )
    for crowd in (1, 1, 2, 3, 5, 7, 12, 20, 40, SEQUENCES):
        for _ in range(crowd):
            params = SamplingParams(max_tokens=rng.randint(1, 6), ignore_eos=True, **rng.choice(ways))
            engine.add([0] * rng.choice([1, 9, rng.randint(2, 15), rng.randint(2, CONTEXT - 8)]), params)
            for _ in range(rng.randint(0, 1)):
                engine.step()
        while not engine.is_idle:
            engine.step()


def without_metadata(taken: tuple[Any, ...]) -> list[Any]:
    """What a launcher was given, without what profilers are told, which is made anew for every launch."""
    return [item for item in taken if not isinstance(item, LazyDict)]


def launch_twice(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """As the backend does, then as Triton does: the same kernel must be launched with the same arguments."""
    launching.launch(kernel, grid, *arguments, **constants)
    ours = Launcher.taken
    kernel[grid](*arguments, **constants)
    pairs = zip(without_metadata(ours), without_metadata(Launcher.taken), strict=True)
    assert all(mine is its or mine == its for mine, its in pairs), f"{kernel} is launched in another way than by Triton"
    runnable, _ = launching._compiled[launching.key_of(kernel, arguments, constants)]
    assert runnable is kernel.warmup(*arguments, grid=(1,), **constants), f"another {kernel} than Triton's is launched"


def check_launches() -> None:
    """From now on every launch is done twice."""
    for module in list(sys.modules.values()):
        if getattr(module, "launch", None) is launching.launch and module is not launching:
            module.__dict__["launch"] = launch_twice


def listen() -> list[str]:
    """Names of kernels that are compiled from now on, or brought from the disk."""
    found: list[str] = []
    knobs.compilation.listener = lambda *, src, **_: found.append(src.name)
    return found


def main(dtype: str, seed: int) -> None:
    """See the module."""
    pretend()
    with Pretending():
        engine = build_engine(dtype)
        rehearsed = listen()
        assert rehearse(SETTINGS, engine)
        afterwards = listen()
        check_launches()
        serve(engine, seed)
    print(json.dumps({"rehearsed": len(rehearsed), "afterwards": afterwards}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.backends.gpu.pretending")
    parser.add_argument("dtype", choices=("bf16", "fp8", "w8a8", "w4a8"))
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of the load; 0 by default")
    given = parser.parse_args()
    main(given.dtype, given.seed)

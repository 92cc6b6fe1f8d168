"""Where a network runs: the backend, its device and the memory there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.config import Resolved, Settings
from twofold.errors import NativeUnavailable, SettingsError
from twofold.graphs import BACKEND, check_graph_kv, refuse_graph_backend
from twofold.models.network import Forward
from twofold.ops.interface import Ops
from twofold.ops.packed import Packer
from twofold.ops.types import Target
from twofold.weights.memory import available_memory

if TYPE_CHECKING:
    from twofold.backends.gpu.group import Group
    from twofold.backends.gpu.offloaded import OffloadedOps
    from twofold.backends.gpu.shards import Cut
    from twofold.engine.engine import Engine

ACCELERATORS = ("nvidiactl", "nvidia0", "kfd", "dxg", "accel", "dri")
"""Names under /dev of which at least one is there where a GPU's driver is."""
INSTALL = "pip install 'twofold[gpu]'"


def choose_place(settings: Settings) -> tuple[str, str]:
    """Backend and device: as asked for, else the first accelerator that torch sees, else the native kernels.

    torch takes a second to import, so without being asked that is only done where the system has such a device.
    Raises SettingsError for a device that is not there.
    """
    refuse_graph_backend(settings)
    if settings.backend in ("cpu", "reference"):
        return settings.backend, "cpu"
    if settings.backend is None and settings.device == "cpu":
        return "cpu", "cpu"
    is_asked_for = settings.backend is not None or settings.device is not None
    has_torch = importlib.util.find_spec("torch") is not None
    if not is_asked_for and not (has_torch and may_have_accelerator()):
        return "cpu", "cpu"
    if not has_torch:
        raise SettingsError(f"the gpu backend needs torch, which is not installed: {INSTALL}")
    from twofold.backends.gpu import devices

    if settings.device is not None:
        return "gpu", devices.check_device(settings.device)
    found = devices.first_device()
    return ("cpu", "cpu") if found is None and not is_asked_for else ("gpu", found or "cpu")


def check_ranks(backend: str, device: str, ranks: int) -> None:
    """Raise SettingsError unless every rank can have a device of its own. CPUs they share."""
    if ranks == 1:
        return
    if backend != "gpu":
        raise SettingsError(f"{ranks} ranks need the gpu backend, and {backend} was chosen; add --backend gpu")
    from twofold.backends.gpu.devices import check_device, device_of
    from twofold.backends.gpu.group import BACKENDS

    kind = device.split(":", maxsplit=1)[0]
    if kind not in BACKENDS:
        raise SettingsError(
            f"{ranks} ranks cannot run on {device}; they run on {', '.join(BACKENDS)}. Leave out --ranks."
        )
    for rank in range(ranks):
        check_device(device_of(device, rank))


def may_have_accelerator() -> bool:
    """Whether the system shows anything that could be one."""
    return sys.platform == "darwin" or any(Path("/dev", name).exists() for name in ACCELERATORS)


def build_ops(settings: Resolved) -> Ops:
    """The backend chosen; its module is imported only now."""
    if settings.backend == BACKEND:
        check_graph_kv(settings.kv_cache_dtype)
    if settings.backend in ("reference", BACKEND):  # a graph needs ops for its cache and for drawing tokens only
        from twofold.ops.reference import ReferenceOps

        return ReferenceOps(settings.kv_cache_dtype)
    if settings.backend == "gpu":
        from twofold.backends.gpu.build import build

        ops: Ops = build(settings.device, host_packer(), settings.kv_cache_dtype)
        return ops
    from twofold.backends.cpu.ops import CpuOps

    return CpuOps(threads=settings.threads, kv_dtype=settings.kv_cache_dtype)


def captured(settings: Resolved, ops: Ops, forward: Forward) -> Forward:
    """The network's forward function as the backend runs it best: short steps recorded once and played again."""
    if settings.backend == "cpu":
        from twofold.backends.cpu.ops import CpuOps
        from twofold.backends.cpu.replay import Replayed

        assert isinstance(ops, CpuOps)
        return Replayed(ops, forward)
    if settings.backend != "gpu":
        return forward
    from twofold.backends.gpu.ops import TorchOps

    assert isinstance(ops, TorchOps)
    return ops.captured(forward)


def rehearse(settings: Resolved, engine: Engine) -> bool:
    """Have an idle engine's kernels compiled by steps of all sizes; whether it runs on kernels.

    A model on several ranks or with experts in the host's memory compiles each kernel when a step first takes it.
    """
    if not runs_kernels(settings) or settings.ranks > 1 or settings.expert_cache:
        return False
    from twofold.backends.gpu import rehearsal

    layout, limits = engine.blocks.layout, engine.limits
    sizes = rehearsal.Sizes(
        sequences=limits.max_sequences,
        rows=limits.step_tokens,
        context=limits.context,
        block_size=layout.block_size,
        has_local=layout.chunk is not None,
    )
    rehearsal.rehearse(engine.ops, engine.forward, engine.cache, sizes)
    return True


def on_compilation(settings: Resolved, tell: Callable[[str], None]) -> None:
    """From now on `tell` is called with the name of every kernel that was compiled, not of those found on the disk."""
    if runs_kernels(settings):
        from twofold.backends.gpu import rehearsal

        rehearsal.on_compilation(tell)


def runs_kernels(settings: Resolved) -> bool:
    """Whether Triton's kernels do the work: not on the CPU, and not where torch does it."""
    if settings.backend != "gpu":
        return False
    from twofold.backends.gpu.build import has_kernels

    return has_kernels(settings.device)


def build_offloaded(settings: Resolved) -> OffloadedOps:
    """The gpu backend with routed experts in the host's memory."""
    from twofold.backends.gpu.build import build
    from twofold.backends.gpu.offloaded import OffloadedOps

    return OffloadedOps(build(settings.device, host_packer(), settings.kv_cache_dtype), host_packer())


def build_rank(settings: Resolved, rank: int, cut_of: Callable[[Target], Cut]) -> tuple[Ops, Group]:
    """The ops of one of several ranks, which keeps of every weight what `cut_of` says, and its group."""
    from twofold.backends.gpu.build import build
    from twofold.backends.gpu.devices import device_of, share_cores
    from twofold.backends.gpu.group import Group
    from twofold.backends.gpu.ranked import RankedOps
    from twofold.backends.gpu.shards import ShardPacker

    inner = build(device_of(settings.device, rank), host_packer(), settings.kv_cache_dtype)
    if inner.device.type == "cpu":
        share_cores(settings.ranks)
    group = Group(rank, settings.ranks, inner.device)
    ops: Any = RankedOps(inner, group, ShardPacker(host_packer(), inner.device, cut_of))
    return ops, group


def host_packer() -> Packer:
    """The native packer, or where it was not built the plain one, which writes the same bits."""
    try:
        return build_packer()
    except NativeUnavailable:
        from twofold.ops.reference import ReferencePacker

        return ReferencePacker()


def build_packer() -> Packer:
    """The native packer."""
    from twofold.backends.cpu.ops import CpuOps

    return CpuOps().packer


def roomier(settings: Settings, resolved: Resolved, weight_bytes: int, bytes_per_token: int) -> Resolved:
    """With a larger cache where none was asked for and the device tells its memory: half of what the weights leave."""
    free = device_bytes(resolved)
    if free is None or settings.cache_tokens is not None:
        return resolved
    left = free - weight_bytes // resolved.ranks
    tokens = min(resolved.max_sequences * resolved.context, left // 2 // max(1, bytes_per_token))
    return replace(resolved, cache_tokens=max(resolved.cache_tokens, tokens))


def available_bytes(settings: Resolved) -> int:
    """Memory for weights and cache: of the device where it tells, else of the host; for one rank of several."""
    free = device_bytes(settings)
    return available_memory() // settings.ranks if free is None else free


def device_bytes(settings: Resolved) -> int | None:
    """Free memory of the device of the gpu backend, the least of several; None elsewhere and where it does not tell."""
    if settings.backend != "gpu":
        return None
    from twofold.backends.gpu.devices import device_of, free_memory

    free = [free_memory(device_of(settings.device, rank)) for rank in range(settings.ranks)]
    known = [count for count in free if count is not None]
    return min(known) if known else None

"""Whether routed experts stay in the host's memory, and how many bytes of them are on the device at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from twofold.config import Resolved
from twofold.errors import OutOfMemory, SettingsError
from twofold.models.network import Forward
from twofold.ops.formats import Formats, format_of
from twofold.ops.interface import Ops
from twofold.ops.layout import size_bytes
from twofold.ops.packed import Packer
from twofold.ops.types import Target
from twofold.placing import available_bytes, build_offloaded
from twofold.weights.memory import available_memory, gigabytes

if TYPE_CHECKING:
    from twofold.loading import Model

SPARED = 20
"""One part in so many of the device's free memory is left alone: what is allocated in a step comes in pieces."""
LEAST_EXPERTS = 2
"""Of each format that many are on the device at least: one is copied while the other is used."""


def place_experts(
    model: Model, asked: int | None, settings: Resolved, needed_bytes: Callable[[Resolved], int]
) -> Resolved:
    """Settings that say how many bytes of routed experts are on the device at a time, 0 for all of them.

    asked: what the user wants; else it is what the rest of the network leaves, where not all experts fit.
    needed_bytes: of the device, with given settings. Raises SettingsError for a wish that cannot be met, OutOfMemory
    when the device is too small even so, or the host's memory for the experts.
    """
    experts = model.footprint(settings.dtype).bytes.get("expert", 0)
    if asked is not None:
        return check_asked(asked, experts, least_bytes(model, settings.dtype), settings)
    free = available_bytes(settings)
    is_accelerator = settings.backend == "gpu" and settings.device != "cpu"
    if settings.ranks > 1 or not experts or not is_accelerator or needed_bytes(settings) <= free:
        return settings
    rest = needed_bytes(settings) - experts + free // SPARED
    least = least_bytes(model, settings.dtype)
    if rest + least > free:
        raise OutOfMemory(
            f"{gigabytes(rest + least)} of device memory are needed even with the routed experts in the host's memory, "
            f"{gigabytes(free)} are free. Choose a smaller --dtype or --context, or --backend cpu."
        )
    return check_host(experts, replace(settings, expert_cache=free - rest))


def check_asked(asked: int, experts: int, least: int, settings: Resolved) -> Resolved:
    """The settings with the size that the user wants."""
    if settings.backend != "gpu" or settings.ranks > 1:
        raise SettingsError(
            "expert_cache is for one device of the gpu backend; leave it out, or use --backend gpu alone"
        )
    if not experts:
        raise SettingsError("expert_cache is given, and this network has no routed experts; leave it out")
    if asked < least:
        raise SettingsError(
            f"expert_cache is {asked}; {least} bytes ({gigabytes(least)}) hold {LEAST_EXPERTS} experts of each format, "
            "the least that works"
        )
    return settings if asked >= experts else check_host(experts, replace(settings, expert_cache=asked))


def check_host(experts: int, settings: Resolved) -> Resolved:
    """The settings, where the host has room for all experts."""
    free = available_memory()
    if experts > free:
        raise OutOfMemory(
            f"the routed experts take {gigabytes(experts)} and the host has {gigabytes(free)} of memory free. "
            "Choose a smaller --dtype."
        )
    return settings


def least_bytes(model: Model, dtype: str) -> int:
    """Bytes of LEAST_EXPERTS experts of each format that there is."""
    return LEAST_EXPERTS * sum(expert_kinds(model, dtype).values())


def expert_kinds(model: Model, dtype: str) -> dict[tuple[object, ...], int]:
    """The bytes of one expert by its formats and shapes, those of gate and up and of down together."""
    formats = model.formats(dtype)

    def kind(target: Target) -> tuple[object, ...]:
        return format_of(formats, target), target.shape[1:]

    stacks = [target for target in model.targets if target.role == "expert"]
    pairs = zip(stacks[::2], stacks[1::2], strict=True)
    return {(kind(one), kind(two)): matrix_bytes(formats, one) + matrix_bytes(formats, two) for one, two in pairs}


def matrix_bytes(formats: Formats, stack: Target) -> int:
    """Bytes of one matrix of a stack."""
    return size_bytes(format_of(formats, stack), stack.shape[1:])


def load_offloaded(model: Model, settings: Resolved, bind: Callable[[Packer], Forward]) -> tuple[Ops, Forward, str]:
    """Ops and network with routed experts in the host's memory, and a sentence on what that costs."""
    ops = build_offloaded(settings)
    forward = bind(ops.packer)
    ops.make_slots(settings.expert_cache)
    slots = sum(pool.experts.slots for pool in ops.pools)
    size = sum(pool.experts.slots * pool.slot_bytes for pool in ops.pools)
    largest = max(ops.pools, key=lambda pool: pool.slot_bytes)
    layers = sum(target.role == "router" for target in model.targets)
    every, active = layers * model.architecture.expert_count, layers * model.architecture.active_experts
    experts = model.footprint(settings.dtype).bytes["expert"]
    told = (
        f"the {every} routed experts ({megabytes(experts)}) stay in the host's memory, {slots} of them "
        f"({megabytes(size)}) are on the device at a time. A token uses {active}; for each that is not there it waits "
        f"{largest.copy_seconds() * 1e3:.2f} ms (measured now, {largest.slot_bytes / 1e6:.1f} MB)"
    )
    found: Ops = ops
    return found, forward, told


def megabytes(count: int) -> str:
    """Bytes in MB (1e6), for people."""
    return f"{count / 1e6:,.0f} MB"

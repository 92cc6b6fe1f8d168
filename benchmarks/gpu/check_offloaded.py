"""Experts in the host's memory on a device: the bits of experts that are there, and what a copy costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from twofold.backends.gpu.build import build
from twofold.backends.gpu.hosted import expert_bytes
from twofold.backends.gpu.offloaded import OffloadedOps
from twofold.ops.cases import pack
from twofold.ops.packed import Format, place, size_bytes
from twofold.ops.reference import ReferenceOps, ReferencePacker
from twofold.ops.types import Target

LAYERS, EXPERTS, HIDDEN, WIDTH, SLOTS = 3, 6, 256, 128, 4
FORMATS: tuple[Format, ...] = ("int4", "int8", "f32")
"""Formats whose products do not depend on how many rows are computed together."""


def check(device: str) -> list[str]:
    """Names of what differs from experts that are all on the device."""
    failures = []
    for form in FORMATS:
        whole, some, weights = both(device, form)
        rng = np.random.default_rng(5)
        for step, (tokens, active) in enumerate([(1, 1), (3, 2), (40, 1), (40, 2)] * 2):
            (gate_up, hosted_gate_up), (down, hosted_down) = weights[step % LAYERS]
            x_TD = torch.from_numpy(rng.standard_normal((tokens, HIDDEN), np.float32)).to(device)
            chosen = np.array([rng.permutation(EXPERTS)[:active] for _ in range(tokens)], np.int32)
            experts_TA, gates_TA = torch.from_numpy(chosen).to(device), torch.rand(tokens, active).to(device)
            expected = whole.numbers(whole.experts(x_TD, experts_TA, gates_TA, gate_up, down))
            found = some.experts(x_TD, experts_TA, gates_TA, hosted_gate_up, hosted_down)
            if not torch.equal(found, expected.float()):
                failures.append(f"experts in the host's memory, {form}, {tokens} tokens, {active} active")
    return failures


def measure(device: str) -> list[dict[str, Any]]:
    """Rate of copies of one Scout-sized expert at four bits: 62 MB."""
    ops = OffloadedOps(build(device, ReferencePacker(), "bf16"), ReferencePacker())
    for name, rows, columns in (("gate_up", 16384, 5120), ("down", 5120, 8192)):
        target = Target(name=f"layers.0.experts_{name}", role="expert", shape=(2, rows, columns), sources=())
        ops.packer.finish(empty(target), target)
    ops.make_slots(1)
    (pool,) = ops.pools
    seconds = pool.copy_seconds()
    return [{"kernel": "copy of an expert", "microseconds": seconds * 1e6, "GB/s": pool.slot_bytes / seconds / 1e9}]


def empty(target: Target) -> Any:
    """A stack at four bits, contents as they are."""
    return place("int4", target.shape, ReferencePacker().arena(size_bytes("int4", target.shape)))


def both(device: str, form: Format) -> tuple[Any, OffloadedOps, list[Any]]:
    """Ops with all experts there, ops with some of them, and the stacks of each layer for both."""
    rng = np.random.default_rng(4)
    whole = build(device, ReferencePacker(), "f32")
    some = OffloadedOps(build(device, ReferencePacker(), "f32"), ReferencePacker())
    weights = []
    for layer in range(LAYERS):
        stacks = []
        for name, rows, columns in (("gate_up", 2 * WIDTH, HIDDEN), ("down", HIDDEN, WIDTH)):
            shape = (EXPERTS, rows, columns)
            weight = pack(ReferenceOps(), form, rng.standard_normal(shape, np.float32) / 8)
            target = Target(name=f"layers.{layer}.experts_{name}", role="expert", shape=shape, sources=())
            stacks.append((whole.packer.finish(weight, target), some.packer.finish(weight, target)))
        weights.append(stacks)
    some.make_slots(SLOTS * slot_bytes(weights[0]))
    return whole, some, weights


def slot_bytes(stacks: Any) -> int:
    """Bytes of one expert of a layer."""
    return sum(expert_bytes(hosted.weight) for _, hosted in stacks)
